#!/usr/bin/env bash
# Everything that wants one GPU, in at most eight minutes; see README.md.
#
#   make gpu_files                     # Where there is a registry.
#   benchmarks/gpu.sh --output FOLDER --wheels output/gpu/wheels \
#     --data output/gpu/data
#   benchmarks/gpu.sh --output FOLDER --tiny   # Anywhere: does it all run?
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu.py" "$@"
