"""Train a model, or resume a run that was stopped.

The gin file holds all settings; --gin.NAME=VALUE changes one of its macros. Run
the same command again to resume.

On several hosts, run the command on each of them. On a TPU slice, under SLURM
and under Open MPI they find each other; elsewhere the three flags say where
they are. MODEL_DIR must be on a disk that all hosts share. If DATA_SHARDS is a
multiple of the number of hosts, each host reads only its part of the data.

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
      help='gin file: a path, or one of the shipped files, such as'
      ' runs/demo.gin; give the flag again for a file that changes some of its'
      ' macros',
  )
  parser.add_argument(
      '--coordinator_address', metavar='HOST:PORT',
      help='address of host 0, with a free port, that all hosts can reach',
  )
  parser.add_argument(
      '--num_processes', type=int, metavar='N', help='number of hosts'
  )
  parser.add_argument(
      '--process_id', type=int, metavar='I',
      help='number of this host, from 0',
  )


def run(arguments: argparse.Namespace) -> None:
  libtpu_flags.set_defaults()
  settings = gin_config.parse(arguments.gin_file, arguments.gin_overrides)
  # Gin's own version of the function, with its bindings.
  configured = gin.get_configurable(train.train)
  with hosts.joined(
      arguments.coordinator_address, arguments.num_processes,
      arguments.process_id,
  ):
    # Opens the data; an error on one host ends them all.
    with agreement.fail_together():
      bound = gin.get_bindings(configured)
    configured(**bound, settings=settings)
