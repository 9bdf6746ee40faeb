#!/usr/bin/env bash
# Image jigsaw from ThinkLite-VL-7B with a KL loss (configs/image_kl.yaml). Arguments are Hydra overrides:
#
#   DATA=data/image MEDIA_ROOT=COCO/train2017 bash train_scripts/image_kl.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image_kl "$@"
