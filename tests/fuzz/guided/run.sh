#!/usr/bin/env bash
# Fuzzes every decoder, or those named, led by coverage: run.sh [SECONDS EACH] [DECODER...]
# Needs a C++ compiler. What it finds that reaches new code is kept in corpus/, a failure beside it.
set -euo pipefail
cd "$(dirname "$0")/../../.."

seconds=${1:-60}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz gives to the compiler, without a sanitizer: those need a nightly one. A target
# is named so that build scripts are built without these.
export RUSTFLAGS="--cfg tokio_unstable -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares \
-Ccodegen-units=1"
cp Cargo.lock tests/fuzz/guided/Cargo.lock
cargo build --manifest-path tests/fuzz/guided/Cargo.toml --target "$host" --target-dir target/fuzz
binary=target/fuzz/$host/debug/zoneq-guided-fuzz

names=("$@")
if [[ ${#names[@]} -eq 0 ]]; then
    list='s/^    \(light(\|Decoder { name: \)"\([a-z-]*\)".*/\2/p'
    mapfile -t names < <(sed -n "$list" tests/fuzz/decoders/mod.rs)
fi
for name in "${names[@]}"; do
    corpus=tests/fuzz/corpus/$name
    found=$(mktemp -d)
    mkdir -p "$corpus"
    printf '\n=== %s, %s s\n' "$name" "$seconds"
    ZONEQ_FUZZ=$name "$binary" -max_total_time="$seconds" -max_len=16384 -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="tests/fuzz/failed-$name-" "$found" "$corpus"
    # Of all that was found the smallest set that reaches the same code.
    kept=$(mktemp -d)
    ZONEQ_FUZZ=$name "$binary" -merge=1 -verbosity=0 "$kept" "$corpus" "$found"
    rm -rf "${corpus:?}"
    mv "$kept" "$corpus"
    chmod 755 "$corpus"
    rm -rf "$found"
done
