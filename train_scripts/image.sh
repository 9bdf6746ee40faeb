#!/usr/bin/env bash
# Image jigsaw on GPUs, the paper's setting (configs/image.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   bash train_scripts/image.sh data.train_files=data/image/train.parquet \
#       data.val_files=data/image/val.parquet data.media_root=COCO
#
# Started again, it goes on from the newest whole checkpoint.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[[ -x $python ]] || {
    echo "image.sh: nothing is installed yet; run bash train_scripts/setup.sh gpu first" >&2
    exit 1
}
run=$root/outputs/image_jigsaw
checkpoints=$run/checkpoints
for argument in "$@"; do
    [[ $argument != trainer.default_local_dir=* ]] || checkpoints=${argument#*=}
done
mkdir -p "$run/metrics"
export VERL_USE_EXTERNAL_MODULES=jigsaw.verl_plugin
# verl's file logger empties its file at each start
VERL_FILE_LOGGER_PATH=$run/metrics/$(date -u +%Y%m%dT%H%M%S).jsonl
export VERL_FILE_LOGGER_PATH
resume=$("$python" -m jigsaw.verl_plugin.checkpoint "$checkpoints")
mapfile -t resume <<<"$resume"
exec "$python" -m verl.trainer.main_ppo --config-dir "$root/configs" --config-name image \
    "trainer.default_local_dir='$run/checkpoints'" "hydra.run.dir='$run/hydra'" "${resume[@]}" "$@"
