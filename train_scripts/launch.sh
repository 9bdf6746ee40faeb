#!/usr/bin/env bash
# GRPO by a recipe, from the newest complete checkpoint: `jigsaw train` (--help says more) of this clone.
#
#   bash train_scripts/launch.sh RECIPE [Hydra overrides]
jigsaw=$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/jigsaw
[[ -x $jigsaw ]] || {
    echo "launch.sh: nothing is installed yet; run bash train_scripts/setup.sh gpu first" >&2
    exit 1
}
exec "$jigsaw" train "$@"
