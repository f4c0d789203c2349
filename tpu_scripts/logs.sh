#!/usr/bin/env bash
# Shows the end of the workers' logs of a run.
#
#   tpu_scripts/logs.sh [--dry-run] [-f] [-n LINES] [--worker=N] RUN
#
# -f follows them (of worker 0 unless told otherwise) until Ctrl-C.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
only='' follow=no lines=20
while (($#)); do
  case $1 in
    -f) follow=follow ;;
    -n)
      shift
      lines=${1-}
      ;;
    --worker=*) only=${1#*=} ;;
    *) common_option "$1" || break ;;
  esac
  shift
done
(($# == 1)) || die 'one RUN is needed; see logs.sh --help'
[[ $lines =~ ^[0-9]+$ ]] || die "-n takes a number, not '$lines'"
run_name "$1"
load_settings
if [[ -z $only ]]; then
  only=$(all_workers)
  [[ $follow == no ]] || only=0
fi
ask_workers "$only" logs "$1" "$lines" "$follow"
