#!/usr/bin/env bash
# Image jigsaw on GPUs, the paper's setting (configs/image.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   bash train_scripts/image.sh data.train_files=data/image/train.parquet \
#       data.val_files=data/image/val.parquet data.media_root=COCO
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export VERL_USE_EXTERNAL_MODULES=jigsaw.verl_plugin
exec .venv/bin/python -m verl.trainer.main_ppo --config-dir configs --config-name image "$@"
