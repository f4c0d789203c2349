"""Checks and renders queries: what a model is asked about one text.

A query is a mapping, such as a line of a JSONL file. To rank options, or to
explain their ranking, it has the form

    {"input": TEXT, "instruction": TEXT, "options": [TEXT, TEXT]}

To guess the instruction, it has the form

    {"input": TEXT, "output": TEXT}

For a row of a dataset in one of its templates, both have the form

    {"dataset": NAME, "template": NAME, "row": {FIELD: VALUE}}
"""

from collections.abc import Callable, Mapping, Sequence
import difflib
import functools
import itertools
from typing import Any

from flipped_t5x import errors
from flipped_t5x.prompts import jinja_chunks
from flipped_t5x.prompts import templates
import jinja2
from jinja2 import nodes

# The keys of a query that has no row. A query with a row may have `output` too.
RANK_KEYS = ('input', 'instruction', 'options')
GUESS_KEYS = ('input', 'output')
_ROW_KEYS = ('dataset', 'template', 'row')
_INPUT = 'input'  # The name that an instruction may insert.


class QueryError(errors.UserError):
  """One of several queries is wrong.

  Attributes:
    index: the number of the query, from 0.
    reason: what is wrong with it.
  """

  def __init__(self, index: int, reason: str):
    super().__init__(f'row {index + 1}: {reason}')
    self.index = index
    self.reason = reason


def check(query: Mapping[str, Any], text_keys: Sequence[str]) -> dict[str, Any]:
  """Checks a query's keys and types.

  Args:
    query: a query as described above. A key whose value is None counts as not
      given.
    text_keys: `RANK_KEYS` or `GUESS_KEYS`.

  Returns:
    The query without the keys that are not given.

  Raises:
    UserError: a key is unknown, missing or in conflict with another one, or a
      value has the wrong type.
  """
  known = [*text_keys, *_ROW_KEYS]
  if not isinstance(query, Mapping):
    raise errors.UserError(
        f'a row must be a mapping of keys to values, not {query!r}'
    )
  for key in query:
    if key not in known:
      near = difflib.get_close_matches(str(key), known, 1) or known
      raise errors.UserError(f'unknown key {key!r}; nearest: {near}')
  given = {k: v for k, v in query.items() if v is not None}
  from_row = [k for k in _ROW_KEYS if k in given]
  others = [k for k in text_keys if k in given and k != 'output']
  if from_row and others:
    raise errors.UserError(
        f'{others[0]} and {from_row[0]} cannot both be given: give either'
        f' {", ".join(text_keys)}, or {", ".join(_ROW_KEYS)}'
    )
  needed = set(_ROW_KEYS if from_row else text_keys) - given.keys()
  if isinstance(given.get('template'), templates.Template):
    needed.discard('dataset')
  for key in known:
    if key in needed:
      raise errors.UserError(
          f'{key} is missing: give either {", ".join(text_keys)}, or'
          f' {", ".join(_ROW_KEYS)}'
      )
  for key, value in given.items():
    _check_type(key, value)
  return given


def _check_type(key: str, value: Any) -> None:
  if key == 'row':
    if not isinstance(value, Mapping):
      raise errors.UserError(
          f'row must be a mapping of fields to values, not {value!r}'
      )
  elif key == 'options':
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(option, str) for option in value)
    ):
      raise errors.UserError(
          f'options must be a list of texts, not {value!r}'
      )
  elif not isinstance(value, str) and not (
      key == 'template' and isinstance(value, templates.Template)
  ):
    raise errors.UserError(f'{key} must be a text, not {value!r}')


def render_to_rank(
    query: Mapping[str, Any], max_field_chars: int | None = None
) -> templates.Rendered:
  """Renders the instruction, the instance and the options of a query.

  Args:
    query: a query as described above. A row needs no label.
    max_field_chars: the most characters of each field that a template inserts;
      None for no limit.

  Returns:
    The rendered prompt; its `gold` is 0 and has no meaning.

  Raises:
    UserError: the query is wrong, or its row does not fit the template.
  """
  given = check(query, RANK_KEYS)
  if 'row' in given:
    template = find_template(
        given.get('dataset'), given['template'], max_field_chars
    )
    return _render(template.render_prompt, template, given['row'])
  options = tuple(option.strip() for option in given['options'])
  if len(options) < 2 or len(set(options)) < len(options) or '' in options:
    raise errors.UserError(
        f'options {list(options)}: give at least two different options, none of'
        ' them empty'
    )
  rendered = rendered_text(given['instruction'], given['input'], options)
  if not ''.join(rendered.chunks).strip():
    raise errors.UserError('the instruction is empty, and it is what is scored')
  return rendered


def render_to_guess(
    query: Mapping[str, Any], max_field_chars: int | None = None
) -> tuple[templates.Rendered, str]:
  """Renders the instance and the label of a query to guess the instruction.

  Args:
    query: a query as described above. Without `output`, the label of the row is
      used.
    max_field_chars: the most characters of each field that a template inserts;
      None for no limit.

  Returns:
    The rendered prompt, without chunks if the query has no row, and the label.

  Raises:
    UserError: the query is wrong, or its row does not fit the template.
  """
  given = check(query, GUESS_KEYS)
  output = given.get('output', '').strip()
  if 'output' in given and not output:
    raise errors.UserError(
        'the output is empty: give the label that the instruction leads to'
    )
  if 'row' not in given:
    return templates.Rendered((given['input'],), (), (), gold=0), output
  template = find_template(
      given.get('dataset'), given['template'], max_field_chars
  )
  if output:
    return _render(template.render_prompt, template, given['row']), output
  rendered = _render(
      template.render, template, given['row'],
      '; give an output, or a row with a label',
  )
  return rendered, rendered.options[rendered.gold]


def rendered_text(
    instruction: str, text: str, options: tuple[str, ...]
) -> templates.Rendered:
  """Puts an instruction and a text together as a template would.

  Args:
    instruction: the instruction, in Jinja. `{{ input }}` in it marks the place
      of the text; without it the text comes first.
    text: the text.
    options: the options.

  Returns:
    The rendered prompt; its `gold` is 0 and has no meaning.

  Raises:
    UserError: the instruction is not Jinja, or inserts anything else.
  """
  pieces = _pieces(instruction)
  if None not in pieces:
    pieces = [None, ' ', *pieces]
  parts: list[int | str] = []
  chunks: list[str] = []
  for is_text, run in itertools.groupby(pieces, lambda piece: piece is None):
    if is_text:
      parts += [text for _ in run]
    else:
      parts.append(len(chunks))
      chunks.append(''.join(filter(None, run)))
  return templates.Rendered(tuple(parts), tuple(chunks), options, gold=0)


def _pieces(instruction: str) -> list[str | None]:
  """The literal texts of an instruction; None is the place of the text."""
  try:
    tree = jinja_chunks.environment(None).parse(instruction)
  except jinja2.TemplateError as e:
    raise _no_instruction(instruction, str(e)) from e
  pieces: list[str | None] = []
  for statement in tree.body:
    if not isinstance(statement, nodes.Output):
      raise _no_instruction(instruction, 'it has a statement')
    for node in statement.nodes:
      if isinstance(node, nodes.TemplateData):
        pieces.append(node.data)
      elif isinstance(node, nodes.Name) and node.name == _INPUT:
        pieces.append(None)
      else:
        name = getattr(node, 'name', None)
        raise _no_instruction(
            instruction, f'it inserts {name!r}' if name else 'it computes'
        )
  return pieces


def _no_instruction(instruction: str, why: str) -> errors.UserError:
  return errors.UserError(
      f'instruction {instruction!r}: {why}; all that can be inserted is'
      ' {{ input }}, and braces that are to stay are written'
      ' {% raw %}{{ }}{% endraw %}'
  )


def find_template(
    dataset: str | None,
    template: str | templates.Template,
    max_field_chars: int | None = None,
) -> templates.Template:
  """Finds a template by name.

  Args:
    dataset: the name of a dataset in the catalog or in promptsource.
    template: the name of one of its templates, or the template itself.
    max_field_chars: the most characters of each field that the template
      inserts; None for no limit.

  Returns:
    The template.

  Raises:
    UserError: the dataset or the template is unknown; the message lists the
      most similar names.
  """
  if isinstance(template, templates.Template):
    return _cut_to(template, max_field_chars)
  # With PyArrow, takes a while to import; a text needs neither.
  from flipped_t5x.tasks import catalog

  datasets = catalog.catalog()
  if dataset in datasets:
    found = datasets[dataset].load_templates(max_field_chars)
  else:
    try:
      found = templates.load(dataset, max_field_chars)
    except ValueError as e:
      near = difflib.get_close_matches(dataset, datasets, cutoff=0.4)
      raise errors.UserError(f'{e}; in the catalog: {near}') from e
  if template not in found:
    near = difflib.get_close_matches(template, found, cutoff=0.4)
    near = near or list(found)
    raise errors.UserError(
        f'{dataset} has no template {template!r}; nearest: {near}'
    )
  return found[template]


@functools.cache  # Compiling a template takes longer than rendering it.
def _cut_to(
    template: templates.Template, max_field_chars: int | None
) -> templates.Template:
  return template.cut_to(max_field_chars)


def _render(
    render: Callable[[Mapping[str, Any]], templates.Rendered],
    template: templates.Template,
    row: Mapping[str, Any],
    hint: str = '',
) -> templates.Rendered:
  """Renders a row, with the same random choices wherever the row comes from."""
  try:
    return render(row)
  except templates.Dropped as e:
    raise errors.UserError(f'{template!r} cannot use the row: {e}{hint}') from e
  except ValueError as e:
    if isinstance(e.__cause__, jinja2.UndefinedError):
      raise errors.UserError(
          f'{e}: the row lacks a field that the template reads{hint}'
      ) from e
    raise
