#!/usr/bin/env bash
# Image jigsaw on 4 GPUs of 80 GB (configs/image_4_gpus.yaml). Arguments are Hydra overrides:
#
#   DATA=data/image MEDIA_ROOT=COCO/train2017 bash train_scripts/image_4_gpus.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image_4_gpus "$@"
