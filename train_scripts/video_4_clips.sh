#!/usr/bin/env bash
# Video jigsaw with 4 clips, the paper's ablation (configs/video_4_clips.yaml). Arguments are Hydra overrides:
#
#   DATA=data/video_4_clips MEDIA_ROOT=LLaVA-Video-178K bash train_scripts/video_4_clips.sh
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" video_4_clips "$@"
