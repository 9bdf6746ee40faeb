#!/usr/bin/env bash
# Ray on one node of a job of slurm.sh, until it is told to end: ray_node.sh head | ray_node.sh ADDRESS
set -uo pipefail
node=$SLURMD_NODENAME
log=$JIGSAW_LOGS/$node.log
temp=${RAY_TMPDIR:-/tmp}/jigsaw-$SLURM_JOB_ID # of its own, and short: sockets are in it
exec >>"$log" 2>&1

warn() {
    echo "$node: $1" >>"$JIGSAW_LOGS/warnings"
}

failed() {
    echo "$node: $1" | tee -a "$JIGSAW_LOGS/failed"
    exit 1
}

why() { # in one line: Ray's last error, else what of it died, else its last line
    awk '/^[[:alnum:]_.]*(Error|Exception):/ { error = ""; on = 1 } on { error = error $0 " " }
        /[[:space:]]ERR .*\[exit code=/ { sub(/.* -- /, ""); died = $0 } { last = $0 }
        END { print on ? error : died ? died : last }' "$log" | tr -s '[:space:]' ' ' | cut -c1-400
}

port_is_free() {
    .venv/bin/python -c 'import socket, sys; socket.create_server(("", int(sys.argv[1])))' "$1" 2>/dev/null
}

[[ -x .venv/bin/ray ]] || failed "there is no $PWD/.venv/bin/ray; is the clone on a disk that all nodes share?"
! pgrep -x raylet -u "$(id -u)" >/dev/null ||
    warn "Ray runs here already; GPUs that it uses are not free (ray stop ends it)"
if ((SLURM_JOB_NUM_NODES > 1)) && [[ -z ${GLOO_SOCKET_IFNAME:-} && $(getent hosts "$(hostname)") == 127.* ]]; then
    warn "the address of its own name is 127.…, by which gloo cannot reach it from elsewhere; set GLOO_SOCKET_IFNAME"
fi
read -ra more <<<"${RAY_START:-}"
if [[ $1 == head ]]; then
    port=${RAY_PORT:-0}
    ((port == 0)) || port_is_free "$port" || failed "port $port is in use; set RAY_PORT to another, or leave it out"
    place=(--head --port="$port" --temp-dir="$temp" --include-dashboard=false)
else
    place=(--address="$1")
fi

.venv/bin/ray start --block "${place[@]}" --node-name="$node" --disable-usage-stats --log-color=false \
    ${more[@]+"${more[@]}"} &
ray=$!
told=
trap 'told=yes; kill -TERM "$ray" 2>/dev/null' TERM INT
while kill -0 "$ray" 2>/dev/null; do
    if [[ $1 == head && ! -e $JIGSAW_LOGS/address && -s $temp/ray_current_cluster ]]; then
        cp "$temp/ray_current_cluster" "$JIGSAW_LOGS/address.new"
        mv "$JIGSAW_LOGS/address.new" "$JIGSAW_LOGS/address" # whole, or not there
    fi
    sleep 1 &
    wait $!
done
cp -r "$temp/session_latest/logs" "$JIGSAW_LOGS/$node.ray"
rm -rf "$temp"
[[ -n $told ]] || failed "Ray ended: $(why)"
