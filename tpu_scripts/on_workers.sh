#!/usr/bin/env bash
# Runs a command on all workers at once; fails if it fails on one.
#
#   tpu_scripts/on_workers.sh [--dry-run] [--worker=N] [--] COMMAND...
#
# What stands after the first word of the command is the command's own.
# The words of the command arrive as they are. For pipes, && or variables of
# the worker: on_workers.sh bash -c 'df -h / | tail -1'.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
only='' checked=false
while (($#)); do
  case $1 in
    --worker=*) only=${1#*=} ;;
    --)
      shift
      checked=true
      break
      ;;
    -*)
      common_option "$1" ||
        die "unknown argument $1; see on_workers.sh --help"
      ;;
    *) break ;;
  esac
  shift
done
if [[ $checked == false && " $* " == *' --dry-run '* ]]; then
  die '--dry-run goes before the command; if it is an argument of the command,' \
    'write -- before the command'
fi
(($#)) || die 'no command; see on_workers.sh --help'
load_settings
ssh_workers "${only:-$(all_workers)}" "$@"
