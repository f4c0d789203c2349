"""Rank labels for a text by how probable each makes the instruction.

Example:
  flipped-t5x rank --checkpoint output/demo \\
    --instruction "Did the reviewer enjoy the movie?" \\
    --input "A warm, funny and clever film." --options Yes,No
"""

import argparse
import json
import pathlib

from flipped_t5x import inference


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--checkpoint', required=True, type=pathlib.Path, metavar='DIR',
      help='folder of a run, or DIR/checkpoints/STEP',
  )
  parser.add_argument(
      '--instruction', required=True,
      help='{{input}} in it marks the place of the text; without it the text'
      ' comes first',
  )
  parser.add_argument('--input', required=True, help='the text to label')
  parser.add_argument(
      '--options', required=True, help='the labels, separated by commas'
  )
  parser.add_argument(
      '--json', action='store_true', help='print one JSON object'
  )


def run(arguments: argparse.Namespace) -> None:
  model = inference.load(arguments.checkpoint)
  ranked = model.rank(
      arguments.instruction, arguments.input, arguments.options.split(',')
  )
  if arguments.json:
    print(json.dumps([{'option': o, 'score': s} for o, s in ranked]))
    return
  width = max(len(option) for option, _ in ranked)
  print(f'{"option":<{max(width, 6)}}  log P(instruction | input, option)')
  for option, score in ranked:
    print(f'{option:<{max(width, 6)}}  {score:.4f}')
