#!/usr/bin/env bash
# Image jigsaw on 2 GPUs of 80 GB, the trainer in host memory (configs/image_2_gpus.yaml). Arguments are Hydra overrides:
#
#   DATA=data/image MEDIA_ROOT=COCO/train2017 bash train_scripts/image_2_gpus.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image_2_gpus "$@"
