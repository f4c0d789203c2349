#!/usr/bin/env bash
# Writes the rows of tasks to CACHE_DIR, with seqio_cache_tasks on Dataflow in
# the zone's region. Nothing needs a cache: rows are read by number.
#
#   tpu_scripts/cache.sh [--dry-run] TASKS [PIPELINE_OPTION ...]
#
# TASKS are names or regular expressions separated by commas, options are
# Beam's, such as --max_num_workers=20. No TPU is needed. The virtual environment,
# .venv or the one in VIRTUAL_ENV, needs Beam with its client for Dataflow:
#
#   pip install -c constraints.txt -e '.[cache]' 'apache-beam[gcp]'
#
# Dataflow's workers fetch the rows themselves. They know the datasets of
# tasks/catalog.csv, and not those of FLIPPED_T5X_CATALOG.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# Beam's own options are many; none of them has a hyphen in its name.
beam_option() {
  [[ $1 =~ ^--[a-z][a-z0-9_]*(=.*)?$ && $1 != --dry_run* ]] || return 1
  PASSED+=("$1")
}
read_arguments beam_option "$@"
((${#WORDS[@]})) || die 'no TASKS; see cache.sh --help'
no_more_words 1
tasks=${WORDS[0]}
load_settings
require CACHE_DIR
BIN=${VIRTUAL_ENV:-$CHECKOUT/.venv}/bin

# SeqIO takes the options as one list separated by commas.
options=(
  --runner=DataflowRunner --project="$PROJECT" --region="${ZONE%-*}"
  --temp_location="gs://$BUCKET/dataflow" --setup_file="$CHECKOUT/setup.py"
  --requirements_file="$CHECKOUT/tpu_scripts/dataflow_requirements.txt"
  --requirements_cache=skip # Workers install it from PyPI.
  "${PASSED[@]}"
)
run "$BIN/seqio_cache_tasks" --module_import=flipped_t5x.tasks \
  --tasks="$tasks" --output_cache_dir="$CACHE_DIR" \
  --pipeline_options="$(IFS=, && printf '%s' "${options[*]}")"
