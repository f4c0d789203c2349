"""The experiment's results: means, spreads, tests, and what is compared."""

import experiment_runs
from flipped_t5x import ranking
from flipped_t5x.experiment import results as results_lib
import numpy as np
import pytest

ACCURACIES = experiment_runs.accuracies(0.4)
OTHER_TEMPLATES = ACCURACIES | {'vader_kind': {'e': 0.1}}


def ranked(correct):
  correct = np.array(correct)
  return ranking.Predictions(
      np.arange(len(correct)), (~correct).astype(int),
      np.zeros(len(correct), int), np.full(len(correct), 2), correct & False,
  )


def test_summary_by_hand():
  summary = results_lib.summarize(experiment_runs.three_methods())
  flipped = summary['methods']['flipped']
  # In two templates 0.6 and 0.8 with seed 0, 0.7 and 0.9 with seed 1.
  assert flipped['runs']['0']['held-out words'] == pytest.approx(0.7)
  assert flipped['runs']['1']['held-out words'] == pytest.approx(0.8)
  assert flipped['columns']['held-out words']['mean'] == pytest.approx(0.75)
  # Sample standard deviation of 0.7 and 0.8.
  assert flipped['columns']['held-out words']['std'] == pytest.approx(
      0.1 / 2**0.5
  )
  assert flipped['columns']['held-out rows']['mean'] == pytest.approx(0.55)
  assert flipped['words']['held-out words']['c/d']['mean'] == pytest.approx(
      0.65
  )
  assert flipped['named']['held-out words']['c/d']['mean'] == pytest.approx(
      0.85
  )
  assert summary['settings'] == {
      'TRAIN_STEPS': 4, 'BATCH_SIZE': 2, 'SEED': 0
  }


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'step': 3}, 'step is 3 and 4'),
        ({'settings': {'TRAIN_STEPS': 9}}, r'.* is (9|None) and (4|2)'),
        ({'network': {'emb_dim': 9}}, 'network is .*9.* and .*8'),
        (
            {'tasks': experiment_runs.results(OTHER_TEMPLATES)['tasks']},
            r'vader_kind "a/b \(named\)" is None and \(10, 0.6\)',
        ),
    ),
)
def test_runs_that_cannot_be_compared(changes, message):
  runs = {
      'flipped': {0: experiment_runs.results(ACCURACIES)},
      'direct': {2: experiment_runs.results(ACCURACIES, **changes)},
  }
  with pytest.raises(
      ValueError, match=f'^direct/2 and flipped/0 cannot be compared: {message}'
  ):
    results_lib.check_alike(runs)


def test_paired_tests():
  columns = results_lib.TESTED

  def run(correct):
    return {column: {'a': ranked(correct)} for column in columns}

  tests = results_lib.paired_tests({
      ('flipped', 0): run([True] * 40),
      ('direct', 0): run([False] * 40),
      ('channel', 0): run([True] * 40),
      ('direct', 1): run([False] * 40),  # Without a FLIPPED of its seed.
  })
  assert len(tests) == 2 * len(columns)
  for test in tests:
    assert test['seed'] == 0
    same = test['method'] == 'channel'
    assert test['difference'] == (0 if same else 1)
    assert test['p'] == 1 if same else test['p'] < 0.001
    assert test['p'] <= test['holm'] <= 1
