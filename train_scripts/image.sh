#!/usr/bin/env bash
# Image jigsaw on GPUs, the paper's setting (configs/image.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   bash train_scripts/image.sh data.train_files=data/image/train.parquet \
#       data.val_files=data/image/val.parquet data.media_root=COCO/train2017
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image "$@"
