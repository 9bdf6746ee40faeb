#!/usr/bin/env bash
# Image jigsaw on one GPU of 24 GB, by an adapter of Qwen2.5-VL-3B (configs/image_lora_3b.yaml). Arguments are Hydra overrides:
#
#   DATA=data/image MEDIA_ROOT=COCO/train2017 bash train_scripts/image_lora_3b.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image_lora_3b "$@"
