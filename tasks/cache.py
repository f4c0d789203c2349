"""Caches of training tasks as SeqIO writes them, on one machine without Beam.

What is cached are rows, before any draw. Each task has a folder, of its name:

  train.tfrecord-00003-of-00064  rows in a seeded order over the whole split
  info.train.json  stats.train.json  COMPLETED  what SeqIO reads beside them
  manifest.json    settings, origin of the rows, and sha256 of each shard

A shard takes its name once it is whole, then stands in the manifest.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import sources
from flipped_t5x.tasks.sources import store
import numpy as np
import seqio
import tensorflow as tf
import tqdm

MANIFEST = 'manifest.json'
NUM_SHARDS = 64  # At least as many as SeqIO's own writes.
SEED = 42
_COMPLETED = 'COMPLETED'
_UNFINISHED = 'unfinished.'  # Before a name: no pattern of SeqIO matches it.
_LOCK = '.lock'
_LAYOUT = ('order_seed', 'num_shards', 'seqio')  # How, not which rows.
_FEATURES = {
    'index': {'dtype': 'int32', 'shape': []},
    'row': {'dtype': 'string', 'shape': []},
}

Manifest = Mapping[str, Any]


def write(
    tasks: Sequence[seqio.Task],
    cache_dir: str | os.PathLike[str],
    splits: Sequence[str] = ('train',),
    num_shards: int = NUM_SHARDS,
    seed: int = SEED,
) -> list[dict[str, Any]]:
  """Writes the caches of some tasks, or goes on where it was stopped.

  Finished shards are compared with their checksums. One that was damaged since
  is written anew, and must then have the checksum that it had.

  Args:
    tasks: training tasks of `registry.py`.
    cache_dir: local folder for `seqio.add_global_cache_dirs`.
    splits: the splits to cache, of the tasks that have them; others that a
      folder has are left as they are.
    num_shards: files per split; fewer where there are fewer rows.
    seed: of the order of the rows.

  Returns:
    For each task and split: `folder`, `split`, `examples`, `shards`, `written`.

  Raises:
    FileNotFoundError: no source has a split.
    UserError: a folder holds a cache of other settings, or of someone else;
      or no task has a split of that name.
    OSError: a file could not be written; its name stands in the message.
  """
  if '://' in str(cache_dir):
    raise errors.UserError(
        f'{cache_dir}: shards are written to a local folder; copy it there'
        ' afterwards, or use seqio_cache_tasks'
    )
  if num_shards < 1:
    raise errors.UserError(f'{num_shards} shards: at least 1 is needed')
  plans = _plans(tasks, pathlib.Path(cache_dir), splits, num_shards, seed)
  for folder, _, settings in plans:
    _check_settings(folder, _read(folder), settings)
  done = []
  total = sum(s['examples'] for _, _, p in plans for s in p.values())
  with tqdm.tqdm(
      total=total, unit='row', dynamic_ncols=True,
      mininterval=0.1 if sys.stderr.isatty() else 30,
  ) as bar:
    for folder, task, settings in plans:
      with _locked(folder):
        for split, wanted in settings.items():
          written = _write_split(folder, task, split, wanted, bar)
          done.append({
              'folder': folder, 'split': split, 'examples': wanted['examples'],
              'shards': wanted['num_shards'], 'written': written,
          })
        _write_text(folder / _COMPLETED, '')
  return done


def verify(
    tasks: Sequence[seqio.Task],
    cache_dir: str | os.PathLike[str],
    splits: Sequence[str] = ('train',),
) -> list[dict[str, Any]]:
  """Compares caches with the tasks' rows and with their checksums.

  Args:
    tasks: see `write`.
    cache_dir: see `write`.
    splits: the splits to look at.

  Returns:
    As `write`.

  Raises:
    FileNotFoundError: no source has a split.
    UserError: a cache is not there, not whole, damaged, or of other rows; says
      all that is wrong.
  """
  done, wrong = [], []
  for folder, _, settings in _plans(tasks, pathlib.Path(cache_dir), splits):
    manifest = _read(folder)
    for split, wanted in settings.items():
      there = (manifest or {'splits': {}})['splits'].get(split)
      if there is None:
        wrong.append(f'{folder}: no {split} was cached there by this command')
        continue
      rows = {k: v for k, v in wanted.items() if k not in _LAYOUT}
      wrong += [
          f'{folder}: {split}: {d}' for d in _differing(there['settings'], rows)
      ]
      wrong += _damages(folder, split, there)
      done.append({
          'folder': folder, 'split': split, 'written': 0,
          'examples': there['settings']['examples'],
          'shards': there['settings']['num_shards'],
      })
  if wrong:
    raise errors.UserError('\n'.join(wrong))
  return done


def check(folder: str, task: seqio.Task) -> None:
  """UserError if a cache is not of the rows that its task has now.

  Called whenever such a cache is read. Fetches nothing and reads no shard, so
  that a machine which has the cache alone can use it: rows of a package, or of
  the hub, are compared by name and version. A cache without a manifest, which
  is Beam's, is not looked at.

  Args:
    folder: the task's folder of the cache, maybe `gs://...`.
    task: a training task of `registry.py`.
  """
  for split, there in (_read(folder) or {'splits': {}})['splits'].items():
    settings, origin = there['settings'], there['origin']
    data = task.source.dataset
    cap = _cap(split, origin['rows'])
    differing = [
        *_differing(settings, {'dataset': data.name, 'cap': cap}),
        *_differing_source(data, split, origin),
    ]
    if differing:
      raise errors.UserError(
          f'{folder} holds a cache of other rows than the task {task.name} has'
          f' ({split}: {"; ".join(differing)}); delete that folder and cache'
          ' again, or read without cache'
      )


def _plans(tasks, cache_dir, splits, num_shards=NUM_SHARDS, seed=SEED):
  """(folder, task, split -> settings) of each task; opens all rows."""
  for split in splits:
    if not any(split in task.splits for task in tasks):
      raise errors.UserError(
          f'{", ".join(task.name for task in tasks)}: no split {split!r}; there'
          f' are {sorted({s for task in tasks for s in task.splits})}'
      )
  plans, missing = [], []
  for task in tasks:
    settings = {}
    for split in splits:
      if split not in task.splits:
        continue
      try:
        settings[split] = _settings(task, split, num_shards, seed)
      except FileNotFoundError as e:
        missing.append(str(e))
    if settings:
      folder = cache_dir / seqio.get_task_dir_from_name(task.name)
      plans.append((folder, task, settings))
  if missing:
    raise FileNotFoundError('\n'.join(missing))
  return plans


def _settings(task, split, num_shards, seed) -> dict[str, Any]:
  """All that decides what stands in the shards of a split."""
  rows, numbers = task.source.rows(split), task.source.numbers(split)
  return {
      'dataset': task.source.dataset.name,
      'rows_sha256': rows.origin['sha256'],
      'cap': _cap(split, len(rows)),
      'examples': len(numbers),
      'numbers_sha256':
          hashlib.sha256(np.array(numbers, '<i8').tobytes()).hexdigest(),
      'order_seed': seed,
      'num_shards': min(num_shards, len(numbers)),
      'seqio': seqio.__version__,
  }


def _cap(split: str, rows: int) -> int | None:
  """The limit that rows are sampled to, if they are."""
  return catalog.CAP if split == 'train' and rows > catalog.CAP else None


def _write_split(folder, task, split, settings, bar) -> int:
  """Writes the shards of a split that are not there; returns how many."""
  manifest = _read(folder)
  _check_settings(folder, manifest, {split: settings})
  manifest = manifest or {'task': task.name, 'splits': {}}
  rows = task.source.rows(split)
  entry = manifest['splits'].setdefault(
      split, {'settings': settings, 'origin': rows.origin, 'shards': {}}
  )
  _write_text(folder / MANIFEST, _json(manifest))
  # NumPy keeps the stream of RandomState the same in all versions.
  order = np.random.RandomState(settings['order_seed']).permutation(
      np.array(task.source.numbers(split), np.int64)
  )
  bar.set_postfix_str(f'{task.name} {split}', refresh=False)
  written = 0
  shards = np.array_split(order, settings['num_shards'])
  prefix = seqio.get_cached_tfrecord_prefix(str(folder), split)
  for number, numbers in enumerate(shards):
    path = pathlib.Path(f'{prefix}-{number:05d}-of-{len(shards):05d}')
    known = entry['shards'].get(path.name)
    if known and _sha256(path) == known['sha256']:
      bar.update(len(numbers))
      continue
    if known:
      bar.write(f'{path}: damaged or gone, written anew', file=sys.stderr)
    new = {
        'examples': len(numbers),
        'sha256': _write_shard(path, rows, numbers, bar),
    }
    if known not in (None, new):
      raise errors.UserError(
          f'{path} has another sha256 now that it is written anew: the rows'
          f' are not those that were cached. Delete {folder} and start again'
      )
    entry['shards'][path.name] = new
    _write_text(folder / MANIFEST, _json(manifest))
    written += 1
  for path, text in _beside(folder, split, settings).items():
    _write_text(path, text)
  return written


def _write_shard(path, rows, numbers, bar) -> str:
  """Writes rows, by number, to one file; returns its sha256."""
  size = 0
  with _whole(path) as unfinished:
    with tf.io.TFRecordWriter(str(unfinished)) as writer:
      for number in map(int, numbers):
        record = _example(rows[number], number)
        writer.write(record)
        size += len(record) + 16  # Its length, and two checksums.
        bar.update()
    if unfinished.stat().st_size != size:
      raise OSError(f'{unfinished.stat().st_size} of {size} bytes are there')
    return _sha256(unfinished)


def _example(row: bytes, index: int) -> bytes:
  """As `seqio.dict_to_tfexample`, which takes 30 times as long."""
  features = {
      'row': tf.train.Feature(bytes_list=tf.train.BytesList(value=[row])),
      'index': tf.train.Feature(int64_list=tf.train.Int64List(value=[index])),
  }
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString(deterministic=True)


def _beside(folder, split, settings) -> dict[pathlib.Path, str]:
  """SeqIO's own files of a split, and what stands in them."""
  info = {
      'features': _FEATURES,
      'num_shards': settings['num_shards'],
      'seqio_version': settings['seqio'],
  }
  return {
      pathlib.Path(seqio.get_cached_stats_path(str(folder), split)):
          _json({'examples': settings['examples']}),
      pathlib.Path(seqio.get_cached_info_path(str(folder), split)): _json(info),
  }


def _check_settings(folder, manifest: Manifest | None, settings) -> None:
  """UserError if the folder holds anything else than what is to be there."""
  if manifest is None:
    strange = [
        path.name for path in folder.glob('*')
        if not path.name.startswith((_UNFINISHED, _LOCK))
    ]
    if strange:
      raise errors.UserError(
          f'{folder} holds {sorted(strange)[0]} and no {MANIFEST}: it is not of'
          ' this command; choose another folder, or delete that one'
      )
    return
  for split, wanted in settings.items():
    there = manifest['splits'].get(split)
    differing = there and _differing(there['settings'], wanted)
    if differing:
      raise errors.UserError(
          f'{folder} holds a cache of other settings ({split}:'
          f' {"; ".join(differing)}); choose another folder, or delete that'
          ' one'
      )


def _differing(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  return [
      f'{k}: {there.get(k)!r} there, {v!r} now'
      for k, v in now.items() if there.get(k) != v
  ]


def _differing_source(data, split, origin) -> list[str]:
  """In what the rows of a cache differ from those that would be read now."""
  owner = catalog.dataset(data.rows_of or data.name)
  for source in sources.sources():
    try:
      location = source.locate(owner, split)
    except store.Missing:
      continue
    key = json.loads(json.dumps(location.key))
    differing = _differing(origin, key)
    if differing and key['source'] == 'local':
      # Files that were copied may be the same rows: here that can be seen.
      now = location.open().origin['sha256']
      return _differing({'rows_sha256': origin['sha256']}, {'rows_sha256': now})
    # Those of another source may be the same, but would have to be fetched.
    return differing if key['source'] == origin['source'] else []
  return []


def _damages(folder, split, there) -> Iterator[str]:
  """What is not as the manifest says."""
  settings, shards = there['settings'], there['shards']
  if len(shards) < settings['num_shards']:
    yield (
        f'{folder}: {split}: {len(shards)} of {settings["num_shards"]} shards'
        ' are written; the same command without --check goes on'
    )
    return
  for name, shard in shards.items():
    if _sha256(folder / name) != shard['sha256']:
      yield f'{folder / name}: damaged or gone'
  beside = {**_beside(folder, split, settings), folder / _COMPLETED: ''}
  for path, text in beside.items():
    if not _holds(path, text):
      yield f'{path}: damaged or gone'


def _read(folder: str | os.PathLike[str]) -> Manifest | None:
  path = os.path.join(folder, MANIFEST)
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path) as f:
    try:
      return json.loads(f.read())
    except ValueError as e:
      raise errors.UserError(f'{path}: {e}') from e


def _json(content: Any) -> str:
  """JSON as SeqIO's Beam pipeline writes it."""
  return json.dumps(content, sort_keys=True, indent=2) + '\n'


def _sha256(path: pathlib.Path) -> str | None:
  """The sha256 of a file; None if there is none."""
  try:
    with open(path, 'rb') as f:
      return hashlib.file_digest(f, 'sha256').hexdigest()
  except FileNotFoundError:
    return None


def _write_text(path: pathlib.Path, text: str) -> None:
  if _holds(path, text):
    return
  with _whole(path) as unfinished:
    unfinished.write_text(text)


def _holds(path: pathlib.Path, text: str) -> bool:
  return path.is_file() and path.read_bytes() == text.encode()


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives another path to write to, which becomes `path` if all is well.

  Raises:
    OSError: what went wrong, with the file's name.
  """
  unfinished = path.with_name(_UNFINISHED + path.name)
  try:
    yield unfinished
    unfinished.replace(path)
  except (OSError, tf.errors.OpError) as e:
    reason = getattr(e, 'strerror', None) or getattr(e, 'message', None) or e
    raise OSError(f'{path} could not be written: {reason}') from e
  finally:
    unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder, for one process at a time; the lock ends with it."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / _LOCK, 'w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise OSError(f'{folder}: another process writes this cache now') from e
    yield
