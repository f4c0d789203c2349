"""Rank the options of held-out examples in every template.

CHECKPOINT is a run, one of its checkpoints, a checkpoint of T5X, a Hugging Face
folder or a name on the hub. The results are written into its folder: to
results.json for the run's own mixture, else to results_SUITE.json or
results_MIXTURE.json. The scores of every example go into the folder of the same
name, as Parquet. Run the same command again to resume.

Example:
  flipped-t5x eval output/demo
  flipped-t5x eval output/demo --suite nlp --limit 100
  flipped-t5x eval owner/name --method flipped --suite bigbench \\
    --output bigbench.json
"""

import argparse
from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import sys

from flipped_t5x import errors
from flipped_t5x.evaluation import evaluate
from flipped_t5x.evaluation import suites
from flipped_t5x.inference import model as model_lib
from flipped_t5x.prompts import formats
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.weights import model_files

_T5X_CHECKPOINT = re.compile(r'checkpoint_\d+')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'checkpoint_', nargs='?', metavar='CHECKPOINT',
      help='folder of a run, or DIR/checkpoints/STEP; a folder in the form of'
      ' Hugging Face or T5X; or a name on the Hugging Face hub',
  )
  parser.add_argument('--checkpoint', metavar='DIR', help='the same')
  parser.add_argument('--revision', help='of a name on the hub')
  what = parser.add_mutually_exclusive_group()
  what.add_argument(
      '--suite', choices=tuple(suites.SUITES),
      help='tasks of the paper, with its averages; what no source has is named'
      ' and left out. seen: held-out rows of what the run was trained on',
  )
  what.add_argument(
      '--mixture',
      help='a mixture, or datasets separated by commas; by default what the run'
      ' was trained on',
  )
  parser.add_argument(
      '--method', choices=tuple(formats.FORMATS),
      help='by default what the checkpoint was trained with; where it does not'
      ' say, as one from Hugging Face, flipped',
  )
  parser.add_argument(
      '--output', type=pathlib.Path, metavar='FILE',
      help='where to write the results, instead of into the folder of the'
      ' checkpoint: a .json',
  )
  parser.add_argument(
      '--vocabulary', metavar='FILE',
      help='a SentencePiece file, by default that of the checkpoint',
  )
  parser.add_argument(
      '--dtype', choices=model_lib.DTYPES,
      help='of weights and activations, by default as the checkpoint says',
  )
  parser.add_argument(
      '--split', help='by default the one that the catalog says'
  )
  parser.add_argument(
      '--limit', type=int, help='a seeded sample of LIMIT rows of each dataset'
  )
  parser.add_argument(
      '--skip_missing', action='store_true',
      help='leave out, and name, the datasets of a mixture that no source has;'
      ' of a suite they always are',
  )
  parser.add_argument('--batch_size', type=int, default=64)
  for side in ('input', 'target'):
    parser.add_argument(
        f'--{side}_length', type=int, metavar='TOKENS',
        help="by default the model's",
    )


def run(arguments: argparse.Namespace) -> None:
  given = [arguments.checkpoint_, arguments.checkpoint]
  if given.count(None) != 1:
    raise errors.UserError(
        'one checkpoint is needed: flipped-t5x eval CHECKPOINT'
    )
  checkpoint = next(filter(None, given))
  for name in ('limit', 'batch_size'):
    value = getattr(arguments, name)
    if value is not None and value < 1:
      raise errors.UserError(f'--{name} is {value}; at least 1 is needed')
  folder = _folder(checkpoint, arguments.output)
  source = model_files.resolve(checkpoint, arguments.revision)
  files = model_files.open(source, vocabulary=arguments.vocabulary)
  method = _method(files, checkpoint, arguments.method)
  suite, mixture = _what(files, checkpoint, arguments, method)
  name = '' if suite == 'seen' else f'_{suite or mixture}'
  path = arguments.output or (
      folder / f'results{re.sub(r"[^A-Za-z0-9_.,-]+", "_", name)}.json'
  )
  # Before the weights are read, which may take minutes.
  datasets, missing = _datasets(
      mixture, arguments.split, arguments.skip_missing or bool(arguments.suite)
  )
  model = model_lib.load(
      source, vocabulary=arguments.vocabulary, dtype=arguments.dtype,
      format=method, input_length=arguments.input_length,
      target_length=arguments.target_length,
  )
  config = model.config
  tasks = {
      dataset: batches.open_candidates(
          dataset, model.vocabulary.path, config.input_length,
          config.target_length, config.format,
          config.settings.get('MAX_FIELD_CHARS'), arguments.split,
          arguments.limit,
      )
      for dataset in datasets
  }
  results = evaluate.evaluate(
      model, tasks, path.expanduser(), checkpoint=checkpoint, suite=suite,
      missing=missing,
      about={
          'mixture': mixture, 'limit': arguments.limit,
          'split': arguments.split,
      },
      batch_size=arguments.batch_size,
  )
  done = results['tasks'].values()
  passes = sum(task['encoder_passes'] for task in done)
  candidates = sum(task['candidates'] for task in done)
  noun = 'task' if len(done) == 1 else 'tasks'
  print(
      f'{path} written, and the scores of every example of {len(done)} {noun}'
      f' in {path.with_suffix("")}\n'
      f'{passes:,} encoder passes instead of {candidates:,}'
  )


def _method(
    files: model_files.ModelFiles, checkpoint: str, asked: str | None
) -> str:
  """The text format; UserError if the checkpoint is of another one."""
  # Only what this project wrote says so.
  says = bool(files.settings) or files.kind == model_files.NATIVE
  if asked is None or asked == files.format:
    return files.format
  if says:
    raise errors.UserError(
        f'{checkpoint} was trained with the method {files.format}, not'
        f' {asked}: its scores in the other form would mean nothing'
    )
  return asked


def _what(
    files: model_files.ModelFiles,
    checkpoint: str,
    arguments: argparse.Namespace,
    method: str,
) -> tuple[str | None, str]:
  """The suite and the mixture; UserError for one of another method."""
  own = files.settings.get('MIXTURE')
  suite = suites.get(arguments.suite) if arguments.suite else None
  if suite is not None and suite.mixture:
    return suite.name, f'{method}_{suite.mixture}'
  if suite is not None:
    return suite.name, own or f'{method}_train'
  asked = arguments.mixture or own
  if not asked:
    raise errors.UserError(
        f'{checkpoint} does not say what it was trained on: --suite or'
        ' --mixture'
    )
  if asked == own:
    return suites.get('seen').name, own
  form = mixtures.mixture(asked).format
  named = any(part in mixtures.names() for part in asked.split(','))
  if named and form != method and (form, method) != (
      formats.flipped.__name__, formats.flipped_plain.__name__
  ):
    raise errors.UserError(
        f'--mixture {asked} is of the method {form}, and {checkpoint} of'
        f' {method}'
    )
  return None, asked


def _folder(checkpoint: str, output: pathlib.Path | None) -> pathlib.Path:
  """Where the results go; an error if they could not be written there."""
  if output is not None:
    if output.suffix != '.json':
      raise errors.UserError(f'--output {output}: the name must end in .json')
    folder = output.expanduser().absolute().parent
    if not folder.is_dir():
      raise FileNotFoundError(f'--output {output}: there is no folder {folder}')
  else:
    folder = pathlib.Path(checkpoint).expanduser()
    if folder.parent.name == 'checkpoints':
      folder = folder.parent.parent
    elif _T5X_CHECKPOINT.fullmatch(folder.name):
      folder = folder.parent
    if not folder.is_dir():
      raise FileNotFoundError(
          f'{checkpoint}: there is no such folder here; of a model elsewhere'
          ' --output FILE says where the results go'
      )
  if not os.access(folder, os.W_OK):
    raise PermissionError(
        f'{folder} cannot be written: --output FILE says where the results go'
    )
  return folder


def _datasets(
    mixture: str, split: str | None, skip_missing: bool
) -> tuple[Sequence[str], Mapping[str, str]]:
  """The datasets that there are, and why others are not: these are named."""
  found, missing = [], {}
  for name in mixtures.mixture(mixture).datasets:
    data = catalog.dataset(name)
    try:
      data.open(split or data.eval_split)
      found.append(name)
    except FileNotFoundError as e:
      missing[name] = str(e)
  if missing and not (skip_missing and found):
    raise FileNotFoundError(
        '\n'.join(missing.values())
        + ('\n--skip_missing leaves such datasets out' if found else '')
    )
  for message in missing.values():
    print(f'left out: {message}', file=sys.stderr)
  return found, {
      name: why.splitlines()[0].rstrip(':') for name, why in missing.items()
  }
