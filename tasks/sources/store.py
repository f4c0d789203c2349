"""Prepared splits: JSON lines with an index, so that rows are read by number.

Whatever a source has (gzip, Parquet, Arrow, one big JSON), its rows are written
once to `rows/NAME/SPLIT-KEY/` in the data folder and read from there: any row
at any time, without a second pass over the source.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import json
import mmap
import pathlib
from typing import Any, Protocol

from flipped_t5x import errors
from flipped_t5x import files as files_lib
from flipped_t5x import locks
from flipped_t5x.tasks.sources import readers
import numpy as np

SPLITS = ('train', 'validation', 'test')
_ROWS, _INDEX, _ORIGIN = 'rows.jsonl', 'index.npy', 'origin.json'


class Missing(LookupError):
  """A source does not have a split; `str(error)` says why."""


class Described(Protocol):
  """What sources need to know of a dataset; see `catalog.Dataset`."""

  name: str
  hub: str
  config: str
  revision: str
  package: str
  fields: Sequence[str]

  def official_split(self, split: str) -> str:
    ...


@dataclasses.dataclass(frozen=True)
class Location:
  """A split that a source has.

  Attributes:
    dataset: the dataset.
    split: the split.
    key: JSON that identifies the rows, had without reading or fetching them.
    files: gets them: (what the source resolved to, their paths in order).
    read: path -> rows.
  """

  dataset: Described
  split: str
  key: Mapping[str, Any]
  files: Callable[[], tuple[Mapping[str, Any], Sequence[pathlib.Path]]]
  read: Callable[[pathlib.Path], Iterator[readers.Row]] = readers.read

  def open(self) -> 'Rows':
    """The rows, prepared at first use."""
    digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode())
    root = files_lib.data_folder() / 'rows'
    folder = (
        root / self.dataset.name / f'{self.split}-{digest.hexdigest()[:12]}'
    )
    if not folder.is_dir():
      with (
          files_lib.made(folder.parent),
          locks.held(
              folder.with_name(f'.{folder.name}.lock'), str(folder), wait=True
          ),
      ):
        files_lib.remove_leftovers(root, '**/*')
        if not folder.is_dir():  # Another process may have made it meanwhile.
          self._prepare(folder)
    return Rows(folder)

  def _prepare(self, folder: pathlib.Path) -> None:
    """Writes the rows into a folder that does not exist."""
    resolved, paths = self.files()
    try:
      prepare(
          folder,
          itertools.chain.from_iterable(map(self.read, paths)),
          self.dataset.fields,
          {**self.key, **resolved, **readers.describe(paths[0])},
      )
    except ValueError as e:
      raise errors.UserError(
          f'{self.dataset.name}: {self.split}: {e} ({paths[0]})'
      ) from e


class Rows(Sequence):
  """The rows of a prepared split, by number, as JSON text.

  Attributes:
    origin: where they came from: `source`, what it resolved to, `rows` and the
      `sha256` of the JSON lines.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens a folder that `prepare` wrote; UserError if it has changed."""
    try:
      self.origin = files_lib.read_json(folder / _ORIGIN)
      self._ends = np.load(folder / _INDEX)
      size = (folder / _ROWS).stat().st_size
      is_whole = (
          len(self._ends) == self.origin['rows'] and self._ends[-1] == size
      )
    except (EOFError, LookupError, OSError, TypeError, ValueError) as e:
      raise errors.UserError(
          f'{folder} is damaged ({e!r}); delete the folder and try again'
      ) from e
    if not is_whole:
      raise errors.UserError(
          f'{folder}: not the {self.origin["rows"]} rows that were written;'
          ' delete the folder and try again'
      )
    # What is read of a map stays in the page cache, as long as there is room. A
    # read by call would hand Python's lock to another thread for each row.
    with open(folder / _ROWS, 'rb') as f:
      self._bytes = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, index: int) -> bytes:
    if not 0 <= index < len(self._ends):
      raise IndexError(index)
    start = int(self._ends[index - 1]) if index else 0
    return self._bytes[start : int(self._ends[index]) - 1]


def prepare(
    folder: pathlib.Path,
    rows: Iterable[Mapping[str, Any]],
    fields: Sequence[str],
    origin: Mapping[str, Any],
) -> None:
  """Writes rows, their index and where they are from: all or nothing.

  Args:
    folder: to be made; one that another process made meanwhile is left.
    rows: field name -> value that JSON can hold.
    fields: what every row must have.
    origin: see `Rows`.

  Raises:
    UserError: no rows, a row without one of the fields, or one that JSON
      cannot hold.
  """
  try:
    with files_lib.new_folder(folder) as unfinished:
      _write(unfinished, rows, fields, origin)
  except FileExistsError:  # Of a process that could not be waited for.
    if not folder.is_dir():
      raise


def _write(
    folder: pathlib.Path,
    rows: Iterable[Mapping[str, Any]],
    fields: Sequence[str],
    origin: Mapping[str, Any],
) -> None:
  """Writes the files of an empty folder; arguments as for `prepare`."""
  digest, ends = hashlib.sha256(), []
  with open(folder / _ROWS, 'wb') as f:
    for number, row in enumerate(rows, 1):
      line = _line(number, row, fields)
      digest.update(line)
      f.write(line)
      ends.append(f.tell())
  if not ends:
    raise errors.UserError('no rows')
  np.save(folder / _INDEX, np.array(ends, np.int64))
  (folder / _ORIGIN).write_text(json.dumps(
      {**origin, 'rows': len(ends), 'sha256': digest.hexdigest()}, indent=2
  ))


def _line(
    number: int, row: Mapping[str, Any], fields: Sequence[str]
) -> bytes:
  """A row as JSON, without the values that were not read.

  Args:
    number: of the row, from 1, for messages.
    row: field name -> value.
    fields: what it must have.

  Raises:
    UserError: it lacks a field, or the field or another value cannot be held.
  """
  lacking = [name for name in fields if name not in row]
  if lacking:
    raise errors.UserError(
        f'row {number} has no field {lacking[0]!r} (it has {", ".join(row)}),'
        ' which the templates read'
    )
  for name in fields:
    if isinstance(row[name], readers.Unread):
      raise errors.UserError(
          f'row {number}: the field {name!r} is {row[name].type}, which'
          ' templates cannot read: write it as a text'
      )
  kept = {k: v for k, v in row.items() if not isinstance(v, readers.Unread)}
  try:
    return json.dumps(kept, ensure_ascii=False).encode() + b'\n'
  except (TypeError, ValueError) as e:
    raise errors.UserError(f'row {number}: {e}') from e
