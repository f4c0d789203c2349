"""SeqIO's own cache of our tasks, written by Beam."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import demo_catalog
from flipped_t5x.tasks import registry
import pytest
import seqio
import tensorflow as tf

ROWS, NAME = 103, 'flipped_my_set'
LENGTHS = {'inputs': 64, 'wrong_inputs': 64, 'targets': 48}


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
  """A catalog of one set, in local files; SeqIO knows no cache."""
  demo_catalog.isolate(tmp_path, monkeypatch)
  folder = tmp_path / 'files'
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{folder}/')
  demo_catalog.dataset(tmp_path, monkeypatch, train=str(ROWS))
  demo_catalog.write_lines(
      folder / 'my' / 'set' / 'train.jsonl', demo_catalog.rows(ROWS, 0)
  )
  dirs = list(seqio.get_global_cache_dirs())
  seqio.set_global_cache_dirs([])
  yield
  seqio.set_global_cache_dirs(dirs)


def cached_rows(folder):
  """(index, row) of each record."""
  for path in folder.glob('train.tfrecord-*'):
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      feature = tf.train.Example.FromString(record).features.feature
      index, = feature['index'].int64_list.value
      row, = feature['row'].bytes_list.value
      yield index, json.loads(row)


@pytest.mark.slow
@pytest.mark.process
def test_seqio_cache_tasks(tmp_path, tiny_vocabulary_path):
  """The command finds tasks by name in its worker processes, too."""
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
  rows = sorted(cached_rows(tmp_path / 'beam' / NAME))
  assert rows == list(enumerate(demo_catalog.rows(ROWS, 0)))
  seqio.add_global_cache_dirs([str(tmp_path / 'beam')])
  task = registry.train_task('my/set', tiny_vocabulary_path)
  pairs = task.get_dataset(LENGTHS, 'train', use_cached=True, shuffle=False)
  assert sum(1 for _ in pairs) == ROWS
