"""What a model is asked about one text: checked and rendered.

A query is a mapping, such as a line of a JSONL file. To rank or to explain:

    {"input": TEXT, "instruction": TEXT, "options": [TEXT, TEXT]}

to guess the instruction:

    {"input": TEXT, "output": TEXT}

and to do either with a row of a dataset, in one of its templates:

    {"dataset": NAME, "template": NAME, "row": {FIELD: VALUE}}
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import difflib
import functools
from typing import Any

from flipped_t5x import errors
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.tasks import catalog
import jinja2

# What a text of one's own is described by; `output` goes with a row, too.
RANK_KEYS = ('input', 'instruction', 'options')
GUESS_KEYS = ('input', 'output')
_ROW_KEYS = ('dataset', 'template', 'row')
_INPUT = '{{input}}'


class QueryError(errors.UserError):
  """One query of several is wrong.

  Attributes:
    index: its number, from 0.
    reason: what is wrong.
  """

  def __init__(self, index: int, reason: str):
    super().__init__(f'row {index + 1}: {reason}')
    self.index = index
    self.reason = reason


def check(query: Mapping[str, Any], text_keys: Sequence[str]) -> dict[str, Any]:
  """Checks a query's keys and types.

  Args:
    query: see above; None counts as not given.
    text_keys: `RANK_KEYS` or `GUESS_KEYS`.

  Returns:
    What is given.

  Raises:
    UserError: an unknown key, one too many or too few, or a wrong type.
  """
  known = [*text_keys, *_ROW_KEYS]
  if not isinstance(query, Mapping):
    raise errors.UserError(f'a row must map keys to values and is {query!r}')
  for key in query:
    if key not in known:
      near = difflib.get_close_matches(str(key), known, 1) or known
      raise errors.UserError(f'unknown key {key!r}; nearest: {near}')
  given = {k: v for k, v in query.items() if v is not None}
  from_row = [k for k in _ROW_KEYS if k in given]
  others = [k for k in text_keys if k in given and k != 'output']
  if from_row and others:
    raise errors.UserError(
        f'{others[0]} and {from_row[0]} cannot both be given: either'
        f' {", ".join(text_keys)}, or {", ".join(_ROW_KEYS)}'
    )
  needed = set(_ROW_KEYS if from_row else text_keys) - given.keys()
  if isinstance(given.get('template'), templates_lib.Template):
    needed.discard('dataset')
  for key in known:
    if key in needed:
      raise errors.UserError(
          f'{key} is missing: either {", ".join(text_keys)}, or'
          f' {", ".join(_ROW_KEYS)} are needed'
      )
  for key, value in given.items():
    _check_type(key, value)
  return given


def _check_type(key: str, value: Any) -> None:
  if key == 'row':
    if not isinstance(value, Mapping):
      raise errors.UserError(f'row must map fields to values and is {value!r}')
  elif key == 'options':
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(option, str) for option in value)
    ):
      raise errors.UserError(
          f'options must be a list of texts and is {value!r}'
      )
  elif not isinstance(value, str) and not (
      key == 'template' and isinstance(value, templates_lib.Template)
  ):
    raise errors.UserError(f'{key} must be a text and is {value!r}')


def render_to_rank(
    query: Mapping[str, Any], max_field_chars: int | None = None
) -> templates_lib.Rendered:
  """The instruction, the instance and the options of a query.

  Args:
    query: see above. A row needs no label.
    max_field_chars: cuts the fields that a template inserts.

  Returns:
    What a format makes texts of; which option is right is not known.

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
        f'options {list(options)}: at least two are needed, none empty, all'
        ' different'
    )
  instruction = given['instruction']
  if not instruction.replace(_INPUT, '').strip():
    raise errors.UserError('the instruction is empty; it is what is scored')
  return rendered_text(instruction, given['input'], options)


def render_to_guess(
    query: Mapping[str, Any], max_field_chars: int | None = None
) -> tuple[templates_lib.Rendered, str]:
  """The instance and the label of a query whose instruction is to be guessed.

  Args:
    query: see above. A row is shown with its own label if no `output` is given.
    max_field_chars: cuts the fields that a template inserts.

  Returns:
    What a format makes texts of, without chunks for a text of one's own; and
    the label.

  Raises:
    UserError: the query is wrong, or its row does not fit the template.
  """
  given = check(query, GUESS_KEYS)
  output = given.get('output', '').strip()
  if 'output' in given and not output:
    raise errors.UserError(
        'the output is empty; it is what the instruction asks for'
    )
  if 'row' not in given:
    return templates_lib.Rendered((given['input'],), (), (), gold=0), output
  template = find_template(
      given.get('dataset'), given['template'], max_field_chars
  )
  if output:
    return _render(template.render_prompt, template, given['row']), output
  rendered = _render(
      template.render, template, given['row'], '; give an output, or a label'
  )
  return rendered, rendered.options[rendered.gold]


def rendered_text(
    instruction: str, text: str, options: tuple[str, ...]
) -> templates_lib.Rendered:
  """An instruction and a text as if a template had been rendered.

  Args:
    instruction: `{{input}}` in it marks the text's place; without it the text
      comes first.
    text: the text.
    options: the options.
  """
  if _INPUT not in instruction:
    instruction = f'{_INPUT} {instruction}'
  parts, chunks = [], []
  for i, literal in enumerate(instruction.split(_INPUT)):
    if i:
      parts.append(text)
    if literal:
      parts.append(len(chunks))
      chunks.append(literal)
  return templates_lib.Rendered(tuple(parts), tuple(chunks), options, gold=0)


def find_template(
    dataset: str | None,
    template: str | templates_lib.Template,
    max_field_chars: int | None = None,
) -> templates_lib.Template:
  """A template by name; UserError gives the nearest names.

  Args:
    dataset: a dataset of the catalog, or of promptsource.
    template: its name, or the template itself.
    max_field_chars: how far the template cuts fields; see
      `templates.Template`.
  """
  if isinstance(template, templates_lib.Template):
    return _cut_to(template, max_field_chars)
  datasets = catalog.catalog()
  if dataset in datasets:
    found = datasets[dataset].load_templates(max_field_chars)
  else:
    try:
      found = templates_lib.load(dataset, max_field_chars)
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
    template: templates_lib.Template, max_field_chars: int | None
) -> templates_lib.Template:
  return template.cut_to(max_field_chars)


def _render(
    render: Callable[[Mapping[str, Any]], templates_lib.Rendered],
    template: templates_lib.Template,
    row: Mapping[str, Any],
    hint: str = '',
) -> templates_lib.Rendered:
  """Renders a row, with the same draws whatever its place among others."""
  try:
    return render(row)
  except templates_lib.Dropped as e:
    raise errors.UserError(f'{template!r} cannot use the row: {e}{hint}') from e
  except ValueError as e:
    if isinstance(e.__cause__, jinja2.UndefinedError):
      raise errors.UserError(
          f'{e}: the row lacks a field that the template reads{hint}'
      ) from e
    raise
