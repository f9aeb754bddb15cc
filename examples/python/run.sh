#!/usr/bin/env bash
# Runs the Python example against $ZONEQ_ENDPOINT (default 127.0.0.1:7401, the lab's first node).
# Makes a virtual environment and the stubs under target/python-example; both are kept, so that
# a second run starts at once.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/python-example
python=${PYTHON:-python3}

mkdir -p "$work"
if ! cmp -s "$here/requirements.txt" "$work/requirements.txt"; then
    rm -rf "$work/venv"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$work/requirements.txt"
fi

rm -rf "$work/stubs"
mkdir -p "$work/stubs"
"$work/venv/bin/python" -m grpc_tools.protoc \
    --proto_path="$root/proto" --python_out="$work/stubs" --grpc_python_out="$work/stubs" \
    "$root"/proto/zoneq/queue/v1/*.proto

if [[ ${1:-} == --stubs-only ]]; then
    exit 0
fi
PYTHONPATH="$work/stubs" exec "$work/venv/bin/python" "$here/queue_example.py"
