"""Tables that people have: CSV, TSV, JSON lines, Parquet, Excel sheets.

A table is read row by row, as often as is needed, and is never held in memory
as a whole (but for Excel, whose sheets are small). Cells of CSV and TSV are
texts as they stand: `01` stays `01`. Nothing in a cell is evaluated.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import difflib
import itertools
import json
import pathlib
from typing import Any
import zipfile

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.tasks.sources import readers
import openpyxl
from openpyxl.utils import exceptions as openpyxl_errors
import pyarrow as pa
from pyarrow import csv
from pyarrow import parquet

Row = Mapping[str, Any]

UTF8 = 'utf-8'
_BLOCK_BYTES = 1 << 24  # A row of CSV must fit into a block.
_DELIMITERS = {'.csv': ',', '.tsv': '\t'}
_OTHER_DELIMITERS = ';\t'  # As spreadsheets write CSV in some countries.
_LINES = ('.jsonl', '.jsonl.gz')
SUFFIXES = (*_DELIMITERS, *_LINES, '.parquet', '.xlsx')


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, read anew each time that it is iterated over.

  Attributes:
    name: what to call it in messages: the path, or what it was asked for as.
    suffix: its form, one of `SUFFIXES`.
    columns: the names of the columns, in order.
    read: gives the rows: column -> cell. A cell is a text (in CSV and TSV
      always) or another value of JSON, Parquet or Excel; None if it is empty.
    delimiter: what separates the cells of CSV and TSV, else ''.
    encoding: of CSV and TSV.
    class_names: column -> names, by number, of labels that are numbers, where
      the file says so.
  """

  name: str
  suffix: str
  columns: Sequence[str]
  read: Callable[[], Iterator[Row]]
  delimiter: str = ''
  encoding: str = UTF8
  class_names: Mapping[str, Sequence[str]] = dataclasses.field(
      default_factory=dict
  )

  def __iter__(self) -> Iterator[Row]:
    return self.read()

  def check_column(self, column: str, flag: str) -> None:
    """Raises `UserError`, with the nearest names, if there is no such column.

    Args:
      column: the name of a column.
      flag: what it was given as, for the message.
    """
    if column not in self.columns:
      near = difflib.get_close_matches(column, self.columns)
      raise errors.UserError(
          f'{flag}: {self.name} has no column {column!r}; '
          + (f'nearest: {near}' if near else f'it has {list(self.columns)}')
      )


def read(
    path: pathlib.Path, encoding: str = UTF8, sheet: str | None = None
) -> Table:
  """Opens a file by its suffix, one of `SUFFIXES`.

  Args:
    path: the file.
    encoding: of CSV and TSV.
    sheet: of Excel; by default the first.

  Raises:
    OSError: the file cannot be read.
    UserError: it is empty, not what its name says, or of an unknown form; or
      two of its columns have the same name. Rows that are wrong raise it when
      they are read.
  """
  suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
  if suffix is None:
    raise errors.UserError(
        f'{path}: a table is a file {", ".join(SUFFIXES)}; save it as one of'
        ' these'
    )
  files.check_is_file(path, f'a table ({", ".join(SUFFIXES)})')
  with path.open('rb') as f:
    if not f.read(1):
      raise errors.UserError(f'{path} is empty')
  if suffix in _DELIMITERS:
    table = _delimited(path, suffix, encoding)
  elif suffix == '.xlsx':
    table = _sheet(path, sheet)
  elif suffix == '.parquet':
    table = of_parquet(str(path), [path])
  else:
    table = _json_lines(path, suffix)
  twice = [c for i, c in enumerate(table.columns) if c in table.columns[:i]]
  if twice:
    raise errors.UserError(f'{path}: two columns are named {twice[0]!r}')
  return table


def of_parquet(name: str, paths: Sequence[pathlib.Path]) -> Table:
  """The table in one or more Parquet files of the same columns.

  Args:
    name: what to call it.
    paths: the files, in order.

  Raises:
    UserError: the first is not Parquet.
  """
  try:
    schema = parquet.read_schema(paths[0])
  except pa.ArrowException as e:
    raise errors.UserError(f'{paths[0]}: not Parquet: {e}') from e
  return Table(
      name, '.parquet', schema.names,
      lambda: itertools.chain.from_iterable(map(readers.read, paths)),
      class_names=_class_names(schema),
  )


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
  """What the library `datasets` has written of `ClassLabel` columns."""
  try:
    features = json.loads((schema.metadata or {})[b'huggingface'])['info'][
        'features'
    ]
    return {
        column: [str(name) for name in feature['names']]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get('_type') == 'ClassLabel'
    }
  except (AttributeError, KeyError, TypeError, ValueError):
    return {}  # Another program may write anything there.


def _json_lines(path: pathlib.Path, suffix: str) -> Table:
  # Not every row need have every field.
  columns: dict[str, None] = {}
  for row in readers.read(path):
    columns.update(dict.fromkeys(row))
  names = tuple(columns)

  def rows() -> Iterator[Row]:
    for row in readers.read(path):
      yield {name: row.get(name) for name in names}

  return Table(str(path), suffix, names, rows)


def _delimited(path: pathlib.Path, suffix: str, encoding: str) -> Table:
  _check_text(path, encoding)
  delimiter = _delimiter(path, encoding, _DELIMITERS[suffix])
  with _explained(path, encoding), _open(path, encoding, delimiter) as batches:
    columns = batches.schema.names

  def rows() -> Iterator[Row]:
    with (
        _explained(path, encoding),
        _open(path, encoding, delimiter, columns) as batches,
    ):
      for batch in batches:
        yield from batch.to_pylist()

  return Table(str(path), suffix, columns, rows, delimiter, encoding)


def _delimiter(path: pathlib.Path, encoding: str, usual: str) -> str:
  """What separates cells, by the header: texts below it may have any sign."""
  with path.open(encoding=encoding, errors='replace') as f:
    header = f.readline()
  if usual in header:
    return usual
  return next((d for d in _OTHER_DELIMITERS if d in header), usual)


def _open(
    path: pathlib.Path, encoding: str, delimiter: str,
    columns: Sequence[str] = (),
) -> csv.CSVStreamingReader:
  """Reads the given columns as texts."""
  return csv.open_csv(
      path,
      # Without threads, a message has the number of the row.
      csv.ReadOptions(
          encoding=encoding, block_size=_BLOCK_BYTES, use_threads=False
      ),
      csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
      csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
  )


def _check_text(path: pathlib.Path, encoding: str) -> None:
  """Raises `UserError` if a file looks like none of text."""
  try:
    codecs.lookup(encoding)
  except LookupError as e:
    raise errors.UserError(f'--encoding: {e}') from e
  with path.open('rb') as f:
    head = f.read(1 << 16)
  if codecs.lookup(encoding) != codecs.lookup(UTF8):
    return
  if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise errors.UserError(
        f'{path} is UTF-16: give --encoding utf-16, or save it as UTF-8'
    )
  if b'\0' in head:
    raise errors.UserError(f'{path} is not a text but a binary file')


@contextlib.contextmanager
def _explained(path: pathlib.Path, encoding: str) -> Iterator[None]:
  """Turns what PyArrow says of a file into an error of the user."""
  try:
    yield
  except (UnicodeError, pa.ArrowException) as e:
    message = str(e)
    if isinstance(e, UnicodeError) or 'UTF8' in message:
      message = _undecodable(path, encoding) or message
    raise errors.UserError(f'{path}: {message}') from e


def _undecodable(path: pathlib.Path, encoding: str) -> str | None:
  """Names the first line that is not of an encoding."""
  with path.open(encoding=encoding, errors='surrogateescape') as f:
    for number, line in enumerate(f, 1):
      bad = next((c for c in line if '\ud800' <= c <= '\udfff'), None)
      if bad:
        return (
            f'line {number} is not {encoding} (byte 0x{ord(bad) & 0xff:02x}):'
            ' save the file as UTF-8, or give its encoding, such as --encoding'
            ' cp1252'
        )
  return None


def _sheet(path: pathlib.Path, name: str | None) -> Table:
  """A sheet of Excel: what was last computed, where cells have formulas."""
  try:
    # Not read-only, which trusts sizes that some programs write wrongly.
    book = openpyxl.load_workbook(path, data_only=True)
  except (
      KeyError, ValueError, zipfile.BadZipFile,
      openpyxl_errors.InvalidFileException,
  ) as e:
    raise errors.UserError(f'{path}: not a workbook of Excel: {e}') from e
  names = [sheet.title for sheet in book.worksheets]
  if name is not None and name not in names:
    raise errors.UserError(f'--sheet: {path} has no {name!r}; it has {names}')
  cells = [
      row for row in book[name or names[0]].iter_rows(values_only=True)
      if any(cell is not None for cell in row)
  ]
  if not cells:
    raise errors.UserError(f'{path}: the sheet {name or names[0]!r} is empty')
  header = ['' if cell is None else str(cell) for cell in cells[0]]
  while header and not header[-1]:
    header.pop()
  return Table(
      str(path), '.xlsx', header,
      lambda: (dict(zip(header, row, strict=False)) for row in cells[1:]),
  )
