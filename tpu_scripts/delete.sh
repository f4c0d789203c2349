#!/usr/bin/env bash
# Deletes the TPU and its queued resource. What is in the bucket stays.
#
#   tpu_scripts/delete.sh [--dry-run] [--yes]
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
yes=false
delete_option() {
  [[ $1 == --yes ]] && yes=true
}
read_arguments delete_option "$@"
no_more_words 0
load_settings
DELETE_QUEUED=(
  gcloud compute tpus queued-resources delete "$QUEUED_RESOURCE"
  "${WHERE[@]}" --force --quiet
)
DELETE_NODE=(
  gcloud compute tpus tpu-vm delete "$TPU_NAME" "${WHERE[@]}" --quiet
)

if [[ $DRY_RUN == true ]]; then
  run "${DELETE_QUEUED[@]}"
  echo '# if the node is still there:'
  run "${DESCRIBE_NODE[@]}"
  printf '# %s\n' "$(quote "${DELETE_NODE[@]}")"
  exit
fi
if [[ $yes == false ]]; then
  read -r -p "Delete $TPU_NAME and $QUEUED_RESOURCE in $PROJECT, $ZONE? [y/N] " \
    answer || die 'no answer; say --yes to delete without being asked'
  [[ $answer == [yY]* ]] || die 'nothing deleted'
fi
if ! said=$("${DELETE_QUEUED[@]}" 2>&1); then
  [[ $said =~ $NOT_FOUND ]] || die "$said"
fi
# A node that was made without a queued resource is not deleted with it.
state=$(state_of "${DESCRIBE_NODE[@]}")
if [[ $state != ABSENT ]]; then
  "${DELETE_NODE[@]}"
fi
note "$TPU_NAME and $QUEUED_RESOURCE are gone"
