#!/usr/bin/env bash
# What a second region costs, and how far its copy is behind, as the figures in benches/README.md
# are made: three nodes a region, all on this machine. Closed loops with a protected pair and with
# one region alone, in turn, compare the processor time of a message; open loops at half of the rate
# that the pair reached show its lag. At one rate the times do not compare: a machine that has less
# to do makes smaller batches, and each message costs more.
#
#     benches/regions.sh [SECONDS] [REPEATS]          20 and 3 unless given
#
# ZONEQ names the binary (target/release/zoneq).
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
repeats=${2:-3}
zoneq=${ZONEQ:-${CARGO_TARGET_DIR:-target}/release/zoneq}
unset ZONEQ_LAB_DIR ZONEQ_ENDPOINT
work=$(mktemp -d)
lab=$work/lab

finish() {
    local code=$?
    "$zoneq" lab down --dir "$lab" >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

up() {
    "$zoneq" lab down --dir "$lab" >/dev/null 2>&1 || true
    rm -rf "$lab"
    "$zoneq" lab up --detach "$@" --dir "$lab" >/dev/null
}

bench() {
    "$zoneq" bench "$@" --dir "$lab" --json | tail -n 1
}

# field NAME < JSON
field() {
    python3 -c 'import json, sys; print(json.loads(sys.stdin.read())[sys.argv[1]])' "$1"
}

# show LABEL < JSON
show() {
    python3 -c '
import json, sys
run = json.loads(sys.stdin.read())
keys = ("msgs_per_s", "server_cpu_us_per_msg", "copy_cpu_us_per_msg", "copy_lag",
        "shipped_bytes_per_payload_byte", "send_latency", "errors")
print(sys.argv[1], json.dumps({key: run[key] for key in keys if run.get(key) is not None}))' "$1"
}

half_of() {
    python3 -c 'import sys; print(round(float(sys.argv[1]) / 2))' "$1"
}

# closed LABEL RUN...: shows a run, and answers half of its rate
closed() {
    local label=$1
    shift
    half_of "$(bench "$@" --secs "$seconds" | tee >(show "$label" >&2) | field msgs_per_s)"
}

for round in $(seq "$repeats"); do
    echo "=== round $round" >&2
    up
    enqueue=$(closed "pair, enqueue" enqueue -c 64)
    pipeline=$(closed "pair, pipeline" pipeline)
    bench enqueue -c 64 --rate "$enqueue" --secs "$seconds" | show "pair, enqueue at $enqueue/s" >&2
    bench paced -c 32 --rate "$pipeline" --secs "$seconds" | show "pair, pipeline at $pipeline/s" >&2
    up --regions 1
    closed "alone, enqueue" enqueue -c 64 >/dev/null
    closed "alone, pipeline" pipeline >/dev/null
done
