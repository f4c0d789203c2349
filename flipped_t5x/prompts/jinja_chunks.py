"""Splits a template's literal text into numbered chunks, with Jinja's parser.

Every run of literal text left of `|||` is one *chunk*, numbered in the order of
the source. The syntax tree is changed so that it prints the chunk's number, in
marks, instead of its text; rendering it then gives the parts of the prompt.

Templates and rows are untrusted text: the environment is a Jinja sandbox in
which only a few methods of strings and lists can be called, and in which time
and memory are bounded, see `render_limits.py`.
"""

import collections
from collections.abc import Mapping, Sequence
import functools
import re
from typing import Any

from flipped_t5x import errors
from flipped_t5x.prompts import render_limits
import jinja2
from jinja2 import filters
from jinja2 import nodes
from jinja2 import runtime
from jinja2 import sandbox

SEPARATOR = '|||'

# Unicode reserves U+FDD0 to U+FDEF for use inside programs. A text may have
# them nevertheless; what a template inserts is therefore escaped.
_OPEN, _CLOSE, _ESCAPE = '\ufdd0', '\ufdd1', '\ufdd2'
_TARGET_MARK = f'{_OPEN}target{_CLOSE}'
_CHUNK_MARK = re.compile(f'{_OPEN}([0-9]+){_CLOSE}')
_CODES = {_OPEN: 'o', _CLOSE: 'c', _ESCAPE: 'e', SEPARATOR: 's'}
_MARK = re.compile(f'[{_OPEN}{_CLOSE}{_ESCAPE}]')
_MARK_OR_SEPARATOR = re.compile(f'{_MARK.pattern}|{re.escape(SEPARATOR)}')
_ESCAPED = re.compile(f'{_ESCAPE}([{"".join(_CODES.values())}])')
_MEANINGS = {code: text for text, code in _CODES.items()}

_SAFE_METHODS = frozenset((
    'capitalize', 'count', 'endswith', 'find', 'index', 'join', 'lower',
    'lstrip', 'replace', 'rstrip', 'split', 'startswith', 'strip', 'title',
    'upper',
))
_LOOP_ATTRIBUTES = frozenset(('first', 'index', 'index0', 'last', 'length'))
_UNSUPPORTED = (
    nodes.AssignBlock, nodes.Block, nodes.CallBlock, nodes.Extends,
    nodes.FilterBlock, nodes.FromImport, nodes.Import, nodes.Include,
    nodes.Macro, nodes.ScopedEvalContextModifier, nodes.With,
)


class Sandbox(sandbox.ImmutableSandboxedEnvironment):
  """Jinja without attributes, except a few of strings, lists and loops."""

  def is_safe_attribute(self, obj, attr, value):
    if isinstance(obj, runtime.LoopContext):
      return attr in _LOOP_ATTRIBUTES
    return isinstance(obj, (str, list, tuple)) and attr in _SAFE_METHODS

  def wrap_str_format(self, value):
    return None  # Otherwise `format` would bypass `is_safe_attribute`.

  intercepted_binops = render_limits.OPERATORS

  def call_binop(self, context, operator, left, right):
    render_limits.operate(operator, left, right)
    return super().call_binop(context, operator, left, right)

  def call(self, context, obj, *args, **kwargs):
    owner = getattr(obj, '__self__', None)
    if isinstance(owner, str) and obj.__name__ == 'replace':
      return render_limits.replace(owner, *args, **kwargs)
    if isinstance(owner, str) and obj.__name__ == 'join':
      values, = args
      return render_limits.join(values, owner)
    return super().call(context, obj, *args, **kwargs)

  def parse(self, source, name=None, filename=None):
    """The syntax tree, whose loops and assignments are bounded.

    Raises:
      TemplateError: it is not Jinja, or too long or too deep to be read.
      UserError: it has statements that are not allowed.
    """
    if len(source) > render_limits.MAX_SOURCE:
      raise render_limits.TooMuch(
          f'it has {len(source):,} characters; {render_limits.MAX_SOURCE:,} are'
          ' allowed'
      )
    try:
      tree = super().parse(source, name, filename)
      _check_statements(tree)
      return render_limits.instrument(tree)
    except RecursionError as e:
      raise render_limits.TooMuch('it is nested too deeply') from e

  def from_string(self, source, *args, **kwargs):
    """A compiled template; raises what `parse` does."""
    try:
      return super().from_string(source, *args, **kwargs)
    # What Python's own compiler raises for very deep expressions.
    except (MemoryError, RecursionError, SyntaxError) as e:
      raise render_limits.TooMuch('it is nested too deeply') from e


@functools.cache
def environment(max_field_chars: int | None) -> Sandbox:
  """A sandbox with promptsource's globals and filters."""
  env = Sandbox(undefined=jinja2.StrictUndefined, finalize=inserted)
  env.globals = {'range': env.globals['range'], 'zip': zip}
  env.filters = {
      **{
          name: render_limits.bounded(env.filters[name])
          for name in render_limits.FILTERS
      },
      'choice': _choice,
      'random': _choice,
      'most_frequent': _most_frequent,
      'replace': render_limits.replace,
      'join': render_limits.join,
      'format': render_limits.formatted,
      '_ticking': render_limits.ticking,
      '_assigned': render_limits.assigned,
  }
  if max_field_chars is not None:
    env.finalize = lambda value: inserted(filters.do_truncate(
        env, str(render_limits.checked(value)), max_field_chars
    ) if value is not None else None)
  return env


@jinja2.pass_context
def _choice(context, values):
  return context['_rng'].choice(values)


def _most_frequent(values):
  """All values that occur most often, in order of first occurrence."""
  counts = collections.Counter(values)
  most = max(counts.values(), default=0)
  return [v for v, n in counts.items() if n == most]


def inserted(value: Any) -> str:
  """What an expression inserts, as `finalize` of an environment.

  Args:
    value: the value of the expression.

  Returns:
    Its text, in which nothing looks like a mark of `split`; `parts` restores
    it.
  """
  if value is None:  # A field that is null has no text, and no text "None".
    return ''
  return _escape(str(render_limits.checked(value)), _MARK)


def _escape(text: str, pattern: re.Pattern[str]) -> str:
  return pattern.sub(lambda match: _ESCAPE + _CODES[match[0]], text)


def _unescape(text: str) -> str:
  return _ESCAPED.sub(lambda match: _MEANINGS[match[1]], text)


def hide_separators(value: Any) -> Any:
  """Keeps a `|||` inside the data from ending an option."""
  if isinstance(value, str):
    return _escape(value, _MARK_OR_SEPARATOR)
  if isinstance(value, Mapping):
    return {k: hide_separators(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [hide_separators(v) for v in value]
  return value


def split_options(text: str) -> list[str]:
  """The options of rendered answer choices, with the data's own `|||` back."""
  # Escaped twice: before a field was rendered, and as what was inserted.
  return [
      _unescape(_unescape(option.strip())) for option in text.split(SEPARATOR)
  ]


def parts(text: str) -> tuple[tuple[int | str, ...], str | None]:
  """Takes apart what a template that `split` has marked renders.

  Args:
    text: the whole text.

  Returns:
    The prompt in order, where an int is the number of a chunk and a str what
    was inserted; and the answer, None if the text has no `|||`.
  """
  prompt, mark, answer = text.partition(_TARGET_MARK)
  # An odd-numbered piece is the number of a chunk (one group in the pattern).
  pieces = _CHUNK_MARK.split(prompt)
  found = (int(p) if i % 2 else _unescape(p) for i, p in enumerate(pieces))
  return tuple(p for p in found if p != ''), _unescape(answer) if mark else None


def split(tree: nodes.Template) -> tuple[str, ...]:
  """Replaces the prompt's literal text by chunk marks, in place.

  Args:
    tree: a parsed template.

  Returns:
    The literal text of each chunk.

  Raises:
    UserError: there is no `|||`, more than one, or one that cannot be found
      before rendering; or the text has characters that are used as marks.
  """
  _check_statements(tree)
  count = sum(
      n.data.count(SEPARATOR) for n in tree.find_all(nodes.TemplateData)
  )
  if count != 1:
    raise errors.UserError(
        f"has {count} times '{SEPARATOR}' in its text; once is needed, between"
        ' the prompt and the answer'
    )
  if any(_MARK.search(n.data) for n in tree.find_all(nodes.TemplateData)):
    raise errors.UserError(
        'its text has one of the characters U+FDD0 to U+FDD2, which Unicode'
        ' keeps out of texts'
    )
  chunks: list[str] = []
  _split_body(tree.body, chunks)
  return tuple(chunks)


def _check_statements(tree: nodes.Template) -> None:
  """UserError where a statement cannot be split, or calls itself."""
  unsupported = next(tree.find_all(_UNSUPPORTED), None)
  if unsupported is not None:
    kind = type(unsupported).__name__
    raise errors.UserError(
        f'line {unsupported.lineno}: Jinja {kind} is not allowed'
    )
  if any(loop.recursive for loop in tree.find_all(nodes.For)):
    raise errors.UserError('a recursive loop is not allowed')


def _split_body(body: Sequence[nodes.Node], chunks: list[str]) -> bool:
  """Marks the chunks of statements; returns whether `|||` is in them."""
  in_target = False
  for node in body:
    if in_target:
      _guard_gold(node)
    elif isinstance(node, nodes.Output):
      in_target = _split_output(node, chunks)
    elif isinstance(node, nodes.If):
      branches: list[Sequence[nodes.Node]] = [
          node.body, *([e] for e in node.elif_), node.else_
      ]
      passed = [_split_body(branch, chunks) for branch in branches]
      in_target = any(passed)
    elif isinstance(node, nodes.For):
      passed = [_split_body(b, chunks) for b in (node.body, node.else_)]
      if any(passed):
        raise errors.UserError(
            f"line {node.lineno}: '{SEPARATOR}' inside a loop"
        )
  return in_target


def drop_answer(body: list[nodes.Node]) -> bool:
  """Removes what follows `|||` from statements that `split` has marked.

  Args:
    body: the statements, which are changed in place.

  Returns:
    Whether `|||` is in them.
  """
  for i, node in enumerate(body):
    found = False
    if isinstance(node, nodes.Output):
      for j, child in enumerate(node.nodes):
        if isinstance(child, nodes.TemplateData) and _TARGET_MARK in child.data:
          prompt, mark, _ = child.data.partition(_TARGET_MARK)
          child.data = prompt + mark
          del node.nodes[j + 1 :]
          found = True
          break
    elif isinstance(node, nodes.If):
      branches = [node.body, *(e.body for e in node.elif_), node.else_]
      dropped = [drop_answer(branch) for branch in branches]
      found = any(dropped)
    if found:
      del body[i + 1 :]
      return True
  return False


def _split_output(output: nodes.Output, chunks: list[str]) -> bool:
  """Marks the chunks of an Output node; returns whether `|||` is in it."""
  children: list[nodes.Expr] = []
  in_target = False
  for node in _merge_data(output.nodes):
    if in_target:
      _guard_gold(node)
    elif isinstance(node, nodes.TemplateData):
      text, pipes, answer = node.data.partition(SEPARATOR)
      if text:
        chunks.append(text)
        text = f'{_OPEN}{len(chunks) - 1}{_CLOSE}'
      if pipes:
        text += _TARGET_MARK + answer
        in_target = True
      node = nodes.TemplateData(text, lineno=node.lineno)
    children.append(node)
  output.nodes = children
  return in_target


def _merge_data(children: Sequence[nodes.Expr]) -> list[nodes.Expr]:
  """Joins neighbouring literals that a comment separates."""
  merged: list[nodes.Expr] = []
  for node in children:
    last = merged[-1] if merged else None
    if isinstance(node, nodes.TemplateData) and isinstance(
        last, nodes.TemplateData
    ):
      merged[-1] = nodes.TemplateData(
          last.data + node.data, lineno=last.lineno
      )
    else:
      merged.append(node)
  return merged


def _guard_gold(node: nodes.Node) -> None:
  """Makes `answer_choices[label]` refuse -1 in the answer's expressions."""
  names = [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)
  for name in names:
    if name.name == 'answer_choices' and name.ctx == 'load':
      name.name = '_gold'
