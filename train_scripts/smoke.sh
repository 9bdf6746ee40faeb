#!/usr/bin/env bash
# The first thing to run on a new GPU machine (configs/smoke.yaml): two real steps on rendered scenes, on all GPUs, and a
# table of what they took and whether all is well. Arguments are Hydra overrides:
#
#   bash train_scripts/setup.sh gpu
#   bash train_scripts/smoke.sh
#   MODEL=Qwen/Qwen2.5-VL-7B-Instruct bash train_scripts/smoke.sh    with the model that will be trained
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" smoke "$@"
