"""Where the rows and templates of a run come from.

A run keeps them in `data.json`, dataset -> origin: its settings alone do not
tell whether a file behind them has changed.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from flipped_t5x import files
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.tasks import catalog

FILE = 'data.json'
# Keys that must stay the same -> what they are.
_COMPARED = {
    'sha256': 'rows', 'sha256_of_templates': 'templates',
    'rate': 'share of the mixture',
}
Origins = Mapping[str, Mapping[str, Any]]


def of(
    dataset: catalog.Dataset,
    split: str,
    templates: Mapping[str, templates_lib.Template],
) -> dict[str, Any]:
  """The origin of a dataset.

  Args:
    dataset: the dataset.
    split: the split that is read.
    templates: name -> template, those of the dataset.

  Returns:
    What `store.Rows.origin` has, `templates` and their digest.
  """
  content = json.dumps(sorted(texts(templates).items())).encode()
  return {
      **dataset.open(split).origin,
      'templates': dataset.templates,
      'sha256_of_templates': files.sha256(content),
  }


def texts(
    templates: Mapping[str, templates_lib.Template]
) -> dict[str, list[str]]:
  """Template -> what its texts depend on, beside the rows."""
  return {
      name: [t.jinja, t.answer_choices or '', *t.chunks]
      for name, t in templates.items()
  }


def changed(old: Origins, new: Origins) -> list[str]:
  """What to say of each dataset that has changed.

  Args:
    old: dataset -> its origin, as the run has kept it.
    new: the same, now.

  Returns:
    A text for each dataset that differs; none if none does.
  """
  new = json.loads(json.dumps(new))
  said = []
  for name in sorted(old.keys() | new.keys()):
    if name not in old or name not in new:
      where = 'then' if name in old else 'now'
      said.append(f'{name} is in the mixture only {where}')
      continue
    differing = [
        what for key, what in _COMPARED.items()
        # Runs from before a key was recorded do not have it.
        if key in old[name] and old[name][key] != new[name].get(key)
    ]
    if differing:
      said.append(
          f'{name} has other {" and ".join(differing)} ({_sources(new[name])})'
      )
  return said


def _sources(origin: Mapping[str, Any]) -> str:
  """The files of rows and templates of a dataset."""
  found: Sequence[Any] = (
      *origin.get('files', ()), origin.get('file'), origin.get('templates')
  )
  return ', '.join(str(name) for name in found if name)
