"""Rank the options of held-out examples in every template.

Writes results.json into the run's folder; of another mixture than the run's
own, results_MIXTURE.json.

Example:
  flipped-t5x eval --checkpoint output/demo
  flipped-t5x eval --checkpoint output/demo --mixture flipped_nlp_eval \\
    --limit 100 --input_length 512
"""

import argparse
import functools
import pathlib
import re
import sys

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
      '--mixture',
      help='a mixture, or datasets separated by commas; by default what the run'
      ' was trained on',
  )
  parser.add_argument(
      '--split', help='by default the one that the catalog says'
  )
  parser.add_argument(
      '--limit', type=int, help='a seeded sample of LIMIT rows of each dataset'
  )
  parser.add_argument(
      '--skip_missing', action='store_true',
      help='leave out, and name, the datasets that no source has',
  )
  parser.add_argument('--batch_size', type=int, default=64)
  for side in ('input', 'target'):
    parser.add_argument(
        f'--{side}_length', type=int, help="by default the run's"
    )


def run(arguments: argparse.Namespace) -> None:
  model = inference.load(arguments.checkpoint)
  own = model.config.settings.get('MIXTURE')
  mixture = arguments.mixture or own
  if not mixture:
    raise ValueError(f'{arguments.checkpoint} names no mixture: --mixture')
  max_field_chars = model.config.settings.get('MAX_FIELD_CHARS')
  tasks, missing = {}, []
  for name in mixtures.mixture(mixture).datasets:
    data = catalog.dataset(name)
    try:
      data.open(arguments.split or data.eval_split)
      tasks[name] = data.template_names()
    except FileNotFoundError as e:
      missing.append(str(e))
  if missing and not (arguments.skip_missing and tasks):
    raise FileNotFoundError(
        '\n'.join(missing) + '\n--skip_missing leaves such datasets out'
    )
  for message in missing:
    print(f'left out: {message}', file=sys.stderr)
  read = functools.partial(
      batches.read_candidates,
      vocabulary=model.vocabulary.path,
      input_length=arguments.input_length or model.config.input_length,
      target_length=arguments.target_length or model.config.target_length,
      format=model.config.format,
      max_field_chars=max_field_chars,
      split=arguments.split,
      limit=arguments.limit,
  )
  results = evaluate.evaluate(model, tasks, read, arguments.batch_size)
  results |= {
      'mixture': mixture,
      'limit': arguments.limit,
      'left_out': [message.splitlines()[0] for message in missing],
      'input_length': read.keywords['input_length'],
      'target_length': read.keywords['target_length'],
  }
  folder = arguments.checkpoint
  if folder.parent.name == 'checkpoints':
    folder = folder.parent.parent
  suffix = '' if mixture == own else '_' + re.sub(r'[^\w.,-]+', '_', mixture)
  path = folder / f'results{suffix}.json'
  checkpoints.write_json(path, results)
  print(f'{path} written')
