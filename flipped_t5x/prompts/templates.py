"""Promptsource templates: parsed once, literal text split from inserted text.

A template is Jinja with the prompt left of `|||` and the answer right of it.
Flipped learning needs to know which characters of the prompt were written by
the template's author (the instruction) and which were inserted from the example
(the instance); `prompts/jinja_chunks.py` tells them apart. A template is
compiled once, and draws its random choices from a seed for each row.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import functools
import importlib.util
import pathlib
import random
from typing import Any

from flipped_t5x import errors
from flipped_t5x.prompts import jinja_chunks
from flipped_t5x.prompts import render_limits
from flipped_t5x.prompts import row_labels
from flipped_t5x.prompts import template_files
import jinja2
from jinja2 import meta
from jinja2 import nodes

# What a template can raise on a row that it was not written for.
_RENDER_ERRORS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError,
    MemoryError, RecursionError, TypeError, ValueError,
)
# The names in a template's context that are not fields of the row.
_CONTEXT = ('answer_choices', '_gold')


class Dropped(Exception):
  """A row that a template cannot use; `str(error)` is the reason to count."""


@dataclasses.dataclass(frozen=True)
class Rendered:
  """One row in one template.

  Attributes:
    parts: the prompt in order: an int is the number of a chunk, a str is text
      that the template inserted.
    chunks: the literal text of every chunk of the template, including those of
      branches that this row did not take.
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
      label: str | None = None,
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
      label: the field that holds a row's label; by default the fields that the
        answer reads and neither the prompt nor the options.

    Raises:
      UserError: if the source does not parse, has no `|||`, has no answer
        choices, uses a Jinja statement that cannot be split, or lists the same
        fixed option twice.
    """
    self.dataset, self.name = dataset, name.strip()
    self.jinja, self.answer_choices = jinja, answer_choices
    self._max_field_chars, self._label = max_field_chars, label
    self.metrics = tuple(metrics)
    env = jinja_chunks.environment(max_field_chars)
    if not answer_choices:
      raise self._error(
          'has no answer choices; flipped learning needs options to rank'
      )
    try:
      tree = env.parse(jinja)
      self.chunks = jinja_chunks.split(tree)
      self._compiled = env.from_string(tree)
      choices = env.parse(answer_choices)
      self._choices = jinja_chunks.environment(None).from_string(choices)
    except (jinja2.TemplateError, ValueError) as e:
      raise self._error(str(e)) from e
    self._fixed_options = None
    if not meta.find_undeclared_variables(choices):
      self._fixed_options = self._render_options({}, 0)
      counts = collections.Counter(self._fixed_options)
      twice = [o for o, n in counts.items() if n > 1]
      if twice:
        raise self._error(f'option {twice[0]!r} appears twice')

  def __repr__(self) -> str:
    return f'{self.dataset} "{self.name}"'

  def _error(self, message: str) -> errors.UserError:
    return errors.UserError(f'{self!r}: {message}')

  @property
  def eligible(self) -> bool:
    """Whether the published recipe uses it: its metrics include accuracy."""
    return 'Accuracy' in self.metrics

  def cut_to(self, max_field_chars: int | None) -> 'Template':
    """The same template with another `max_field_chars`."""
    if max_field_chars == self._max_field_chars:
      return self
    return Template(
        self.dataset, self.name, self.jinja, self.answer_choices, self.metrics,
        max_field_chars, self._label,
    )

  def has_label(self, row: Mapping[str, Any]) -> bool:
    """Whether a row has a label; see `row_labels.is_missing`.

    A field that the row lacks counts as one with a label: only `render` knows
    whether it is needed.

    Args:
      row: field name -> value.
    """
    return not any(
        row_labels.is_missing(row[field])
        for field in self._label_fields if field in row
    )

  @functools.cached_property
  def _label_fields(self) -> frozenset[str]:
    """The fields whose value says whether a row has a label."""
    if self._label:
      return frozenset((self._label,))
    env = jinja_chunks.environment(None)
    whole, prompt, options = (
        meta.find_undeclared_variables(tree)
        for tree in (
            env.parse(self.jinja), self._parse_prompt(),
            env.parse(self.answer_choices),
        )
    )
    return frozenset(whole - prompt - options - {'answer_choices'})

  def render(self, row: Mapping[str, Any], seed: int = 0) -> Rendered:
    """Renders one row.

    Args:
      row: field name -> value, as the dataset's features define them.
      seed: seed of every random `choice` in the template.

    Returns:
      The parts of the prompt, the options and the right one.

    Raises:
      Dropped: the row has no label, fewer than two distinct options or an
        answer that is not an option (as in wiqa), or the template does not
        apply to it.
      UserError: the row lacks a field that the template reads, or its label
        means no option.
    """
    if not self.has_label(row):
      raise Dropped('no label')
    options = self._render_options(row, seed)
    gold = _GoldOptions(options)
    parts, answer = self._render_parts(
        self._compiled, dict(row, answer_choices=options, _gold=gold), seed
    )
    _check_options(options)
    answer = answer.strip()
    if not answer:
      raise Dropped('no answer')
    if answer in options:
      gold_index = options.index(answer)
    elif len(gold.read) == 1:  # "{{ answer_choices[label] }} review."
      gold_index, = gold.read
    else:
      raise Dropped('answer is not an option')
    return Rendered(parts, self.chunks, tuple(options), gold_index)

  def render_prompt(self, row: Mapping[str, Any], seed: int = 0) -> Rendered:
    """Renders one row whose answer is not known; it needs no label.

    Args:
      row: field name -> value, as the dataset's features define them.
      seed: seed of every random `choice` in the template.

    Returns:
      The parts of the prompt and the options; `gold` is 0 and has no meaning.

    Raises:
      Dropped: the row has fewer than two distinct options, or the template does
        not apply to it.
      UserError: the row lacks a field that the prompt reads.
    """
    options = self._render_options(row, seed)
    parts, _ = self._render_parts(
        self._compiled_prompt, dict(row, answer_choices=options), seed
    )
    _check_options(options)
    return Rendered(parts, self.chunks, tuple(options), gold=0)

  @functools.cached_property
  def _compiled_prompt(self) -> jinja2.Template:
    """The template up to `|||`."""
    env = jinja_chunks.environment(self._max_field_chars)
    return env.from_string(self._parse_prompt())

  def _parse_prompt(self) -> nodes.Template:
    """The template up to `|||`, with marks in place of its chunks."""
    tree = jinja_chunks.environment(None).parse(self.jinja)
    jinja_chunks.split(tree)
    jinja_chunks.drop_answer(tree.body)
    return tree

  def _render_parts(
      self, compiled: jinja2.Template, context: Mapping[str, Any], seed: int
  ) -> tuple[tuple[int | str, ...], str]:
    """The parts of the prompt, and the text of the answer."""
    try:
      text = _text(compiled, context, seed)
    except _RENDER_ERRORS as e:
      fields = [name for name in context if name not in _CONTEXT]
      raise self._error(f'{e} (fields: {", ".join(fields)})') from e
    parts, answer = jinja_chunks.parts(text)
    if answer is None:
      raise Dropped('template does not apply')
    return parts, answer

  def _render_options(self, row: Mapping[str, Any], seed: int) -> list[str]:
    """The options of one row, white space stripped."""
    if 'answer_choices' in row:
      raise self._error("a row has a field named 'answer_choices'")
    if self._fixed_options is not None:
      return self._fixed_options
    try:
      text = _text(self._choices, jinja_chunks.hide_separators(row), seed)
    except _RENDER_ERRORS as e:
      raise self._error(f'answer choices: {e}') from e
    return jinja_chunks.split_options(text)


def _text(
    compiled: jinja2.Template, context: Mapping[str, Any], seed: int
) -> str:
  """The text of a template; TooMuch if it takes too long or is too large."""

  def rendered() -> str:
    budget = render_limits.Budget()
    return budget.joined(compiled.generate(
        context, _rng=random.Random(seed), _budget=budget
    ))

  try:
    return rendered()
  except render_limits.TooSlow:
    # The thread's time also has what Python's garbage collector takes, and what
    # a virtual machine does: neither happens twice in the same row.
    return rendered()


def _check_options(options: Sequence[str]) -> None:
  if len(options) < 2:
    raise Dropped('fewer than two options')
  if len(set(options)) < len(options):
    raise Dropped('equal options')


class _GoldOptions(list):
  """The options as the answer sees them, which finds one by a label.

  Attributes:
    read: the indices that the answer has read.
  """

  def __init__(self, options):
    super().__init__(options)
    self.read = set()

  def __getitem__(self, label):
    if isinstance(label, slice):
      return super().__getitem__(label)
    if isinstance(label, jinja2.Undefined):
      str(label)  # Raises, and names the field that the row lacks.
    if row_labels.is_missing(label):
      raise Dropped('no label')
    number = row_labels.option_number(label, self)
    self.read.add(number)
    return super().__getitem__(number)


def promptsource_folder() -> pathlib.Path:
  """The folder of promptsource's YAML files, without importing promptsource."""
  spec = importlib.util.find_spec('promptsource')
  if spec is None or not spec.submodule_search_locations:
    raise errors.MissingPackage(
        'promptsource is not installed; install its templates with: pip install'
        ' --no-deps --ignore-requires-python promptsource==0.2.3'
    )
  return pathlib.Path(spec.submodule_search_locations[0]) / 'templates'


@functools.cache
def load(
    dataset: str,
    max_field_chars: int | None = None,
    label: str | None = None,
) -> Mapping[str, Template]:
  """Promptsource's eligible templates of a dataset.

  Args:
    dataset: promptsource's name, such as `rotten_tomatoes` or `glue/qqp`.
    max_field_chars: see `Template`.
    label: see `Template`.

  Returns:
    Template name -> template, for the templates with answer choices and the
    metric accuracy.

  Raises:
    UserError: promptsource has no such dataset.
  """
  folder = promptsource_folder()
  path = folder / dataset / 'templates.yaml'
  if not path.is_file():
    names = sorted(
        str(p.parent.relative_to(folder)) for p in folder.rglob('*.yaml')
    )
    near = difflib.get_close_matches(dataset, names)
    raise errors.UserError(f'promptsource has no {dataset!r}; nearest: {near}')
  return load_file(path, max_field_chars, label)


@functools.cache
def load_file(
    path: pathlib.Path,
    max_field_chars: int | None = None,
    label: str | None = None,
) -> Mapping[str, Template]:
  """The eligible templates of one YAML file in promptsource's form.

  Args:
    path: the file. Its keys `dataset` and (optional) `subset` are the dataset's
      name.
    max_field_chars: see `Template`.
    label: see `Template`.

  Returns:
    Template name -> template, for the templates with answer choices and the
    metric accuracy.

  Raises:
    UserError: the file does not have promptsource's form, or a template is
      wrong.
  """
  dataset, entries = template_files.read(path)
  loaded: dict[str, Template] = {}
  for entry in entries:
    if 'Accuracy' not in entry.metrics or not entry.answer_choices:
      continue
    try:
      template = Template(
          dataset, entry.name, entry.jinja, entry.answer_choices,
          entry.metrics, max_field_chars, label,
      )
      if template.name in loaded:
        raise errors.UserError(f'{template!r} appears twice')
    except ValueError as e:
      raise errors.UserError(f'{entry.where}: {e}') from e
    loaded[template.name] = template
  if not loaded:
    raise errors.UserError(
        f'{path}: no template has answer choices and the metric Accuracy'
    )
  return loaded
