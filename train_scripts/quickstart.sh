#!/usr/bin/env bash
# From a fresh clone to a trained model on a machine with nothing but Python: installs, then runs the whole chain
# (pictures, tiny model, warm start, GRPO with verl + Ray + vLLM, checkpoint, evaluation) on the CPU.
#
#   bash train_scripts/quickstart.sh [options]      2×1 tiles of rendered scenes, about a quarter of an hour
#
#   --task video            films; depth: rooms; mixture: landscapes, films and rooms; image if not given
#   --clips 3               of a film; 2 if not given
#   --points 3              of a room; 2 if not given
#   --images DIR            your own pictures instead of rendered scenes
#   --grid 2x2              rows × columns of tiles; 2x1 if not given
#   --begin-with 2x1        an easier grid, until it is solved; then --grid
#   --steps N               GRPO steps; more than before resumes from the last checkpoint
#   --warm-start-steps N    supervised steps on puzzles before GRPO
#   --model qwen3_vl        the tiny model's family; qwen2_5_vl if not given
#   --seed S                of pictures, weights and draws
#   --out DIR               output folder
#   --json                  the summary as JSON
#   --help                  this; nothing is installed
#
# Stopped at any point, it resumes from the last complete checkpoint when started again.
set -euo pipefail
for argument; do
    [[ $argument != --help && $argument != -h ]] || exec sed -n '2,/^set /s/^# \?//p' "${BASH_SOURCE[0]}"
done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) # paths in the arguments stay relative to where one stands
begin=$SECONDS
bash "$root/train_scripts/setup.sh"
JIGSAW_SECONDS_INSTALL=$((SECONDS - begin)) exec "$root/.venv/bin/jigsaw" quickstart "$@"
