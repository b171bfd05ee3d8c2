#!/usr/bin/env bash
# Pin the newest versions that pyproject.toml allows: requirements.lock (to run),
# requirements-dev.lock (what the tools add) and requirements-server.lock (what a shared server
# adds). torch is left out: each machine has its own build.
# Usage: tools/lock.sh PYTHON TORCH
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$1" -m venv "$work/venv"
pip="$work/venv/bin/python -m pip --disable-pip-version-check"
frozen() {
  $pip freeze --all | grep -Eiv '^(p-tuning-pipeline|pip|torch|triton|nvidia-|cuda-)' | sort
}

$pip install --quiet "$2"
$pip install --quiet .
frozen > "$work/run"
$pip install --quiet ".[dev]"
frozen > "$work/all"
# What runs must be the same with the server's packages beside it. dvc[s3] and boto3 both hang on
# close versions of botocore: where one goes first, pip does not search for a common one.
$pip install --quiet --constraint "$work/all" ".[remote]"
frozen > "$work/remote"
$pip install --quiet --constraint "$work/remote" ".[server]"
frozen > "$work/server"
cp "$work/run" requirements.lock
comm -13 "$work/run" "$work/all" > requirements-dev.lock
comm -13 "$work/all" "$work/server" > requirements-server.lock
wc -l requirements*.lock
