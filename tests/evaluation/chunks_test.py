"""Chunks on disk: those of the same evaluation are kept, others discarded."""

from flipped_t5x import errors
from flipped_t5x.evaluation import chunks as chunks_lib
from flipped_t5x.evaluation import scored_examples
import pyarrow as pa
import pytest

FINGERPRINT = {'checkpoint': 'f00', 'lengths': (32, 16)}


def rows(example_id):
  return pa.Table.from_pylist([{
      'template': 'A', 'example_id': example_id, 'options': ['a', 'b'],
      'scores': [-1.0, -2.0], 'prediction': 0, 'gold': 1, 'tied': False,
  }], scored_examples.SCHEMA)


@pytest.fixture
def folder(tmp_path):
  """A folder with the chunks 0 and 2."""
  folder = tmp_path / 'task'
  chunks = chunks_lib.Chunks(folder, FINGERPRINT)
  for number in (2, 0):
    chunks.add(number, rows(number), {'candidates': 2 * number})
  return folder


def test_read_in_order(folder):
  chunks = chunks_lib.Chunks(folder, FINGERPRINT)
  assert chunks.done == {0, 2}
  tables, about = chunks.read()
  assert [t['example_id'].to_pylist() for t in tables] == [[0], [2]]
  assert about == [{'candidates': 0}, {'candidates': 4}]
  assert all(table.schema.metadata is None for table in tables)


@pytest.mark.parametrize('changes, named', (
    ({'checkpoint': 'ba2'}, 'checkpoint'),
    ({'checkpoint': 'ba2', 'limit': 3}, 'checkpoint, limit'),
))
def test_another_evaluation_is_discarded(folder, changes, named, capsys):
  chunks = chunks_lib.Chunks(folder, FINGERPRINT | changes)
  assert chunks.done == set() and not list(folder.glob('*.parquet'))
  assert capsys.readouterr().err == (
      f'{folder}: an unfinished evaluation that differs in {named} is'
      ' discarded\n'
  )
  assert chunks_lib.Chunks(folder, FINGERPRINT | changes).done == set()
  assert capsys.readouterr().err == ''


def test_damaged_chunk_is_deleted(folder, capsys):
  path = folder / '00002.parquet'
  path.write_bytes(path.read_bytes()[:100])
  assert chunks_lib.Chunks(folder, FINGERPRINT).done == {0}
  assert f'{path} is damaged' in capsys.readouterr().err
  assert not path.exists()


def test_damaged_fingerprint(folder):
  (folder / 'fingerprint.json').write_text('{"checkpoint"')
  with pytest.raises(errors.UserError, match=f'delete {folder} to start again'):
    chunks_lib.Chunks(folder, FINGERPRINT)


def test_another_evaluation_in_the_same_folder(folder):
  """On a disk without locks: what it has written never becomes results."""
  ours = chunks_lib.Chunks(folder, FINGERPRINT)
  ours.check()
  theirs = chunks_lib.Chunks(folder, FINGERPRINT | {'checkpoint': 'ba2'})
  with pytest.raises(errors.UserError, match='another evaluation has written'):
    ours.check()
  with pytest.raises(errors.UserError, match='another evaluation has written'):
    ours.wait_for(1)
  theirs.add(0, rows(0), {})
  ours.add(2, rows(2), {})
  with pytest.raises(errors.UserError, match='another evaluation has written'):
    ours.read()
  theirs.done = {0, 2}
  with pytest.raises(errors.UserError, match='2.parquet is of another eval'):
    theirs.read()
  assert theirs.check() is None
  # Resumed, it scores this chunk again.
  again = chunks_lib.Chunks(folder, FINGERPRINT | {'checkpoint': 'ba2'})
  assert again.done == {0}


def test_chunks_of_two_hosts(folder):
  opened = chunks_lib.Chunks(folder, FINGERPRINT)
  joined = chunks_lib.Chunks(folder, FINGERPRINT, joins=True)
  joined.add(1, rows(1), {'candidates': 2})
  opened.wait_for(3)
  tables, about = opened.read()
  assert [t['example_id'].to_pylist() for t in tables] == [[0], [1], [2]]
  assert [a['candidates'] for a in about] == [0, 2, 4]


def test_disk_that_hosts_do_not_share(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(chunks_lib, '_WAIT_SECONDS', 0)
  with pytest.raises(errors.UserError, match='does not see what another host'):
    chunks_lib.Chunks(tmp_path / 'other', FINGERPRINT, joins=True)
  assert not (tmp_path / 'other').exists()
  # What an older evaluation has left there is for host 0 to discard.
  with pytest.raises(errors.UserError, match='on a disk that all hosts'):
    chunks_lib.Chunks(folder, FINGERPRINT | {'checkpoint': 'a'}, joins=True)
  opened = chunks_lib.Chunks(folder, FINGERPRINT)
  assert opened.done == {0, 2}
  with pytest.raises(errors.UserError, match='00001.parquet: this host does'):
    opened.wait_for(2)
