#!/usr/bin/env bash
# From a fresh clone to a trained model on a machine with nothing but Python: installs, then runs the whole chain
# (pictures, tiny model, warm start, GRPO with verl + Ray + vLLM, checkpoint, evaluation) on the CPU.
#
#   bash train_scripts/quickstart.sh                  2×1 tiles of rendered scenes, about a quarter of an hour
#   bash train_scripts/quickstart.sh --images DIR     your own pictures
#   bash train_scripts/quickstart.sh --help           all options
#
# Stopped at any point, it goes on from the last whole checkpoint when started again.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) # paths in the arguments stay relative to where one stands
begin=$SECONDS
bash "$root/train_scripts/setup.sh"
source "$root/train_scripts/env_cpu.sh"
JIGSAW_SECONDS_INSTALL=$((SECONDS - begin)) exec "$root/.venv/bin/python" -m jigsaw.toy.quickstart "$@"
