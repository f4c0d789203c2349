# shellcheck shell=bash disable=SC2034
# What the scripts share; they source it. Settings come from env.sh.
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo 'bash 4.4 or newer is needed' >&2
  exit 1
fi

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(dirname "$SCRIPTS")
ENV_FILE=${TPU_ENV:-$SCRIPTS/env.sh}
DRY_RUN=false
TEMPORARY=75  # exit status (EX_TEMPFAIL): try again later
NOT_FOUND='NOT_FOUND|was not found'  # in gcloud's errors

note() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  note "$@"
  exit 1
}

# The comment at the top of the script is its help.
usage() {
  sed -n '2,${/^#/!q;/^# shellcheck/q;s/^# \{0,1\}//;p}' "$0"
}

# True if $1 is an option that every script has.
common_option() {
  case $1 in
    --dry-run) DRY_RUN=true ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) return 1 ;;
  esac
}

# read_arguments OWN WORD...: sorts a command line. Flags count wherever they
# stand. Those of all scripts are taken here, others by the function OWN, which
# is called with the rest of the line, fails if the flag is not known to it, and
# sets TAKEN to 2 if the next word is the flag's value. What is no flag is put
# into WORDS.
read_arguments() {
  local own=$1 TAKEN
  WORDS=()
  shift
  while (($#)); do
    TAKEN=1
    case $1 in
      -*)
        common_option "$1" || "$own" "$@" ||
          die "unknown argument $1; see ${0##*/} --help"
        (($# >= TAKEN)) || die "$1 needs a value"
        ;;
      *) WORDS+=("$1") ;;
    esac
    shift "$TAKEN"
  done
}

no_option() { return 1; }

# Puts the flags of t5x.train, t5x.eval and t5x.infer into PASSED.
PASSED=()
t5x_option() {
  case $1 in
    --gin.*=* | --gin_file=* | --gin_bindings=* | --gin_search_paths=* | \
      --seqio_additional_cache_dirs=* | --tfds_data_dir=* | --shard_id=* | \
      --verbosity=* | --v=*) PASSED+=("$1") ;;
    --gin_file | --gin_bindings | --gin_search_paths | \
      --seqio_additional_cache_dirs | --tfds_data_dir | --shard_id)
      PASSED+=("$1=${2-}")
      TAKEN=2
      ;;
    *) return 1 ;;
  esac
}

# For scripts without arguments of their own.
only_common_options() {
  read_arguments no_option "$@"
  no_more_words 0
}

# no_more_words N: dies if there are more words than N.
no_more_words() {
  ((${#WORDS[@]} <= $1)) ||
    die "unknown argument ${WORDS[$1]}; see ${0##*/} --help"
}

# Sets NAME to the one RUN among the words.
one_run() {
  ((${#WORDS[@]})) || die "no RUN; see ${0##*/} --help"
  no_more_words 1
  NAME=${WORDS[0]}
  run_name "$NAME"
}

# The words as bash reads them back, quoted only where that is needed.
quote() {
  local LC_ALL=C word words=()
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      words+=("$word")
    else
      words+=("${word@Q}")
    fi
  done
  printf '%s' "${words[*]}"
}

# Runs a command or, with --dry-run, prints it.
run() {
  if [[ $DRY_RUN == true ]]; then
    printf '%s\n' "$(quote "$@")"
  else
    "$@"
  fi
}

# Dies unless each named setting has a value of one's own.
require() {
  local name value
  for name in "$@"; do
    value=${!name-}
    case $value in
      '') die "$name is not set; edit $ENV_FILE" ;;
      your-* | '<'*'>')
        die "$name is still the placeholder '$value'; edit $ENV_FILE"
        ;;
    esac
  done
}

require_number() {
  local name
  require "$@"
  for name in "$@"; do
    [[ ${!name} =~ ^[0-9]+$ ]] ||
      die "$name must be a whole number, not '${!name}'; edit $ENV_FILE"
  done
}

# Sets NUM_WORKERS and NUM_DEVICES: v2 to v5p types are named by TensorCores
# (from v4 on two of them are one JAX device), v5e and v6e types by chips.
slice_shape() {
  local size=${ACCELERATOR_TYPE##*-} workers devices
  if [[ $size =~ ^[1-9][0-9]*$ ]]; then
    case $ACCELERATOR_TYPE in
      v2-* | v3-*) devices=$size workers=$((size / 8)) ;;
      v4-* | v5p-*) devices=$((size / 2)) workers=$((size / 8)) ;;
      v5litepod-* | v6e-*)
        devices=$size
        workers=$((size > 8 ? size / 4 : 1))
        ;;
    esac
  fi
  if [[ -z ${workers-} && (-z $NUM_WORKERS || -z $NUM_DEVICES) ]]; then
    die "ACCELERATOR_TYPE '$ACCELERATOR_TYPE' is not known;" \
      "set NUM_WORKERS and NUM_DEVICES in $ENV_FILE"
  fi
  NUM_WORKERS=${NUM_WORKERS:-$((workers > 0 ? workers : 1))}
  NUM_DEVICES=${NUM_DEVICES:-$devices}
  require_number NUM_WORKERS NUM_DEVICES
}

load_settings() {
  [[ -f $ENV_FILE ]] || die "there is no settings file $ENV_FILE"
  # Else an old value in the caller's environment could stand in for one
  # that the file lacks.
  unset PROJECT ZONE BUCKET TPU_NAME ACCELERATOR_TYPE RUNTIME_VERSION SPOT \
    QUEUED_RESOURCE NUM_WORKERS NUM_DEVICES REMOTE_DIR REPOSITORY REVISION
  CREATE_FLAGS=() SSH_FLAGS=() WORKER_ENV=()
  NUM_WORKERS='' NUM_DEVICES='' REPOSITORY='' CACHE_DIR=''
  # shellcheck source=env.sh
  source "$ENV_FILE"
  require PROJECT ZONE TPU_NAME ACCELERATOR_TYPE RUNTIME_VERSION BUCKET SPOT \
    QUEUED_RESOURCE REMOTE_DIR
  [[ $SPOT == true || $SPOT == false ]] ||
    die "SPOT must be true or false, not '$SPOT'; edit $ENV_FILE"
  require_number CREATE_ATTEMPTS BACKOFF_SECONDS MAX_BACKOFF_SECONDS \
    POLL_SECONDS SSH_ATTEMPTS STOP_SECONDS MAX_RESTARTS MAX_CRASHES
  BUCKET=${BUCKET#gs://}
  BUCKET=${BUCKET%/}
  slice_shape
  [[ $DRY_RUN == true ]] || command -v gcloud >/dev/null ||
    die 'gcloud is not installed; see docs/tpu.md'
  WHERE=(--project="$PROJECT" --zone="$ZONE")
  DESCRIBE_QUEUED=(
    gcloud compute tpus queued-resources describe "$QUEUED_RESOURCE"
    "${WHERE[@]}" '--format=value(state.state)'
  )
  DESCRIBE_NODE=(
    gcloud compute tpus tpu-vm describe "$TPU_NAME"
    "${WHERE[@]}" '--format=value(state)'
  )
}

# Prints what gcloud's describe command says, or ABSENT.
state_of() {
  local said errors
  errors=$(mktemp)
  if said=$("$@" 2>"$errors"); then
    rm -f "$errors"
    printf '%s\n' "${said:-UNKNOWN}"
    return
  fi
  said=$(<"$errors")
  rm -f "$errors"
  if [[ $said =~ $NOT_FOUND ]]; then
    echo ABSENT
  else
    note "$said"
    return 1
  fi
}

run_name() {
  [[ $1 =~ ^[A-Za-z0-9] && ! $1 =~ [/\'\"\\] ]] ||
    die "RUN must start with a letter or digit, without / or quotes: '$1'"
}

# fan_out WORKERS COMMAND...: runs it for each of the workers (a list of
# numbers) at the same time, with the word --worker=@ replaced. Fails if it
# fails for one of them, and names those.
fan_out() {
  local workers=$1 worker failed='' status pid pids=()
  shift
  for worker in $workers; do
    if [[ $DRY_RUN == true ]]; then
      run "${@/#--worker=@/--worker=$worker}"
      continue
    fi
    (
      "${@/#--worker=@/--worker=$worker}" </dev/null 2>&1 |
        sed -u "s/^/[worker $worker] /"
    ) &
    pids[worker]=$!
  done
  # Without job control bash starts these with Ctrl-C ignored.
  trap 'for pid in "${pids[@]}"; do pkill -P "$pid" || true; done; exit 130' \
    INT TERM
  for worker in "${!pids[@]}"; do
    status=0
    wait "${pids[worker]}" || status=$?
    ((status == 0)) || failed+=" $worker (exit status $status)"
  done
  trap - INT TERM
  if [[ -n $failed ]]; then
    note "failed on worker$failed"
    return 1
  fi
}

all_workers() { seq -s ' ' 0 $((NUM_WORKERS - 1)); }

# ssh_workers WORKERS COMMAND...: runs it there as it stands; what needs a
# shell is `bash -c '...'`.
ssh_workers() {
  local workers=$1
  shift
  fan_out "$workers" gcloud compute tpus tpu-vm ssh "$TPU_NAME" \
    "${WHERE[@]}" --worker=@ "${SSH_FLAGS[@]}" --command="$(quote "$@")"
}

# The worker's half of the scripts, see worker.sh.
ask_workers() {
  local workers=$1
  shift
  ssh_workers "$workers" "$REMOTE_DIR/tpu_scripts/worker.sh" "$@"
}

# start_run NAME COMMAND...: starts it on all workers, detached.
start_run() {
  local name=$1
  shift
  ask_workers "$(all_workers)" start "$name" env "${WORKER_ENV[@]}" "$@" ||
    die "not started everywhere; JAX waits for all workers, so stop the rest:" \
      "tpu_scripts/stop.sh $(quote "$name")"
  [[ $DRY_RUN == true ]] || note "started; tpu_scripts/logs.sh -f $(quote "$name")"
}

# Dies unless one of the flags is --gin_file.
require_gin_file() {
  local flag
  for flag in "$@"; do
    [[ $flag != --gin_file* ]] || return 0
  done
  die 'no --gin_file among the flags'
}
