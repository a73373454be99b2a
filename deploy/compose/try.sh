#!/usr/bin/env bash
# compose.yaml from nothing: certificates, three servers, two relays, a chat through both, a restart of everything
# one after the other, and a node put out. It is the runbook of docs/OPERATIONS.md as a script, and takes everything
# down at the end. $1: the directory of `valise-chat`; the images are there already, or are built.
set -euo pipefail
chat_binary="$(cd "$1" && pwd)/valise-chat"
cd "$(dirname "$0")"
read -ra compose <<<"${COMPOSE:-docker compose}"
compose() { "${compose[@]}" --profile second "$@"; }
# For a container engine in a network of its own: what enters it.
read -ra there <<<"${ENTER:-}"
work=$(mktemp -d)
trap 'compose down --volumes --timeout 5 >/dev/null 2>&1; rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$*"; }
# seconds, command...: until it succeeds
until_true() {
    local left="$1"
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "in vain: $*" >&2; compose logs --tail 20; exit 1; }
        sleep 1
    done
}
metric() { "${there[@]}" curl --silent --fail "http://127.0.0.1:$1/metrics" | grep -qx "$2"; }
check() { compose exec -T watch /usr/bin/valisectl check cluster --nodes 2; }
two_nodes() { metric 7480 'valise_nodes_live 2' && metric 7482 'valise_nodes_live 2'; }

say "certificates, servers, the first relay"
./certificates.sh
compose up -d nats1 nats2 nats3 relay1
until_true 60 metric 7480 'valise_bus_connected 1'

say "the second relay, and the watch"
rm -f made/exchange/node.key
compose exec -T relay1 /usr/bin/valise export-node --endpoint 127.0.0.1:7444 --output /exchange/node.key \
    | tee "$work/export"
compose run --rm --no-deps relay2 import-node /exchange/node.key
rm made/exchange/node.key
compose up -d
until_true 60 two_nodes
until_true 60 check
check

say "a chat through both"
realm=$(compose logs relay1 | grep -o 'valise://127.0.0.1:7443/[a-z2-7]*' | head -1)
realm="${realm##*/}"
mapfile -t codes < <(compose exec -T relay1 /usr/bin/valise invite-code --count 2)
chat() {
    local who="$1"
    shift
    VALISE_CHAT_PASSPHRASE=try timeout 60 "${there[@]}" "$chat_binary" --profile "$work/$who" "$@"
}
chat ann init --relay "valise://127.0.0.1:7443/$realm" --name Ann --code "${codes[0]}"
chat bob init --relay "valise://127.0.0.1:7444/$realm" --name Bob --code "${codes[1]}"
chat ann invite >"$work/invite" 2>&1 &
inviting=$!
until_true 20 grep -o 'valise://[^ ]*#[^ ]*' "$work/invite"
chat bob join --allow-relay "$(grep -o 'valise://[^ ]*#[^ ]*' "$work/invite" | head -1)"
wait "$inviting"
chat bob send Ann "hello over two relays"
chat ann history Bob | grep "hello over two relays"

say "a rolling restart of the relays"
for relay in relay1 relay2; do
    compose restart --timeout 60 "$relay"
    until_true 60 two_nodes
done

say "the servers one after the other, in lame duck mode"
for server in nats1 nats2 nats3; do
    chat bob send Ann "while $server is away" &
    sending=$!
    compose stop --timeout 120 "$server"
    wait "$sending"
    compose up -d "$server"
    until_true 120 check
done
chat ann history Bob | tee "$work/history"
for server in nats1 nats2 nats3; do grep -q "while $server is away" "$work/history"; done

say "the second relay is put out"
key=$(sed -n 's/^node key //p' "$work/export")
compose exec -T relay1 /usr/bin/valise retire-node "$key" --endpoint 127.0.0.1:7444
compose kill -s SIGHUP relay1
until_true 60 metric 7480 'valise_nodes_live 1'
compose stop relay2
compose logs --tail 5 relay2
chat ann send Bob "and we go on"
say "done"
