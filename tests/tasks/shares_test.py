"""What `flipped_train` really draws: shares of datasets, templates alike."""

import collections
import itertools
import json
import pathlib

from flipped_t5x.prompts import examples
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import pytest
import seqio

ROWS = pathlib.Path(__file__).parents[1] / 'testdata' / 'rows.jsonl'
LENGTHS = {'inputs': 384, 'wrong_inputs': 384, 'targets': 64}
SIGMAS = 4.5


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch, tiny_vocabulary_path):
  """Invented rows of every set, many times over, as local files."""
  rows = collections.defaultdict(list)
  for line in ROWS.read_text('utf-8').splitlines():
    entry = json.loads(line)
    rows[entry['dataset']].append(json.dumps(entry['row']) + '\n')
  for name, lines in rows.items():
    path = tmp_path / 'local' / name / 'train.jsonl'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(lines * 300), 'utf-8')
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path))
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'local')
  monkeypatch.setenv('FLIPPED_T5X_VOCABULARY', str(tiny_vocabulary_path))


def expected_shares():
  rates = mixtures.mixture('flipped_train').rates()
  assert len(rates) == 20 and sum(r == 500_000 for r in rates.values()) == 3
  total = sum(rates.values())
  return {name: rate / total for name, rate in rates.items()}


def check(drawn, shares):
  """Counts of a multinomial draw, against its probabilities."""
  number = sum(drawn.values())
  assert drawn.keys() <= shares.keys()
  for name, share in shares.items():
    deviation = (share * (1 - share) / number) ** 0.5
    assert drawn[name] / number == pytest.approx(
        share, abs=SIGMAS * deviation + 1 / number
    ), name


@pytest.mark.slow
def test_20_000_examples(monkeypatch, tiny_vocabulary_path):
  drawn = []

  class Recorded(examples.DrawPair):

    def __call__(self, row, seed):
      pair = super().__call__(row, seed)
      drawn.append((self.task, pair and pair['template']))
      return pair

  monkeypatch.setattr(batches.examples, 'DrawPair', Recorded)
  iterator = batches.TrainBatches(
      'flipped_train', tiny_vocabulary_path, 100, 384, 64, seed=42, pack=False
  )
  for _ in itertools.islice(iterator, 200):
    pass
  kept = [pair for pair in drawn if pair[1]]
  assert len(kept) >= 20_000
  check(collections.Counter(name for name, _ in kept), expected_shares())
  for name in expected_shares():
    templates = collections.Counter(t for n, t in drawn if n == name)
    if templates.pop(None, 0):
      continue  # Some templates cannot use some of its rows.
    uniform = dict.fromkeys(templates, 1 / len(templates))
    assert len(templates) == len(catalog.dataset(name).load_templates())
    check(templates, uniform)


@pytest.mark.slow
def test_through_seqio():
  mixture = seqio.get_mixture_or_task('flipped_train')
  dataset = mixture.get_dataset(
      LENGTHS, 'train', shuffle=True, seed=42, passthrough_features=['task'],
  ).take(2000)
  drawn = collections.Counter(
      pair['task'].decode() for pair in dataset.as_numpy_iterator()
  )
  check(drawn, expected_shares())
