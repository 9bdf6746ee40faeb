#!/usr/bin/env bash
# What the scripts of the recipes share: GRPO by configs/RECIPE.yaml, from the newest whole checkpoint.
#
#   bash train_scripts/launch.sh RECIPE [Hydra overrides]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=${1:?name a recipe: bash train_scripts/launch.sh image}
shift
python=$root/.venv/bin/python
[[ -x $python ]] || {
    echo "$recipe.sh: nothing is installed yet; run bash train_scripts/setup.sh gpu first" >&2
    exit 1
}
[[ -f $root/configs/$recipe.yaml ]] || {
    echo "launch.sh: there is no recipe configs/$recipe.yaml" >&2
    exit 1
}
export VERL_USE_EXTERNAL_MODULES=jigsaw.verl_plugin
start=$("$python" -m jigsaw.verl_plugin.checkpoint "$root/outputs/${recipe}_jigsaw" "$@")
mapfile -t start <<<"$start"
exec "$python" -m verl.trainer.main_ppo --config-dir "$root/configs" --config-name "$recipe" "${start[@]}" "$@"
