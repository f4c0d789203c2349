"""What gin files and overrides say, statement by statement, without running it.

Gin itself keeps only the last value of each name. Here it is known as well
which file gave it, and what read it.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import sys
import tokenize
from typing import Any

from etils import epath
from flipped_t5x import errors
from gin import config_parser

_SYNTAX = (SyntaxError, tokenize.TokenError, ValueError, AttributeError)


class Source(str):
  """The source of a value that is no literal: `%LAMBDA` or `@network.T5()`."""


@dataclasses.dataclass(frozen=True)
class Binding:
  """`NAME = VALUE`.

  Attributes:
    name: a macro such as `LAMBDA`, or `[SCOPE/]MODULE.CONFIGURABLE.PARAMETER`.
    value: a literal, in which a `Source` stands for each reference.
  """

  name: str
  value: Any

  @property
  def is_macro(self) -> bool:
    return '.' not in self.name

  @property
  def key(self) -> str:
    """The name, the same however much of the module it gives."""
    if self.is_macro:
      return self.name
    scope, slash, selector = self.name.rpartition('/')
    return scope + slash + '.'.join(selector.split('.')[-2:])

  def references(self) -> Iterator[Source]:
    """The references in the value: macros and configurables."""
    yield from _references(self.value)

  def macros(self) -> set[str]:
    """The macros in the value."""
    return {r[1:] for r in self.references() if r.startswith('%')}


@dataclasses.dataclass(frozen=True)
class GinFile:
  """A gin file that was given, with the files that it includes.

  Attributes:
    given: the path as it was given.
    paths: the paths at which it and its includes were found.
    bindings: what they say, in order, each with the path that says it.
  """

  given: str
  paths: Sequence[str]
  bindings: Sequence[tuple[Binding, str]]


def read(gin_file: str, search_paths: Sequence[str]) -> GinFile:
  """Reads a gin file and what it includes.

  Args:
    gin_file: a path, absolute or relative to one of the search paths.
    search_paths: folders, of which the first that has a file counts. After
      them, Python's own path is searched, as gin does.

  Raises:
    UserError: the file, or one that it includes, is not found or is not gin.
  """
  paths: list[str] = []
  bindings: list[tuple[Binding, str]] = []

  def add(name: str) -> None:
    path = _find(name, search_paths)
    paths.append(str(path))
    for statement in _statements(path):
      if isinstance(statement, config_parser.IncludeStatement):
        add(statement.filename)
      else:
        bindings.append((_binding(statement), str(path)))

  try:
    add(gin_file)
  except errors.UserError as e:
    raise errors.UserError(f'--gin_file={gin_file}: {e}') from e
  return GinFile(gin_file, paths, bindings)


def parse_override(override: str) -> Binding:
  """Reads `NAME = VALUE`.

  Raises:
    UserError: it is not one statement of gin.
  """
  name, value = (part.strip() for part in override.split('=', 1))
  try:
    statement, = _parsed(override)
    return _binding(statement)
  except _SYNTAX as e:
    raise errors.UserError(
        f'--gin.{name}={value}: gin cannot read this value; a text needs quotes'
        f' of its own inside those of the shell: --gin.{name}="\'...\'"'
    ) from e


def final(bindings: Sequence[Binding]) -> Mapping[str, Binding]:
  """Key -> the last binding of it."""
  return {b.key: b for b in bindings}


class _Delegate(config_parser.ParserDelegate):

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return Source(f'@{scoped_configurable_name}{"()" if evaluate else ""}')

  def macro(self, macro_name):
    return Source(f'%{macro_name}')


def _parsed(text: str) -> Iterator[Any]:
  return config_parser.ConfigParser(text, _Delegate())


def _statements(path: epath.Path) -> list[Any]:
  """The bindings and includes of a file."""
  try:
    return [
        s for s in _parsed(path.read_text())
        if isinstance(
            s, (config_parser.BindingStatement, config_parser.IncludeStatement)
        )
    ]
  except _SYNTAX as e:
    raise errors.UserError(
        f'{path}: gin cannot read this: {" ".join(str(e).split())}'
    ) from e


def _binding(statement: config_parser.BindingStatement) -> Binding:
  scope = f'{statement.scope}/' if statement.scope else ''
  parameter = f'.{statement.arg_name}' if statement.arg_name else ''
  return Binding(f'{scope}{statement.selector}{parameter}', statement.value)


def _find(name: str, search_paths: Sequence[str]) -> epath.Path:
  for folder in ('', *search_paths, *sys.path):
    path = epath.Path(folder, name)
    if path.is_file():
      return path
  folders = ', '.join(map(str, filter(None, search_paths)))
  raise errors.UserError(f'{name}: no such gin file, here or in {folders}')


def _references(value: Any) -> Iterator[Source]:
  if isinstance(value, Source):
    yield value
  elif isinstance(value, Mapping):
    for item in value.items():
      yield from _references(item)
  elif isinstance(value, (list, tuple)):
    for item in value:
      yield from _references(item)
