"""The structure of JSON that is read back from files, checked once, here.

What has passed can be used without further checks: fields are there, and are of
their types; numbers are finite.
"""

from collections.abc import Iterator, Mapping
import functools
import math
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
import yaml

_SCHEMAS = pathlib.Path(__file__).with_name('file_structures.yaml')
_DEEPEST = 100  # Of what this project writes, nothing is 10 levels deep.
_LARGEST = 2**63  # Whole numbers beyond it fit into no array.
_LONGEST = 200  # Characters of a message that may quote the file.


def read_results(path: Any) -> dict[str, Any]:
  """Reads the file of results of an evaluation.

  Args:
    path: the file, anything with `read_bytes`, such as `pathlib.Path`.

  Raises:
    UserError: it is not JSON, or no results; the message names the field.
  """
  found = files.read_json(path)
  check_results(found, path)
  return found


def check_results(found: Mapping[str, Any], path: Any) -> None:
  """Checks results that are read already; see `read_results`."""
  advice = 'evaluate the run again, or copy the file again'
  if not found.get('tasks'):
    raise errors.UserError(
        f'{path}: it has no tasks, so it is not a file of results as'
        ' flipped-t5x eval writes it'
    )
  check(found, 'results', str(path), advice)
  for name, task in found['tasks'].items():
    for template, values in task['templates'].items():
      matrix = values.get('confusion', ())
      if any(len(row) != len(matrix) for row in matrix):
        raise errors.UserError(
            f'{path}: tasks[{name!r}].templates[{template!r}].confusion: the'
            f' matrix is not square; {advice}'
        )


def read_log(path: Any, complete: bool = False) -> list[dict[str, float]]:
  """Reads the lines of a `metrics.jsonl`, in the order of the file.

  Args:
    path: the file.
    complete: see `files.read_lines`.

  Raises:
    UserError: a line is damaged; the message names it.
  """
  advice = 'delete this line; no training needs it to go on'
  return list(read_lines(path, 'log_line', advice, complete))


def read_lines(
    path: Any, kind: str, advice: str, complete: bool = False
) -> Iterator[dict[str, Any]]:
  """The objects of a JSON Lines file of some structure.

  Args:
    path: the file.
    kind: the name of a schema in `file_structures.yaml`.
    advice: what to do about a damaged line, for the message.
    complete: see `files.read_lines`.

  Yields:
    The object of each line.

  Raises:
    UserError: a line is damaged; the message names it.
  """
  for number, line in enumerate(files.read_lines(path, complete), 1):
    check(line, kind, f'{path}, line {number}', advice)
    yield line


def check(
    found: Mapping[str, Any], kind: str, place: str, advice: str
) -> None:
  """Checks the structure of what a file has.

  Args:
    found: the JSON.
    kind: the name of a schema in `file_structures.yaml`.
    place: the file, and the line if it has many objects, for the message.
    advice: what to do, for the message.

  Raises:
    UserError: it has another structure; the message names the field.
  """
  import jsonschema

  if _depth(found) > _DEEPEST:
    raise errors.UserError(f'{place}: nested too deeply; {advice}')
  fault = jsonschema.exceptions.best_match(_validator(kind).iter_errors(found))
  if fault is None:
    return
  field = fault.json_path.removeprefix('$').removeprefix('.')
  message = fault.message
  if len(message) > _LONGEST:  # It quotes the value.
    message = f'{message[: _LONGEST // 2]}…{message[-_LONGEST // 2 :]}'
  raise errors.UserError(
      f'{place}: {f"{field}: " if field else ""}{message}; {advice}'
  )


@functools.cache
def _validator(kind: str) -> Any:
  """The validator of a schema; NaN is no number, and 5.0 no whole one."""
  import jsonschema

  schemas = yaml.safe_load(_SCHEMAS.read_text('utf-8'))
  checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many({
      'number': lambda _, v: _is_number(v), 'integer': lambda _, v: _is_whole(v)
  })
  validator = jsonschema.validators.extend(
      jsonschema.Draft202012Validator, type_checker=checker
  )
  return validator({**schemas[kind], '$defs': schemas['$defs']})


def _is_whole(value: Any) -> bool:
  return (
      isinstance(value, int) and not isinstance(value, bool)
      and abs(value) < _LARGEST
  )


def _is_number(value: Any) -> bool:
  if isinstance(value, float):
    return math.isfinite(value)
  return _is_whole(value)


def _depth(value: Any) -> int:
  """How deep JSON is nested, at most a little over `_DEEPEST`."""
  depth, level = 0, [value]
  while level and depth <= _DEEPEST:
    depth += 1
    level = [
        inner
        for outer in level if isinstance(outer, (dict, list))
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]
  return depth
