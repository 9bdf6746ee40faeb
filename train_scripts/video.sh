#!/usr/bin/env bash
# Video jigsaw on GPUs, the paper's setting (configs/video.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   bash train_scripts/video.sh data.train_files=data/video/train.parquet \
#       data.val_files=data/video/val.parquet data.media_root=LLaVA-Video-178K
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" video "$@"
