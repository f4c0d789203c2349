"""Bounds on what rendering a template may take.

A template is text of somebody else, and Jinja can be made to run for ever or to
fill the memory: `'a' * 10**10`, nested loops, a list of lists of lists. The
sandbox of `jinja_chunks.py` therefore has few filters, and whatever can grow is
compared with a limit before it is made. Between any two such checks the time is
compared, too: that of the thread's own work, so that a busy machine changes
nothing.
"""

from collections.abc import Callable, Iterable, Iterator
import functools
import re
import time
from typing import Any

import jinja2
from jinja2 import nodes

MAX_SIZE = 4_000_000  # Characters of a text, elements of a list.
MAX_SECONDS = 2.0  # Of one row; promptsource's templates take milliseconds.
MAX_SOURCE = 100_000  # Characters of a template; promptsource's have 2,849.
_MAX_BITS = 10_000  # Of an integer.
# The operators of which the sandbox asks `operate`.
OPERATORS = frozenset(('+', '*', '**', '%'))
# The filters that promptsource's templates use, and others that are as safe.
FILTERS = (
    'abs', 'capitalize', 'count', 'd', 'default', 'first', 'float', 'int',
    'last', 'length', 'list', 'lower', 'map', 'max', 'min', 'reject',
    'rejectattr', 'reverse', 'round', 'select', 'selectattr', 'sort', 'string',
    'sum', 'title', 'trim', 'truncate', 'unique', 'upper', 'wordcount',
)


class TooMuch(jinja2.TemplateError):
  """A template takes too much time or memory."""


class TooSlow(TooMuch):
  """A template takes too much time."""


class Budget:
  """What is left for rendering one row."""

  def __init__(self):
    self._end = time.thread_time() + MAX_SECONDS
    self._size = MAX_SIZE

  def check_time(self) -> None:
    """Raises TooSlow after `MAX_SECONDS`."""
    if time.thread_time() > self._end:
      raise TooSlow(f'one row takes more than {MAX_SECONDS:g} seconds')

  def joined(self, pieces: Iterable[str]) -> str:
    """The text that a template renders, piece by piece."""
    kept = []
    for piece in pieces:
      self._size -= len(piece)
      if self._size < 0:
        raise _too_large()
      self.check_time()
      kept.append(piece)
    return ''.join(kept)


def _too_large() -> TooMuch:
  return TooMuch(f'it makes a text or list of more than {MAX_SIZE:,} elements')


def checked(value: Any) -> Any:
  """The value; raises TooMuch if it is larger than `MAX_SIZE`."""
  if isinstance(value, (list, tuple, dict)):
    _count(value, MAX_SIZE)
  elif isinstance(value, str) and len(value) > MAX_SIZE:
    raise _too_large()
  return value


def _count(value: Any, left: int) -> int:
  """Subtracts the size of a value, what it holds counted in, from `left`."""
  # A list that holds another one twice counts it twice, as its text does.
  if isinstance(value, dict):
    value = [*value.keys(), *value.values()]
  if isinstance(value, (list, tuple)):
    left -= len(value)
    for item in value:
      if left < 0:
        break
      left = _count(item, left)
  elif isinstance(value, str):
    left -= len(value)
  if left < 0:
    raise _too_large()
  return left


def operate(operator: str, left: Any, right: Any) -> None:
  """Raises TooMuch if the result of one of `OPERATORS` would be too large."""
  sized = (str, list, tuple)
  if operator == '%':
    if isinstance(left, str):
      raise TooMuch('a text cannot be formatted with %')
  elif operator == '+':
    if isinstance(left, sized) and isinstance(right, sized):
      _check_size(len(left) + len(right))
  elif operator == '*':
    for value, times in ((left, right), (right, left)):
      if isinstance(value, sized) and isinstance(times, int):
        _check_size(len(value) * times)
    if isinstance(left, int) and isinstance(right, int):
      _check_bits(left.bit_length() + right.bit_length())
  elif isinstance(left, int) and isinstance(right, int):
    _check_bits(left.bit_length() * max(right, 0))


def _check_size(size: int) -> None:
  if size > MAX_SIZE:
    raise _too_large()


def _check_bits(bits: int) -> None:
  if bits > _MAX_BITS:
    raise TooMuch(f'it makes an integer of more than {_MAX_BITS:,} bits')


def replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
  """`text.replace(old, new)`, once its size is known to be allowed."""
  text, old, new = (str(checked(v)) for v in (text, old, new))
  _check_size(len(text) + text.count(old) * max(len(new) - len(old), 0))
  return text.replace(old, new, -1 if count is None else count)


def join(values: Iterable[Any], separator: Any = '') -> str:
  """The filter `join`, of texts whose size is known to be allowed."""
  separator, left, texts = str(checked(separator)), MAX_SIZE, []
  for value in values:
    text = str(checked(value))
    left -= len(text) + len(separator)
    if left < 0:
      raise _too_large()
    texts.append(text)
  return separator.join(texts)


def formatted(template: Any, *args: Any, **kwargs: Any) -> str:
  """The filter `format`, of a width that is written with three digits."""
  template = str(template)
  if re.search(r'[0-9]{4}|[*]', template):
    raise TooMuch('it formats a text or number with a large width')
  for value in (*args, *kwargs.values()):
    checked(value)
  return checked(template % (kwargs or args))


def bounded(function: Callable[..., Any]) -> Callable[..., Any]:
  """A filter whose arguments and result are checked."""

  @functools.wraps(function)
  def call(*args, **kwargs):
    for value in (*args, *kwargs.values()):
      checked(value)
    result = function(*args, **kwargs)
    if isinstance(result, Iterator):
      return _counted(result)
    return checked(result)

  return call


def _counted(values: Iterator[Any]) -> Iterator[Any]:
  """The same values; TooMuch once they are too many or too large together."""
  left = MAX_SIZE
  for value in values:
    left = _count(value, left - 1)
    yield value


@jinja2.pass_context
def ticking(context: Any, values: Iterable[Any]) -> Iterator[Any]:
  """The values of a loop; each costs a look at the clock."""
  for value in values:
    context['_budget'].check_time()
    yield value


@jinja2.pass_context
def assigned(context: Any, value: Any) -> Any:
  """The value that a template gives a name."""
  context['_budget'].check_time()
  return checked(value)


def instrument(tree: nodes.Template) -> nodes.Template:
  """Has the loops, assignments and joins of a template checked, in place."""
  for loop in tree.find_all(nodes.For):
    loop.iter = _filtered(loop.iter, '_ticking')
  for assignment in tree.find_all(nodes.Assign):
    assignment.node = _filtered(assignment.node, '_assigned')
  _replace_concats(tree)
  return tree


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
  return nodes.Filter(
      node, name, [], [], None, None, lineno=node.lineno,
      environment=node.environment,
  )


def _replace_concats(node: nodes.Node) -> None:
  """Makes `a ~ b` the filter `join` of a list."""
  for field, value in node.iter_fields():
    values = value if isinstance(value, list) else [value]
    made = [
        _filtered(
            nodes.List(v.nodes, lineno=v.lineno, environment=v.environment),
            'join',
        ) if isinstance(v, nodes.Concat) else v
        for v in values
    ]
    setattr(node, field, made if isinstance(value, list) else made[0])
    for child in made:
      if isinstance(child, nodes.Node):
        _replace_concats(child)
