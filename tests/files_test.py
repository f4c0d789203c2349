"""Tests of files.py: whole files or none, JSON, and messages."""

import importlib.util
import pathlib

from flipped_t5x import errors
from flipped_t5x import files
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


@pytest.mark.parametrize('text', ('', '[1]', '{"a": 1', 'NaNs'))
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
