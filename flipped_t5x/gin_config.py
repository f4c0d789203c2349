"""Gin files, overrides and macros; errors are plain sentences."""

import ast
from collections.abc import Iterator, Sequence
import contextlib
import json
import logging
import os
import pathlib
import re
import tokenize
from typing import Any

from flipped_t5x import errors
from flipped_t5x.settings import rules
import gin

# T5X's file of settings, in each folder that it writes to.
T5X_CONFIG = 'config.gin'
# The macro that holds there what is set besides macros.
OVERRIDES = 'OVERRIDES'
_MACRO = re.compile(r'^([A-Z][A-Z0-9_]*) = (.*?)(?=^\S|\Z)', re.M | re.DOTALL)


def gin_folder() -> pathlib.Path:
  """The shipped gin files: inside the package, or beside it in a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / 'gin'
  return installed if installed.is_dir() else package.parent / 'gin'


def parse(
    gin_files: Sequence[str], overrides: Sequence[str]
) -> dict[str, Any]:
  """Reads gin files, the later ones over the earlier, and overrides.

  Args:
    gin_files: paths, absolute or relative to the shipped folder, such as
      `runs/demo.gin`.
    overrides: texts `NAME = VALUE`.

  Returns:
    Macro -> value, for all macros after the overrides; and what else
    `rules.check` says belongs to the settings of the run.

  Raises:
    UserError: gin does not understand a file or an override, or see
      `rules.check`.
  """
  gin_files = [os.path.expanduser(gin_file) for gin_file in gin_files]
  others = rules.check(gin_files, overrides, [str(gin_folder())])
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
  for override in overrides:
    name, value = override.split(' = ', 1)
    with _one_line(f'--gin.{name}={value}'):
      gin.parse_config(override, skip_unknown=False)
  gin.finalize()
  return macros() | others


def macros() -> dict[str, Any]:
  """The values of all macros that gin has read; see `macros_of`."""
  return macros_of(gin.config_str(max_line_length=10**6))


def macros_of(text: str) -> dict[str, Any]:
  """The macros of gin's text; one that is no JSON as its source.

  What T5X's runs set besides macros is among them, see `t5x_settings.py`.
  """
  values: dict[str, Any] = {}
  for name, value in _MACRO.findall(text):
    value = value.split('\n#')[0].replace('\\\n', ' ').strip()
    try:
      values[name] = ast.literal_eval(value)
      json.dumps(values[name])
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
      values[name] = value
  others = values.pop(OVERRIDES, {})
  return values | (others if isinstance(others, dict) else {OVERRIDES: others})


def _is_no_search(record: logging.LogRecord) -> bool:
  return not record.getMessage().startswith('Path not found: ')


@contextlib.contextmanager
def _one_line(source: str) -> Iterator[None]:
  """Turns gin's errors into a ValueError of one line that names the source."""
  try:
    yield
  except (
      SyntaxError, tokenize.TokenError, NameError, AttributeError, ImportError,
      OSError, ValueError,
  ) as e:
    raise errors.UserError(f'{source}: {" ".join(str(e).split())}') from e
