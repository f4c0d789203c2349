"""Instructions in a user's words, as templates in promptsource's form."""

from collections.abc import Mapping, Sequence
import re
from typing import Any

from flipped_t5x import errors
from flipped_t5x.prompts import jinja_chunks
from flipped_t5x.prompts import templates
import jinja2
from jinja2 import meta
import yaml

LABEL, OPTIONS = 'label', 'options'  # Fields of the rows, beside the texts.
_ANSWER = '{{answer_choices[label]}}'
_ROW_OPTIONS = "{{options | join(' ||| ')}}"
_MOST_LISTED = 10  # Labels in the general wordings.
_NAME_CHARS = 60


def general(
    fields: Mapping[str, str], label: str, words: Sequence[str] | None
) -> list[str]:
  """Three wordings that fit any task.

  Args:
    fields: column -> field of each text.
    label: the column of the label.
    words: the labels; None if each row has options of its own.
  """
  body = ' '.join(
      f'{field}: {_inserted(field)}' if len(fields) > 1 else _inserted(field)
      for field in fields.values()
  )
  if words is None:
    listed = "{{options | join(', ')}}"
    return [
        f'{body} Which of these is right: {listed}?',
        f'Choose the best answer. {body} Choices: {listed}',
        f'{body} What is the answer?',
    ]
  kind = ' '.join(re.findall(r'\w+', label.replace('_', ' '))) or LABEL
  listed = f': {", ".join(words)}' if len(words) <= _MOST_LISTED else ''
  return [
      f'{body} Which {kind} fits this{listed}?',
      f'What is the {kind} of the following? {body}',
      f'{body} Choose the right {kind}{listed}',
  ]


def sources(
    instructions: Sequence[str],
    fields: Mapping[str, str],
    words: Sequence[str] | None,
) -> dict[str, templates.Template]:
  """Makes and checks templates.

  Args:
    instructions: each with the fields in double braces, or without any: then
      the texts come first. `|||` and an answer may follow.
    fields: column -> field of each text.
    words: the labels; None if each row has options of its own.

  Returns:
    Name -> template.

  Raises:
    UserError: an instruction is no template, reads what the rows do not have,
      reads the label, has no words of its own, or is there twice.
  """
  made = {}
  options = _ROW_OPTIONS if words is None else ' ||| '.join(words)
  for given in instructions:
    source = _source(given, fields, words is None)
    name = _name(given)
    try:
      template = templates.Template(
          'new', name, source, options, ['Accuracy'], label=LABEL
      )
    except errors.UserError as e:
      raise errors.UserError(f'--instruction {given!r}: {e}') from e
    if not any(re.search(r'\w', chunk) for chunk in template.chunks):
      raise errors.UserError(
          f'--instruction {given!r} has no words of its own: there would be no'
          ' instruction to guess'
      )
    if source in {t.jinja for t in made.values()}:
      raise errors.UserError(f'--instruction {given!r} is there twice')
    while name in made:
      name += '+'
    made[name] = template
  return made


def _inserted(field: str) -> str:
  return '{{' + field + '}}'


def _source(given: str, fields: Mapping[str, str], choices: bool) -> str:
  """The template's source."""
  prompt, _, answer = given.partition(jinja_chunks.SEPARATOR)
  aliases = dict(fields)
  if len(fields) == 1:  # As `rank` and `explain` have it.
    aliases['input'] = next(iter(fields.values()))
  for column, field in aliases.items():
    inserted = r'\{\{\s*' + re.escape(column) + r'\s*\}\}'
    prompt = re.sub(inserted, _inserted(field), prompt)
  read = _variables(given, prompt)
  known = {*fields.values(), 'answer_choices', *([OPTIONS] * choices)}
  if LABEL in read - known:
    raise errors.UserError(
        f'--instruction {given!r} shows the label, which is to be found'
    )
  if read - known:
    raise errors.UserError(
        f'--instruction {given!r} reads {sorted(read - known)[0]!r}; it can'
        f' insert {", ".join(map(_inserted, sorted(known)))}'
    )
  if not read & set(fields.values()):
    body = ' '.join(map(_inserted, fields.values()))
    prompt = f'{body} {prompt.strip()}'
  return f'{prompt.strip()} ||| {answer.strip() or _ANSWER}'


def _variables(given: str, prompt: str) -> set[str]:
  try:
    return meta.find_undeclared_variables(
        jinja_chunks.environment(None).parse(prompt)
    )
  except jinja2.TemplateError as e:
    raise errors.UserError(f'--instruction {given!r}: {e}') from e


def _name(given: str) -> str:
  """The words of an instruction."""
  text = given.partition(jinja_chunks.SEPARATOR)[0]
  text = re.sub(r'\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}', ' ', text, flags=re.DOTALL)
  text = ' '.join(re.sub(r'[^\w\s\'-]', ' ', text).split())
  return text[:_NAME_CHARS].strip() or 'instruction'


class _Tagged(dict):
  """A mapping with one of promptsource's tags."""

  def __init__(self, tag: str, content: Mapping[str, Any]):
    super().__init__(content)
    self.tag = tag


class _Dumper(yaml.SafeDumper):
  """Writes promptsource's tags."""


_Dumper.add_representer(
    _Tagged, lambda dumper, v: dumper.represent_mapping(v.tag, v)
)


def to_yaml(dataset: str, made: Mapping[str, templates.Template]) -> str:
  """A file of templates in promptsource's form.

  Args:
    dataset: the dataset's name.
    made: what `sources` made.
  """
  entries = {
      number: _Tagged('!Template', {
          'name': name,
          'answer_choices': template.answer_choices,
          'jinja': template.jinja,
          'metadata': _Tagged('!TemplateMetadata', {
              'metrics': ['Accuracy'], 'original_task': True,
          }),
      })
      for number, (name, template) in enumerate(made.items(), 1)
  }
  return yaml.dump(
      {'dataset': dataset, 'templates': entries}, Dumper=_Dumper,
      sort_keys=False, allow_unicode=True, width=76,
  )
