#!/usr/bin/env bash
# Image jigsaw on GPUs, the paper's setting (configs/image.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   DATA=data/image MEDIA_ROOT=COCO/train2017 bash train_scripts/image.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image "$@"
