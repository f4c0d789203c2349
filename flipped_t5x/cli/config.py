"""Gin files and overrides for the commands; errors are plain sentences."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import difflib
import logging
import pathlib
import tokenize
from typing import Any

import flipped_t5x
from flipped_t5x import t5x_results
import gin


def gin_folder() -> pathlib.Path:
  """The shipped gin files: inside the package, or beside it in a checkout."""
  package = pathlib.Path(flipped_t5x.__file__).parent
  installed = package / 'gin'
  return installed if installed.is_dir() else package.parent / 'gin'


def parse(
    gin_files: Sequence[str], overrides: Sequence[str]
) -> dict[str, Any]:
  """Reads gin files, the later ones over the earlier, and overrides.

  Args:
    gin_files: a path each, or one below the shipped folder: `runs/demo.gin`.
    overrides: `NAME = VALUE` each.

  Returns:
    Macro -> value, all literal macros as they stand after the overrides.

  Raises:
    ValueError: gin does not understand it, or an override names a macro that
      the file does not have.
  """
  gin.clear_config()
  gin.add_config_file_search_path(str(gin_folder()))
  # Gin logs an error for each folder of the search path without the file.
  logging.getLogger().addFilter(_is_no_search)
  try:
    for gin_file in gin_files:
      with _one_line(f'--gin_file={gin_file}'):
        gin.parse_config_file(gin_file, skip_unknown=False)
  finally:
    logging.getLogger().removeFilter(_is_no_search)
  known = macros()
  for override in overrides:
    name, value = override.split(' = ', 1)
    if name.isupper() and name not in known:
      near = difflib.get_close_matches(name, known) or sorted(known)
      raise ValueError(
          f'--gin.{name}: {gin_files[0]} has no such macro; nearest: {near}'
      )
    with _one_line(f'--gin.{name}={value} (a text needs quotes of its own)'):
      gin.parse_config(override, skip_unknown=False)
  gin.finalize()
  return macros()


def _is_no_search(record: logging.LogRecord) -> bool:
  return not record.getMessage().startswith('Path not found: ')


@contextlib.contextmanager
def _one_line(source: str) -> Iterator[None]:
  """Makes gin's errors ValueErrors of one line that name what was read."""
  try:
    yield
  except (
      SyntaxError, tokenize.TokenError, NameError, AttributeError, ImportError,
      OSError, ValueError,
  ) as e:
    raise ValueError(f'{source}: {" ".join(str(e).split())}') from e


def macros() -> dict[str, Any]:
  """The values of all macros; one that is no literal as its gin text."""
  return t5x_results.macros(gin.config_str(max_line_length=10**6))
