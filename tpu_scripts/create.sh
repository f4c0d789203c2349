#!/usr/bin/env bash
# Asks for the TPU as a queued resource and waits until it can be used.
#
#   tpu_scripts/create.sh [--dry-run]
#
# Where quota or capacity is short it asks again, with growing pauses. If
# the request exists already, it waits for that one. Exit status 75: still no
# quota or capacity after CREATE_ATTEMPTS.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
only_common_options "$@"
load_settings

CREATE=(
  gcloud compute tpus queued-resources create "$QUEUED_RESOURCE"
  --node-id="$TPU_NAME" "${WHERE[@]}"
  --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION"
)
[[ $SPOT == false ]] || CREATE+=(--spot)
CREATE+=("${CREATE_FLAGS[@]}")
DELETE=(
  gcloud compute tpus queued-resources delete "$QUEUED_RESOURCE"
  "${WHERE[@]}" --force --quiet
)
SHORT='RESOURCE_EXHAUSTED|[Qq]uota|[Cc]apacity|STOCKOUT|[Ss]tockout'
SHORT+='|UNAVAILABLE|RATE_LIMIT|rateLimitExceeded|DEADLINE_EXCEEDED|ABORTED'

# Asks once. 0: asked, or asked before; TEMPORARY: no quota or capacity.
ask() {
  local said
  if said=$("${CREATE[@]}" 2>&1); then
    return 0
  elif [[ $said =~ ALREADY_EXISTS|already\ exists ]]; then
    note "$QUEUED_RESOURCE exists already"
    return 0
  elif [[ $said =~ $SHORT ]]; then
    note "$said"
    return "$TEMPORARY"
  fi
  die "$said"
}

# Waits for the request. TEMPORARY: it came to nothing, and is deleted.
wait_for_request() {
  local state last=''
  while true; do
    state=$(state_of "${DESCRIBE_QUEUED[@]}") || exit 1
    [[ $state == "$last" ]] || note "$QUEUED_RESOURCE is $state"
    last=$state
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPEND* | ABSENT)
        [[ $state == ABSENT ]] || "${DELETE[@]}" || exit 1
        return "$TEMPORARY"
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

wait_for_node() {
  local state last=''
  while true; do
    state=$(state_of "${DESCRIBE_NODE[@]}") || exit 1
    [[ $state == "$last" ]] || note "$TPU_NAME is $state"
    last=$state
    case $state in
      READY) return 0 ;;
      ABSENT | PREEMPTED | TERMINATED | STOPPED | DELETING)
        "${DELETE[@]}" || exit 1
        return "$TEMPORARY"
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

if [[ $DRY_RUN == true ]]; then
  run "${CREATE[@]}"
  echo '# until ACTIVE:'
  run "${DESCRIBE_QUEUED[@]}"
  echo '# until READY:'
  run "${DESCRIBE_NODE[@]}"
  exit
fi

pause=$BACKOFF_SECONDS
for ((attempt = 1; attempt <= CREATE_ATTEMPTS; attempt++)); do
  status=0
  ask || status=$?
  ((status != 0)) || wait_for_request || status=$?
  ((status != 0)) || wait_for_node || status=$?
  if ((status == 0)); then
    note "$TPU_NAME is ready: $NUM_WORKERS workers, $NUM_DEVICES devices"
    exit 0
  fi
  ((status == TEMPORARY)) || exit "$status"
  if ((attempt < CREATE_ATTEMPTS)); then
    note "attempt $attempt of $CREATE_ATTEMPTS; next in $pause s"
    sleep "$pause"
    pause=$((pause * 2))
    ((pause <= MAX_BACKOFF_SECONDS)) || pause=$MAX_BACKOFF_SECONDS
  fi
done
note "no quota or capacity for $ACCELERATOR_TYPE in $ZONE after" \
  "$CREATE_ATTEMPTS attempts (CREATE_ATTEMPTS in $ENV_FILE)"
exit "$TEMPORARY"
