"""What `rank`, `guess` and `explain` share: one text or a JSONL file."""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import pathlib
import sys
from typing import Any
import warnings

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.inference import encoded_queries
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import queries
from flipped_t5x.prompts import formats

_STANDARD_INPUT = '-'
_OF_ROWS = ('dataset', 'template', 'row')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """The model, a row of a dataset, a JSONL file, where the result goes."""
  parser.add_argument(
      '--checkpoint', required=True, metavar='DIR',
      help='folder of a run, or DIR/checkpoints/STEP; a folder in the form of'
      ' Hugging Face or T5X; or a name on the Hugging Face hub',
  )
  parser.add_argument('--revision', help='of a name on the hub')
  parser.add_argument(
      '--vocabulary', metavar='FILE',
      help='a SentencePiece file, by default that of the checkpoint',
  )
  parser.add_argument(
      '--dtype', choices=model_lib.DTYPES,
      help='of weights and activations, by default as the checkpoint says',
  )
  parser.add_argument(
      '--format', choices=tuple(formats.FORMATS),
      help='by default what the model was trained in',
  )
  for side in ('input', 'target'):
    parser.add_argument(
        f'--{side}_length', type=int, metavar='TOKENS',
        help="by default the model's",
    )
  parser.add_argument('--input', metavar='TEXT', help='the text')
  parser.add_argument(
      '--dataset', help='instead of a text: a dataset, such as super_glue/rte,'
  )
  parser.add_argument(
      '--template', help='the name of a template of it, such as "can we infer",'
  )
  parser.add_argument(
      '--row', metavar='JSON', help='and the fields that the template reads'
  )
  parser.add_argument(
      '--jsonl', metavar='FILE',
      help='many rows: a JSON object a line with these names as its keys; -'
      ' is standard input',
  )
  parser.add_argument(
      '--batch_size', type=int, default=model_lib.BATCH_SIZE,
      help=f'of a JSONL file (default {model_lib.BATCH_SIZE})',
  )
  parser.add_argument(
      '--output_file', type=pathlib.Path, metavar='FILE',
      help='where to write what would be printed, whole or not at all',
  )
  parser.add_argument(
      '--json', action='store_true',
      help='print one JSON object; rows of a JSONL file are one a line always',
  )


def add_options(parser: argparse.ArgumentParser) -> None:
  """An instruction and its options, for `rank` and `explain`."""
  parser.add_argument(
      '--instruction', metavar='TEXT',
      help='{{input}} in it marks the place of the text; without it the text'
      ' comes first',
  )
  parser.add_argument(
      '--options', metavar='LABELS', help='the labels, separated by commas'
  )
  parser.add_argument(
      '--option', action='append', metavar='LABEL',
      help='a label; once more for each other: for labels with commas',
  )


@dataclasses.dataclass(frozen=True)
class Rows:
  """What is asked.

  Attributes:
    queries: see `inference/queries.py`.
    places: where each is from, for messages; empty for one text.
  """

  queries: list[Mapping[str, Any]]
  places: list[str]


def read(arguments: argparse.Namespace, keys: Sequence[str]) -> Rows:
  """The rows that the arguments ask about.

  Args:
    arguments: of the command line.
    keys: `queries.RANK_KEYS` or `queries.GUESS_KEYS`.

  Returns:
    The rows, their keys and types checked.

  Raises:
    UserError: an argument or a line is wrong, or there is no line.
  """
  query = _from_flags(arguments, keys)
  if not arguments.jsonl:
    try:
      queries.check(query, keys)
    except ValueError as e:
      raise errors.UserError(f'{e}; or --jsonl FILE' if not query else e) from e
    return Rows([query], [])
  if query:
    raise errors.UserError(
        f'--jsonl and --{next(iter(query))} cannot both be given'
    )
  name = 'standard input'
  if arguments.jsonl == _STANDARD_INPUT:
    rows = _read_lines(sys.stdin.buffer, name, keys)
  else:
    name = arguments.jsonl
    with open(name, 'rb') as f:
      rows = _read_lines(f, name, keys)
  if not rows.queries:
    raise errors.UserError(f'{name} has no rows')
  return rows


def _from_flags(
    arguments: argparse.Namespace, keys: Sequence[str]
) -> dict[str, Any]:
  """The query that is in the command line, empty if there is none."""
  query = {k: getattr(arguments, k) for k in (*keys, *_OF_ROWS)}
  if query.get('options') is not None:
    query['options'] = query['options'].split(',')
  if getattr(arguments, 'option', None):
    if query['options']:
      raise errors.UserError('--options and --option cannot both be given')
    query['options'] = arguments.option
  if query['row'] is not None:
    try:
      query['row'] = json.loads(query['row'])
    except ValueError as e:
      raise errors.UserError(f'--row: not JSON: {e}') from e
  return {k: v for k, v in query.items() if v is not None}


def _read_lines(lines, name: str, keys: Sequence[str]) -> Rows:
  rows = Rows([], [])
  for number, line in enumerate(lines, 1):
    place = f'{name} line {number}'
    try:
      text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
      if not text.strip():
        continue
      query = json.loads(text)
      if not isinstance(query, dict):
        raise errors.UserError(f'not a JSON object: {text.strip()[:80]}')
      queries.check(query, keys)
    except json.JSONDecodeError as e:
      raise errors.UserError(
          f'{place}: not JSON: {e.msg}, column {e.colno}'
      ) from e
    except ValueError as e:
      raise errors.UserError(f'{place}: {e}') from e
    rows.queries.append(query)
    rows.places.append(place)
  return rows


def run(
    arguments: argparse.Namespace,
    keys: Sequence[str],
    apply: Callable[..., list[Any]],
    to_json: Callable[[Any], Any],
    to_text: Callable[[Any], str],
) -> list[Any]:
  """Reads rows, loads the model, applies it, writes the results.

  Args:
    arguments: of the command line.
    keys: see `read`.
    apply: (model, rows, batch_size=..., progress=...) -> results.
    to_json: result -> what its JSON holds.
    to_text: result -> what people read.

  Returns:
    The results.

  Raises:
    UserError: see `read`, or a row that is wrong; the message names its line.
  """
  rows = read(arguments, keys)
  check_writable(arguments.output_file)
  model = model_lib.load(
      arguments.checkpoint,
      **{
          name: getattr(arguments, name)
          for name in (
              'vocabulary', 'dtype', 'revision', 'format', 'input_length',
              'target_length',
          )
      },
  )
  try:
    with _said_on_stderr():
      results = apply(
          model, rows.queries, batch_size=arguments.batch_size,
          progress=bool(rows.places),
      )
  except queries.QueryError as e:
    place = f'{rows.places[e.index]}: ' if rows.places else ''
    raise errors.UserError(f'{place}{e.reason}') from e
  if rows.places or arguments.json:
    texts = [json.dumps(to_json(result)) for result in results]
  else:
    texts = list(map(to_text, results))
  _write(''.join(f'{text}\n' for text in texts), arguments.output_file)
  return results


def check_writable(path: pathlib.Path | None) -> None:
  """OSError for a file that could not be written; before a model is loaded."""
  if path is None:
    return
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a folder, and a file is to be written')
  if not path.absolute().parent.is_dir():
    raise FileNotFoundError(f'{path}: there is no folder {path.parent}')


def _write(text: str, path: pathlib.Path | None) -> None:
  if path is None:
    print(text, end='', flush=True)  # A broken pipe is to be noticed here.
  else:
    files.write(path, text)


@contextlib.contextmanager
def _said_on_stderr() -> Iterator[None]:
  """What was cut as a plain sentence, without the place in the code."""
  with warnings.catch_warnings():
    warnings.simplefilter('always', encoded_queries.Truncated)
    show = warnings.showwarning

    def show_plain(message, category, *where):
      if issubclass(category, encoded_queries.Truncated):
        print(f'flipped-t5x: {message}', file=sys.stderr)
      else:
        show(message, category, *where)

    warnings.showwarning = show_plain
    yield
