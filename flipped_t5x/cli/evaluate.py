"""Rank the options of held-out examples in every template.

Writes results.json into the run's folder.

Example:
  flipped-t5x eval --checkpoint runs/demo --mixture flipped_demo --split test
"""

import argparse
import functools
import pathlib

from flipped_t5x import inference
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import evaluate
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--checkpoint', required=True, type=pathlib.Path, metavar='DIR',
      help='folder of a run, or DIR/checkpoints/STEP',
  )
  parser.add_argument(
      '--mixture', default='flipped_demo', help='whose datasets to evaluate'
  )
  parser.add_argument('--split', default='test')
  parser.add_argument(
      '--limit', type=int, help='a seeded sample of LIMIT rows of each dataset'
  )
  parser.add_argument('--batch_size', type=int, default=64)


def run(arguments: argparse.Namespace) -> None:
  model = inference.load(arguments.checkpoint)
  max_field_chars = model.config.settings.get('MAX_FIELD_CHARS')
  tasks = {
      name: list(catalog.dataset(name).load_templates(max_field_chars))
      for name in mixtures.mixture(arguments.mixture).datasets
  }
  read = functools.partial(
      batches.read_candidates,
      vocabulary=model.vocabulary.path,
      input_length=model.config.input_length,
      target_length=model.config.target_length,
      format=model.config.format,
      max_field_chars=max_field_chars,
      limit=arguments.limit,
  )
  results = evaluate.evaluate(
      model, tasks, read, arguments.split, arguments.batch_size
  )
  results['limit'] = arguments.limit
  folder = arguments.checkpoint
  if folder.parent.name == 'checkpoints':
    folder = folder.parent.parent
  checkpoints.write_json(folder / 'results.json', results)
  print(f'{folder / "results.json"} written')
