"""Paths of flags, for files that are read or written on this machine."""

import argparse
import pathlib

from flipped_t5x import errors
from flipped_t5x import files

_PLOTS = ('.pdf', '.png', '.svg')


def local(text: str) -> pathlib.Path:
  """A flag's path, `~` being the user's home; the `type` of an argument.

  Raises:
    argparse.ArgumentTypeError: it has a scheme, such as `gs://`.
  """
  try:
    return files.local_path(text)
  except errors.UserError as e:
    raise argparse.ArgumentTypeError(str(e)) from e


def check_writable(path: pathlib.Path | None) -> None:
  """Raises an OSError if the path is a folder or its folder does not exist."""
  if path is None:
    return
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a folder; give the name of a file')
  if not path.absolute().parent.is_dir():
    raise FileNotFoundError(f'{path}: folder {path.parent} does not exist')


def check_plot(path: pathlib.Path | None) -> None:
  """Raises UserError if no plot can have this name; or see `check_writable`."""
  if path is not None and path.suffix not in _PLOTS:
    raise errors.UserError(f'{path} must end with one of {_PLOTS}')
  check_writable(path)
