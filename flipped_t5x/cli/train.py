"""Train a model; the same command goes on where a stopped run was.

The gin file says everything; --gin.NAME=VALUE changes one of its macros.

Example:
  flipped-t5x train --gin_file=runs/demo.gin --gin.LAMBDA=0 \\
    --gin.MODEL_DIR="'output/no_unlikelihood'"
"""

import argparse

from flipped_t5x.cli import config
from flipped_t5x.engine import train
import gin


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--gin_file', required=True, action='append',
      help='gin file: a path, or one of the shipped files, as runs/demo.gin;'
      ' once more for another that changes some of its macros',
  )


def run(arguments: argparse.Namespace) -> None:
  settings = config.parse(arguments.gin_file, arguments.gin_overrides)
  # As gin sees it, a function of a module that was imported there.
  configured = gin.get_configurable(train.train)
  configured(settings=settings)
