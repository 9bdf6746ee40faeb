#!/usr/bin/env bash
# Image, video and depth jigsaws in one run on GPUs (configs/mixture.yaml). Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   bash train_scripts/mixture.sh    with the rows where the recipe's comment makes them
#
# Started again, it resumes from the newest complete checkpoint.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" mixture "$@"
