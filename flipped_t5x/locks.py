"""Locks: one process at a time writes to a place.

The kernel holds them (`flock`), so they end with their process, however it
ends. On NFS they hold between hosts; where a disk has none, such as some
Lustre and FUSE mounts, a note says so and nothing is locked. On FUSE mounts
such as gcsfuse they hold between the processes of one host alone.
"""

import atexit
from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys

from flipped_t5x import errors

# What a disk without locks answers: Lustre, old NFS, some FUSE mounts.
_NO_LOCKS = frozenset((
    errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF,
))
_until_exit: set[pathlib.Path] = set()  # The locks of `hold_until_exit`.


def lock(descriptor: int, wait: bool = False) -> bool | None:
  """Locks an open file or folder until it is closed.

  Args:
    descriptor: the file's descriptor.
    wait: whether to wait for another process that has locked it.

  Returns:
    Whether it is locked; None if its disk has no locks.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except BlockingIOError:
    return False
  except OSError as e:
    if e.errno in _NO_LOCKS:
      return None
    raise
  return True


@contextlib.contextmanager
def held(
    path: pathlib.Path, place: str, advice: str = '', wait: bool = False
) -> Iterator[None]:
  """Holds a lock, so that no other process writes to the same place.

  Args:
    path: the lock's file, in a folder that exists. It is made, and removed at
      the end; one that a killed process has left does not matter.
    place: what is locked, for messages.
    advice: what to do if another process has it, for messages.
    wait: whether to wait for another process that has it.

  Raises:
    UserError: another process has it, and `wait` is False.
    OSError: the lock's file cannot be written.
  """
  with _locked(path, place, advice, wait) as descriptor:
    owner = f'process {os.getpid()} on {socket.gethostname()}'
    try:
      try:
        os.truncate(descriptor, 0)
        os.write(descriptor, owner.encode())
      except OSError as e:
        e.filename = str(path)  # For the message.
        raise
      yield
    finally:
      path.unlink(missing_ok=True)


def hold_until_exit(path: pathlib.Path, place: str, advice: str = '') -> None:
  """Holds a lock until this process ends; once it does, this does nothing.

  Args:
    path: see `held`.
    place: see `held`.
    advice: see `held`.

  Raises:
    UserError: another process has it.
    OSError: the lock's file cannot be written.
  """
  path = path.resolve()
  if path not in _until_exit:
    stack = contextlib.ExitStack()
    stack.enter_context(held(path, place, advice))
    _until_exit.add(path)
    atexit.register(stack.close)


@contextlib.contextmanager
def _locked(
    path: pathlib.Path, place: str, advice: str, wait: bool
) -> Iterator[int]:
  """The descriptor of the lock's file, once it is locked; see `held`."""
  while True:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      locked = lock(descriptor)
      if locked is False:
        owner = os.read(descriptor, 1000).decode(errors='replace')
        busy = f'{place} is being written by {owner or "another process"}'
        if not wait:
          raise errors.UserError(
              f'{busy}; wait until it is done{advice and ", or "}{advice}'
          )
        print(f'{busy}; waiting for it', file=sys.stderr)
        locked = lock(descriptor, wait)
      if locked is None:
        print(
            f'{path.parent}: this disk has no locks; let no other process write'
            f' to {place} at the same time',
            file=sys.stderr,
        )
      # The one that had it before may have removed the file meanwhile.
      if locked is None or os.fstat(descriptor).st_nlink:
        yield descriptor
        return
    finally:
      os.close(descriptor)
