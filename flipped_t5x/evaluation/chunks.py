"""Evaluation in chunks of rows that are written one by one.

    FOLDER/fingerprint.json  what the scores depend on
    FOLDER/00000.parquet     the scored examples of the first chunk, ...

An evaluation that was stopped goes on after the last chunk, if it is the same
evaluation; the chunks of another one are discarded.
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


class Chunks:
  """The chunks of one task.

  Attributes:
    done: numbers of the chunks that are there.
  """

  def __init__(self, folder: pathlib.Path, fingerprint: Mapping[str, Any]):
    """Opens or makes the folder.

    Args:
      folder: for this task alone.
      fingerprint: JSON of all that the scores depend on.
    """
    self._folder = folder
    path = folder / _FINGERPRINT
    fingerprint = json.loads(json.dumps(fingerprint))
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
    for part in folder.glob('*.parquet'):
      try:
        scored_examples.read_about(part)
      except ValueError as e:  # Of a machine that went down.
        print(f'{e}; this chunk is computed again', file=sys.stderr)
        part.unlink()
      else:
        self.done.add(int(part.stem))

  def add(
      self, number: int, rows: pa.Table, about: Mapping[str, Any]
  ) -> None:
    """Writes a chunk, whole or not at all.

    Args:
      number: of the chunk.
      rows: its scored examples.
      about: JSON that goes with them.
    """
    scored_examples.write(rows, self._path(number), about)
    self.done.add(number)

  def read(self) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """All chunks that are there in order: rows, and what goes with them."""
    paths = [self._path(number) for number in sorted(self.done)]
    tables = [
        scored_examples.read_table(path).replace_schema_metadata()
        for path in paths
    ]
    return tables, [scored_examples.read_about(path) for path in paths]

  def _path(self, number: int) -> pathlib.Path:
    return self._folder / f'{number:05}.parquet'


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    return json.loads(path.read_text())
  except ValueError as e:
    raise errors.UserError(
        f'{path} is damaged: {e}; delete {path.parent} to begin anew'
    ) from e
