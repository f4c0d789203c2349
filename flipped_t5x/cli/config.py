"""Gin files and overrides for the commands; errors are plain sentences."""

import ast
from collections.abc import Sequence
import difflib
import logging
import pathlib
import re
from typing import Any

import flipped_t5x
import gin

_OVERRIDE = re.compile(r'--gin\.([^=\s]+)=(.*)', re.DOTALL)
_MACRO = re.compile(r'^([A-Z][A-Z0-9_]*) = (.*?)(?=^\S|\Z)', re.M | re.DOTALL)


def gin_folder() -> pathlib.Path:
  """The shipped gin files: inside the package, or beside it in a checkout."""
  package = pathlib.Path(flipped_t5x.__file__).parent
  installed = package / 'gin'
  return installed if installed.is_dir() else package.parent / 'gin'


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


def parse(gin_file: str, overrides: Sequence[str]) -> dict[str, Any]:
  """Reads a gin file and overrides.

  Args:
    gin_file: a path, or a path below the shipped folder, as `runs/demo.gin`.
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
    gin.parse_config_file(gin_file, skip_unknown=False)
    known = macros()
    for override in overrides:
      name = override.split(' = ', 1)[0]
      if name.isupper() and name not in known:
        near = difflib.get_close_matches(name, known) or sorted(known)
        raise ValueError(
            f'--gin.{name}: {gin_file} has no such macro; nearest: {near}'
        )
    gin.parse_config(list(overrides), skip_unknown=False)
    gin.finalize()
    return macros()
  except OSError as e:
    raise ValueError(f'--gin_file={gin_file}: {e}') from e
  except (SyntaxError, NameError, AttributeError, ImportError) as e:
    raise ValueError(f'{gin_file}: {e}') from e
  finally:
    logging.getLogger().removeFilter(_is_no_search)


def _is_no_search(record: logging.LogRecord) -> bool:
  return not record.getMessage().startswith('Path not found: ')


def macros() -> dict[str, Any]:
  """The values of all macros; one that is no literal as its gin text."""
  values = {}
  for name, text in _MACRO.findall(gin.config_str(max_line_length=10**6)):
    text = text.split('\n#')[0].strip()
    try:
      values[name] = ast.literal_eval(text)
    except (SyntaxError, ValueError):
      values[name] = text
  return values
