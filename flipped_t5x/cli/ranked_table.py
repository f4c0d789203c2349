"""Ranks labels for each row of a table, and writes the table with the best."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import glob
import itertools
import json
import pathlib
import shutil
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import locks
from flipped_t5x import terminal
from flipped_t5x.cli import local_paths
from flipped_t5x.cli import rows
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import queries
from flipped_t5x.new_task import folder as folder_lib
from flipped_t5x.tables import reading
from flipped_t5x.tables import writing
from flipped_t5x.tasks import catalog
import pyarrow as pa

LABEL, PROBABILITY, MARGIN = (
    'predicted_label', 'predicted_probability', 'predicted_margin',
)
TYPES = {LABEL: pa.string(), PROBABILITY: pa.float64(), MARGIN: pa.float64()}
# Makes a query of a row and its number, from 1.
Query = Callable[[reading.Row, int], Mapping[str, Any]]
_CHUNK = 256  # Rows that are kept together; more than a batch.


def best(
    ranked: Sequence[model_lib.Ranked], threshold: float
) -> dict[str, Any]:
  """What is added to a row.

  Args:
    ranked: the options, the best first.
    threshold: the probability below which there is no label.

  Returns:
    The label, or None; its probability; and by how much its log-probability
    exceeds that of the second.
  """
  first, second = ranked[:2]
  return {
      LABEL: first.option if first.probability >= threshold else None,
      PROBABILITY: first.probability,
      MARGIN: first.log_prob - second.log_prob,
  }


def run(
    arguments: argparse.Namespace, model: model_lib.Model | None = None
) -> None:
  """Ranks a table, or resumes.

  Args:
    arguments: those of `rank`.
    model: the model; None to load it when it is needed.

  Raises:
    UserError: an argument or a row is wrong.
  """
  source = files.local_path(arguments.table, '--table')
  table = reading.read(source, arguments.encoding)
  output = _output(arguments, source, table)
  make = _queries(arguments, table)
  total = sum(1 for _ in table)
  if not total:
    raise errors.UserError(f'{source} has no rows')
  parts = output.with_name(f'{output.name}.parts-{_key(arguments, source)}')
  lock = output.with_name(f'{output.name}.lock')
  with locks.held(lock, str(output)), files.made(parts):
    _rank_chunks(arguments, source, table, make, parts, total, model)
    added = itertools.chain.from_iterable(
        files.read_lines(parts / f'{start}.jsonl')
        for start in range(0, total, _CHUNK)
    )
    with files.replacing(output) as unfinished:
      writing.write(unfinished, source, table, added, TYPES)
    # What was kept for other questions would go into the same file.
    for kept in output.parent.glob(f'{glob.escape(output.name)}.parts-*'):
      shutil.rmtree(kept)


def _rank_chunks(
    arguments: argparse.Namespace,
    source: pathlib.Path,
    table: reading.Table,
    make: Query,
    parts: pathlib.Path,
    total: int,
    model: model_lib.Model | None,
) -> None:
  """Writes what is added to each chunk of rows, if it is not there yet."""
  with terminal.progress_bar(total, 'row') as bar:
    for start, chunk in _chunks(table):
      part = parts / f'{start}.jsonl'
      if not part.exists():
        model = model or rows.load_model(arguments)
        asked = [make(cells, n) for n, cells in enumerate(chunk, start + 1)]
        added = _ranked(model, start, asked, source, arguments)
        files.write(part, ''.join(json.dumps(row) + '\n' for row in added))
      bar.update(len(chunk))


def _output(
    arguments: argparse.Namespace, source: pathlib.Path, table: reading.Table
) -> pathlib.Path:
  """The file to write, of the form of the table."""
  if arguments.output_file is None:
    raise errors.UserError('--table needs --output_file')
  local_paths.check_writable(arguments.output_file)
  if table.suffix == '.xlsx':
    raise errors.UserError(f'--table: save {source} as .csv or .parquet')
  output = arguments.output_file
  if not output.name.lower().endswith(table.suffix):
    raise errors.UserError(
        f'--output_file: {output} must end in {table.suffix}'
    )
  if output.exists() and output.samefile(source):
    raise errors.UserError(f'--output_file: {output} is the table itself')
  for name in TYPES:
    if name in table.columns:
      raise errors.UserError(f'{source} has a column {name!r} already')
  if not 0 <= arguments.threshold <= 1:
    raise errors.UserError('--threshold is a probability, from 0 to 1')
  return output


def _queries(
    arguments: argparse.Namespace, table: reading.Table
) -> Query:
  """What makes a query of a row of the table."""
  query = rows.from_flags(arguments, queries.RANK_KEYS)
  if arguments.jsonl or query.keys() & {'input', 'row'}:
    raise errors.UserError('--table takes no --input, --row or --jsonl')
  if arguments.task:
    return _of_task(arguments, query, table)
  if 'dataset' in query or 'template' in query:
    return lambda cells, number: {**query, 'row': dict(cells)}
  if arguments.text is None:
    raise errors.UserError(
        '--table needs --text COLUMN, --instruction and --options; or --dataset'
        ' and --template; or --task'
    )
  table.check_column(arguments.text, '--text')
  return lambda cells, number: {
      **query, 'input': str(cells[arguments.text] or '')
  }


def _of_task(
    arguments: argparse.Namespace,
    query: Mapping[str, Any],
    table: reading.Table,
) -> Query:
  """What makes a query of a row of a table that has the columns of a task."""
  unfit = [
      f'--{name}' for name in ('text', 'dataset', 'instruction', 'options')
      if getattr(arguments, name) is not None
  ]
  if unfit:
    raise errors.UserError(f'{unfit[0]} does not go with --task')
  folder = files.local_path(arguments.task, '--task')
  columns = folder_lib.read_columns(folder)
  for column in (*columns.texts, *columns.options):
    table.check_column(column, '--task')
  name, = folder_lib.datasets(folder)
  template = query.get('template') or next(iter(
      catalog.dataset(name).load_templates()
  ))
  return lambda cells, number: {
      'dataset': name, 'template': template,
      'row': columns.row(cells, table.name, number),
  }


def _key(arguments: argparse.Namespace, source: pathlib.Path) -> str:
  """What tells whether kept results are of the same question."""
  names = (arguments.checkpoint, arguments.vocabulary, arguments.task)
  roots = [source, *(pathlib.Path(n).expanduser() for n in names if n)]
  state = [
      (str(path), path.stat().st_size, path.stat().st_mtime_ns)
      for root in roots for path in sorted([root, *root.rglob('*')])
      if path.is_file()
  ]
  given = {k: repr(v) for k, v in vars(arguments).items() if k != 'output_file'}
  return files.sha256(json.dumps([state, given]).encode())[:12]


def _chunks(
    table: reading.Table,
) -> Iterator[tuple[int, list[reading.Row]]]:
  remaining = iter(table)
  for start in itertools.count(0, _CHUNK):
    chunk = list(itertools.islice(remaining, _CHUNK))
    if not chunk:
      return
    yield start, chunk


def _ranked(
    model: model_lib.Model,
    start: int,
    asked: list[Mapping[str, Any]],
    source: pathlib.Path,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
  try:
    with rows.warnings_as_messages():
      ranked = model.rank_batch(
          asked, batch_size=arguments.batch_size, progress=False
      )
  except queries.QueryError as e:
    raise errors.UserError(
        f'{source}, row {start + e.index + 1}: {e.reason}'
    ) from e
  return [best(r, arguments.threshold) for r in ranked]
