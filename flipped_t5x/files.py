"""Files: written whole or not at all, JSON, digests, and the data folder."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import glob
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
from typing import Any
import uuid

from etils import epath
from flipped_t5x import errors
from flipped_t5x import locks

# NAME.unfinished-1234abcd is what NAME is written to, beside it.
# Numbers of the errors of a disk that is full or does not work.
DISK_ERRORS = (
    errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS,
)
_UNFINISHED = '.unfinished-'
# What stands in a Git repository for a large file that was not fetched.
_LFS_POINTER = b'version https://git-lfs'


def data_folder() -> pathlib.Path:
  """`FLIPPED_T5X_DATA`, or `flipped_t5x` in the user's cache."""
  folder = os.environ.get('FLIPPED_T5X_DATA')
  if folder:
    return pathlib.Path(folder).expanduser().absolute()
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(cache).expanduser().absolute() / 'flipped_t5x'


def any_path(path: str | os.PathLike[str]) -> epath.Path:
  """A path on this machine, or one such as `gs://BUCKET/RUN`.

  Raises:
    MissingPackage: the path is on Google Storage, and nothing that can read it
      is installed.
    UserError: the path has another scheme.
  """
  if is_remote(path) and not os.fspath(path).startswith('gs://'):
    raise errors.UserError(
        f'{path}: only paths on this machine and gs://... are supported'
    )
  if os.fspath(path).startswith('gs://') and not any(
      map(importlib.util.find_spec, ('gcsfs', 'tensorflow'))
  ):
    raise errors.MissingPackage(
        f'{path}: Google Storage needs gcsfs, which is not installed: pip'
        ' install gcsfs'
    )
  return epath.Path(path).expanduser()


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path has a scheme, such as `gs://`."""
  return '://' in os.fspath(path)


def local_path(path: str | os.PathLike[str], name: str = '') -> pathlib.Path:
  """A path on this machine, `~` being the user's home.

  Args:
    path: the path.
    name: the setting that it was given as, for messages.

  Raises:
    UserError: it has a scheme, such as `gs://`.
  """
  if is_remote(path):
    named = f'{name}: {path}' if name else path
    raise errors.UserError(
        f'{named} is not on this machine: give a local path'
    )
  return pathlib.Path(path).expanduser()


def check_is_fetched(path: os.PathLike[str]) -> None:
  """Raises UserError if a file is only a pointer of Git LFS.

  Args:
    path: the file. One that is not there is no pointer.
  """
  try:
    with any_path(path).open('rb') as f:
      start = f.read(len(_LFS_POINTER))
  except OSError:
    return  # Whoever reads it will say why.
  if start == _LFS_POINTER:
    raise errors.UserError(
        f'{os.fspath(path)} is only a pointer of Git LFS, and not the file'
        ' itself: run git lfs pull in its repository, or download the file'
    )


def check_is_file(path: pathlib.Path, wanted: str) -> None:
  """Checks that a file that a user has named is there.

  Args:
    path: the file.
    wanted: what to give instead, for the message.

  Raises:
    FileNotFoundError: it does not exist.
    IsADirectoryError: it is a folder.
  """
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a folder; give {wanted}')
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist; give {wanted}')


@contextlib.contextmanager
def made(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder for a block, and removes it again if it is still empty."""
  parents = [p for p in (folder, *folder.parents) if not p.exists()]
  folder.mkdir(parents=True, exist_ok=True)
  try:
    yield
  finally:
    for path in parents:
      with contextlib.suppress(OSError):
        path.rmdir()


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Replaces a file once it has been written whole.

  What killed processes have left of the same file is removed.

  Args:
    path: the file.

  Yields:
    Another path in the same folder, to write to: an empty file. It becomes
    `path` if the block ends without an error, and is removed otherwise.
  """

  def make(unfinished: pathlib.Path) -> None:
    unfinished.touch(exist_ok=False)

  with _unfinished(path, make) as unfinished:
    yield unfinished
    unfinished.replace(path)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Makes a folder that appears once everything in it is written.

  What killed processes have left of the same folder is removed.

  Args:
    path: the folder. Its parents are made if need be.

  Yields:
    Another folder, empty, beside it. It becomes `path` if the block ends
    without an error, and is removed otherwise.

  Raises:
    FileExistsError: at the end, if `path` has appeared meanwhile.
  """
  with (
      made(path.parent),
      _unfinished(path, pathlib.Path.mkdir) as unfinished,
  ):
    yield unfinished
    # A folder could be renamed onto an empty one.
    if path.exists() or path.is_symlink():
      raise FileExistsError(f'{path} has appeared meanwhile')
    unfinished.rename(path)


def temporary_folder(
    path: pathlib.Path,
) -> contextlib.AbstractContextManager[pathlib.Path]:
  """An empty folder beside a path, for as long as the block takes.

  Unlike `tempfile`'s, it is on the disk of `path`, and what killed processes
  have left of it is removed.

  Args:
    path: where what is made in the folder will be moved to, by the caller. Its
      parent must exist.
  """
  return _unfinished(path, pathlib.Path.mkdir)


def remove_leftovers(folder: pathlib.Path, name: str = '*') -> None:
  """Removes what killed processes have left in `replacing` and `new_folder`.

  What a live process is writing stays: it has locked it.

  Args:
    folder: the folder to look in.
    name: the file or folder that was to be made, as a pattern of `glob`:
      `**/*` for all in the folder and in those below it.
  """
  for path in folder.glob(f'{name}{_UNFINISHED}*'):
    # Another process may have finished it, or it may be someone else's.
    with (
        contextlib.suppress(FileNotFoundError, PermissionError),
        _open(path) as descriptor,
    ):
      if locks.lock(descriptor):
        _remove(path)


@contextlib.contextmanager
def _unfinished(
    path: pathlib.Path, make: Callable[[pathlib.Path], None]
) -> Iterator[pathlib.Path]:
  """A locked file or folder beside `path`, removed at the end if still here."""
  remove_leftovers(path.parent, glob.escape(path.name))
  while True:
    suffix = f'{_UNFINISHED}{uuid.uuid4().hex[:8]}'
    unfinished = path.with_name(path.name + suffix)
    make(unfinished)
    try:
      with _open(unfinished) as descriptor:
        locks.lock(descriptor)
        # Before it was locked, another process may have taken it for left over.
        if unfinished.exists():
          with named(path):
            yield unfinished
          return
    finally:
      _remove(unfinished)


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
  """Names a file in errors of a disk that is full or does not work.

  Args:
    path: what is written.

  Raises:
    OSError: with the path, in place of one without.
  """
  try:
    yield
  except OSError as e:
    if e.errno not in DISK_ERRORS or e.filename is not None:
      raise
    reason = first_line(e)
    if os.strerror(e.errno) not in reason:
      reason = f'{reason}: {os.strerror(e.errno)}'
    raise OSError(f'{path} could not be written: {reason}') from e


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[int]:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def _remove(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


def write(path: pathlib.Path | epath.Path, content: str | bytes) -> None:
  """Writes a file, whole or not at all; text as UTF-8.

  Args:
    path: the file; in a bucket, where a write is whole by itself, too.
    content: what to write.
  """
  if isinstance(content, str):
    content = content.encode()
  if is_remote(path):
    epath.Path(path).write_bytes(content)
    return
  with replacing(pathlib.Path(path)) as unfinished:
    unfinished.write_bytes(content)


def write_json(path: pathlib.Path | epath.Path, content: Any) -> None:
  """Writes indented JSON, whole or not at all; see `write`."""
  write(path, json.dumps(content, indent=2) + '\n')


def read_json(path: Any) -> dict[str, Any]:
  """The object of a JSON file.

  Args:
    path: anything with `read_bytes`, such as `pathlib.Path` or `epath.Path`.

  Raises:
    UserError: the file is not a JSON object; the message names it.
  """
  try:
    return _object(path.read_bytes())
  except errors.UserError as e:
    check_is_fetched(path)
    raise errors.UserError(f'{path}: {e}') from e


def read_lines(
    path: Any, complete: bool = False
) -> Iterator[dict[str, Any]]:
  """The objects of a JSON Lines file.

  Args:
    path: anything with `open`, such as `pathlib.Path` or `epath.Path`.
    complete: whether to leave out a last line without a line break, which was
      not written whole.

  Yields:
    The object of each line.

  Raises:
    UserError: a line is not a JSON object; the message names it.
  """
  with path.open('rb') as f:
    for number, line in enumerate(f, 1):
      if complete and not line.endswith(b'\n'):
        return
      try:
        yield _object(line)
      except errors.UserError as e:
        raise errors.UserError(f'{path}, line {number}: {e}') from e


def _object(content: bytes) -> dict[str, Any]:
  """The object of some JSON in UTF-8; UserError if it is something else."""
  try:
    text = content.decode()
    found = json.loads(text)
    if r'\ud' in text.lower():  # Maybe half of a character, which is no text.
      json.dumps(found, ensure_ascii=False).encode()
  except ValueError as e:
    raise errors.UserError(f'not JSON: {e}') from e
  except RecursionError as e:
    raise errors.UserError('not JSON: nested too deeply') from e
  if not isinstance(found, dict):
    raise errors.UserError('not JSON: not an object')
  return found


def sha256(content: bytes) -> str:
  """The digest in hexadecimal."""
  return hashlib.sha256(content).hexdigest()


def first_line(error: BaseException) -> str:
  """The first line of an error's message; its `repr` if it has no message."""
  message = str(error).strip()
  return message.splitlines()[0] if message else repr(error)
