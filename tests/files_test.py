"""Tests of files.py: whole files or none, JSON, and messages."""

import importlib.util
import pathlib
import resource
import subprocess
import sys

from flipped_t5x import errors
from flipped_t5x import files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
  path = tmp_path / 'a.txt'
  files.write(path, 'ä')
  assert path.read_bytes() == 'ä'.encode()
  with files.replacing(path) as unfinished:
    unfinished.write_text('new')
    assert path.read_text() == 'ä'
  assert path.read_text() == 'new'
  assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path):
  path = tmp_path / 'a.txt'
  files.write(path, b'old')
  with pytest.raises(RuntimeError), files.replacing(path) as unfinished:
    unfinished.write_text('ne')
    raise RuntimeError
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_json(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'a': [1]})
  assert path.read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
  assert files.read_json(path) == {'a': [1]}
  files.write_json(path, {'a': '\U0001f600'})  # Two halves are a character.
  assert r'\ud83d' in path.read_text()
  assert files.read_json(path) == {'a': '\U0001f600'}


@pytest.mark.parametrize('text', (
    '', '[1]', '{"a": 1', 'NaNs', r'{"a": "\ud800"}', r'{"\uDFFF": 1}',
))
def test_what_is_no_json_object_is_named(text, tmp_path):
  path = tmp_path / 'a.json'
  path.write_text(text)
  with pytest.raises(errors.UserError, match=f'^{path}: not JSON: '):
    files.read_json(path)
  path.write_text('{}\n' + text)
  if text:
    with pytest.raises(errors.UserError, match=f'^{path}, line 2: not JSON'):
      list(files.read_lines(path))


def test_lines(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"a": 1}\n{"a": 2}\n')
  assert [line['a'] for line in files.read_lines(path)] == [1, 2]


def test_google_storage_needs_a_package(monkeypatch):
  assert str(files.any_path('gs://bucket/run')) == 'gs://bucket/run'
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  message = '^gs://bucket/run: .* pip install gcsfs$'
  with pytest.raises(errors.MissingPackage, match=message):
    files.any_path('gs://bucket/run')
  assert files.any_path('a/b').parts == ('a', 'b')


def test_first_line():
  assert files.first_line(ValueError('\na\nb')) == 'a'
  assert files.first_line(ValueError()) == 'ValueError()'


def test_sha256():
  # The digest of no bytes, FIPS 180-4.
  assert files.sha256(b'').startswith('e3b0c44298fc1c149afbf4c8996fb924')


def test_data_folder(monkeypatch):
  monkeypatch.setenv('FLIPPED_T5X_DATA', '/data')
  assert files.data_folder() == pathlib.Path('/data')
  monkeypatch.delenv('FLIPPED_T5X_DATA')
  monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
  assert files.data_folder() == pathlib.Path('/cache/flipped_t5x')


def test_a_new_folder_appears_when_it_is_whole(tmp_path):
  path = tmp_path / 'a' / 'b'
  with files.new_folder(path) as unfinished:
    (unfinished / 'c').write_text('c')
    assert not path.exists()
  assert (path / 'c').read_text() == 'c'
  assert list(path.parent.iterdir()) == [path]
  assert path.stat().st_mode == path.parent.stat().st_mode


def test_a_new_folder_that_fails_leaves_nothing(tmp_path):
  with pytest.raises(KeyError), files.new_folder(tmp_path / 'a/b') as folder:
    (folder / 'c').write_text('c')
    raise KeyError
  assert list(tmp_path.iterdir()) == []
  path = tmp_path / 'd'
  with pytest.raises(FileExistsError), files.new_folder(path):
    path.mkdir()
  assert list(tmp_path.iterdir()) == [path]


def test_a_temporary_folder(tmp_path):
  (tmp_path / 'a.unfinished-01234567').mkdir()
  with files.temporary_folder(tmp_path / 'a') as folder:
    assert list(tmp_path.iterdir()) == [folder]
    (folder / 'b').write_text('b')
  assert list(tmp_path.iterdir()) == []


# argv: the folder.
_UNFINISHED = """
import contextlib, os, pathlib, signal, sys, time
from flipped_t5x import files
path = pathlib.Path(sys.argv[1])
with files.replacing(path / 'a[1].txt'), files.new_folder(path / 'b') as b:
  (b / 'c').write_text('half')
  print('made', flush=True)
  time.sleep(60)
"""


@pytest.mark.process
def test_what_killed_processes_leave_is_removed(tmp_path):
  process = subprocess.Popen(
      [sys.executable, '-c', _UNFINISHED, str(tmp_path)],
      stdout=subprocess.PIPE, text=True,
  )
  assert process.stdout.readline() == 'made\n'
  assert len(list(tmp_path.iterdir())) == 2

  def write_both():
    files.write(tmp_path / 'a[1].txt', 'a')
    with files.new_folder(tmp_path / 'b'):
      pass
    (tmp_path / 'b').rmdir()

  write_both()  # The other process is alive.
  assert len(list(tmp_path.iterdir())) == 3
  process.kill()
  process.communicate()
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'a[1].txt.bak').write_text('mine')
  write_both()
  assert {p.name for p in tmp_path.iterdir()} == {
      'a[1].txt', 'a[1].txt.bak', 'mine'
  }


def test_leftovers_in_all_folders(tmp_path):
  left = tmp_path / 'a' / 'b.unfinished-01234567'
  left.mkdir(parents=True)
  files.remove_leftovers(tmp_path)
  assert left.exists()
  files.remove_leftovers(tmp_path, '**/*')
  assert list(tmp_path.rglob('*')) == [tmp_path / 'a']


@pytest.mark.parametrize('write', (
    lambda path: path.write_bytes(bytes(5000)),
    lambda path: pq.write_table(pa.table({'a': list(range(5000))}), path),
))
def test_a_full_disk_names_the_file(tmp_path, write):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  path = tmp_path / 'a.bin'
  resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
  try:
    with pytest.raises(OSError, match=(
        rf'^{path} could not be written: .*File too large'
    )), files.replacing(path) as unfinished:
      write(unfinished)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert list(tmp_path.iterdir()) == []
