#!/usr/bin/env bash
# Certificates of a data centre's own authority, which is made in DIRECTORY at the first call. Keep ca.key offline.
#
#   certificates.sh DIRECTORY server FILE NAME...   a NATS server; its names and addresses
#   certificates.sh DIRECTORY client FILE NAME      who talks to them: valise-relay, valise-operator, valise-importer
#   certificates.sh DIRECTORY public FILE NAME...   the side of a relay that clients see, where no public authority
#                                                   gives one: signed by itself, for clients that know the realm
#
# Each makes DIRECTORY/FILE.pem and DIRECTORY/FILE.key, and nothing where they are already.
set -euo pipefail
umask 077
usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 64; }
[ $# -ge 4 ] || usage
directory="$1" kind="$2" file="$3"
shift 3
days=400

mkdir -p "$directory"
cd "$directory"
[ ! -e "$file.pem" ] || exit 0

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# `DNS:n1,IP:10.0.0.1`
names=""
for name in "$@"; do
    if [[ "$name" =~ ^[0-9.]+$ || "$name" == *:* ]]; then names+=",IP:$name"; else names+=",DNS:$name"; fi
done
names="${names#,}"

case "$kind" in
    server) usage_of_key="serverAuth,clientAuth" ;; # a server is its neighbours' client
    client) usage_of_key="clientAuth" ;;
    public)
        key "$file.key"
        openssl req -new -x509 -key "$file.key" -subj "/CN=$1" -days "$days" -out "$file.pem" \
            -addext "subjectAltName=$names" -addext "extendedKeyUsage=serverAuth" \
            -addext "basicConstraints=critical,CA:FALSE"
        exit ;;
    *) usage ;;
esac

if [ ! -e ca.key ]; then
    key ca.key
    openssl req -new -x509 -key ca.key -subj "/CN=Valise data centre" -days 3650 -out ca.pem \
        -addext "keyUsage=critical,keyCertSign,cRLSign"
fi
key "$file.key"
openssl req -new -key "$file.key" -subj "/CN=$1" -out "$file.csr"
# Serial numbers are random: no file counts them.
openssl x509 -req -in "$file.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -days "$days" \
    -out "$file.pem" -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=%s\nbasicConstraints=critical,CA:FALSE\n' \
        "$names" "$usage_of_key") 2>/dev/null
rm "$file.csr"
