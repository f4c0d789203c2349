"""The tasks of vaderSentiment: rows, labels, splits, strange archives."""

import hashlib

import demo_archive
from flipped_t5x.tasks.sources import splits
from flipped_t5x.tasks.sources import store
from flipped_t5x.tasks.sources import vader
import pytest


@pytest.fixture
def archive(tmp_path):
  """Writes the archive, changed, and returns its path."""

  def write(**changes):
    path = tmp_path / 'corpora.tar.gz'
    path.write_bytes(demo_archive.corpora(**changes))
    return path

  return write


def read(path, dataset):
  """Split -> rows."""
  return {
      split: list(vader.read(path, dataset, split)) for split in store.SPLITS
  }


def test_rows_and_labels(archive):
  path = archive()
  sentiment = {
      r['text']: r['label']
      for rows in read(path, 'vader_sentiment').values() for r in rows
  }
  assert sentiment == {
      'A warm & lovely film.': 1, 'Dull, and too long.': 0,
      'It is just good enough.': 1, 'It is just not enough.': 0,
  }
  product = {
      r['text']: r['label']
      for rows in read(path, 'vader_product').values() for r in rows
  }
  assert product == {f'The kettle {i} boils fast.': 1 for i in range(60)}
  source = [r for rows in read(path, 'vader_source').values() for r in rows]
  labels = {r['text']: r['label'] for r in source}
  assert len(source) == len(labels) == 6 + 60 + 30 + 30
  assert labels['A film with a dog.'] == 0
  assert labels['The kettle 7 boils fast.'] == 1
  assert labels['The mayor 7 resigns at noon.'] == 2
  assert labels['Breakfast 7 <3 caf\u00e9'] == 3


def test_splits_are_by_hash_and_disjoint(archive):
  texts = {
      split: [r['text'] for r in rows]
      for split, rows in read(archive(), 'vader_source').items()
  }
  assert all(texts.values())
  keys = [splits.words(t) for split in texts.values() for t in split]
  assert len(keys) == len(set(keys)) == 126
  assert all(
      splits.split_of(t) == s for s, split in texts.items() for t in split
  )
  # Known once and for all, whatever the case and the punctuation.
  assert [splits.split_of(t) for t in ('text 11', 'Text: 12!', 'text 1')] == [
      splits.split_of(t) for t in ('TEXT 11.', 'text 12', 'text  1')
  ]
  shares = [splits.split_of(f'text {i}') for i in range(5000)]
  assert shares.count('test') / 5000 == pytest.approx(0.12, abs=0.02)
  assert shares.count('validation') / 5000 == pytest.approx(0.04, abs=0.012)


@pytest.mark.parametrize(
    'text, split',
    (  # The last two digits of their digests are 11, 12, 15 and 16.
        ('text 173', 'test'), ('text 102', 'validation'),
        ('text 18', 'validation'), ('text 125', 'train'),
    ),
)
def test_splits_stay_the_same(text, split):
  digest = hashlib.sha256(text.encode()).hexdigest()
  assert int(digest, 16) % 100 in (11, 12, 15, 16)
  assert splits.split_of(text) == splits.split_of(f'{text.upper()}!') == split


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'link': 'tweets'}, 'tweets_G.*not a regular file'),
        ({'tweets': None}, 'no file .*tweets_GroundTruth.txt'),
        ({'tweets': '1\t2\tok\r\n1\t2'}, 'tweets_.*, line 2: '),
        ({'tweets': '1\tgood\tok\r\n'}, "line 1: .*'good'"),
    ),
)
def test_strange_archive(changes, message, archive):
  path = archive(**changes)
  with pytest.raises(ValueError, match=f'^{path}: .*{message}'):
    read(path, 'vader_source')
