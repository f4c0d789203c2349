"""Rank labels for a text by how probable each makes the instruction.

Example:
  flipped-t5x rank --checkpoint output/demo \\
    --instruction "Did the reviewer enjoy the movie?" \\
    --input "A warm, funny and clever film." --options Yes,No
  flipped-t5x rank --checkpoint output/demo --dataset rotten_tomatoes \\
    --template "Reviewer Enjoyment Yes No" --row '{"text": "A warm film."}'
  flipped-t5x rank --checkpoint output/demo --jsonl rows.jsonl \\
    --output_file ranked.jsonl
  flipped-t5x rank --checkpoint output/demo --table reviews.csv --text review \\
    --instruction "Did they enjoy it?" --options Yes,No --output_file ranked.csv

A line of rows.jsonl has input, instruction and options (a list), or dataset,
template and row.
"""

import argparse
from collections.abc import Sequence
import dataclasses
from typing import Any

from flipped_t5x import terminal
from flipped_t5x.cli import rows
from flipped_t5x.inference import model
from flipped_t5x.inference import queries


def add_arguments(parser: argparse.ArgumentParser) -> None:
  rows.add_arguments(parser)
  rows.add_options(parser)
  _add_table_arguments(parser)


def _add_table_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of tables."""
  parser.add_argument(
      '--table', metavar='FILE',
      help='a table of many texts (.csv, .tsv, .jsonl, .parquet), which is'
      ' written to --output_file, of the same form, with the label, its'
      ' probability and its margin added; resumes where it was stopped',
  )
  parser.add_argument(
      '--text', metavar='COLUMN', help="the table's column of texts"
  )
  parser.add_argument(
      '--task', metavar='FOLDER',
      help='a folder that `flipped-t5x new` has written: the table has its'
      ' columns of texts and options, and is asked its first instruction or'
      ' that of --template',
  )
  parser.add_argument(
      '--threshold', type=float, default=0.0, metavar='PROBABILITY',
      help='give no label to rows of a table whose best label is less probable',
  )
  parser.add_argument(
      '--encoding', default='utf-8', help='of CSV and TSV (default utf-8)'
  )


def run(arguments: argparse.Namespace) -> None:
  if arguments.table:
    # With what reads tables, takes a while to import; a text needs none of it.
    from flipped_t5x.cli import ranked_table

    ranked_table.run(arguments)
    return
  rows.run(
      arguments, queries.RANK_KEYS, model.Model.rank_batch, _json, _text
  )


def _json(ranked: Sequence[model.Ranked]) -> dict[str, Any]:
  return {
      'prediction': ranked[0].option,
      'options': [dataclasses.asdict(r) for r in ranked],
  }


def _text(ranked: Sequence[model.Ranked]) -> str:
  return terminal.aligned([
      ('option', 'log-probability', 'probability'),
      *(
          (' '.join(r.option.split()), f'{r.log_prob:.4f}',
           f'{r.probability:.4f}')
          for r in ranked
      ),
  ])
