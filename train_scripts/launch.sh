#!/usr/bin/env bash
# What the scripts of the recipes share: GRPO by configs/RECIPE.yaml, from the newest whole checkpoint.
#
#   bash train_scripts/launch.sh RECIPE [Hydra overrides]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=$1
shift
python=$root/.venv/bin/python
[[ -x $python ]] || {
    echo "$recipe.sh: nothing is installed yet; run bash train_scripts/setup.sh gpu first" >&2
    exit 1
}
run=$root/outputs/${recipe}_jigsaw
checkpoints=$run/checkpoints
for argument in "$@"; do
    [[ $argument != trainer.default_local_dir=* ]] || checkpoints=${argument#*=}
done
# verl's file logger empties its file at each start. It runs on any node, so the file goes where the checkpoints go.
metrics=$(realpath -m "$checkpoints")/metrics/$(date -u +%Y%m%dT%H%M%S).jsonl
mkdir -p "${metrics%/*}"
export VERL_USE_EXTERNAL_MODULES=jigsaw.verl_plugin
resume=$("$python" -m jigsaw.verl_plugin.checkpoint "$checkpoints")
mapfile -t resume <<<"$resume"
exec "$python" -m verl.trainer.main_ppo --config-dir "$root/configs" --config-name "$recipe" \
    "trainer.default_local_dir='$run/checkpoints'" "hydra.run.dir='$run/hydra'" \
    "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH='$metrics'" "${resume[@]}" "$@"
