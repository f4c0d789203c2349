#!/usr/bin/env bash
# The worker's half of the scripts; they call it over ssh.
#
#   worker.sh setup                      make .venv from constraints.txt
#   worker.sh check FLAGS                see check_devices.py
#   worker.sh start NAME COMMAND...      start it, detached
#   worker.sh status NAME                absent, running, finished, failed ...
#   worker.sh logs NAME LINES follow|no
#   worker.sh stop NAME SECONDS          end its process group
#
# A run's folder output/NAME has its log, `pid` (the process, when it started
# and the boot, so that a pid in use again is not mistaken for it) and, once
# it has ended, `exit`.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
LOCK=${LIBTPU_LOCK:-/tmp/libtpu_lockfile}
DEVICES=${LIBTPU_DEVICES:-/dev/accel*}
UV_VERSION=0.13.9

die() {
  echo "worker.sh: $*" >&2
  exit 1
}

setup() {
  local python=.venv/bin/python stamp
  local pip=("$python" -m pip --disable-pip-version-check)
  stamp=$(cat setup.py constraints.txt tpu_scripts/worker.sh | sha256sum)
  if [[ $(cat .venv/.installed 2>/dev/null) == "$stamp" ]]; then
    echo 'installed already'
    return
  fi
  if command -v python3.11 >/dev/null; then
    python3.11 -m venv .venv
  else
    # The images have an older Python.
    python3 -m pip install --quiet --user "uv==$UV_VERSION"
    python3 -m uv venv --quiet --allow-existing --seed --python 3.11 .venv
  fi
  "${pip[@]}" install --quiet -c constraints.txt -e '.[tpu]'
  "$python" tpu_scripts/t5x_requirements.py others >.venv/t5x.txt
  "${pip[@]}" install --quiet -c constraints.txt -r .venv/t5x.txt
  "$python" tpu_scripts/t5x_requirements.py urls >.venv/t5x_urls.txt
  "${pip[@]}" install --quiet --no-deps -r .venv/t5x_urls.txt
  # promptsource asks for an old Python; only its templates are read.
  "${pip[@]}" install --quiet --no-deps --ignore-requires-python \
    promptsource==0.2.3
  printf '%s\n' "$stamp" >.venv/.installed
}

# When a process started, in ticks since the boot; empty if there is none.
started() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The name in brackets may hold spaces.
  read -ra stat <<<"${stat##*) }"
  printf '%s' "${stat[19]}"
}

boot() { cat /proc/sys/kernel/random/boot_id; }

# Sets PID to the run's process group, if some of it is alive.
alive() {
  local ticks boot now
  [[ -f $RUN/pid ]] || return 1
  read -r PID ticks boot <"$RUN/pid" || return 1
  [[ $PID =~ ^[1-9][0-9]+$ && $boot == "$(boot)" ]] || return 1
  now=$(started "$PID")
  # While members of a group live, no new process gets its number.
  [[ -z $now || $now == "$ticks" ]] || return 1
  # Not kill -0, which finds zombies too.
  ps -eo pgid=,stat= |
    awk -v group="$PID" '$1 == group && $2 !~ /^Z/ { found = 1 }
      END { exit !found }'
}

# libtpu leaves its lock behind when a process dies, and then refuses to
# start; with the TPU in nobody's hands the lock is of no use.
clear_lock() {
  local holders as=()
  [[ -e $LOCK ]] || return 0
  # The holder can be another user.
  ! sudo -n true 2>/dev/null || as=(sudo -n)
  holders=$("${as[@]}" find /proc/[0-9]*/fd \
    \( -lname "$DEVICES" -o -lname '/dev/vfio/[0-9]*' \) 2>/dev/null |
    cut -d/ -f3 | sort -u | tr '\n' ' ' || true)
  [[ -z $holders ]] || die "the TPU is in use by process ${holders% }"
  echo "removing the stale $LOCK"
  "${as[@]}" rm -f "$LOCK"
}

start() {
  ! alive || die "${RUN##*/} is running already, process $PID"
  clear_lock
  mkdir -p "$RUN"
  rm -f "$RUN/exit"
  printf '==== %s: %s\n' "$(date -u +%FT%TZ)" "${*@Q}" >>"$RUN/log"
  # setsid: one process group, that stop can end. The trap keeps this shell
  # alive after SIGTERM until its command has ended, to write down how.
  # shellcheck disable=SC2016
  PATH=$ROOT/.venv/bin:$PATH nohup setsid bash -c '
    trap : TERM
    status=0
    "${@:2}" || status=$?
    echo "$status" >"$1"' run "$RUN/exit" "$@" >>"$RUN/log" 2>&1 </dev/null &
  printf '%s %s %s\n' "$!" "$(started "$!")" "$(boot)" >"$RUN/pid"
  echo "started ${RUN##*/}, process $!"
}

status() {
  local ended
  if alive; then
    echo "state: running, process $PID"
  elif [[ -f $RUN/exit ]]; then
    ended=$(<"$RUN/exit")
    case $ended in
      0) echo 'state: finished' ;;
      stopped) echo 'state: stopped' ;;
      *) echo "state: failed, exit status $ended" ;;
    esac
  elif [[ -f $RUN/pid ]]; then
    echo 'state: lost'
  else
    echo 'state: absent'
  fi
}

stop() {
  local end=$((SECONDS + $1))
  if ! alive; then
    echo "${RUN##*/} is not running"
    return
  fi
  kill -TERM -- "-$PID"
  while alive && ((SECONDS < end)); do sleep 0.2; done
  if alive; then
    echo "still there after $1 s: killed"
    kill -KILL -- "-$PID"
    while alive; do sleep 0.1; done
  fi
  echo stopped >"$RUN/exit"
  echo "stopped ${RUN##*/}"
}

logs() {
  [[ -f $RUN/log ]] || die "there is no log of ${RUN##*/}"
  if [[ $2 == follow ]]; then
    exec tail -n "$1" -F "$RUN/log"
  fi
  tail -n "$1" "$RUN/log"
}

command=${1-}
shift || true
case $command in
  setup) setup ;;
  check) .venv/bin/python tpu_scripts/check_devices.py "$@" ;;
  start | status | stop | logs)
    RUN=$ROOT/output/${1:?worker.sh $command needs a NAME}
    shift
    "$command" "$@"
    ;;
  *) die "unknown command '$command'" ;;
esac
