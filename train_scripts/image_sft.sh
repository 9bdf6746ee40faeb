#!/usr/bin/env bash
# The paper's supervised baseline on 8 GPUs (configs/image_sft.yaml). Arguments are Hydra overrides:
#
#   DATA=data/image MEDIA_ROOT=COCO/train2017 bash train_scripts/image_sft.sh
#
# Started again, it resumes from the newest checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" image_sft "$@"
