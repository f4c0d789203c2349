"""Locks: one process at a time, and none after the process is gone."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading

from flipped_t5x import errors
from flipped_t5x import locks
import pytest

# argv: the lock's file.
_HOLDER = """
import pathlib, sys
from flipped_t5x import locks
with locks.held(pathlib.Path(sys.argv[1]), 'there'):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  with subprocess.Popen(
      [sys.executable, '-c', _HOLDER, str(tmp_path / '.lock')],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  ) as process:
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()


@pytest.mark.process
def test_one_process_at_a_time(holder, tmp_path):
  path = tmp_path / '.lock'
  message = (
      f'^X is being written by process {holder.pid} on .+; wait until it is'
      ' done, or do Y$'
  )
  with (
      pytest.raises(errors.UserError, match=message),
      locks.held(path, 'X', 'do Y'),
  ):
    pass
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  assert path.exists()  # The killed process could not remove it.
  with locks.held(path, 'X'):
    assert f'process {os.getpid()} on' in path.read_text()
  assert not path.exists()


@pytest.mark.process
def test_waiting(holder, tmp_path, capsys):
  threading.Timer(0.5, holder.stdin.close).start()
  with locks.held(tmp_path / '.lock', 'X', wait=True):
    assert (tmp_path / '.lock').exists()
  assert capsys.readouterr().err.endswith('; waiting for it\n')
  assert list(tmp_path.iterdir()) == []


def test_an_error_releases(tmp_path):
  path = tmp_path / '.lock'
  with pytest.raises(KeyError), locks.held(path, 'X'):
    raise KeyError
  with locks.held(path, 'X'):
    message = 'X is being written'
    with pytest.raises(errors.UserError, match=message), locks.held(path, 'X'):
      pass


def test_no_room_for_a_lock(tmp_path):
  path = tmp_path / '.lock'
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
  try:
    with (
        pytest.raises(OSError, match=f"File too large: '{path}'"),
        locks.held(path, 'there'),
    ):
      pass
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not path.exists()


def test_a_lock_whose_file_was_removed_meanwhile(tmp_path, monkeypatch):
  """The one before it removes the file between opening and locking."""
  path, flock, removed = tmp_path / '.lock', fcntl.flock, []

  def remove_first(descriptor, how):
    if not removed:
      path.unlink()
      removed.append(path)
    flock(descriptor, how)

  monkeypatch.setattr(fcntl, 'flock', remove_first)
  with locks.held(path, 'X'):
    assert removed and path.exists()
    with pytest.raises(errors.UserError), locks.held(path, 'X'):
      pass


def test_a_disk_without_locks(tmp_path, monkeypatch, capsys):
  def refuse(descriptor, how):
    raise OSError(errno.ENOSYS, 'not implemented')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with locks.held(tmp_path / '.lock', 'X'):
    pass
  assert capsys.readouterr().err == (
      f'{tmp_path}: this disk has no locks; let no other process write to X at'
      ' the same time\n'
  )
