#!/usr/bin/env bash
# A run on one or more nodes of Slurm: Ray on each, train_scripts/launch.sh on the first. Submit it in the clone's folder:
#
#   export DATA=/data/image MEDIA_ROOT=/data/coco
#   sbatch --nodes=2 --gpus-per-node=8 train_scripts/cluster/slurm.sh image
#
# Arguments and variables are launch.sh's: recipe and Hydra overrides, MODEL, DATA, MEDIA_ROOT, OUTPUT, DRY_RUN;
# trainer.nnodes follows from --nodes. What the run prints is in
# slurm-JOB.out, and in outputs/slurm/JOB with the log of each node. The job's exit code is the run's.
#
#   JOIN_SECONDS=300   the time that all nodes have to join
#   RAY_PORT=6379      of Ray's head; a free one unless given
#   RAY_START=…        more options of `ray start` on every node, such as --num-cpus=33
#
#SBATCH --job-name=jigsaw
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@300
set -uo pipefail

fail() {
    echo "slurm.sh: $1" >&2
    exit 1
}

[[ -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] ||
    fail "submit it: sbatch --nodes=2 train_scripts/cluster/slurm.sh RECIPE …"
(($#)) || fail "which recipe? sbatch … train_scripts/cluster/slurm.sh image"
# Slurm runs a copy of this file from elsewhere.
cd "$SLURM_SUBMIT_DIR" || exit 1
[[ -f train_scripts/cluster/ray_node.sh ]] || fail "$SLURM_SUBMIT_DIR is not the clone's folder; submit it there"
[[ -x .venv/bin/jigsaw ]] || fail "nothing is installed in $PWD; first: bash train_scripts/setup.sh gpu"

export JIGSAW_LOGS=$PWD/outputs/slurm/$SLURM_JOB_ID SLURM_EXPORT_ENV=ALL
mkdir -p "$JIGSAW_LOGS" || fail "cannot make $JIGSAW_LOGS"
if [[ -z ${RAY_AUTH_MODE:-} ]]; then # nobody but this job may use its Ray
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
fi
join_seconds=${JOIN_SECONDS:-300}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
others=()
for node in "${nodes[@]}"; do
    [[ $node == "$SLURMD_NODENAME" ]] || others+=("$node")
done

joining='' run='' rays=() stopped=
alive() { [[ -n $1 ]] && kill -0 "$1" 2>/dev/null; }
pause() { # a signal interrupts it
    sleep 1 &
    wait $!
}
# shellcheck disable=SC2317 # called by a trap, as is finish
stop() {
    stopped=yes
    alive "$run" && kill -TERM "$run"
}
# shellcheck disable=SC2317
finish() {
    trap '' TERM INT
    local pid end=$((SECONDS + 40))
    alive "$joining" && { kill -KILL "$joining" && wait "$joining"; } 2>/dev/null
    alive "$run" && kill -TERM "$run"
    alive "${rays[0]:-}" && kill -TERM "${rays[0]}"
    # The nodes beside it; srun itself, told to end, would kill them.
    alive "${rays[1]:-}" && scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null
    for pid in "$run" ${rays[@]+"${rays[@]}"}; do
        while alive "$pid" && ((SECONDS < end)); do pause; done
        alive "$pid" && kill -KILL "$pid"
    done
    echo "slurm.sh: logs of all nodes: $JIGSAW_LOGS"
}
trap stop TERM INT
trap finish EXIT
check_nodes() { # each line of a node that failed
    local pid
    [[ -z $stopped ]] || exit 143
    for pid in "${rays[@]}"; do
        alive "$pid" && continue
        [[ -s $JIGSAW_LOGS/failed ]] || fail "Ray ended on a node; see the logs in $JIGSAW_LOGS"
        fail "$(cat "$JIGSAW_LOGS/failed")"
    done
}

bash train_scripts/cluster/ray_node.sh head &
rays+=($!)
until [[ -s $JIGSAW_LOGS/address ]]; do
    ((SECONDS < join_seconds)) ||
        fail "$SLURMD_NODENAME: Ray has not started within $join_seconds s; see $JIGSAW_LOGS/$SLURMD_NODENAME.log"
    pause
    check_nodes
done
address=$(<"$JIGSAW_LOGS/address")
if ((${#others[@]})); then
    # By itself Slurm would bind a node's Ray to one core, and give the step no memory where it counts it.
    srun --nodes=${#others[@]} --ntasks=${#others[@]} --ntasks-per-node=1 --nodelist="$(IFS=, && echo "${others[*]}")" \
        --cpu-bind=none --mem=0 --kill-on-bad-exit=1 --quiet bash train_scripts/cluster/ray_node.sh "$address" &
    rays+=($!)
fi
.venv/bin/python -m jigsaw.verl_plugin.join "$address" "$join_seconds" "${nodes[@]}" &
joining=$!
while alive "$joining"; do
    pause
    check_nodes
done
wait "$joining" || exit 1
[[ ! -s $JIGSAW_LOGS/warnings ]] || cat "$JIGSAW_LOGS/warnings"

exec 3> >(trap '' TERM INT && exec tee "$JIGSAW_LOGS/train.log")
tee=$!
bash train_scripts/launch.sh "$@" trainer.nnodes="${#nodes[@]}" ray_kwargs.ray_init.address="$address" >&3 2>&1 &
run=$!
exec 3>&-
while alive "$run"; do
    pause
    [[ -n $stopped ]] || check_nodes
done
wait "$run"
status=$?
wait "$tee"
[[ -z $stopped ]] || echo "slurm.sh: ended by a signal, as Slurm's time limit and scancel send it"
exit "$((status == 0 && ${#stopped} ? 143 : status))"
