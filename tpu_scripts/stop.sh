#!/usr/bin/env bash
# Stops a run on all workers.
#
#   tpu_scripts/stop.sh [--dry-run] RUN
#
# Only the process group that train.sh or eval.sh started is ended: SIGTERM,
# after STOP_SECONDS SIGKILL. Nothing is looked up by name.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
read_arguments no_option "$@"
one_run
load_settings
ask_workers "$(all_workers)" stop "$NAME" "$STOP_SECONDS"
