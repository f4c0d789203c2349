"""Scores of every option of every example, as Parquet: one file a task.

    template: string, example_id: int32, options: list<string>,
    scores: list<float32>, prediction: int32, gold: int32, tied: bool

A row is an example in a template; rows are ordered by template, then by
`example_id`. The same scores give the same bytes, as no time is stored.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import ranking
from flipped_t5x.prompts import arrays
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema([
    ('template', pa.string()),
    ('example_id', pa.int32()),
    ('options', pa.list_(pa.string())),
    ('scores', pa.list_(pa.float32())),
    ('prediction', pa.int32()),
    ('gold', pa.int32()),
    ('tied', pa.bool_()),
])
_ABOUT = b'about'
_ROW_GROUP = 65_536
_AGAIN = 'evaluate again, or copy the file again'


@dataclasses.dataclass(frozen=True)
class Examples:
  """The examples of one template.

  Attributes:
    ranked: the options that were predicted, and those that are right.
    scores: float32[options] of each example, in the order of its options.
    options: the texts of each example's options.
  """

  ranked: ranking.Predictions
  scores: Sequence[np.ndarray]
  options: Sequence[Sequence[str]]


def table(
    template: str, candidates: arrays.Candidates, scores: np.ndarray
) -> pa.Table:
  """Ranks the candidates of one template and makes its rows.

  Args:
    template: the template's name.
    candidates: its candidates, with their `options`.
    scores: float32[n], one for each candidate.

  Returns:
    A table of `SCHEMA`, ordered by `example_id`.

  Raises:
    UserError: see `ranking.rank`; the message begins with the template.
  """
  scores = np.asarray(scores, np.float32)
  try:
    ranked = ranking.rank(
        scores, candidates.example_id, candidates.option_index,
        candidates.is_correct,
    )
  except ValueError as e:
    raise errors.UserError(f'"{template}": {e}') from e
  order = np.lexsort((candidates.option_index, candidates.example_id))
  ends = np.concatenate([[0], np.cumsum(ranked.num_options)]).astype(np.int32)
  options = pa.array([candidates.options[i] for i in order], pa.string())
  columns = [
      [template] * len(ranked.gold),
      ranked.example_id,
      pa.ListArray.from_arrays(ends, options),
      pa.ListArray.from_arrays(ends, pa.array(scores[order], pa.float32())),
      ranked.prediction,
      ranked.gold,
      ranked.tied,
  ]
  return pa.table([
      column if isinstance(column, pa.ListArray)
      else pa.array(column, field.type)
      for column, field in zip(columns, SCHEMA, strict=True)
  ], SCHEMA)


def join(tables: Sequence[pa.Table], templates: Sequence[str]) -> pa.Table:
  """Joins tables that share no example, in the order of these templates."""
  joined = pa.concat_tables([SCHEMA.empty_table(), *tables])
  numbers = {name: i for i, name in enumerate(templates)}
  template = [numbers[name] for name in joined['template'].to_pylist()]
  order = np.lexsort((joined['example_id'].to_numpy(), template))
  return joined.take(pa.array(order, pa.int64())).combine_chunks()


def write(
    rows: pa.Table, path: pathlib.Path, about: Mapping[str, Any] | None = None
) -> None:
  """Writes a file, whole or not at all.

  Args:
    rows: a table of `SCHEMA`.
    path: the file to write, in a folder that exists.
    about: JSON that `read_about` will return.
  """
  if about is not None:
    rows = rows.replace_schema_metadata({_ABOUT: json.dumps(about)})
  with files.replacing(path) as unfinished:
    pq.write_table(
        rows, unfinished, compression='zstd', row_group_size=_ROW_GROUP,
        write_page_checksum=True,
    )


def read(path: str | os.PathLike[str]) -> dict[str, Examples]:
  """Reads a file that `write` wrote: template -> its examples.

  Raises:
    FileNotFoundError: the file does not exist.
    UserError: it is damaged, or not a file of scored examples.
  """
  rows = read_table(path)
  found, start = {}, 0
  names = rows['template'].to_pylist()
  for name in dict.fromkeys(names):
    number = names.count(name)
    found[name] = _examples(rows.slice(start, number))
    start += number
  return found


def read_table(path: str | os.PathLike[str]) -> pa.Table:
  """Reads all rows as a table of `SCHEMA`; raises what `read` does."""
  with _damage_named(path):
    # A file object, so that a missing file is told from a damaged one.
    with open(path, 'rb') as f:
      rows = pq.read_table(f, page_checksum_verification=True)
    rows.validate(full=True)
  if not rows.schema.equals(SCHEMA):
    raise errors.UserError(
        f'{path} is not a file of scored examples: its columns are'
        f' {", ".join(f"{f.name}: {f.type}" for f in rows.schema)}; {_AGAIN}'
    )
  _check_rows(rows, path)
  return rows


@contextlib.contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
  """Makes of what Arrow says of a damaged file an error that names the file."""
  try:
    yield
  except FileNotFoundError:
    raise
  # Arrow raises OSError, too, where it cannot make sense of a file.
  except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as e:
    raise errors.UserError(
        f'{path} is damaged: {files.first_line(e)}; {_AGAIN}'
    ) from e


def _check_rows(rows: pa.Table, path: str | os.PathLike[str]) -> None:
  """UserError unless rows are such as `table` makes, template by template."""
  rows = rows.combine_chunks()
  options, scores = (
      rows[name].combine_chunks() for name in ('options', 'scores')
  )
  faults = []
  if any(
      column.null_count
      for column in (*rows.columns, options.flatten(), scores.flatten())
  ):
    faults.append('values are missing')
  else:
    numbers = np.array(options.value_lengths())
    if not np.array_equal(numbers, np.array(scores.value_lengths())):
      faults.append('an example has not one score for each option')
    if not np.all(np.isfinite(scores.flatten().to_numpy())):
      faults.append('a score is not finite')
    for name in ('prediction', 'gold'):
      found = rows[name].to_numpy()
      if np.any((found < 0) | (found >= numbers)):
        faults.append(f'a {name} is not one of the options')
    names = rows['template'].to_pylist()
    if len(list(itertools.groupby(names))) != len(set(names)):
      faults.append('the rows of a template are not together')
  if faults:
    raise errors.UserError(f'{path} is damaged: {faults[0]}; {_AGAIN}')


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads the `about` that `write` was given; raises what `read` does."""
  with _damage_named(path), open(path, 'rb') as f:
    return json.loads(pq.read_schema(f).metadata[_ABOUT])


def _examples(rows: pa.Table) -> Examples:
  rows = rows.combine_chunks()
  lengths = np.array(rows['options'].combine_chunks().value_lengths())
  scores = rows['scores'].combine_chunks().flatten().to_numpy()
  plain = {
      name: np.array(rows[name])
      for name in ('example_id', 'prediction', 'gold', 'tied')
  }
  return Examples(
      ranking.Predictions(num_options=lengths, **plain),
      np.split(scores, np.cumsum(lengths)[:-1]),
      rows['options'].to_pylist(),
  )
