#!/usr/bin/env bash
# Runs a command on all workers at once; fails if it fails on one.
#
#   tpu_scripts/on_workers.sh [--dry-run] [--worker=N] COMMAND...
#
# The words of the command arrive as they are. For pipes, && or variables of
# the worker: on_workers.sh bash -c 'df -h / | tail -1'.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
only=''
while (($#)); do
  case $1 in
    --worker=*) only=${1#*=} ;;
    *) common_option "$1" || break ;;
  esac
  shift
done
(($#)) || die 'no command; see on_workers.sh --help'
load_settings
ssh_workers "${only:-$(all_workers)}" "$@"
