"""Promptsource templates: parsed once, literal text split from inserted text.

A template is Jinja with the prompt left of `|||` and the answer right of it.
Flipped learning needs to know which characters of the prompt were written by
the template's author (the instruction) and which were inserted from the example
(the instance). Jinja's own parser tells: every run of literal text left of
`|||` is one *chunk*, numbered in the order of the source. The syntax tree is
changed so that it prints the chunk's number instead of its text, and compiled;
rendering it gives the parts of the prompt directly.

Templates and rows are untrusted text: the environment is a Jinja sandbox in
which only a few methods of strings and lists can be called.
"""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import difflib
import functools
import importlib.util
import numbers
import pathlib
import random
import re
from typing import Any

import jinja2
from jinja2 import meta
from jinja2 import nodes
from jinja2 import runtime
from jinja2 import sandbox
import yaml

SEPARATOR = '|||'

# Unicode keeps U+FDD0 to U+FDEF for use inside programs: no text holds them.
_OPEN, _CLOSE, _PIPES = '\ufdd0', '\ufdd1', '\ufdd2'
_TARGET_MARK = f'{_OPEN}target{_CLOSE}'
_CHUNK_MARK = re.compile(f'{_OPEN}([0-9]+){_CLOSE}')

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
# What third-party Jinja can raise on a row that it was not written for.
_RENDER_ERRORS = (
    jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError,
)


class Dropped(Exception):  # pylint: disable=g-bad-exception-name
  """A row that a template cannot use; `str(error)` is the reason to count."""


@dataclasses.dataclass(frozen=True)
class Rendered:
  """One row in one template.

  Attributes:
    parts: the prompt in order; an int is the number of a chunk, a str is text
      that the template inserted.
    chunks: the literal text of every chunk of the template, the branches that
      this row did not take included.
    options: the answer options, distinct, in the template's order.
    gold: index of the right answer in `options`.
  """

  parts: tuple[int | str, ...]
  chunks: tuple[str, ...]
  options: tuple[str, ...]
  gold: int

  @property
  def prompt(self) -> str:
    """The prompt as plain Jinja renders it: every chunk put back."""
    return ''.join(
        self.chunks[p] if isinstance(p, int) else p for p in self.parts
    ).strip()


class Template:
  """One promptsource template, compiled for flipped learning."""

  def __init__(
      self,
      dataset: str,
      name: str,
      jinja: str,
      answer_choices: str | None,
      metrics: Sequence[str] = (),
      max_field_chars: int | None = None,
  ):
    """Parses and compiles the template.

    Args:
      dataset: promptsource's name of the dataset, for messages.
      name: the template's name, unique within the dataset.
      jinja: the template's source, with one `|||`.
      answer_choices: Jinja source of the options, separated by `|||`.
      metrics: promptsource's metric names.
      max_field_chars: cuts every inserted expression to that many characters,
        as promptsource does with 2,048; None inserts the whole text.

    Raises:
      ValueError: if the source does not parse, has no `|||`, has no answer
        choices, uses a Jinja statement that cannot be split, or lists the same
        fixed option twice.
    """
    self.dataset, self.name = dataset, name.strip()
    self.jinja, self.answer_choices = jinja, answer_choices
    self.metrics = tuple(metrics)
    env = _environment(max_field_chars)
    if not answer_choices:
      raise self._error(
          'has no answer choices; flipped learning needs options to rank'
      )
    try:
      tree = env.parse(jinja)
      self.chunks = _split(tree)
      self._compiled = env.from_string(tree)
      choices = env.parse(answer_choices)
      self._choices = _environment(None).from_string(choices)
    except (jinja2.TemplateError, ValueError) as e:
      raise self._error(str(e)) from e
    self._fixed_options = None
    if not meta.find_undeclared_variables(choices):
      self._fixed_options = self._render_options({}, 0)
      counts = collections.Counter(self._fixed_options)
      twice = [o for o, n in counts.items() if n > 1]
      if twice:
        raise self._error(f'option {twice[0]!r} stands twice')

  def __repr__(self) -> str:
    return f'{self.dataset} "{self.name}"'

  def _error(self, message: str) -> ValueError:
    return ValueError(f'{self!r}: {message}')

  @property
  def eligible(self) -> bool:
    """Whether the published recipe uses it: judged by accuracy."""
    return 'Accuracy' in self.metrics

  def render(self, row: Mapping[str, Any], seed: int = 0) -> Rendered:
    """Renders one row.

    Args:
      row: field name -> value, as the dataset's features define them.
      seed: seed of every random `choice` in the template.

    Returns:
      The parts of the prompt, the options and the right one.

    Raises:
      Dropped: the row has no label, under two distinct options, or an answer
        that is not among them (wiqa has such), or the template does not apply.
      ValueError: the row lacks a field that the template reads, or its label is
        out of range.
    """
    if 'answer_choices' in row:
      raise self._error("a row has a field named 'answer_choices'")
    options = self._render_options(row, seed)
    gold = _GoldOptions(options)
    context = dict(row, answer_choices=options, _gold=gold)
    try:
      text = self._compiled.render(context, _rng=random.Random(seed))
    except _RENDER_ERRORS as e:
      raise self._error(f'{e} (fields: {", ".join(row)})') from e
    prompt, mark, answer = text.partition(_TARGET_MARK)
    if not mark:
      raise Dropped('template does not apply')
    if len(options) < 2:
      raise Dropped('fewer than two options')
    if len(set(options)) < len(options):
      raise Dropped('equal options')
    answer = answer.strip()
    if not answer:
      raise Dropped('no answer')
    if answer in options:
      gold_index = options.index(answer)
    elif len(gold.read) == 1:  # "{{ answer_choices[label] }} review."
      gold_index, = gold.read
    else:
      raise Dropped('answer is not an option')
    # An odd-numbered piece is the number of a chunk (one group in the pattern).
    pieces = _CHUNK_MARK.split(prompt)
    parts = (int(p) if i % 2 else p for i, p in enumerate(pieces))
    return Rendered(
        tuple(p for p in parts if p != ''),  # pylint: disable=g-explicit-bool-comparison
        self.chunks,
        tuple(options),
        gold_index,
    )

  def _render_options(self, row: Mapping[str, Any], seed: int) -> list[str]:
    """The options of one row, white space stripped."""
    if self._fixed_options is not None:
      return self._fixed_options
    try:
      text = self._choices.render(_hide_pipes(row), _rng=random.Random(seed))
    except _RENDER_ERRORS as e:
      raise self._error(f'answer choices: {e}') from e
    options = [o.strip() for o in text.split(SEPARATOR)]
    return [o.replace(_PIPES, SEPARATOR) for o in options]


class _GoldOptions(list):
  """The options as the answer sees them: -1 is the hub's "no label".

  Attributes:
    read: the indices that the answer has read.
  """

  def __init__(self, options):
    super().__init__(options)
    self.read = set()

  def __getitem__(self, index):
    if isinstance(index, jinja2.Undefined):
      str(index)  # Raises, and names the field that the row lacks.
    if isinstance(index, numbers.Integral) and index < 0:
      raise Dropped('no label')
    option = super().__getitem__(index)
    if isinstance(index, numbers.Integral):
      self.read.add(int(index))
    return option


class _Sandbox(sandbox.ImmutableSandboxedEnvironment):
  """Jinja without attributes, except a few of strings, lists and loops."""

  def is_safe_attribute(self, obj, attr, value):
    if isinstance(obj, runtime.LoopContext):
      return attr in _LOOP_ATTRIBUTES
    return isinstance(obj, (str, list, tuple)) and attr in _SAFE_METHODS

  def wrap_str_format(self, value):
    return None  # Or `format` would pass without asking `is_safe_attribute`.


@functools.cache
def _environment(max_field_chars: int | None) -> _Sandbox:
  """A sandbox with promptsource's globals and filters."""
  env = _Sandbox(undefined=jinja2.StrictUndefined)
  env.globals['zip'] = zip
  env.filters['choice'] = _choice
  env.filters['most_frequent'] = _most_frequent
  if max_field_chars is not None:
    truncate = env.filters['truncate']
    env.finalize = lambda value: truncate(env, str(value), max_field_chars)
  return env


@jinja2.pass_context
def _choice(context, values):
  return context['_rng'].choice(values)


def _most_frequent(values):
  """All values that occur most often, in order of first occurrence."""
  counts = collections.Counter(values)
  return [v for v, n in counts.items() if n == max(counts.values())]


def _hide_pipes(value):
  """Keeps a `|||` inside the data from ending an option."""
  if isinstance(value, str):
    return value.replace(SEPARATOR, _PIPES)
  if isinstance(value, Mapping):
    return {k: _hide_pipes(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_hide_pipes(v) for v in value]
  return value


def _split(tree: nodes.Template) -> tuple[str, ...]:
  """Replaces the prompt's literal text by chunk marks, in place.

  Args:
    tree: a parsed template.

  Returns:
    The literal text of each chunk.

  Raises:
    ValueError: there is no `|||`, more than one, or one that cannot be found
      before rendering.
  """
  unsupported = next(tree.find_all(_UNSUPPORTED), None)
  if unsupported is not None:
    kind = type(unsupported).__name__
    raise ValueError(f'line {unsupported.lineno}: Jinja {kind} is not allowed')
  count = sum(
      n.data.count(SEPARATOR) for n in tree.find_all(nodes.TemplateData)
  )
  if count != 1:
    raise ValueError(
        f"has {count} times '{SEPARATOR}' in its text; once is needed, between"
        ' the prompt and the answer'
    )
  chunks = []
  _split_body(tree.body, chunks)
  return tuple(chunks)


def _split_body(body: Sequence[nodes.Node], chunks: list[str]) -> bool:
  """Marks the chunks of a list of statements; True once `|||` was passed."""
  in_target = False
  for node in body:
    if in_target:
      _guard_gold(node)
    elif isinstance(node, nodes.Output):
      in_target = _split_output(node, chunks)
    elif isinstance(node, nodes.If):
      branches = [node.body, *([e] for e in node.elif_), node.else_]
      in_target = any([_split_body(b, chunks) for b in branches])
    elif isinstance(node, nodes.For):
      if any([_split_body(b, chunks) for b in (node.body, node.else_)]):
        raise ValueError(f"line {node.lineno}: '{SEPARATOR}' inside a loop")
  return in_target


def _split_output(output: nodes.Output, chunks: list[str]) -> bool:
  """Marks the chunks of one Output node; True once `|||` was passed."""
  children, in_target = [], False
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


def _merge_data(children: Sequence[nodes.Node]) -> list[nodes.Node]:
  """Joins neighbouring literals, which a comment between them separates."""
  merged = []
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


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
  """Reads promptsource's two tags as plain mappings, and no other tag."""


for _tag in ('!Template', '!TemplateMetadata'):
  _Loader.add_constructor(
      _tag, lambda loader, node: loader.construct_mapping(node, deep=True)
  )


def promptsource_folder() -> pathlib.Path:
  """The folder of promptsource's YAML files, without importing promptsource."""
  spec = importlib.util.find_spec('promptsource')
  if spec is None or not spec.submodule_search_locations:
    raise ModuleNotFoundError(
        'promptsource is not installed; install its templates with: pip install'
        ' --no-deps --ignore-requires-python promptsource==0.2.3'
    )
  return pathlib.Path(spec.submodule_search_locations[0]) / 'templates'


@functools.cache
def load(
    dataset: str, max_field_chars: int | None = None
) -> Mapping[str, Template]:
  """Promptsource's eligible templates of a dataset.

  Args:
    dataset: promptsource's name, such as `rotten_tomatoes` or `glue/qqp`.
    max_field_chars: see `Template`.

  Returns:
    Template name -> template, for those with answer choices and accuracy.

  Raises:
    ValueError: promptsource has no such dataset.
  """
  folder = promptsource_folder()
  path = folder / dataset / 'templates.yaml'
  if not path.is_file():
    names = sorted(
        str(p.parent.relative_to(folder)) for p in folder.rglob('*.yaml')
    )
    near = difflib.get_close_matches(dataset, names)
    raise ValueError(f'promptsource has no {dataset!r}; nearest: {near}')
  return load_file(path, max_field_chars)


@functools.cache
def load_file(
    path: pathlib.Path, max_field_chars: int | None = None
) -> Mapping[str, Template]:
  """The eligible templates of one YAML file in promptsource's form.

  Args:
    path: the file; `dataset:` and, where there is one, `subset:` name it.
    max_field_chars: see `Template`.

  Returns:
    Template name -> template, for those with answer choices and accuracy.

  Raises:
    ValueError: the file is not promptsource's form, or a template is unusable.
  """
  try:
    content = yaml.load(path.read_bytes(), _Loader)
    names = content['dataset'], content.get('subset')
    dataset = '/'.join(filter(None, names))
    entries = list(content['templates'].values())
    loaded = {}
    for e in entries:
      metrics = e['metadata'].get('metrics') or ()
      if 'Accuracy' not in metrics or not e['answer_choices']:
        continue
      template = Template(
          dataset, e['name'], e['jinja'], e['answer_choices'], metrics,
          max_field_chars,
      )
      if template.name in loaded:
        raise ValueError(f'{template!r} stands twice')
      loaded[template.name] = template
  except (yaml.YAMLError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(f'{path}: not a promptsource file: {e!r}') from e
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e
  if not loaded:
    raise ValueError(
        f'{path}: no template has answer choices and the metric Accuracy'
    )
  return loaded
