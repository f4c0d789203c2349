"""Files to rows: JSON lines, Parquet, Arrow, BIG-bench's JSON, Story Cloze."""

from collections.abc import Callable, Iterator, Mapping
import csv
import dataclasses
import gzip
import json
import pathlib
from typing import Any
import zlib

from flipped_t5x import errors
from flipped_t5x import files
import pyarrow as pa
from pyarrow import parquet

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Unread:
  """In place of a value that JSON cannot hold, such as a date or bytes.

  Attributes:
    type: its type in the file.
  """

  type: str

# Header of the owners' CSV -> field on the hub.
_STORY_CLOZE = {
    'InputStoryid': 'story_id',
    **{f'InputSentence{i}': f'input_sentence_{i}' for i in (1, 2, 3, 4)},
    'RandomFifthSentenceQuiz1': 'sentence_quiz1',
    'RandomFifthSentenceQuiz2': 'sentence_quiz2',
    'AnswerRightEnding': 'answer_right_ending',
}


def read(path: pathlib.Path) -> Iterator[Row]:
  """The rows of a file, by its suffix, without holding them all in memory.

  Args:
    path: `.jsonl`, `.jsonl.gz`, `.parquet`, `.arrow` (of Hugging Face),
      `task.json` (of BIG-bench) or `.csv` (of Story Cloze).

  Yields:
    Field name -> value.

  Raises:
    UserError: the file is truncated or malformed; names file and line.
  """
  reader = next(
      reader for suffix, reader in READERS.items()
      if path.name.endswith(suffix)
  )
  files.check_is_fetched(path)
  try:
    yield from reader(path)
  except (
      EOFError, OSError, UnicodeError, csv.Error, zlib.error, pa.ArrowException
  ) as e:
    if getattr(e, 'errno', None) is not None:
      raise  # No fault of the file: it is not there, or may not be read.
    raise errors.UserError(
        f'{path}: truncated or not what its name says: {e}'
    ) from e


def _json_lines(path: pathlib.Path) -> Iterator[Row]:
  opener = gzip.open if path.suffix == '.gz' else open
  with opener(path, 'rb') as lines:
    for number, line in enumerate(lines, 1):
      try:
        row = json.loads(line)
      except ValueError as e:
        raise errors.UserError(f'{path}, line {number}: {e}') from e
      if not isinstance(row, dict):
        raise errors.UserError(f'{path}, line {number}: not a JSON object')
      yield row


def _parquet(path: pathlib.Path) -> Iterator[Row]:
  with parquet.ParquetFile(path) as file:
    schema = file.schema_arrow
    readable = [f.name for f in schema if _is_json(f.type)]
    columns = readable if len(readable) < len(schema) else None
    for batch in file.iter_batches(batch_size=1024, columns=columns):
      yield from _rows(batch, schema)


def _arrow(path: pathlib.Path) -> Iterator[Row]:
  with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
    for batch in batches:
      readable = [f.name for f in batch.schema if _is_json(f.type)]
      yield from _rows(batch.select(readable), batch.schema)


def _rows(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[Row]:
  """The rows of the columns that were read; `Unread` for the others."""
  unread = {
      f.name: Unread(str(f.type))
      for f in schema if f.name not in batch.schema.names
  }
  for row in batch.to_pylist():
    yield {**row, **unread}


def _is_json(kind: pa.DataType) -> bool:
  """Whether JSON can hold the values of an Arrow type."""
  if pa.types.is_dictionary(kind):
    return _is_json(kind.value_type)
  if pa.types.is_nested(kind):
    return all(_is_json(kind.field(i).type) for i in range(kind.num_fields))
  return (
      pa.types.is_integer(kind) or pa.types.is_floating(kind)
      or pa.types.is_boolean(kind) or pa.types.is_null(kind)
      or pa.types.is_string(kind) or pa.types.is_large_string(kind)
      or pa.types.is_string_view(kind)
  )


def _bigbench(path: pathlib.Path) -> Iterator[Row]:
  """Items of a BIG-bench task; `label` is -1 where no option scores 1."""
  task = _bigbench_task(path)
  for number, item in enumerate(task['examples'], 1):
    try:
      scores = dict(item['target_scores'])
      right = [i for i, score in enumerate(scores.values()) if score == 1]
      yield {
          'input': item['input'],
          'choices': list(scores),
          'label': right[0] if right else -1,
      }
    except (KeyError, TypeError, ValueError) as e:
      raise errors.UserError(f'{path}: example {number}: {e!r}') from e


def describe(path: pathlib.Path) -> Mapping[str, Any]:
  """What a file says of its rows: the `prefixes` of a BIG-bench task."""
  if path.name != 'task.json':
    return {}
  return {'prefixes': bigbench_prefixes(path)}


def bigbench_prefixes(path: pathlib.Path) -> dict[str, str]:
  """The literal text of a BIG-bench task's prompt, by its name in the task.

  `choice_prefix` is left out where the options are not part of the prompt.
  """
  task = _bigbench_task(path)
  prefixes = {
      name: str(task.get(name, default))
      for name, default in (
          ('task_prefix', ''),
          ('example_input_prefix', '\nQ: '),
          ('choice_prefix', '\n choice: '),
          ('example_output_prefix', '\nA: '),
      )
  }
  # logic_grid_puzzle has the text "false".
  if str(task.get('append_choices_to_input', True)).lower() == 'false':
    del prefixes['choice_prefix']
  return prefixes


def _bigbench_task(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    task = json.loads(path.read_bytes())
    if not isinstance(task['examples'], list):
      raise errors.UserError('"examples" is not a list')
  except (KeyError, TypeError, ValueError) as e:
    raise errors.UserError(f'{path}: not a task of BIG-bench: {e!r}') from e
  return task


def _story_cloze(path: pathlib.Path) -> Iterator[Row]:
  with open(path, encoding='utf-8-sig', newline='') as f:
    table = csv.DictReader(f, strict=True)
    lacking = _STORY_CLOZE.keys() - set(table.fieldnames or ())
    if lacking:
      raise errors.UserError(
          f'{path}: no column {sorted(lacking)}; the one CSV known here is that'
          ' of Story Cloze; write other data as JSON lines'
      )
    try:
      for record in table:
        row = {name: record[header] for header, name in _STORY_CLOZE.items()}
        if None in row.values() or None in record:
          raise errors.UserError('more or fewer values than columns')
        yield row | {'answer_right_ending': int(row['answer_right_ending'])}
    except (csv.Error, ValueError) as e:
      raise errors.UserError(
          f'{path}, line {table.reader.line_num}: {e}'
      ) from e


READERS: dict[str, Callable[[pathlib.Path], Iterator[Row]]] = {
    '.jsonl': _json_lines,
    '.jsonl.gz': _json_lines,
    '.parquet': _parquet,
    '.arrow': _arrow,
    'task.json': _bigbench,
    '.csv': _story_cloze,
}
