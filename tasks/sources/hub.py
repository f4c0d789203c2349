"""The Hugging Face hub: Parquet files, no loading scripts."""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
import re
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x import hub_errors
from flipped_t5x.tasks.sources import store

# `huggingface_hub` is imported where it is used: that takes as long as all else
# here, and whoever has prepared rows or local files never needs it.

# Where the hub keeps Parquet that it made of other files or by a script.
_CONVERTED = 'refs/convert/parquet'

_LAYOUTS = tuple(map(re.compile, (
    # SPLIT.parquet, data/SPLIT-00000-of-00003.parquet, CONFIG/...
    r'((?P<config>[^/]+)/)?(?P<split>[\w.]+)'
    r'(-(?P<part>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]{16})?)?\.parquet',
    # CONFIG/SPLIT/0000.parquet
    r'(?P<config>[^/]+)/(?P<split>(partial-)?[\w.]+)/(?P<part>\d{4})\.parquet',
)))

_OR_LOCAL = 'or put files in a folder that FLIPPED_T5X_SOURCES names'


@dataclasses.dataclass(frozen=True)
class Hub:
  """The repositories that the catalog names.

  Files are kept where `huggingface_hub` keeps them; it reads `HF_HOME`,
  `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN`.
  """

  def __str__(self) -> str:
    return 'hub'

  def locate(self, dataset: store.Described, split: str) -> store.Location:
    """The repository of a split; see `sources.Source`.

    The hub is asked at first use only: without a revision in the catalog, what
    is newest then stays.
    """
    if not dataset.hub:
      raise store.Missing('no repository is known to carry it')
    key = {
        'source': 'hub',
        'repo': dataset.hub,
        'config': dataset.config,
        'split': dataset.official_split(split),
        'revision': dataset.revision,
    }
    return store.Location(
        dataset, split, key,
        lambda: fetch(
            key['repo'], key['config'], key['split'], key['revision']
        ),
    )


def fetch(
    repo: str, config: str, split: str, revision: str = ''
) -> tuple[Mapping[str, Any], Sequence[pathlib.Path]]:
  """Downloads the Parquet files of a split, or finds them in the hub's cache.

  Args:
    repo: the repository, `OWNER/NAME`.
    config: the configuration.
    split: the split, by its name there.
    revision: a commit, tag or branch; '' is the newest of `main`, or of what
      the hub converted if `main` has no such Parquet.

  Returns:
    `ref` and `commit` used and the `files`, and their paths, in order.

  Raises:
    store.Missing: the hub cannot be asked, or does not have it.
    UserError: the hub has some parts of it only, or has it twice.
  """
  from huggingface_hub import constants
  from huggingface_hub import file_download

  with _missing(repo, revision):
    resolved = _find(repo, config, split, revision)
    print(
        f'fetching {config}/{split} of {repo} from {constants.ENDPOINT}',
        file=sys.stderr,
    )
    # By commit, so that all parts are of one version.
    return resolved, [
        pathlib.Path(file_download.hf_hub_download(
            repo, name, repo_type='dataset', revision=resolved['commit']
        ))
        for name in resolved['files']
    ]


def _find(
    repo: str, config: str, split: str, revision: str
) -> Mapping[str, Any]:
  """The ref that has a split, the commit there, and the split's files."""
  from huggingface_hub import constants
  from huggingface_hub import errors as hub_errors
  from huggingface_hub import hf_api

  refs = (revision,) if revision else ('main', _CONVERTED)
  found = collections.defaultdict(set)
  for ref in refs:
    try:
      # A download tries for 20 s when there is no network; this does not, but
      # would wait for ever if nothing answers.
      info = hf_api.HfApi().dataset_info(
          repo, revision=ref, timeout=constants.HF_HUB_ETAG_TIMEOUT
      )
    except hub_errors.RevisionNotFoundError:
      if ref != _CONVERTED:
        raise
      continue
    splits = _splits(file.rfilename for file in info.siblings or ())
    if split in splits[config]:
      try:
        files = _in_order(splits[config][split])
      except ValueError as e:
        raise errors.UserError(f'{repo}: {config}/{split} at {ref}: {e}') from e
      return {'ref': ref, 'commit': info.sha, 'files': files}
    for name, files_of in splits.items():
      found[name] |= files_of.keys()
  where = f'{repo} at {" or ".join(refs)}'
  if f'partial-{split}' in found[config]:
    raise store.Missing(
        f'{where} has only the first 5 GB of {config}/{split} as Parquet: put'
        ' the whole split in a folder that FLIPPED_T5X_SOURCES names'
    )
  has = 'no Parquet at all'
  if found[config]:
    has = f'the splits {", ".join(sorted(found[config]))} of it'
  elif any(found.values()):
    has = f'the configs {", ".join(sorted(n for n in found if found[n]))}'
  raise store.Missing(
      f'{where} has no Parquet of {config}/{split}, it has {has}: correct the'
      f' catalog, {_OR_LOCAL}'
  )


def _splits(
    files: Iterable[str],
) -> Mapping[str, Mapping[str, Sequence[re.Match]]]:
  """Config -> split -> the Parquet files that look like parts of it."""
  splits = collections.defaultdict(lambda: collections.defaultdict(list))
  for file in files:
    for match in filter(None, (r.fullmatch(file) for r in _LAYOUTS)):
      config = match['config']
      if config in (None, 'data'):
        config = 'default'
      splits[config][match['split']].append(match)
  return splits


def _in_order(matches: Sequence[re.Match]) -> Sequence[str]:
  """The files of a split in the order of its parts; UserError if not whole."""
  by_number = {int(m['part'] or 0): m.string for m in matches}
  totals = {m.groupdict().get('total') for m in matches}
  # Without a total, the last part may lack unseen; the catalog counts rows.
  total = int(totals.pop() or max(by_number) + 1)
  if totals or len(by_number) < len(matches):
    raise errors.UserError(
        f'not the parts of one set: {", ".join(m.string for m in matches)}'
    )
  lacking = sorted(set(range(total)) - by_number.keys())
  if lacking or len(by_number) > total:
    raise errors.UserError(
        f'{len(by_number)} of {total} parts are there'
        + (f', part {lacking[0]} is not' if lacking else '')
    )
  return [by_number[number] for number in range(total)]


@contextlib.contextmanager
def _missing(repo: str, revision: str) -> Iterator[None]:
  """Says in one line why the hub does not give a repository's files."""
  try:
    yield
  except Exception as e:
    explained = hub_errors.explained(e, repo, revision, 'dataset')
    if explained is None:
      raise
    message = str(explained)
    if isinstance(explained, FileNotFoundError):
      message += '; correct the catalog'
    raise store.Missing(f'{message}, {_OR_LOCAL}') from e
