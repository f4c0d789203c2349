"""Templates and held-out rows that the page can show as plain texts."""

from collections.abc import Sequence
import dataclasses
import json
import re

from flipped_t5x import errors
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures

_FIELD = re.compile(r'{{\s*(\w+)\s*}}')
_EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Shown:
  """A template of one text.

  Attributes:
    name: the dataset and the template.
    dataset: the dataset.
    field: the field of the text.
    instruction: its words, with `{{input}}` for the text.
    labels: the labels.
  """

  name: str
  dataset: str
  field: str
  instruction: str
  labels: tuple[str, ...]


def all_of_one_text() -> list[Shown]:
  """The templates of the catalog that read one text and have fixed labels."""
  found = []
  for dataset, data in catalog.catalog().items():
    if data.templates == 'bigbench:':  # Its texts have the options in them.
      continue
    for name, template in data.load_templates().items():
      shown = _shown(dataset, name, template.jinja, template.answer_choices)
      if shown:
        found.append(shown)
  return found


def _shown(
    dataset: str, name: str, jinja: str, choices: str | None
) -> Shown | None:
  prompt, _, _ = jinja.partition('|||')
  fields = _FIELD.findall(prompt)
  labels = tuple(c.strip() for c in (choices or '').split('|||'))
  if (
      len(fields) != 1 or '{%' in prompt or len(labels) < 2
      or prompt.count('{{') != 1 or any('{' in label for label in labels)
  ):
    return None
  return Shown(
      f'{dataset}: {name}', dataset, fields[0],
      _FIELD.sub('{{input}}', prompt.strip()), labels,
  )


def examples(
    mixture: str | None, templates: Sequence[Shown]
) -> list[tuple[str, str, str]]:
  """Held-out rows of a mixture: text, instruction, and labels, one a line.

  Args:
    mixture: what a model was trained on; None if it is not known.
    templates: the templates to show rows in.

  Returns:
    A few rows of each dataset; none of datasets that are not known here, or
    whose rows no source has.
  """
  found = []
  for name in _datasets(mixture):
    own = [t for t in templates if t.dataset == name]
    data = catalog.dataset(name)
    if not own:
      continue
    try:
      rows = data.open(data.eval_split)
    except FileNotFoundError:
      continue
    numbers = data.sample(data.eval_split)[:_EXAMPLES]
    for number, template in zip(numbers, own, strict=False):
      row = json.loads(rows[number])
      found.append((
          str(row[template.field]), template.instruction,
          '\n'.join(template.labels),
      ))
  return found


def _datasets(mixture: str | None) -> Sequence[str]:
  if not mixture:
    return ()
  try:
    return mixtures.mixture(mixture).datasets
  except errors.UserError:  # Of a catalog that is not in use.
    return ()
