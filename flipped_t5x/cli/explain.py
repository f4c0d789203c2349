"""Show which words of the instruction tell the labels of a text apart.

Example:
  flipped-t5x explain --checkpoint output/demo \\
    --instruction "What kind of text is this?" \\
    --input "@user lol that was so much fun, see you tomorrow!" \\
    --options "movie review,news article,tweet" --plot explained.png
  flipped-t5x explain --checkpoint output/demo --jsonl rows.jsonl

A line of rows.jsonl has input, instruction and options (a list), or dataset,
template and row.
"""

import argparse
import sys

from flipped_t5x import errors
from flipped_t5x.cli import local_paths
from flipped_t5x.cli import rows
from flipped_t5x.inference import explanation
from flipped_t5x.inference import model
from flipped_t5x.inference import queries


def add_arguments(parser: argparse.ArgumentParser) -> None:
  rows.add_arguments(parser)
  rows.add_options(parser)
  parser.add_argument(
      '--plot', type=local_paths.local, metavar='PNG',
      help='write a heat map; not of a JSONL file',
  )


def run(arguments: argparse.Namespace) -> None:
  if arguments.plot:
    if arguments.jsonl:
      raise errors.UserError('--plot draws one text; --jsonl has many')
    local_paths.check_plot(arguments.plot)
  explained = rows.run(
      arguments, queries.RANK_KEYS, model.Model.explain_batch,
      explanation.Explanation.to_json, explanation.Explanation.table,
  )
  if arguments.plot:
    explained[0].plot(arguments.plot)
    print(f'{arguments.plot} written', file=sys.stderr)
