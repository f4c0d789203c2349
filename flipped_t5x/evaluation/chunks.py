"""The finished part of an evaluation: chunks of scored examples on disk.

    FOLDER/fingerprint.json  what the scores depend on
    FOLDER/00000.parquet     the scored examples of the first chunk, ...

An evaluation with the same fingerprint skips these chunks. If its fingerprint
differs, they are discarded. Each chunk has a digest of the fingerprint, so that
what another evaluation has written is noticed even on a disk without locks.
Several hosts may write chunks of one evaluation: host 0 opens the folder, and
the others join it.
"""

from collections.abc import Callable, Mapping
import functools
import json
import pathlib
import shutil
import sys
import time
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.evaluation import scored_examples
import pyarrow as pa

_FINGERPRINT = 'fingerprint.json'
_DIGEST = 'fingerprint'
_WAIT_SECONDS = 60


class Chunks:
  """The chunks of one task.

  Attributes:
    done: the numbers of the chunks that are written.
  """

  def __init__(
      self, folder: pathlib.Path, fingerprint: Mapping[str, Any],
      joins: bool = False,
  ):
    """Opens or creates the folder.

    Args:
      folder: a folder for this task alone.
      fingerprint: JSON of everything that the scores depend on.
      joins: whether to wait for the folder of another host instead. `done` is
        then empty, and is for the caller to set.

    Raises:
      UserError: the fingerprint in the folder is damaged; or this host does not
        see that of the other.
    """
    self._folder = folder
    self._fingerprint = json.loads(json.dumps(fingerprint))
    self._digest = files.sha256(json.dumps(self._fingerprint).encode())
    self.done: set[int] = set()
    if joins:
      _wait_for(self._is_open, folder)
    else:
      self._prepare()
      self._find_done()

  def _is_open(self) -> bool:
    return _read(self._folder / _FINGERPRINT) == self._fingerprint

  def _prepare(self) -> None:
    """Makes the folder; discards what another evaluation left in it."""
    folder, fingerprint = self._folder, self._fingerprint
    path = folder / _FINGERPRINT
    found = _read(path)
    if found != fingerprint:
      if found:
        other = [k for k in fingerprint if found.get(k) != fingerprint[k]]
        other = other or sorted(found.keys() - fingerprint.keys())
        print(
            f'{folder}: an unfinished evaluation that differs in'
            f' {", ".join(other)} is discarded',
            file=sys.stderr,
        )
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir(parents=True)
      files.write_json(path, fingerprint)

  def _find_done(self) -> None:
    """Finds the chunks that are written, and removes damaged ones."""
    for part in self._folder.glob(f'{"[0-9]" * 5}.parquet'):
      try:
        self._about(part)
        scored_examples.read_table(part)
      except ValueError as e:  # The machine may have crashed.
        print(f'{e}; this chunk is scored again', file=sys.stderr)
        part.unlink()
      else:
        self.done.add(int(part.stem))

  def add(
      self, number: int, rows: pa.Table, about: Mapping[str, Any]
  ) -> None:
    """Writes a chunk, whole or not at all.

    Args:
      number: the number of the chunk.
      rows: its scored examples.
      about: JSON to store with them.
    """
    scored_examples.write(
        rows, self._path(number), {**about, _DIGEST: self._digest}
    )
    self.done.add(number)

  def wait_for(self, number: int) -> None:
    """Waits until this host sees all chunks, those of other hosts, too.

    Args:
      number: the number of chunks of the task.

    Raises:
      UserError: it does not see one within a minute, or another evaluation has
        used the folder meanwhile.
    """
    for i in range(number):
      _wait_for(functools.partial(self._is_seen, i), self._path(i))
      self.done.add(i)

  def _is_seen(self, number: int) -> bool:
    if self._path(number).is_file():
      return True
    self.check()  # Otherwise it would never come.
    return False

  def check(self) -> None:
    """Raises UserError if another evaluation has used the folder meanwhile."""
    if not self._is_open():
      raise errors.UserError(
          f'{self._folder}: another evaluation has written here meanwhile, and'
          ' no results were written; start again'
      )

  def read(self) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """The scored examples of each chunk, in order, and their `about`.

    Raises:
      UserError: a chunk is damaged, or of another evaluation.
    """
    self.check()
    paths = [self._path(number) for number in sorted(self.done)]
    tables = [
        scored_examples.read_table(path).replace_schema_metadata()
        for path in paths
    ]
    return tables, [self._about(path) for path in paths]

  def _about(self, path: pathlib.Path) -> dict[str, Any]:
    """The `about` of a chunk; UserError if it is damaged or another's."""
    about = scored_examples.read_about(path)
    if about.pop(_DIGEST, None) != self._digest:
      raise errors.UserError(f'{path} is of another evaluation')
    return about

  def _path(self, number: int) -> pathlib.Path:
    return self._folder / f'{number:05}.parquet'


def _wait_for(is_seen: Callable[[], bool], path: pathlib.Path) -> None:
  """Waits up to a minute: NFS caches that a file does not exist."""
  deadline = time.monotonic() + _WAIT_SECONDS
  while not is_seen():
    if time.monotonic() > deadline:
      raise errors.UserError(
          f'{path}: this host does not see what another host has written there;'
          ' the results must be on a disk that all hosts share'
      )
    time.sleep(0.2)


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    return files.read_json(path)
  except errors.UserError as e:
    raise errors.UserError(f'{e}; delete {path.parent} to start again') from e
