#!/usr/bin/env bash
# GRPO by a recipe, from the newest complete checkpoint: `jigsaw train` (--help says more) of this clone.
#
#   bash train_scripts/launch.sh RECIPE [Hydra overrides]
#
# Set before it, or left to the recipe: MODEL, a folder or hub name; DATA, a folder of `jigsaw prepare`; MEDIA_ROOT, the
# folder that its rows' paths are relative to; OUTPUT, the run's folder; DRY_RUN=1 checks all and starts nothing.
jigsaw=$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/jigsaw
[[ -x $jigsaw ]] || {
    echo "launch.sh: nothing is installed yet; run bash train_scripts/setup.sh gpu first" >&2
    exit 1
}
if [[ ${1:-} == smoke ]]; then
    [[ -z ${DRY_RUN:-} ]] || {
        echo "launch.sh: the smoke test has no dry run; unset DRY_RUN, or: jigsaw plan smoke" >&2
        exit 1
    }
    exec "$jigsaw" smoke ${MODEL:+--model "$MODEL"} ${OUTPUT:+--output "$OUTPUT"} "${@:2}"
fi
command=train
[[ ${1:-} != *_sft ]] || command=sft
exec "$jigsaw" "$command" ${MODEL:+--model "$MODEL"} ${DATA:+--data "$DATA"} ${MEDIA_ROOT:+--media-root "$MEDIA_ROOT"} \
    ${OUTPUT:+--output "$OUTPUT"} "$@"
