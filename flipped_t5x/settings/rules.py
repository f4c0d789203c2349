"""What may be set, by which gin file, in which order; for both engines.

What changes a run stands in its settings, and what changes nothing is refused.
"""

from collections.abc import Iterable, Iterator, Sequence
import difflib
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x.settings import macro_types
from flipped_t5x.settings import statements

# Folder of a gin file -> whether its files are whole runs, or parts of runs.
_FOLDERS = {
    'runs': 'run', 'experiment': 'run', 'models': 'part', 'methods': 'part',
    'adapters': 'part',
}
_OWN = 'own'
_Bindings = Sequence[statements.Binding]


def check(
    gin_files: Sequence[str],
    overrides: Sequence[str],
    search_paths: Sequence[str],
) -> dict[str, Any]:
  """Checks gin files and overrides before gin reads them.

  Args:
    gin_files: paths, absolute or relative to a search path.
    overrides: texts `NAME = VALUE`.
    search_paths: folders.

  Returns:
    Name -> value, for what overrides and files outside of gin/ set besides
    macros in capitals; a value that is no literal as its source. It belongs to
    the settings of the run.

  Raises:
    UserError: a file or an override changes nothing, has a value of the wrong
      type, takes the place of a macro, or comes in an order in which it would
      undo what an earlier file says; or see `statements.read`.
  """
  files = [statements.read(name, search_paths) for name in gin_files]
  _check_order(files)
  before = [binding for file in files for binding, _ in file.bindings]
  given = [statements.parse_override(text) for text in overrides]
  for override in given:
    _check_override(override, before, [*before, *given], gin_files)
  own = [
      binding for file in files for binding, path in file.bindings
      if _kind(path) == _OWN
  ]
  _check_own(own, [*before, *given], files)
  last = statements.final([*before, *given])
  macro_types.check(
      {b.name: b.value for b in last.values() if b.is_macro},
      ' '.join([f'--gin_file={name}' for name in gin_files]),
  )
  return {
      b.name: _recorded(b.value)
      for b in statements.final([*own, *given]).values()
      if not (b.is_macro and b.name.isupper())
      and not _is_macro_reference(b.value)
  }


def _kind(path: str) -> str:
  return _FOLDERS.get(pathlib.PurePosixPath(path).parent.name, _OWN)


def _check_order(files: Sequence[statements.GinFile]) -> None:
  """UserError if a file undoes what one before it says.

  The values of a run are there to be replaced, by models, methods and files of
  one's own; and the latter replace everything.
  """
  owners: dict[str, tuple[Any, str, str]] = {}
  for file in files:
    kinds = [_kind(path) for path in file.paths]
    kind = 'run' if 'run' in kinds else kinds[0]
    values = {
        key: binding.value for key, binding
        in statements.final([b for b, _ in file.bindings]).items()
        if binding.is_macro
    }
    if kind != _OWN:
      undone = [
          name for name, value in values.items()
          if name in owners and owners[name][0] != value
          and owners[name][1] != 'run'
      ]
      if undone:
        _, other, earlier = owners[undone[0]]
        undone = [name for name in undone if owners[name][2] == earlier]
        advice = (
            'give only one of them' if (kind, other) == ('part', 'part')
            else f'give it before {earlier}'
        )
        raise errors.UserError(
            f'--gin_file={file.given}: it would replace'
            f' {", ".join(sorted(undone))} of {earlier}; {advice}'
        )
    owners |= {n: (value, kind, file.given) for n, value in values.items()}


def _check_override(
    override: statements.Binding,
    before: _Bindings,
    after: _Bindings,
    gin_files: Sequence[str],
) -> None:
  """UserError if an override has no effect, or one that the macros hide.

  Args:
    override: the override.
    before: what the files say.
    after: what the files and all overrides say.
    gin_files: the files, for the error.
  """
  flag = f'--gin.{override.name}'
  read = macros_read(after)
  defined = {b.name for b in before if b.is_macro}
  if override.is_macro and override.name not in read:
    if override.name in defined:
      raise errors.UserError(
          f'{flag}: nothing in this run reads it; leave it out'
      )
    raise errors.UserError(
        f'{flag}: {" ".join(gin_files)} has no such macro; nearest:'
        f' {_nearest(override.name, defined & read)}'
    )
  old = statements.final(before).get(override.key)
  if old is None:
    return
  hidden = macros_read(before) - macros_read([*before, override])
  if not override.is_macro or _is_macro_reference(old.value):
    hidden |= macros_read(before, [old])
  hidden -= {'gin.REQUIRED'}
  if hidden:
    raise errors.UserError(
        f'{flag} would take the place of {", ".join(sorted(hidden))}, which the'
        ' settings of the run would still show: set'
        f' {" or ".join(f"--gin.{name}" for name in sorted(hidden))}'
    )


def _check_own(
    own: _Bindings, bindings: _Bindings, files: Sequence[statements.GinFile]
) -> None:
  """UserError if a file outside of gin/ sets a macro that nobody knows.

  A macro that is known, but not read in this run, is no mistake: models/ set
  what only one of the engines reads.
  """
  read = macros_read(bindings)
  unread = [b.name for b in own if b.is_macro and b.name not in read]
  if not unread:
    return
  known = {
      b.name for file in files for b, path in file.bindings
      if b.is_macro and _kind(path) != _OWN
  } | macro_types.NAMES
  for name in unread:
    if name not in known:
      raise errors.UserError(
          f'{" ".join(file.given for file in files)}: the macro {name} is set,'
          f' but nothing reads it; nearest: {_nearest(name, read)}'
      )


def _nearest(name: str, known: Iterable[str]) -> list[str]:
  known = sorted(known)
  return difflib.get_close_matches(name.upper(), known) or known


def macros_read(
    bindings: _Bindings, readers: _Bindings | None = None
) -> set[str]:
  """The macros that bindings read, also through what they refer to.

  Args:
    bindings: all statements, in order.
    readers: the bindings that read; None for those of every configurable to
      which no statement refers. Others read if one of these leads to them.
  """
  last = statements.final(bindings)
  referred = {
      _configurable(r)[1]
      for b in bindings for r in b.references() if r.startswith('@')
  }
  groups: dict[tuple[str, str], list[statements.Binding]] = {}
  for b in last.values():
    if not b.is_macro:
      groups.setdefault(_configurable(b.key.rpartition('.')[0]), []).append(b)
  macros: set[str] = set()
  seen: set[str] = set()
  waiting = [
      b for (_, name), group in groups.items() if name not in referred
      for b in group
  ] if readers is None else [*readers]
  while waiting:
    for reference in set(waiting.pop().references()) - seen:
      seen.add(reference)
      if reference.startswith('%'):
        macros.add(reference[1:])
        waiting += filter(None, [last.get(reference[1:])])
      else:
        scope, name = _configurable(reference)
        for outer in ('', *_outer_scopes(scope)):
          waiting += groups.get((outer, name), [])
  return macros


def _configurable(text: str) -> tuple[str, str]:
  """(scope, name) of `[@][SCOPE/][MODULE.]NAME[()]`."""
  scope, _, selector = text.strip('@()').rpartition('/')
  return scope, selector.rpartition('.')[2]


def _outer_scopes(scope: str) -> Iterator[str]:
  parts = scope.split('/')
  for length in range(1, len(parts) + 1):
    if scope:
      yield '/'.join(parts[:length])


def _is_macro_reference(value: Any) -> bool:
  return (
      isinstance(value, statements.Source) and value.startswith('%')
      and value != '%gin.REQUIRED'
  )


def _recorded(value: Any) -> Any:
  """A value as settings have it; one with references as text."""
  if any(statements.Binding('', value).references()):
    return str(value)
  return value
