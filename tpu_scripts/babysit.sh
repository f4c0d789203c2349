#!/usr/bin/env bash
# Keeps a training run going until it has finished, over preemptions.
#
#   tpu_scripts/babysit.sh [--dry-run] RUN --gin_file=... [--gin. ...]
#
# The arguments are those of train.sh. A TPU that is gone is deleted,
# created and set up again, at most MAX_RESTARTS times; a run that ended in an
# error is started again at most MAX_CRASHES times. T5X resumes from the last
# checkpoint in MODEL_DIR. Leaves the TPU there at the end: delete.sh.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
read_arguments t5x_option "$@"
one_run
name=$NAME
require_gin_file "${PASSED[@]}"
set -- "$name" "${PASSED[@]}"
load_settings
restarts=0 crashes=0 silent=0 errors=0

# The run's state over all workers, as one word: nothing, waiting or gone where
# there is no TPU, silent where workers cannot be reached, else what
# worker.sh says. Fails if gcloud does.
look() {
  local node queued said
  node=$(state_of "${DESCRIBE_NODE[@]}") || return 1
  queued=$(state_of "${DESCRIBE_QUEUED[@]}") || return 1
  case $node,$queued in
    READY,*) ;;
    ABSENT,ABSENT) echo nothing && return ;;
    ABSENT,ACTIVE | ABSENT,FAILED | ABSENT,SUSPEND* | ABSENT,DELETING | \
      PREEMPTED,* | TERMINATED,* | STOP*,* | DELETING,*) echo gone && return ;;
    *) echo waiting && return ;;
  esac
  if ! said=$(ask_workers "$(all_workers)" status "$name"); then
    note "$said"
    echo silent
    return
  fi
  said=$(sed -n 's/^\[worker [0-9]*\] state: \([a-z]*\).*/\1/p' <<<"$said" |
    sort -u | tr '\n' ' ')
  case ${said% } in
    absent | running | finished | stopped) echo "${said% }" ;;
    'finished running') echo running ;;
    # The others notice that one has died and end too, or must be ended.
    *) echo broken ;;
  esac
}

# Up to a running training; fails if the TPU was lost on the way.
bring_up() {
  local status=0
  "$SCRIPTS/create.sh" || status=$?
  ((status == 0 || status == TEMPORARY)) || exit "$status"
  ((status == 0)) || return 1
  if ! "$SCRIPTS/setup_vm.sh"; then
    [[ $(state_of "${DESCRIBE_NODE[@]}") != READY ]] ||
      die 'setup failed on a TPU that is there'
    return 1
  fi
  "$SCRIPTS/train.sh" "$@"
}

recreate() {
  ((++restarts <= MAX_RESTARTS)) ||
    die "gave up after $MAX_RESTARTS new TPUs (MAX_RESTARTS in $ENV_FILE)"
  note "the TPU is gone; new TPU $restarts of at most $MAX_RESTARTS"
  "$SCRIPTS/delete.sh" --yes
  bring_up "$@" || note 'lost again on the way'
}

restart() {
  "$SCRIPTS/logs.sh" -n 20 "$name" || true
  ((++crashes <= MAX_CRASHES)) ||
    die "gave up after $MAX_CRASHES restarts (MAX_CRASHES in $ENV_FILE)"
  note "$name ended in an error; restart $crashes of at most $MAX_CRASHES"
  if ! "$SCRIPTS/stop.sh" "$name" || ! "$SCRIPTS/train.sh" "$@"; then
    note 'could not be restarted'
  fi
}

if [[ $DRY_RUN == true ]]; then
  run "${DESCRIBE_NODE[@]}"
  run "${DESCRIBE_QUEUED[@]}"
  echo '# where there is no TPU:'
  "$SCRIPTS/create.sh" --dry-run
  "$SCRIPTS/setup_vm.sh" --dry-run
  "$SCRIPTS/train.sh" --dry-run "$@"
  echo "# then every $POLL_SECONDS s, until the run has finished:"
  run "${DESCRIBE_NODE[@]}"
  run "${DESCRIBE_QUEUED[@]}"
  ask_workers "$(all_workers)" status "$name"
  exit
fi

while true; do
  if ! state=$(look); then
    ((++errors < 30)) || die 'gcloud failed 30 times in a row'
    state=unknown
  else
    errors=0
    [[ $state == silent ]] || silent=0
  fi
  case $state in
    finished)
      note "$name has finished"
      exit 0
      ;;
    stopped) die "$name was stopped by stop.sh; train.sh starts it again" ;;
    nothing | waiting) bring_up "$@" || note 'lost on the way' ;;
    gone) recreate "$@" ;;
    absent) bring_up "$@" || note 'lost on the way' ;;
    broken) restart "$@" ;;
    silent) ((++silent < 5)) || recreate "$@" ;;
  esac
  sleep "$POLL_SECONDS"
done
