#!/usr/bin/env bash
# Stops a run on all workers.
#
#   tpu_scripts/stop.sh [--dry-run] RUN
#
# Only the process group that train.sh or eval.sh started is ended: SIGTERM,
# after STOP_SECONDS SIGKILL. Nothing is looked up by name.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
while (($#)); do
  common_option "$1" || break
  shift
done
(($# == 1)) || die 'one RUN is needed; see stop.sh --help'
run_name "$1"
load_settings
ask_workers "$(all_workers)" stop "$1" "$STOP_SECONDS"
