"""`flipped-t5x COMMAND`: one subcommand for each file of this folder."""

import argparse
from collections.abc import Callable, Sequence
import gc
import importlib
import logging as stdlib_logging
import os
import re
import sys
import threading
import traceback
import types
from typing import Any

from absl import logging
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import libtpu_loading
from flipped_t5x import terminal

# Command -> its module and what it does; modules import JAX, and take their
# time: only that of the command is imported.
COMMANDS = {
    'new': ('new', 'make a task of a table of your own'),
    'train': ('train', 'train a model, or resume a run that was stopped'),
    'eval': ('evaluate', 'rank the options of held-out examples'),
    'report': ('report', 'tables and plots of results'),
    'rank': ('rank', 'rank labels for a text'),
    'guess': ('guess', 'guess the instruction from an input and a label'),
    'explain': ('explain', 'see which words of the instruction decide'),
    'serve': ('serve', 'a page and an API to rank, guess and explain'),
    'convert': ('convert', 'weights to and from Hugging Face and T5X'),
    'precompile': ('precompile', 'compile a step for a TPU, without the TPU'),
    'inspect': ('inspect', 'look into a mixture'),
}

_OVERRIDE = re.compile(r'--gin\.([^=\s]+)=(.*)', re.DOTALL)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes T5X's `--gin.NAME=VALUE` flags out of a command line.

  Args:
    argv: the arguments.

  Returns:
    The other arguments, and `NAME = VALUE` for each override.
  """
  rest, overrides = [], []
  for argument in argv:
    match = _OVERRIDE.fullmatch(argument)
    if match:
      overrides.append(f'{match[1]} = {match[2]}')
    else:
      rest.append(argument)
  return rest, overrides


def main(argv: list[str] | None = None) -> int:
  """Runs a command.

  A mistake of the user is one sentence and status 1; so is what the operating
  system refuses. Any other error is a fault of this project: its traceback is
  printed, with a request to report it.

  Args:
    argv: the arguments; None for those of the process.

  Returns:
    The exit status.
  """
  argv, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
  parser = argparse.ArgumentParser(
      prog='flipped-t5x',
      description='Flipped learning: guess the instruction, rank the labels.',
      epilog='Example: flipped-t5x train --gin_file=runs/demo.gin',
  )
  module = _add_commands(parser, argv)
  arguments = parser.parse_args(argv)
  if overrides and not hasattr(arguments, 'gin_file'):
    parser.error(f'{arguments.command} takes no --gin. flags')
  arguments.gin_overrides = overrides
  libtpu_loading.avoid()
  _silence()
  try:
    module.run(arguments)
  except KeyboardInterrupt as e:
    print(f'flipped-t5x: {str(e) or "interrupted"}', file=sys.stderr)
    return 130
  except BrokenPipeError:  # `| head` has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except (errors.UserError, OSError) as e:
    if os.environ.get('FLIPPED_T5X_TRACEBACK'):
      raise
    # Gin adds in which calls it was.
    message = str(e).split('\n  In call to configurable')[0]
    print(f'flipped-t5x: {terminal.visible(message)}', file=sys.stderr)
    return 1
  except Exception:
    traceback.print_exc()
    print(
        'flipped-t5x: this is a fault of flipped_t5x. Please report it, with'
        ' the lines above and the command',
        file=sys.stderr,
    )
    return 1
  return 0


def _silence() -> None:
  """Leaves errors to be told once, by the exceptions that they end in.

  Orbax and asyncio also log them, with tracebacks of their own threads.
  TensorStore prints one for each array that was still being written when the
  first error had closed Orbax's event loop, and tensorboardX in its thread and
  at exit if the disk is full.
  """
  if os.environ.get('FLIPPED_T5X_TRACEBACK'):
    return
  logging.set_verbosity(logging.FATAL)
  stdlib_logging.getLogger('asyncio').setLevel(stdlib_logging.CRITICAL)
  sys.unraisablehook = _untold(sys.unraisablehook)
  threading.excepthook = _untold(threading.excepthook)


def _untold(show: Callable[[Any], None]) -> Callable[[Any], None]:
  """A hook for errors outside the main thread, without those told anyway."""

  def show_untold(raised: Any) -> None:
    error = raised.exc_value
    if (
        str(error) not in ('Event loop is closed', 'handle is closed')
        and getattr(error, 'errno', None) not in files.DISK_ERRORS
    ):
      show(raised)

  return show_untold


def _add_commands(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> types.ModuleType | None:
  """Adds all commands, and the arguments of the one in `argv`.

  Returns:
    The module of that command; no other is imported.
  """
  commands = parser.add_subparsers(dest='command', required=True)
  chosen = next((a for a in argv if not a.startswith('-')), None)
  module = None
  for name, (file, summary) in COMMANDS.items():
    command = commands.add_parser(
        name, help=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if name == chosen:
      # What is imported stays: no garbage has to be looked for in it.
      gc.disable()
      module = importlib.import_module(f'flipped_t5x.cli.{file}')
      gc.freeze()
      gc.enable()
      command.description = module.__doc__
      module.add_arguments(command)
  return module


if __name__ == '__main__':
  sys.exit(main())
