"""Local files in the hub's layout: `NAME/CONFIG/SPLIT.jsonl` and its like."""

import dataclasses
import pathlib

from flipped_t5x import errors
from flipped_t5x.tasks.sources import store

_SUFFIXES = ('.jsonl', '.jsonl.gz', '.parquet', '.csv')


@dataclasses.dataclass(frozen=True)
class Local:
  """A folder of `NAME/CONFIG/SPLIT` with `.jsonl`, `.jsonl.gz`, `.parquet`.

  Parquet may be in parts, as the hub has it: `SPLIT-00000-of-00003.parquet`.
  Also known are Story Cloze's `.csv`, and a checkout of BIG-bench.

  Attributes:
    folder: the folder.
  """

  folder: pathlib.Path

  def __str__(self) -> str:
    return f'local ({self.folder})'

  def locate(self, dataset: store.Described, split: str) -> store.Location:
    """The files of a split; see `sources.Source`."""
    # What the hub calls it: `anli/plain_text/dev_r1` is our `anli/r1`.
    base = dataset.hub.split('/')[-1]
    official = dataset.official_split(split)
    stems = [f'{dataset.name}/{split}', f'{dataset.name}/{official}']
    if base:
      stems += [f'{base}/{dataset.config}/{official}', f'{base}/{official}']
    found = {}
    for stem in dict.fromkeys(stems):
      for suffix in _SUFFIXES:
        path = self.folder / (stem + suffix)
        if path.is_file():
          found[path] = [path]
      parts = sorted(self.folder.glob(f'{stem}-*-of-*.parquet'))
      if parts:
        _check_complete(parts)
        found[parts[0]] = parts
    task = _bigbench_task(dataset)
    if task and (self.folder / task).is_file():
      found[self.folder / task] = [self.folder / task]
    if not found:
      raise store.Missing(
          f'no {dataset.name}/{split}{{{",".join(_SUFFIXES)}}}'
      )
    if len(found) > 1:
      raise errors.UserError(
          f'{dataset.name}: {split} is there more than once:'
          f' {", ".join(map(str, found))}; keep one'
      )
    paths, = found.values()
    # A file that was changed is another file.
    stats = [(p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    key = {
        'source': 'local', 'files': [str(p) for p in paths], 'stats': stats,
    }
    return store.Location(dataset, split, key, lambda: ({}, paths))


def _bigbench_task(dataset: store.Described) -> str | None:
  package, _, path = dataset.package.partition(':')
  if package != 'bigbench':
    return None
  return f'bigbench/benchmark_tasks/{path}/task.json'


def _check_complete(parts: list[pathlib.Path]) -> None:
  # `-of-00003`, or `-of-00003-HASH` in repositories of about 2023.
  total = int(parts[0].stem.rsplit('-of-', 1)[1].split('-')[0])
  if len(parts) != total:
    raise errors.UserError(
        f'{parts[0].parent}: {len(parts)} of {total} parts of'
        f' {parts[0].name.split("-")[0]} are there'
    )
