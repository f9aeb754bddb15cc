#!/usr/bin/env bash
# How long an empty copy takes to be given all, what that costs who sends meanwhile, and what
# crosses the line when a deposed region is protected again, as the figures in benches/README.md
# are made: three nodes a region, all on this machine.
#
#     benches/copy.sh [MESSAGES]          1000000 of 1 KiB unless given; a hundredth of them change
#
# ZONEQ names the binary (target/release/zoneq).
set -euo pipefail
cd "$(dirname "$0")/.."

messages=${1:-1000000}
changed=$((messages / 200))
zoneq=${ZONEQ:-${CARGO_TARGET_DIR:-target}/release/zoneq}
unset ZONEQ_LAB_DIR ZONEQ_ENDPOINT
work=$(mktemp -d)
export ZONEQ_LAB_DIR=$work/lab

finish() {
    local code=$?
    "$zoneq" lab down >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

# field NAME < JSON: of the last line
field() {
    tail -n 1 | python3 -c 'import json, sys; print(json.loads(sys.stdin.read())[sys.argv[1]])' "$1"
}

now() {
    python3 -c 'import time; print(time.monotonic())'
}

# until_live REGION BEGAN: waits until that primary calls its copy live, and tells how long it took
until_live() {
    until [[ $("$zoneq" region status -e "$1" --json | field status) == live ]]; do :; done
    python3 -c 'import sys, time; print(f"live after {time.monotonic() - float(sys.argv[1]):.1f} s")' "$2"
    local status
    status=$("$zoneq" region status -e "$1" --json)
    echo "bytes of a state given: $(field copied_bytes <<<"$status"), of the log: $(field shipped_bytes <<<"$status")"
}

"$zoneq" lab up --detach >/dev/null
"$zoneq" region unprotect --wipe -e east >/dev/null
"$zoneq" bench backlog "$messages" --batch 100 -c 16 --queue stock -e east --json >/dev/null
echo "=== an empty copy of $messages messages of 1 KiB, and 200 messages a second meanwhile"
"$zoneq" bench paced --rate 200 --secs 20 --queue beside -e east --json >"$work/paced.json" &
paced=$!
began=$(now)
"$zoneq" region protect -e east >/dev/null
until_live east "$began"
wait "$paced"
for what in send_latency end_to_end_latency; do
    echo "$what: $(field "$what" <"$work/paced.json")"
done

echo "=== a forced failover; $changed messages are deleted and $changed sent; protected again"
"$zoneq" lab kill east >/dev/null
"$zoneq" region failover --force -e west >/dev/null
for ((left = changed; left > 0; left -= 1000)); do
    "$zoneq" receive stock --max $((left < 1000 ? left : 1000)) --delete --raw -e west >/dev/null
done
python3 -c 'import sys
for number in range(int(sys.argv[1])): print(f"{number:01024}")' "$changed" |
    "$zoneq" send stock --lines -e west >/dev/null
"$zoneq" lab start east >/dev/null
until "$zoneq" region tail replay -e east >/dev/null 2>&1; do :; done
began=$(now)
until "$zoneq" region protect -e west >/dev/null 2>&1; do :; done
until_live west "$began"
echo "asked at most: $((changed * 1024 * 3 / 2 + (4 << 20))) bytes, 1.5 times the bodies sent and 4 MiB"
"$zoneq" region verify -e west
