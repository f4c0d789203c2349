"""Train a model; the same command goes on where a stopped run was.

The gin file says everything; --gin.NAME=VALUE changes one of its macros.

On several hosts, start it on each of them: on a TPU slice and under SLURM they
find each other, elsewhere by the three flags. MODEL_DIR must be on a disk that
all of them share; with DATA_SHARDS a multiple of their number, each reads its
part of the data alone.

Example:
  flipped-t5x train --gin_file=runs/demo.gin --gin.LAMBDA=0 \\
    --gin.MODEL_DIR="'output/no_unlikelihood'"
"""

import argparse

from flipped_t5x import gin_config
from flipped_t5x.engine import agreement
from flipped_t5x.engine import hosts
from flipped_t5x.engine import libtpu_flags
from flipped_t5x.engine import train
import gin


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--gin_file', required=True, action='append',
      help='gin file: a path, or one of the shipped files, as runs/demo.gin;'
      ' once more for another that changes some of its macros',
  )
  parser.add_argument(
      '--coordinator_address', metavar='HOST:PORT',
      help='where host 0 is to be reached by the others, any free port of it',
  )
  parser.add_argument(
      '--num_processes', type=int, metavar='N', help='how many hosts there are'
  )
  parser.add_argument(
      '--process_id', type=int, metavar='I',
      help='the number of this host, from 0',
  )


def run(arguments: argparse.Namespace) -> None:
  libtpu_flags.set_defaults()
  settings = gin_config.parse(arguments.gin_file, arguments.gin_overrides)
  # As gin sees it, a function of a module that was imported there.
  configured = gin.get_configurable(train.train)
  with hosts.joined(
      arguments.coordinator_address, arguments.num_processes,
      arguments.process_id,
  ):
    # Opens the data: what goes wrong there on one host, all should hear of.
    with agreement.fail_together():
      bound = gin.get_bindings(configured)
    configured(**bound, settings=settings)
