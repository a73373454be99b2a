# The recipes are the jobs of the gate: `.ci/run` calls `just ci`. Tools live in `tools`.

tools := env("VALISE_TOOLS", env("HOME") / ".cache/valise/tools")
fuzz_seconds := env("VALISE_FUZZ_SECONDS", "5")
export PATH := tools / "bin:" + env("PATH")

# What there is to run.
default:
    @just --list

# The gate, in the order in which it fails soonest.
ci: fmt clippy deny test vectors web doc release load-smoke bench-smoke full-disk fuzz-smoke

# The formatting is rustfmt's.
fmt:
    cargo fmt --all --check

# Warnings are errors.
clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Licences, bans and sources always; advisories where their database can be fetched.
deny:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo deny --locked --workspace check licenses bans sources
    if cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked check advisories
    else
        echo "the advisory database cannot be fetched here: advisories are NOT checked in this run"
    fi

# README's second command: everything that needs Rust and a C compiler only.
test:
    cargo test --workspace --locked

# Tests on a machine that is busy and stands still now and then: `just unsteady --test wire`. None may depend
# on how fast the machine is.
unsteady *arguments:
    python3 tests/unsteady.py cargo test --workspace --locked --no-fail-fast {{ arguments }}

# The test vectors, read by something that is not ours: Python with its standard library.
vectors:
    python3 proto/vectors/check.py
    python3 crates/chat-core/vectors/check.py

# The TypeScript clients: the test vectors, the real relay, and the real chat client.
web:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --workspace --locked
    export VALISE="${CARGO_TARGET_DIR:-$PWD/target}/debug/valise"
    export VALISE_CHAT="${CARGO_TARGET_DIR:-$PWD/target}/debug/valise-chat"
    # The second one builds on the first.
    for package in web/client web/chat; do
        (cd "$package" && npm ci --no-audit --no-fund && npm run build && npm test)
    done

# The examples in the documentation, and that the documentation can be built.
doc:
    cargo test --workspace --locked --doc
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --locked --no-deps --lib

# The binaries as people use them.
release:
    cargo build --release --workspace --locked

# The man pages and shell completions of all programs, in target/man.
man:
    #!/usr/bin/env bash
    set -euo pipefail
    out="${CARGO_TARGET_DIR:-$PWD/target}/man"
    cargo run --quiet --locked -p valise --example pages -- "$out"
    cargo run --quiet --locked -p valise-chat -- man --out "$out"
    cargo run --quiet --locked -p valise-load -- man --out "$out"
    cargo run --quiet --locked -p valise-ctl -- man --out "$out"
    echo "$out"

# Every scenario that is short, small: the counts must be right; times are hardly judged here. Those of a
# data centre need a nats-server.
load-smoke: release
    #!/usr/bin/env bash
    set -euo pipefail
    load="${CARGO_TARGET_DIR:-target}/release/valise-load"
    "$load" run crates/load/scenarios/ci.toml
    "$load" run crates/load/scenarios/cluster-ci.toml
    "$load" run crates/load/scenarios/migrate-ci.toml

# The benchmarks run, for a moment each.
bench-smoke: release
    cargo bench --locked --bench shapes -- --smoke
    cargo bench --locked --bench store -- 1

# Needs root: the store on a file system that is full.
full-disk:
    cargo test --locked --test full_disk

# Every decoder, some seconds each, on the nightly toolchain.
fuzz-smoke:
    #!/usr/bin/env bash
    set -euo pipefail
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/fuzz"
    for target in $(cargo +nightly fuzz list); do
        mkdir -p "$CARGO_TARGET_DIR/corpus/$target"
        cargo +nightly fuzz run "$target" "$CARGO_TARGET_DIR/corpus/$target" "fuzz/seeds/$target" \
            -- -max_total_time={{ fuzz_seconds }} -rss_limit_mb=1024
    done

# A data centre on this machine: three NATS servers, two relays, and a chat through both.
cluster:
    cargo build --locked -p valise -p valise-chat
    deploy/try-cluster.sh "${CARGO_TARGET_DIR:-target}/debug"

# Three people chat in their terminals while their realm moves from a supernode into a data centre; what
# they see is recorded in target/migration. Needs tmux and a nats-server.
migrate-show:
    cargo build --locked -p valise -p valise-chat -p valise-ctl
    mkdir -p "${CARGO_TARGET_DIR:-target}/migration"
    deploy/show-migration.py "${CARGO_TARGET_DIR:-target}/debug" "${CARGO_TARGET_DIR:-target}/migration"

# Random histories, twenty thousand of them; `just test` plays fewer.
histories count="20000" seed="1":
    VALISE_HISTORIES={{ count }} VALISE_HISTORY_SEED={{ seed }} cargo test --release --lib --locked router::tests

# Random scripts of clients, each on a supernode, on one node and on three; `just test` plays fewer.
scripts count="100" seed="1":
    VALISE_SCRIPTS={{ count }} VALISE_SCRIPT_SEED={{ seed }} cargo test --workspace --locked --test cluster differential

# The full figures of docs/OPERATIONS.md: minutes each.
bench: release
    cargo bench --locked --bench shapes
    cargo bench --locked --bench store

# Twenty times kill -9 under 2,000 frames a second, and the other faults of many clients at the size
# of a pull request; crates/load/scenarios/full.toml has the full figures.
chaos: release
    #!/usr/bin/env bash
    set -euo pipefail
    load="${CARGO_TARGET_DIR:-target}/release/valise-load"
    "$load" kill --clients 200 --rate 2000 --kills 20 --duration 60s
    "$load" idle --clients 10000
    "$load" offline --clients 16 --duration 20s
    "$load" stalled --clients 2000
    "$load" slow-readers --clients 1000
    "$load" reconnect-storm --clients 2000
    "$load" restart --clients 1000 --queued 1000000
    VALISE_KILLS=200 cargo test --release --locked -p valise-chat --test crash -- --nocapture

# A data centre whose servers and nodes fail a hundred times each: hours. Root and iproute2 for the
# partitions.
cluster-chaos: release
    "${CARGO_TARGET_DIR:-target}/release/valise-load" run crates/load/scenarios/cluster.toml

# A migration of 10,000 clients and a million frames, twenty kills of each process at each of its steps,
# and twenty that are given up: hours.
migrate-chaos: release
    "${CARGO_TARGET_DIR:-target}/release/valise-load" run crates/load/scenarios/migrate.toml
    "${CARGO_TARGET_DIR:-target}/release/valise-load" run crates/load/scenarios/migrate-full.toml
