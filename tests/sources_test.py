"""Sources of rows: a stand-in for the archive, whole, corrupt and strange."""

import hashlib
import json
import pathlib

import demo_archive
from flipped_t5x.tasks import sources
import pytest


@pytest.fixture
def data(tmp_path, monkeypatch):
  folder = tmp_path / 'data'
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(folder))
  return folder


@pytest.fixture
def offer(data, monkeypatch):
  """Makes pip give an archive of the digest that is expected."""

  def set_up(content, sha256=None, error=''):
    pip = demo_archive.Pip(content, error)
    monkeypatch.setattr(sources.subprocess, 'run', pip)
    monkeypatch.setattr(
        sources.Vader, 'SHA256', sha256 or hashlib.sha256(content).hexdigest()
    )
    return pip

  return set_up


def read(name):
  """Split -> rows."""
  return {
      split: [json.loads(r) for r in sources.SOURCES['vader'].open(name, split)]
      for split in sources.SPLITS
      if (sources.data_folder() / name / f'{split}.jsonl').exists()
  }


def test_rows_and_labels(offer, data):
  pip = offer(demo_archive.packed())
  sources.Vader().prepare()
  sentiment = {
      r['text']: r['label']
      for rows in read('vader_sentiment').values() for r in rows
  }
  assert sentiment == {
      'A warm & lovely film.': 1, 'Dull, and too long.': 0,
      'It is just good enough.': 1, 'It is just not enough.': 0,
  }
  source = [r for rows in read('vader_source').values() for r in rows]
  labels = {r['text']: r['label'] for r in source}
  assert len(source) == len(labels) == 6 + 60 + 30 + 30
  assert labels['A film with a dog.'] == 0
  assert labels['The kettle 7 boils fast.'] == 1
  assert labels['The mayor 7 resigns at noon.'] == 2
  assert labels['Breakfast 7 <3 caf\u00e9'] == 3
  assert len(pip.calls) == 1
  # Nothing else is left but the archive.
  assert {p.name for p in data.iterdir()} == {
      'downloads', 'vader_sentiment', 'vader_source'
  }
  assert len(list((data / 'downloads').iterdir())) == 1


def test_splits_are_by_hash_and_disjoint(offer):
  offer(demo_archive.packed())
  sources.Vader().prepare()
  splits = {
      split: [r['text'] for r in rows]
      for split, rows in read('vader_source').items()
  }
  assert set(splits) == set(sources.SPLITS)
  keys = [sources._key(t) for texts in splits.values() for t in texts]
  assert len(keys) == len(set(keys)) == 126
  assert all(
      sources.split_of(t) == s for s, texts in splits.items() for t in texts
  )
  # Known once and for all, whatever the case and the punctuation.
  assert [sources.split_of(t) for t in ('text 11', 'Text: 12!', 'text 1')] == [
      sources.split_of(t) for t in ('TEXT 11.', 'text 12', 'text  1')
  ]
  shares = [sources.split_of(f'text {i}') for i in range(5000)]
  assert shares.count('test') / 5000 == pytest.approx(0.12, abs=0.02)
  assert shares.count('validation') / 5000 == pytest.approx(0.04, abs=0.012)


def test_splits_stay_the_same():
  texts = ('a', 'film', 'The film is good.', 'kettle 5', 'kettle 6')
  for text in texts:
    digest = hashlib.sha256(
        ' '.join(text.lower().replace('.', '').split()).encode()
    ).hexdigest()
    percent = int(digest, 16) % 100
    assert sources.split_of(text) == (
        'test' if percent < 12 else 'validation' if percent < 16 else 'train'
    )


def test_prepared_data_are_not_fetched_again(offer):
  pip = offer(demo_archive.packed())
  read_before = sources.SOURCES['vader'].open('vader_source', 'train')[0]
  assert sources.SOURCES['vader'].open('vader_source', 'train')[0] == (
      read_before
  )
  sources.Vader().prepare()  # The archive is there still.
  assert len(pip.calls) == 1
  assert {'--no-deps', '--require-hashes'} <= set(pip.calls[0])
  # Pip compares the digest before it runs anything of the archive.
  assert pip.requirements == [
      f'vaderSentiment==3.3.2 --hash=sha256:{sources.Vader.SHA256}\n'
  ]


def test_corrupt_download_is_not_kept(offer, data):
  offer(demo_archive.packed(), sha256='0' * 64)
  with pytest.raises(
      ValueError, match='tar.gz: sha256 is .* corrupt; delete the file and try'
  ):
    sources.SOURCES['vader'].open('vader_source', 'train')
  assert not [p for p in data.rglob('*') if p.is_file()]


def test_truncated_archive_in_the_cache(offer, data):
  content = demo_archive.packed()
  offer(content)
  archive = data / 'downloads' / 'vaderSentiment-3.3.2.tar.gz'
  archive.parent.mkdir(parents=True)
  archive.write_bytes(content[:-10])
  with pytest.raises(ValueError, match=f'^{archive}: sha256 .* corrupt'):
    sources.Vader().prepare()
  assert not (data / 'vader_source').exists()


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'link': 'tweets'}, 'tweets_G.*not a regular file'),
        ({'tweets': None}, 'no file .*tweets_GroundTruth.txt'),
        ({'tweets': '1\t2\tok\r\n1\t2'}, 'tweets_.*, line 2: '),
        ({'tweets': '1\tgood\tok\r\n'}, "line 1: .*'good'"),
    ),
)
def test_strange_archive(changes, message, offer, data):
  offer(demo_archive.packed(**changes))
  with pytest.raises(ValueError, match=rf'3\.3\.2.*: .*{message}'):
    sources.Vader().prepare()
  assert not (data / 'vader_source').exists()


def test_pip_fails(offer, data):
  offer(b'', error='no route to host')
  with pytest.raises(RuntimeError, match=r'(?s)vaderSentiment==3\.3\.2.*route'):
    sources.Vader().prepare()
  assert not [p for p in data.rglob('*') if p.is_file()]


@pytest.mark.parametrize(
    'text, message',
    (
        ('{"a": 1}\n{"a": \n', r'rows\.jsonl, line 2: '),
        ('{}\n{}\n[1]\n', r'rows\.jsonl, line 3: not a JSON object'),
    ),
)
def test_malformed_jsonl(text, message, tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    sources.Jsonl(path)


def test_jsonl(tmp_path):
  path = tmp_path / 'rows.jsonl'
  with pytest.raises(FileNotFoundError, match=str(path)):
    sources.Jsonl(path)
  rows = [{'a': 'caf\u00e9\u2028x\x85y'}, {'a': 'b\r\n'}]
  sources.write_splits(tmp_path / 'set', {'test': rows})
  read_rows = sources.Jsonl(tmp_path / 'set' / 'test.jsonl')
  assert len(read_rows) == 2
  assert [json.loads(r) for r in read_rows] == rows


def test_splits_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
  folder = tmp_path / 'set'
  sources.write_splits(folder, {'train': [{'a': 0}]})
  dumps, calls = json.dumps, []

  def fail_third(*args, **kwargs):
    calls.append(1)
    if len(calls) == 3:
      raise OSError('no space')
    return dumps(*args, **kwargs)

  monkeypatch.setattr(sources.json, 'dumps', fail_third)
  for name in ('set', 'other'):
    calls.clear()
    with pytest.raises(OSError, match='no space'):
      sources.write_splits(tmp_path / name, {'train': [{'a': 1}] * 5})
  # The old rows are still there, and nothing else.
  assert [p.name for p in tmp_path.iterdir()] == ['set']
  assert (folder / 'train.jsonl').read_text() == '{"a": 0}\n'


def test_data_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv('FLIPPED_T5X_DATA', raising=False)
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  assert sources.data_folder() == tmp_path / '.cache' / 'flipped_t5x'
  monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
  assert sources.data_folder() == pathlib.Path('/cache/flipped_t5x')
  monkeypatch.setenv('FLIPPED_T5X_DATA', '~/mine')
  assert sources.data_folder() == tmp_path / 'mine'
