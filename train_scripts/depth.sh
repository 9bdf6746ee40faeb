#!/usr/bin/env bash
# Depth jigsaw on GPUs, the paper's setting (configs/depth.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   bash train_scripts/depth.sh data.train_files=data/depth/train.parquet \
#       data.val_files=data/depth/val.parquet data.media_root=data/depth/frames
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" depth "$@"
