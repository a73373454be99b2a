#!/usr/bin/env bash
# The certificates of compose.yaml, in deploy/compose/made. That directory is closed to others; what is below it is
# not, since the containers are nobody that this machine knows.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
umask 077
make() { "$here/../certificates.sh" "$here/made/authority" "$@"; }

for server in nats1 nats2 nats3; do make server "$server" "$server"; done
make client relay valise-relay
make client operator valise-operator
for relay in relay1 relay2; do make public "public-$relay" 127.0.0.1 localhost; done

# Each container sees its own key, and nobody sees the authority's.
place() { # container, FILE of the authority, its name there
    mkdir -p "$here/made/$1"
    cp "$here/made/authority/ca.pem" "$here/made/$1/ca.pem"
    for end in pem key; do cp "$here/made/authority/$2.$end" "$here/made/$1/$3.$end"; done
    chmod -R a+rX "$here/made/$1"
}
for server in nats1 nats2 nats3; do place "$server" "$server" server; done
for relay in relay1 relay2; do
    place "$relay" relay nats
    place "$relay" "public-$relay" public
done
place watch operator operator
# By which a node's file goes from one relay to another.
mkdir -p "$here/made/exchange"
chmod 777 "$here/made/exchange"
