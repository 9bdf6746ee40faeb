#!/usr/bin/env bash
# Sets up what the tests need and runs them all.
#
#   bash tests/run.sh                  unit tests, then the real stack end to end (verl, Ray, vLLM on the CPU)
#   bash tests/run.sh -m "not e2e"     unit tests alone, a minute or two
#   bash tests/run.sh --slow           everything, also what takes long
#   bash tests/run.sh --slow faults    one part of what takes long: faults, learning, media or training
#   bash tests/run.sh -k reward -x     further arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash train_scripts/setup.sh
source train_scripts/env_cpu.sh
if [[ $# -eq 0 ]]; then
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
fi
exec .venv/bin/python -m pytest "$@"
