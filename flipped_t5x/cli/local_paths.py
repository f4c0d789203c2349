"""Paths of flags, for files that are read or written on this machine."""

import argparse
import pathlib

from flipped_t5x import errors
from flipped_t5x import files


def local(text: str) -> pathlib.Path:
  """A flag's path, `~` being the user's home; the `type` of an argument.

  Raises:
    argparse.ArgumentTypeError: it has a scheme, such as `gs://`.
  """
  try:
    return files.local_path(text)
  except errors.UserError as e:
    raise argparse.ArgumentTypeError(str(e)) from e
