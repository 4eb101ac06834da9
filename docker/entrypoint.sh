#!/bin/bash
# Runs a command in the sourced workspace.
set -e
. /ws/install/setup.bash
exec "$@"
