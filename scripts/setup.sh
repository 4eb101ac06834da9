#!/bin/sh
# Finds a Python that is new enough, in words where there is none, and hands over to setup_env.py.
set -eu
python="${1:-python3}"
cd "$(dirname "$0")/.."
if ! command -v "$python" >/dev/null 2>&1; then
    echo "stremn_ros: '$python' was not found. On Debian or Ubuntu:" >&2
    echo "    sudo apt-get install python3 python3-venv python3-dev g++ cmake make" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "stremn_ros: $("$python" --version) is too old, 3.10 or newer is needed." >&2
    echo "    Name another one: make setup PYTHON=python3.12" >&2
    exit 1
fi
[ $# -eq 0 ] || shift
exec "$python" scripts/setup_env.py "$@"
