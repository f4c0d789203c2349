#!/usr/bin/env bash
# Shows the end of the workers' logs of a run.
#
#   tpu_scripts/logs.sh [--dry-run] [-f] [-n LINES] [--worker=N] RUN
#
# -f follows them (of worker 0 unless told otherwise) until Ctrl-C.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
only='' follow=no lines=20
logs_option() {
  case $1 in
    -f) follow=follow ;;
    -n)
      lines=${2-}
      TAKEN=2
      ;;
    --worker=*) only=${1#*=} ;;
    *) return 1 ;;
  esac
}
read_arguments logs_option "$@"
one_run
[[ $lines =~ ^[0-9]+$ ]] || die "-n takes a number, not '$lines'"
load_settings
if [[ -z $only ]]; then
  only=$(all_workers)
  [[ $follow == no ]] || only=0
fi
ask_workers "$only" logs "$NAME" "$lines" "$follow"
