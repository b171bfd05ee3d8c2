#!/usr/bin/env bash
# Write the four lock files, with hashes, from the ranges in pyproject.toml: requirements.lock (to
# run), requirements-dev.lock (what the tools add), requirements-docs.lock (what the documentation
# site adds) and requirements-server.lock (what a shared server adds). torch and its CUDA libraries are left out: each machine has its build of them.
# Versions in the files are kept where the ranges allow; `--upgrade` takes the newest.
# Usage: tools/lock.sh PYTHON TORCH [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$1" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install --quiet uv
echo "$2" > "$work/torch"

resolve() { # FILE, then options
  local file=$1
  shift
  "$work/venv/bin/uv" pip compile pyproject.toml --quiet --no-header --no-annotate \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
    --constraint "$work/torch" --output-file "$file" "$@" > /dev/null
}
# The entries of FILE (a line and the hashes below it) that OTHER lacks, without torch.
entries() { # FILE OTHER
  awk '/^[^ ]/ { new = !($1 in seen) && $1 !~ /^(torch|triton|nvidia-.*|cuda-.*)==/ }
       FILENAME == ARGV[1] { if (/^[^ ]/) seen[$1]; next }
       new' "$2" "$1"
}

# All extras are resolved together first, so that what runs is the same with and without them.
cat requirements*.lock > "$work/all"
resolve "$work/all" --extra dev --extra docs --extra server "${@:3}"
resolve "$work/run" --constraint "$work/all"
resolve "$work/dev" --constraint "$work/all" --extra dev
resolve "$work/docs" --constraint "$work/all" --extra docs
resolve "$work/server" --constraint "$work/all" --extra dev --extra server
entries "$work/run" /dev/null > requirements.lock
entries "$work/dev" "$work/run" > requirements-dev.lock
entries "$work/docs" "$work/run" > requirements-docs.lock
entries "$work/server" "$work/dev" > requirements-server.lock
grep -c '==' requirements*.lock
