#!/usr/bin/env bash
# Starts t5x.train on all workers, detached; its log is on each worker.
#
#   tpu_scripts/train.sh [--dry-run] RUN --gin_file=... [--gin.NAME=VALUE ...]
#
# MODEL_DIR is gs://BUCKET/RUN: run the same command again to resume. Names
# of gin files are looked up in gin/.
#
#   tpu_scripts/train.sh flipped_xl --gin_file=runs/t5x_finetune.gin \
#     --gin_file=models/t5_1_1_xl.gin --gin_file=methods/flipped.gin \
#     --gin.partitioning.PjitPartitioner.num_partitions=2
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
read_arguments t5x_option "$@"
one_run
require_gin_file "${PASSED[@]}"
load_settings
FLAGS=(--gin_search_paths=gin "--gin.MODEL_DIR='gs://$BUCKET/$NAME'")
[[ -z $CACHE_DIR ]] || FLAGS+=(--seqio_additional_cache_dirs="$CACHE_DIR")
start_run "$NAME" python -m flipped_t5x.t5x_main train "${FLAGS[@]}" \
  --alsologtostderr "${PASSED[@]}"
