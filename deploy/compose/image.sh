#!/bin/sh
# The files of the relay's image: the programs, the four libraries they load, and nothing that could run a command.
#   image.sh BINARIES OUT
set -eu
binaries="$1" out="$2"
mkdir -p "$out/usr/bin" "$out/etc" "$out/var/lib/valise" "$out/var/lib/valisectl" "$out/lib64"
for program in valise valisectl; do
    cp "$binaries/$program" "$out/usr/bin/"
    # `libc.so.6 => /lib/.../libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`
    ldd "$binaries/$program" | sed -n 's/^\t\(.* => \)\{0,1\}\(\/[^ ]*\) .*/\2/p' | while read -r library; do
        mkdir -p "$out$(dirname "$library")"
        cp -L "$library" "$out$library"
    done
done
printf 'hosts: files dns\n' > "$out/etc/nsswitch.conf"
chmod 700 "$out/var/lib/valise" "$out/var/lib/valisectl"
