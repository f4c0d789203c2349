#!/usr/bin/env bash
# Puts this checkout and its pinned environment on all workers.
#
#   tpu_scripts/setup_vm.sh [--dry-run]
#
# What is copied are the files that git tracks or would track, as they are
# now; with REPOSITORY in env.sh the workers clone that instead. Ends by
# asking JAX on every worker for its platform and number of devices. Can be
# run again after a change: what is installed already stays.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
only_common_options "$@"
load_settings
ARCHIVE=$CHECKOUT/build/flipped_t5x.tar.gz
WORKERS=$(all_workers)

# A new VM takes a while to accept keys; the first call also makes them.
wait_for_ssh() {
  local attempt
  for ((attempt = 1; attempt <= SSH_ATTEMPTS; attempt++)); do
    ! ssh_workers 0 true || return 0
    [[ $DRY_RUN == true ]] || sleep "$BACKOFF_SECONDS"
  done
  die "no ssh to worker 0 after $SSH_ATTEMPTS attempts"
}

copy_checkout() {
  git -C "$CHECKOUT" rev-parse --git-dir >/dev/null 2>&1 ||
    die "$CHECKOUT is no git checkout; set REPOSITORY in $ENV_FILE"
  run mkdir -p "${ARCHIVE%/*}"
  # shellcheck disable=SC2016
  run bash -c 'cd "$1" && git ls-files -z --cached --others \
    --exclude-standard --deduplicate | tar -czf "$2" --ignore-failed-read \
    --null --files-from=-' pack "$CHECKOUT" "$ARCHIVE"
  fan_out "$WORKERS" gcloud compute tpus tpu-vm scp "$ARCHIVE" \
    "$TPU_NAME:flipped_t5x.tar.gz" "${WHERE[@]}" --worker=@ "${SSH_FLAGS[@]}"
  # shellcheck disable=SC2016
  ssh_workers "$WORKERS" bash -c \
    'mkdir -p "$1" && tar -xzf flipped_t5x.tar.gz -C "$1"' unpack "$REMOTE_DIR"
}

clone_checkout() {
  # shellcheck disable=SC2016
  ssh_workers "$WORKERS" bash -c '[[ -d $1 ]] || git clone "$2" "$1"
    cd "$1" && git fetch origin "$3" && git checkout --detach FETCH_HEAD' \
    clone "$REMOTE_DIR" "$REPOSITORY" "$REVISION"
}

wait_for_ssh
if [[ -n $REPOSITORY ]]; then
  clone_checkout
else
  copy_checkout
fi
ask_workers "$WORKERS" setup
ask_workers "$WORKERS" check --platform=tpu --devices="$NUM_DEVICES" \
  --workers="$NUM_WORKERS"
