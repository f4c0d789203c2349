"""The catalog of datasets: facts in `catalog.csv`, rows from `sources.py`."""

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import difflib
import functools
import pathlib

from flipped_t5x import templates as templates_lib
from flipped_t5x.tasks import sources

_HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Dataset:
  """One row of `catalog.csv`.

  Attributes:
    name: the dataset's name; its tasks are named after it.
    source: where rows come from, a key of `sources.SOURCES`.
    templates: `promptsource:DATASET`, or `file:NAME` in `tasks/templates/`.
    num_examples: split -> number of rows.
    metric: what the paper judges it by, accuracy or macro-F1.
  """

  name: str
  source: str
  templates: str
  num_examples: Mapping[str, int]
  metric: str

  def load_templates(
      self, max_field_chars: int | None = None
  ) -> Mapping[str, templates_lib.Template]:
    """The dataset's eligible templates, by name."""
    kind, name = self.templates.split(':', 1)
    if kind == 'promptsource':
      return templates_lib.load(name, max_field_chars)
    return templates_lib.load_file(_HERE / 'templates' / name, max_field_chars)

  def open(self, split: str) -> Sequence[bytes]:
    """The rows of a split as JSON text, by number.

    Raises:
      ValueError: no such split, or not as many rows as the catalog says.
    """
    if split not in self.num_examples:
      raise ValueError(
          f'{self.name} has no split {split!r}; it has'
          f' {list(self.num_examples)}'
      )
    rows = sources.SOURCES[self.source].open(self.name, split)
    if len(rows) != self.num_examples[split]:
      raise ValueError(
          f'{self.name}: {split} has {len(rows)} rows where the catalog says'
          f' {self.num_examples[split]}; delete its folder in'
          f' {sources.data_folder()} and try again'
      )
    return rows


@functools.cache
def catalog() -> Mapping[str, Dataset]:
  """All datasets, by name."""
  with open(_HERE / 'catalog.csv', encoding='utf-8', newline='') as f:
    return {
        row['name']: Dataset(
            row['name'], row['source'], row['templates'],
            {s: int(row[s]) for s in sources.SPLITS if row[s]}, row['metric'],
        )
        for row in csv.DictReader(f)
    }


def dataset(name: str) -> Dataset:
  """A dataset by name; ValueError gives the nearest names."""
  if name not in catalog():
    near = difflib.get_close_matches(name, catalog()) or list(catalog())
    raise ValueError(f'no dataset {name!r} in the catalog; nearest: {near}')
  return catalog()[name]
