#!/usr/bin/env bash
# Image jigsaw with 2×2 tiles, the paper's ablation (configs/image_2x2.yaml). Arguments are Hydra overrides:
#
#   DATA=data/image_2x2 MEDIA_ROOT=COCO/train2017 bash train_scripts/image_2x2.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image_2x2 "$@"
