"""Guess the instruction that leads from a text to a label.

Example:
  flipped-t5x guess --checkpoint output/demo \\
    --input "A warm, funny and clever film." --output positive --num_beams 4
  flipped-t5x guess --checkpoint output/demo --dataset rotten_tomatoes \\
    --template "Reviewer Enjoyment Yes No" \\
    --row '{"text": "A warm film.", "label": 1}'
  flipped-t5x guess --checkpoint output/demo --jsonl rows.jsonl

A line of rows.jsonl has input and output, or dataset, template and row.
"""

import argparse
import dataclasses
import functools

from flipped_t5x.cli import rows
from flipped_t5x.inference import model
from flipped_t5x.inference import queries


def add_arguments(parser: argparse.ArgumentParser) -> None:
  rows.add_arguments(parser)
  parser.add_argument(
      '--output', metavar='LABEL',
      help="the label; with --row, instead of the row's own",
  )
  parser.add_argument(
      '--num_beams', type=int, default=1,
      help='sequences to search with; 1, the default, is greedy search',
  )
  parser.add_argument(
      '--max_length', type=int, metavar='TOKENS',
      help="the most tokens to write, by default the model's target length",
  )


def run(arguments: argparse.Namespace) -> None:
  guess = functools.partial(
      model.Model.guess_batch, num_beams=arguments.num_beams,
      max_length=arguments.max_length,
  )
  rows.run(arguments, queries.GUESS_KEYS, guess, dataclasses.asdict, _text)


def _text(guess: model.Guess) -> str:
  return f'{guess.instruction}\nlog-probability  {guess.log_prob:.4f}'
