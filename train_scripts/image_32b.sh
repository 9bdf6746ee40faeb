#!/usr/bin/env bash
# Image jigsaw with Qwen2.5-VL-32B on 2 machines of 8 GPUs (configs/image_32b.yaml). Arguments are Hydra overrides:
#
#   DATA=data/image MEDIA_ROOT=COCO/train2017 bash train_scripts/image_32b.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image_32b "$@"
