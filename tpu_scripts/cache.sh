#!/usr/bin/env bash
# Writes the rows of a mixture as SeqIO caches them, to CACHE_DIR.
#
#   tpu_scripts/cache.sh [--dry-run] MIXTURE [FLAGS]
#   tpu_scripts/cache.sh [--dry-run] --dataflow TASKS [PIPELINE_OPTION ...]
#
# The first writes them on this machine with `flipped-t5x cache` (resumable)
# and copies them to the bucket. The second runs seqio_cache_tasks on
# Dataflow in the zone's region; TASKS are names or regular expressions
# separated by commas, options are Beam's, such as --max_num_workers=20.
# Both use .venv, or the virtual environment in VIRTUAL_ENV. No TPU is needed.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
dataflow=false
while (($#)); do
  case $1 in
    --dataflow) dataflow=true ;;
    *) common_option "$1" || break ;;
  esac
  shift
done
(($#)) || die 'no MIXTURE; see cache.sh --help'
what=$1
shift
load_settings
require CACHE_DIR
BIN=${VIRTUAL_ENV:-$CHECKOUT/.venv}/bin

if [[ $dataflow == true ]]; then
  # SeqIO takes the options as one list separated by commas.
  options=(
    --runner=DataflowRunner --project="$PROJECT" --region="${ZONE%-*}"
    --temp_location="gs://$BUCKET/dataflow" --setup_file="$CHECKOUT/setup.py"
    "$@"
  )
  run "$BIN/seqio_cache_tasks" --module_import=flipped_t5x.tasks \
    --tasks="$what" --output_cache_dir="$CACHE_DIR" \
    --pipeline_options="$(IFS=, && printf '%s' "${options[*]}")"
else
  run "$BIN/flipped-t5x" cache "$what" \
    --output_cache_dir "$CHECKOUT/build/caches" "$@"
  run gcloud storage rsync --recursive "$CHECKOUT/build/caches" "$CACHE_DIR" \
    --project="$PROJECT"
fi
