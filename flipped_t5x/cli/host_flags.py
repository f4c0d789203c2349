"""The flags of commands that several hosts work on together."""

import argparse
import contextlib

from flipped_t5x.engine import hosts

NAMES = ('coordinator_address', 'num_processes', 'process_id')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags, which SLURM, Open MPI and TPU slices need not have."""
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


def joined(
    arguments: argparse.Namespace,
) -> contextlib.AbstractContextManager[None]:
  """Connects this host with the others, if there are any: `hosts.joined`."""
  return hosts.joined(*(getattr(arguments, name) for name in NAMES))
