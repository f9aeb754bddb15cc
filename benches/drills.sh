#!/usr/bin/env bash
# The drills of two regions, one after the other on one lab, as the figures in benches/README.md
# are made: planned, forced, forced with a tail, with a region lease, with limits of the lag,
# failback. Each begins from the pair that the one before left, and its history is judged by the
# checker of the tests (`cargo chaos --judge`). The first that breaks a promise ends it.
#
#     benches/drills.sh [ROUNDS]          20 unless given; failback runs a quarter of them
#
# ZONEQ names the binary (target/release/zoneq), ZONEQ_LAB_DIR a lab of one's own that is up.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-20}
zoneq=${ZONEQ:-${CARGO_TARGET_DIR:-target}/release/zoneq}
lab=${ZONEQ_LAB_DIR:-}
unset ZONEQ_LAB_DIR

# It is built before anything is measured.
cargo chaos --list >/dev/null

work=$(mktemp -d)
own=
finish() {
    local code=$?
    [[ -z $own ]] || "$zoneq" lab down --dir "$lab" >/dev/null 2>&1 || true
    if [[ $code == 0 ]]; then
        rm -rf "$work"
    else
        echo "the exported tails are in $lab, the history of the last drill in $work" >&2
    fi
    exit "$code"
}
trap finish EXIT
if [[ -z $lab ]]; then
    lab=$work/lab
    own=yes
    "$zoneq" lab up --detach --dir "$lab"
fi

history=$work/history.jsonl
drill() {
    printf '\n=== drill region %s\n' "$*"
    rm -f "$history"
    "$zoneq" drill region "$@" --dir "$lab" --history "$history"
    cargo chaos --judge "$history"
}

drill --planned --rounds "$rounds"
drill --forced --rounds "$rounds"
drill --forced --behind 500ms --rounds "$rounds"
drill --forced --behind 500ms --lease 2s --rounds "$rounds"
drill --forced --behind 6s --max-lag 2s --rounds "$rounds"
drill --forced --behind 3s --max-unshipped 1MiB --body 4096 --rounds "$rounds"
drill --failback --rounds "$(((rounds + 3) / 4))"
"$zoneq" lab status --dir "$lab"
