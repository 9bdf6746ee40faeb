#!/usr/bin/env bash
# Sets up what the tests need and runs them.
#
#   bash tests/run.sh                  unit tests, then the real stack end to end (verl, Ray, vLLM on the CPU)
#   bash tests/run.sh --fast           unit tests of less than a second each, with fewer drawn examples: under a minute
#   bash tests/run.sh --slow           everything, also what takes long
#   bash tests/run.sh --slow faults    one part of what takes long: cluster, faults, learning, media, models, training, upstream
#   bash tests/run.sh -k reward -x     further arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash train_scripts/setup.sh
source train_scripts/env_cpu.sh

unit_tests() {
    .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile "$@"
}

case ${1:-} in
"")
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    status=0
    unit_tests -m "not e2e" || status=$?
    .venv/bin/python -m pytest -m e2e || status=$?
    exit "$status"
    ;;
--fast) unit_tests -m "not e2e and not seconds" --hypothesis-profile=quick "${@:2}" ;;
*) exec .venv/bin/python -m pytest "$@" ;;
esac
