"""`flipped-t5x COMMAND`: one subcommand for each file of this folder."""

import argparse
import os
import sys

from absl import logging
from flipped_t5x.cli import cache
from flipped_t5x.cli import config
from flipped_t5x.cli import evaluate
from flipped_t5x.cli import inspect
from flipped_t5x.cli import rank
from flipped_t5x.cli import report
from flipped_t5x.cli import train

COMMANDS = {
    'train': train,
    'eval': evaluate,
    'report': report,
    'rank': rank,
    'inspect': inspect,
    'cache': cache,
}


def main(argv: list[str] | None = None) -> int:
  """Runs a command; a mistake of the user is one sentence and status 1."""
  argv, overrides = config.split_overrides(
      sys.argv[1:] if argv is None else argv
  )
  parser = argparse.ArgumentParser(
      prog='flipped-t5x',
      description='Flipped learning: guess the instruction, rank the labels.',
      epilog='Example: flipped-t5x train --gin_file=runs/demo.gin',
  )
  commands = parser.add_subparsers(dest='command', required=True)
  for name, module in COMMANDS.items():
    command = commands.add_parser(
        name,
        help=module.__doc__.splitlines()[0],
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command)
    command.set_defaults(module=module)
  arguments = parser.parse_args(argv)
  if overrides and not hasattr(arguments, 'gin_file'):
    parser.error(f'{arguments.command} takes no --gin. flags')
  arguments.gin_overrides = overrides
  logging.set_verbosity(logging.ERROR)  # Orbax's notes are not for the user.
  try:
    arguments.module.run(arguments)
  except KeyboardInterrupt as e:
    print(f'flipped-t5x: {str(e) or "interrupted"}', file=sys.stderr)
    return 130
  except BrokenPipeError:  # `| head` has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except (
      ValueError, OSError, RuntimeError, FloatingPointError, ImportError
  ) as e:
    if os.environ.get('FLIPPED_T5X_TRACEBACK'):
      raise
    # Gin adds in which calls it was; the stack is not for the user either.
    message = str(e).split('\n  In call to configurable')[0]
    print(f'flipped-t5x: {type(e).__name__}: {message}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
