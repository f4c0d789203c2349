"""Look into a mixture: rates, templates, lengths, drops, decoded examples.

Numbers are measured on a sample of each dataset's rows, made by the same code
as in training and evaluation.

Example:
  flipped-t5x inspect flipped_demo --vocabulary output/demo
  flipped-t5x inspect flipped_train --skip_missing --examples 0 \\
    --vocabulary sentencepiece.model --plot flipped_train.png
  flipped-t5x inspect glue/mrpc,imdb --json > inspected.json
"""

import argparse
from collections.abc import Iterator
import contextlib
import json
import logging
import sys

from flipped_t5x import files
from flipped_t5x import vocabulary_files
from flipped_t5x.cli import local_paths
from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.inspection import plot
from flipped_t5x.inspection import report
from flipped_t5x.prompts import formats
from flipped_t5x.tasks import mixtures
import rich.console

# Input and target tokens of the published runs.
_LENGTHS, _CHANNEL_LENGTHS = (384, 64), (64, 384)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'mixture', metavar='MIXTURE',
      help='a mixture, such as flipped_train, or datasets separated by commas',
  )
  parser.add_argument(
      '--vocabulary', metavar='FILE',
      help='a SentencePiece file, or the folder of a run; by default what'
      f" {vocabulary_files.VARIABLE} says, or T5's own",
  )
  for i, side in enumerate(('input', 'target')):
    parser.add_argument(
        f'--{side}_length', type=int, metavar='TOKENS',
        help=f'by default {_LENGTHS[i]}, in CHANNEL {_CHANNEL_LENGTHS[i]}',
    )
  parser.add_argument(
      '--format', choices=tuple(formats.FORMATS),
      help="by default what the mixture's name says",
  )
  parser.add_argument(
      '--max_field_chars', type=int, metavar='CHARS',
      help='cut each field that a template inserts; promptsource does at 2048',
  )
  parser.add_argument(
      '--split',
      help="look at this split as eval does; by default a training mixture's"
      ' train, and of an evaluation mixture the one that the catalog says',
  )
  parser.add_argument(
      '--sample', type=int, default=1000, metavar='ROWS',
      help='the most rows of each dataset to measure (default 1000)',
  )
  parser.add_argument(
      '--seed', type=int, default=42,
      help='of the sample, the templates, the wrong options (default 42)',
  )
  parser.add_argument(
      '--examples', type=int, default=1, metavar='N',
      help='rows of each dataset to show as text (default 1)',
  )
  parser.add_argument(
      '--skip_missing', action='store_true',
      help='leave out, and name, the datasets that no source has',
  )
  parser.add_argument(
      '--json', action='store_true', help='print one JSON object'
  )
  parser.add_argument(
      '--plot', type=local_paths.local, metavar='PNG',
      help='write a plot of the shares and the lengths',
  )


def run(arguments: argparse.Namespace) -> None:
  local_paths.check_plot(arguments.plot)
  mixed = mixtures.mixture(arguments.mixture)
  form = arguments.format or mixed.format
  lengths = _CHANNEL_LENGTHS if form == 'channel' else _LENGTHS
  settings = inspect_mixture.Settings(
      vocabulary=vocabulary_files.find(arguments.vocabulary),
      input_length=_or(arguments.input_length, lengths[0]),
      target_length=_or(arguments.target_length, lengths[1]),
      format=form,
      max_field_chars=arguments.max_field_chars,
      split=arguments.split,
      sample=arguments.sample,
      seed=arguments.seed,
  )
  errors = rich.console.Console(stderr=True)
  with _no_warnings(), errors.status('opening rows') as status:
    inspected = inspect_mixture.inspect(
        mixed, settings, arguments.examples, arguments.skip_missing,
        lambda name: status.update(f'measuring {name}'),
    )
  for message in inspected.left_out.values():
    print(f'left out: {message}', file=sys.stderr)
  if arguments.plot:
    with files.replacing(arguments.plot) as unfinished:
      plot.plot(inspected).savefig(
          unfinished, format=arguments.plot.suffix[1:]
      )
    print(f'{arguments.plot} written', file=sys.stderr)
  if arguments.json:
    print(json.dumps(inspected.summary(), indent=2))
  else:
    report.write(inspected)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
  """None of the catalog: the report has both numbers of rows."""
  logger = logging.getLogger(inspect_mixture.catalog.__name__)
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _or(value: int | None, default: int) -> int:
  return default if value is None else value

