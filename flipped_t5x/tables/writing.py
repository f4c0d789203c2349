"""Writes a table again, in its form, with columns added at its end.

CSV and TSV are safe to open in a spreadsheet: a cell that a program might take
for a formula (it begins with =, +, -, @, tab or carriage return and is no
number) gets an apostrophe in front.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import csv
import gzip
import itertools
import json
import pathlib
from typing import Any

from flipped_t5x.tables import reading
from flipped_t5x.tasks.sources import readers
import pyarrow as pa
from pyarrow import parquet

_FORMULA = ('=', '+', '-', '@', '\t', '\r')


def safe(cell: Any) -> str:
  """A cell as text that no spreadsheet takes for a formula."""
  text = '' if cell is None else str(cell)
  if not text.startswith(_FORMULA):
    return text
  try:
    float(text)
  except ValueError:
    return f"'{text}"
  return text


def write(
    path: pathlib.Path,
    source: pathlib.Path,
    table: reading.Table,
    added: Iterable[Mapping[str, Any]],
    types: Mapping[str, pa.DataType],
) -> None:
  """Writes the rows of a table with more columns.

  Args:
    path: the file to write.
    source: the file of the table.
    table: the table: CSV, TSV, JSON lines or Parquet.
    added: column -> value for each row, in order.
    types: column -> its type, of all that are added.
  """
  if table.suffix == '.parquet':
    _parquet(path, source, added, types)
  elif table.delimiter:
    _delimited(path, table, added, list(types))
  else:
    _lines(path, source, table.suffix, added)


def _delimited(
    path: pathlib.Path, table: reading.Table, added, names: Sequence[str]
) -> None:
  with open(path, 'w', encoding=table.encoding, newline='') as f:
    writer = csv.writer(f, delimiter=table.delimiter, lineterminator='\n')
    writer.writerow(map(safe, [*table.columns, *names]))
    for row, more in zip(table, added, strict=True):
      writer.writerow(map(safe, [*row.values(), *more.values()]))


def _lines(path: pathlib.Path, source: pathlib.Path, suffix: str, added):
  with contextlib.ExitStack() as stack:
    file: Any = stack.enter_context(open(path, 'wb'))
    if suffix.endswith('.gz'):
      # Without name and time, so that the same rows are the same bytes.
      file = stack.enter_context(gzip.GzipFile('', 'wb', fileobj=file, mtime=0))
    # Of a table, each row has all columns; here each keeps its own.
    for row, more in zip(readers.read(source), added, strict=True):
      file.write(json.dumps({**row, **more}).encode() + b'\n')


def _parquet(path: pathlib.Path, source: pathlib.Path, added, types) -> None:
  rest: Iterator[Mapping[str, Any]] = iter(added)
  new = pa.schema(types.items())
  with parquet.ParquetFile(source) as file:
    schema = file.schema_arrow
    for field in new:
      schema = schema.append(field)
    with parquet.ParquetWriter(path, schema) as writer:
      for batch in file.iter_batches():
        more = pa.Table.from_pylist(
            list(itertools.islice(rest, len(batch))), new
        )
        writer.write_table(pa.Table.from_arrays(
            [*batch.columns, *(c.combine_chunks() for c in more.columns)],
            schema=schema,
        ))
