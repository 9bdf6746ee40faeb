#!/usr/bin/env bash
# Evaluates a model: bash eval/run.sh MODEL --suite image|video|3d|jigsaw|all [OPTION]...
#
# On a machine without a GPU: source train_scripts/env_cpu.sh first. All options: bash eval/run.sh --help
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/jigsaw" eval "$@"
