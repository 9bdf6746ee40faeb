#!/usr/bin/env bash
# Depth jigsaw on GPUs, the paper's setting (configs/depth.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   DATA=data/depth MEDIA_ROOT=data/depth/frames bash train_scripts/depth.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" depth "$@"
