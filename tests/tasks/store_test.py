"""Prepared splits: rows by number, all of them or none."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

import demo_catalog
from flipped_t5x import errors
from flipped_t5x import files as files_lib
from flipped_t5x.tasks.sources import store
import numpy as np
import pytest

ROWS = [
    {'text': 'caf\u00e9\u2028x\x85y \U0001f600', 'n': 1},
    {'text': 'b\r\n\n', 'n': None},
    {'text': '', 'n': [1.5, {'a': '\u2029'}]},
    {'n': 'another order', 'text': '|||'},
]

# argv: folder, a file to make after 2,000 rows, a file to wait for then.
SCRIPT = """
import pathlib, sys, time
from flipped_t5x.tasks.sources import store

folder, own, other = map(pathlib.Path, sys.argv[1:])

def rows():
  for i in range(3000):
    if i == 2000:
      own.touch()
      while not other.exists():
        time.sleep(0.01)
    yield {'text': f'row {i} of both'}

store.prepare(folder, rows(), ('text',), {'by': own.name})
rows = store.Rows(folder)
print(len(rows), rows[2999].decode(), rows.origin['by'])
"""


def prepare(folder, rows=ROWS, fields=('text', 'n'), **origin):
  store.prepare(folder, rows, fields, origin)
  return store.Rows(folder)


def start(*arguments):
  return subprocess.Popen(
      [sys.executable, '-c', SCRIPT, *map(str, arguments)],
      stdout=subprocess.PIPE, text=True,
  )


def wait_for(path, process):
  deadline = time.monotonic() + 60
  while not path.exists():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)


def test_rows_by_number(tmp_path):
  rows = prepare(tmp_path / 'set' / 'test-1')
  assert len(rows) == 4
  assert [json.loads(r) for r in rows] == ROWS
  for number in (3, 0, 2, 1, 0):
    assert json.loads(rows[number]) == ROWS[number]
    assert json.loads(rows[np.int64(number)]) == ROWS[number]
  for number in (4, -1, 100):
    with pytest.raises(IndexError, match=str(number)):
      _ = rows[number]


def test_origin(tmp_path):
  rows = prepare(tmp_path / 'test-1', source='local', files=['a'])
  content = (tmp_path / 'test-1' / 'rows.jsonl').read_bytes()
  assert rows.origin == {
      'source': 'local', 'files': ['a'], 'rows': 4,
      'sha256': hashlib.sha256(content).hexdigest(),
  }
  # One line a row, for other programs to read; others may read the folder.
  assert [json.loads(x) for x in content.split(b'\n')[:-1]] == ROWS
  assert (tmp_path / 'test-1').stat().st_mode & 0o555 == 0o555


@pytest.mark.parametrize(
    'rows, message',
    (
        ([], 'no rows'),
        (
            [{'text': 'a', 'n': 1}, {'text': 'b', 'm': 1}],
            r"row 2 has no field 'n' \(it has text, m\), which the templates",
        ),
        ([*ROWS, {'text': b'bytes', 'n': 1}], 'row 5: .*bytes'),
        ([*ROWS, {'text': '\ud800', 'n': 1}], 'row 5: .*surrogates'),
    ),
)
def test_strange_rows(rows, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    prepare(tmp_path / 'set' / 'test-1', rows)
  assert not list(tmp_path.iterdir())


def test_failure_leaves_nothing(tmp_path):
  def rows():
    yield from ROWS
    raise OSError('no space')

  with pytest.raises(OSError, match='no space'):
    prepare(tmp_path / 'set' / 'test-1', rows())
  assert not list(tmp_path.iterdir())


def test_killed(tmp_path):
  folder = tmp_path / 'set' / 'test-1'
  process = start(folder, tmp_path / 'own', tmp_path / 'never')
  wait_for(tmp_path / 'own', process)
  process.kill()
  process.communicate()
  # What it leaves has another name.
  unfinished, = folder.parent.iterdir()
  assert unfinished.name.startswith('test-1.') and not folder.exists()
  assert len(prepare(folder)) == 4
  assert [p.name for p in folder.parent.iterdir()] == ['test-1']


def test_two_at_once(tmp_path):
  folder = tmp_path / 'set' / 'test-1'
  processes = [
      start(folder, tmp_path / own, tmp_path / other)
      for own, other in (('a', 'b'), ('b', 'a'))
  ]
  outputs = [p.communicate(timeout=60)[0] for p in processes]
  assert [p.returncode for p in processes] == [0, 0]
  # Both read what the first has written.
  assert outputs[0] == outputs[1]
  assert outputs[0].startswith('3000 {"text": "row 2999 of both"} ')
  assert [p.name for p in folder.parent.iterdir()] == ['test-1']


@pytest.mark.parametrize('change', (-1, 1))
def test_changed_rows(change, tmp_path):
  folder = tmp_path / 'test-1'
  prepare(folder)
  path = folder / 'rows.jsonl'
  content = path.read_bytes()
  path.write_bytes(content[:-1] if change < 0 else content + b'\n')
  with pytest.raises(
      ValueError, match=f'^{folder}: not the 4 rows that were written; delete'
  ):
    store.Rows(folder)


@pytest.mark.parametrize('name', ('origin.json', 'index.npy', 'rows.jsonl'))
@pytest.mark.parametrize('content', (None, b'', b'[1]', b'{"rows": "4"}'))
def test_damaged_files(tmp_path, name, content):
  folder = tmp_path / 'test-1'
  prepare(folder)
  if content is None:
    (folder / name).unlink()
  else:
    (folder / name).write_bytes(content)
  with pytest.raises(errors.UserError, match=f'^{folder}.* delete the folder'):
    store.Rows(folder)


def test_changed_index(tmp_path):
  folder = tmp_path / 'test-1'
  prepare(folder)
  ends = np.load(folder / 'index.npy')
  np.save(folder / 'index.npy', ends[[0, 3]])
  with pytest.raises(ValueError, match='not the 4 rows'):
    store.Rows(folder)


def test_location_is_prepared_once(tmp_path, monkeypatch):
  data = demo_catalog.isolate(tmp_path, monkeypatch)
  dataset = demo_catalog.dataset(tmp_path, monkeypatch)
  calls = []

  def files():
    calls.append(1)
    return {'commit': 'abc'}, [tmp_path / 'a', tmp_path / 'b']

  def read(path):
    for row in demo_catalog.rows(2):
      yield row | {'text': path.name}

  def location(**key):
    return store.Location(dataset, 'test', key, files, read)

  rows = location(source='hub', revision='').open()
  assert [json.loads(r)['text'] for r in rows] == ['a', 'a', 'b', 'b']
  assert rows.origin['source'] == 'hub' and rows.origin['commit'] == 'abc'
  again = location(revision='', source='hub').open()
  assert len(calls) == 1 and list(again) == list(rows)
  folder, = (data / 'rows' / 'my' / 'set').iterdir()
  assert folder.name.startswith('test-')
  # Another key is other rows.
  location(source='hub', revision='1').open()
  assert len(calls) == 2
  assert len(list((data / 'rows' / 'my' / 'set').iterdir())) == 2


def test_leftovers_of_other_datasets(tmp_path, monkeypatch):
  """Such as those of a file that has changed since, and has another name."""
  data = demo_catalog.isolate(tmp_path, monkeypatch)
  dataset = demo_catalog.dataset(tmp_path, monkeypatch)
  left = data / 'rows' / 'glue' / 'mrpc' / 'test-123.unfinished-01234567'
  left.mkdir(parents=True)
  (left / 'rows.jsonl').write_text('half')
  store.Location(
      dataset, 'test', {}, lambda: ({}, [tmp_path / 'a']),
      lambda path: iter(demo_catalog.rows(2)),
  ).open()
  assert not left.exists()
  folder, = (data / 'rows' / 'my' / 'set').iterdir()
  assert sorted(p.name for p in folder.iterdir()) == [
      'index.npy', 'origin.json', 'rows.jsonl'
  ]


def test_location_names_dataset_and_file(tmp_path, monkeypatch):
  data = demo_catalog.isolate(tmp_path, monkeypatch)
  dataset = demo_catalog.dataset(tmp_path, monkeypatch)
  path = tmp_path / 'test.jsonl'
  location = store.Location(dataset, 'test', {}, lambda: ({}, [path]))
  path.write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
  with pytest.raises(
      ValueError, match=f"^my/set: test: row 2 has no field 'label'.*{path}"
  ):
    location.open()
  assert not [p for p in data.rglob('*') if p.is_file()]


def test_data_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv('FLIPPED_T5X_DATA', raising=False)
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  assert files_lib.data_folder() == tmp_path / '.cache' / 'flipped_t5x'
  monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
  assert files_lib.data_folder() == pathlib.Path('/cache/flipped_t5x')
  monkeypatch.setenv('FLIPPED_T5X_DATA', '~/mine')
  assert files_lib.data_folder() == tmp_path / 'mine'
  monkeypatch.setenv('FLIPPED_T5X_DATA', 'mine')
  assert files_lib.data_folder() == pathlib.Path(os.getcwd()) / 'mine'
