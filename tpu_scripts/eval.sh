#!/usr/bin/env bash
# Starts t5x.eval, or t5x.infer, on all workers, detached.
#
#   tpu_scripts/eval.sh [--dry-run] [--infer] RUN --gin_file=... [--gin. ...]
#
# What is written goes to the folder eval or infer of gs://BUCKET/RUN, MODEL_DIR
# of train.sh. To logs.sh and stop.sh the job is RUN.eval or RUN.infer.
#
#   tpu_scripts/eval.sh flipped_xl --gin_file=runs/t5x_eval.gin \
#     --gin_file=models/t5_1_1_xl.gin --gin_file=methods/flipped.gin \
#     --gin.CHECKPOINT_PATH="'gs://BUCKET/flipped_xl/checkpoint_1005000'"
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
mode='eval'
eval_option() {
  case $1 in
    --infer) mode=infer ;;
    *) t5x_option "$@" ;;
  esac
}
read_arguments eval_option "$@"
one_run
require_gin_file "${PASSED[@]}"
load_settings
FOLDER=gs://$BUCKET/$NAME/$mode
start_run "$NAME.$mode" python -m flipped_t5x.t5x_main "$mode" \
  --gin_search_paths=gin "--gin.${mode^^}_OUTPUT_DIR='$FOLDER'" \
  --alsologtostderr "${PASSED[@]}"
