"""Files: written whole or not at all, JSON, digests, and the data folder."""

from collections.abc import Iterator
import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
from typing import Any

from etils import epath
from flipped_t5x import errors


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
  """
  if os.fspath(path).startswith('gs://') and not any(
      map(importlib.util.find_spec, ('gcsfs', 'tensorflow'))
  ):
    raise errors.MissingPackage(
        f'{path}: Google Storage needs gcsfs, which is not installed: pip'
        ' install gcsfs'
    )
  return epath.Path(path).expanduser()


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Replaces a file once it has been written whole.

  Args:
    path: the file.

  Yields:
    Another path in the same folder, to write to. It becomes `path` if the block
    ends without an error, and is removed otherwise.
  """
  unfinished = path.with_name(f'{path.name}.{os.getpid()}')
  try:
    yield unfinished
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


def write(path: pathlib.Path, content: str | bytes) -> None:
  """Writes a file, whole or not at all; text as UTF-8."""
  with replacing(path) as unfinished:
    if isinstance(content, str):
      content = content.encode()
    unfinished.write_bytes(content)


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes indented JSON, whole or not at all."""
  write(path, json.dumps(content, indent=2) + '\n')


def read_json(path: Any) -> dict[str, Any]:
  """The object of a JSON file.

  Args:
    path: anything with `read_text`, such as `pathlib.Path` or `epath.Path`.

  Raises:
    UserError: the file is not a JSON object; the message names it.
  """
  try:
    found = json.loads(path.read_text())
    if not isinstance(found, dict):
      raise errors.UserError('not an object')
  except ValueError as e:
    raise errors.UserError(f'{path}: not JSON: {e}') from e
  return found


def read_lines(path: Any) -> Iterator[dict[str, Any]]:
  """The objects of a JSON Lines file.

  Args:
    path: anything with `open`, such as `pathlib.Path` or `epath.Path`.

  Yields:
    The object of each line.

  Raises:
    UserError: a line is not a JSON object; the message names it.
  """
  with path.open(encoding='utf-8') as f:
    for number, line in enumerate(f, 1):
      try:
        found = json.loads(line)
        if not isinstance(found, dict):
          raise errors.UserError('not an object')
      except ValueError as e:
        raise errors.UserError(f'{path}, line {number}: not JSON: {e}') from e
      yield found


def sha256(content: bytes) -> str:
  """The digest in hexadecimal."""
  return hashlib.sha256(content).hexdigest()


def first_line(error: BaseException) -> str:
  """The first line of an error's message; its `repr` if it has no message."""
  message = str(error).strip()
  return message.splitlines()[0] if message else repr(error)
