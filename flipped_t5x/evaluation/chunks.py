"""The finished part of an evaluation: chunks of scored examples on disk.

    FOLDER/fingerprint.json  what the scores depend on
    FOLDER/00000.parquet     the scored examples of the first chunk, ...

An evaluation with the same fingerprint skips these chunks. If its fingerprint
differs, they are discarded. Each chunk has a digest of the fingerprint, so that
what another evaluation has written is noticed even on a disk without locks.
"""

from collections.abc import Mapping
import json
import pathlib
import shutil
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.evaluation import scored_examples
import pyarrow as pa

_FINGERPRINT = 'fingerprint.json'
_DIGEST = 'fingerprint'


class Chunks:
  """The chunks of one task.

  Attributes:
    done: the numbers of the chunks that are written.
  """

  def __init__(self, folder: pathlib.Path, fingerprint: Mapping[str, Any]):
    """Opens or creates the folder.

    Args:
      folder: a folder for this task alone.
      fingerprint: JSON of everything that the scores depend on.

    Raises:
      UserError: the fingerprint in the folder is damaged.
    """
    self._folder = folder
    path = folder / _FINGERPRINT
    fingerprint = json.loads(json.dumps(fingerprint))
    self._fingerprint = fingerprint
    self._digest = files.sha256(json.dumps(fingerprint).encode())
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
    self.done = set()
    for part in folder.glob(f'{"[0-9]" * 5}.parquet'):
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

  def check(self) -> None:
    """Raises UserError if another evaluation has used the folder meanwhile."""
    if _read(self._folder / _FINGERPRINT) != self._fingerprint:
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


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    return files.read_json(path)
  except errors.UserError as e:
    raise errors.UserError(f'{e}; delete {path.parent} to start again') from e
