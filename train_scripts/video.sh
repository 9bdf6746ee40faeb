#!/usr/bin/env bash
# Video jigsaw on GPUs, the paper's setting (configs/video.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   DATA=data/video MEDIA_ROOT=LLaVA-Video-178K bash train_scripts/video.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" video "$@"
