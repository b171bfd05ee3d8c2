#!/usr/bin/env bash
# Pin the newest versions that pyproject.toml allows: requirements.lock (to run) and
# requirements-dev.lock (what the tools add). torch is left out: each machine has its own build.
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
cp "$work/run" requirements.lock
comm -13 "$work/run" "$work/all" > requirements-dev.lock
wc -l requirements.lock requirements-dev.lock
