"""Tests of ranking.py: by hand, and against scikit-learn."""

import dataclasses

from flipped_t5x import ranking
import numpy as np
import pytest
from sklearn import metrics

# Two examples, of 2 and 3 options; the right options are 1 and 0.
SCORES = (-1.0, -0.5, -3.0, -1.0, -2.0)
EXAMPLE_ID = (4, 4, 9, 9, 9)
OPTION_INDEX = (0, 1, 0, 1, 2)
IS_CORRECT = (False, True, True, False, False)


def rank(scores=SCORES, example_id=EXAMPLE_ID, option_index=OPTION_INDEX,
         is_correct=IS_CORRECT):
  return ranking.rank(*map(np.array, (
      scores, example_id, option_index, is_correct
  )))


def as_lists(ranked):
  return [list(v) for v in dataclasses.astuple(ranked)]


def random_candidates(rng):
  """Arguments of `rank` and the prediction and gold of each example."""
  columns, prediction, gold = [], [], []
  ids = rng.permutation(1000)[: rng.integers(1, 80)]
  # Some options are never the best: their classes are never predicted.
  often = rng.choice(6, size=3, replace=False)
  for example in np.sort(ids):
    n = rng.integers(2, 7)
    scores = rng.normal(-20, 5, n) + 6 * np.isin(np.arange(n), often)
    right = rng.integers(n)
    prediction.append(max(zip(scores, range(n), strict=True))[1])
    gold.append(right)
    columns += [(s, example, i, i == right) for i, s in enumerate(scores)]
  return list(zip(*columns, strict=True)), np.array(prediction), np.array(gold)


def test_rank_by_hand():
  assert as_lists(rank()) == [[4, 9], [1, 1], [1, 0], [2, 3], [False, False]]


@pytest.mark.parametrize('seed', range(20))
def test_metrics_are_those_of_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  never_predicted, never_gold, options = 0, 0, set()
  for _ in range(20):
    candidates, prediction, gold = random_candidates(rng)
    ranked = rank(*candidates)
    np.testing.assert_array_equal(ranked.prediction, prediction)
    np.testing.assert_array_equal(ranked.gold, gold)
    assert not ranked.tied.any()
    assert ranking.accuracy(ranked.prediction, ranked.gold) == pytest.approx(
        metrics.accuracy_score(gold, prediction)
    )
    assert ranking.macro_f1(ranked.prediction, ranked.gold) == pytest.approx(
        metrics.f1_score(
            gold, prediction, labels=np.unique(gold), average='macro',
            zero_division=0,
        )
    )
    never_predicted += not set(gold) <= set(prediction)
    never_gold += not set(prediction) <= set(gold)
    options.update(ranked.num_options)
  assert never_predicted and never_gold and options == {2, 3, 4, 5, 6}


def test_the_order_of_candidates_does_not_matter():
  rng = np.random.default_rng(0)
  for _ in range(10):
    candidates, _, _ = random_candidates(rng)
    order = rng.permutation(len(candidates[0]))
    shuffled = [np.array(column)[order] for column in candidates]
    assert as_lists(rank(*shuffled)) == as_lists(rank(*candidates))


@pytest.mark.parametrize('scores, prediction, tied', (
    ((-1, -1, -3, -1, -1), [0, 1], [True, True]),
    ((-1, -1, -1, -1, -2), [0, 0], [True, True]),
    ((-2, -1, -7, -7, -7), [1, 0], [False, True]),
    ((-2, -1, -2, -2, -1), [1, 2], [False, False]),  # A tie below the best.
))
def test_ties_go_to_the_first_option(scores, prediction, tied):
  for order in (slice(None), slice(None, None, -1)):
    ranked = rank(*(np.array(column)[order] for column in (
        scores, EXAMPLE_ID, OPTION_INDEX, IS_CORRECT
    )))
    assert list(ranked.prediction) == prediction
    assert list(ranked.tied) == tied


@pytest.mark.parametrize('changes, message', (
    (dict(scores=(-1, np.nan, -3, -1, -2)), 'example 4: a score is not finite'),
    (dict(scores=(-1, -2, -3, -1, -np.inf)), 'example 9: a score is not finit'),
    (dict(option_index=(0, 1, 0, 1, 3)), 'example 9: an option is missing'),
    (dict(option_index=(1, 2, 0, 1, 2)), 'example 4: an option is missing'),
    (dict(option_index=(0, 1, 0, 1, -1)), 'example 9: an option is missing'),
    (dict(option_index=(0, 1, 0, 1, 1)), 'example 9: an option appears twice'),
    (dict(option_index=(1, 1, 0, 1, 2)), 'example 4: an option appears twice'),
    (dict(is_correct=(0, 1, 0, 0, 0)), 'example 9: .* not exactly one'),
    (dict(is_correct=(1, 1, 1, 0, 0)), 'example 4: .* not exactly one'),
))
def test_errors_name_the_example(changes, message):
  with pytest.raises(ValueError, match=message):
    rank(**changes)


def test_no_candidates():
  ranked = rank((), np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool))
  assert as_lists(ranked) == [[]] * 5


@pytest.mark.parametrize('metric', (ranking.accuracy, ranking.macro_f1))
def test_metrics_need_as_many_predictions_as_examples(metric):
  for prediction, gold in (((), ()), ((0, 1), (0,)), ((), (1,))):
    with pytest.raises(ValueError, match=f'{len(prediction)} predictions for'):
      metric(np.array(prediction), np.array(gold))


def test_macro_f1_by_hand():
  # Class 0: 2 hits, 3 predicted, 2 gold: 4/5. Class 1: 1, 1, 2: 2/3. Class 2 is
  # never predicted: 0. Class 5 is never gold and has no F1.
  prediction, gold = [0, 0, 0, 1, 5], [0, 0, 1, 1, 2]
  assert ranking.macro_f1(np.array(prediction), np.array(gold)) == (
      pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
  )
  assert ranking.accuracy(np.array(prediction), np.array(gold)) == 3 / 5


def test_baselines_by_hand():
  fixed = [list('abcd')] * 4
  np.testing.assert_array_equal(
      ranking.majority(fixed, np.array([2, 0, 2, 1])), [2, 2, 2, 2]
  )
  # Of equals the first, wherever it stands.
  np.testing.assert_array_equal(
      ranking.majority(fixed, np.array([3, 1, 1, 3])), [1, 1, 1, 1]
  )
  assert ranking.random_accuracy(np.array([2, 4, 4])) == pytest.approx(1 / 3)


def test_spread_by_hand():
  # Mean 4; squared deviations 9, 4, 1, 36 over 4 values, not 3.
  assert ranking.spread([1.0, 2.0, 3.0, 10.0]) == pytest.approx(
      {'mean': 4.0, 'median': 2.5, 'std': 12.5**0.5}
  )
  assert ranking.spread([0.7]) == {'mean': 0.7, 'median': 0.7, 'std': 0.0}


def test_majority_by_text():
  tied = ranking.majority([['b', 'a']] * 2, np.array([1, 0]))
  np.testing.assert_array_equal(tied, [0, 0])
  # Options of their own; the right one is always the last.
  own = [['a', 'b'], ['c', 'd', 'e'], ['e', 'b'], ['f', 'e'], ['e', 'g']]
  last = np.array([1, 2, 1, 1, 1])  # b, e, b, e, g
  found = ranking.majority(own, last)
  np.testing.assert_array_equal(found, [1, -1, 1, -1, -1])  # Of b.
  assert ranking.accuracy(found, last) == 0.4
  # F1 of the classes 1 (2 of 2 right, of 4) and 2 (never).
  assert ranking.macro_f1(found, last) == pytest.approx((2 * 2 / 6 + 0) / 2)
