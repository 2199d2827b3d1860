#!/bin/sh
# Becomes the command it is given, so that the command gets the signals.
set -eu

# Files of processes that an earlier start of this container left behind would be counted for ever.
if [ -n "${PROMETHEUS_MULTIPROC_DIR:-}" ]; then
    mkdir -p "$PROMETHEUS_MULTIPROC_DIR"
    rm -f "$PROMETHEUS_MULTIPROC_DIR"/*.db
fi

exec "$@"
