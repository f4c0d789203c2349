"""Tests of evaluation/statistics.py, by hand, by loops and by simulation.

Confusion matrices are compared with those of scikit-learn.
"""

import itertools

from flipped_t5x import errors
from flipped_t5x import ranking
from flipped_t5x.evaluation import statistics
import numpy as np
import pytest
from sklearn import metrics


def ranked(prediction, gold, num_options=None, example_id=None):
  prediction, gold = np.asarray(prediction), np.asarray(gold)
  n = len(gold)
  return ranking.Predictions(
      example_id=np.arange(n) if example_id is None else np.asarray(example_id),
      prediction=prediction,
      gold=gold,
      num_options=np.full(n, 1 + max(prediction.max(), gold.max()))
      if num_options is None else np.asarray(num_options),
      tied=np.zeros(n, bool),
  )


def random_ranked(rng, n, num_classes=3, skill=0.5, example_id=None):
  gold = rng.integers(num_classes, size=n)
  guess = rng.integers(num_classes, size=n)
  return ranked(
      np.where(rng.random(n) < skill, gold, guess), gold,
      np.full(n, num_classes), example_id,
  )


def naive_interval(templates, metric, resamples, seed):
  """Loops over resamples, templates and drawn rows."""
  function = getattr(ranking, metric)
  rows = sorted({int(i) for r in templates for i in r.example_id})
  rng = np.random.default_rng(seed)
  means = []
  for drawn in rng.integers(len(rows), size=(resamples, len(rows))):
    values = []
    for r in templates:
      at = {int(i): k for k, i in enumerate(r.example_id)}
      taken = [at[rows[i]] for i in drawn if rows[i] in at]
      if taken:
        values.append(function(r.prediction[taken], r.gold[taken]))
    means.append(np.mean(values))
  return np.quantile(means, (0.025, 0.975))


def few_templates(seed):
  """Templates of different rows and classes, one class never predicted."""
  rng = np.random.default_rng(seed)
  ids = np.sort(rng.permutation(90)[:25])
  never = random_ranked(rng, 25, 4, example_id=ids)
  never.prediction[never.prediction == 2] = 0
  some = rng.permutation(ids)[:9]
  return [
      random_ranked(rng, 25, 2, example_id=ids),
      never,
      random_ranked(rng, 9, 5, 0.9, example_id=some),
      random_ranked(rng, 1, 2, example_id=ids[:1]),  # Often not drawn at all.
  ]


@pytest.mark.parametrize('metric', ('accuracy', 'macro_f1'))
@pytest.mark.parametrize('seed', range(4))
def test_bootstrap_is_the_plain_loop(metric, seed, monkeypatch):
  templates = few_templates(seed)
  expected = naive_interval(templates, metric, 60, seed)
  result = statistics.bootstrap_interval(templates, metric, 60, seed)
  assert result == pytest.approx(expected, abs=1e-12)
  # In any number of blocks.
  monkeypatch.setattr(statistics, '_CELLS', 7 * 25)
  again = statistics.bootstrap_interval(templates, metric, 60, seed)
  assert again == result


def test_bootstrap_seeds():
  templates = few_templates(0)
  first, again, other = (
      statistics.bootstrap_interval(templates, 'accuracy', seed=s)
      for s in (1, 1, 2)
  )
  assert first == again != other
  assert first == pytest.approx(other, abs=0.03)


def test_rows_are_drawn_for_all_templates_at_once():
  # The same answers twice say no more than once.
  one = random_ranked(np.random.default_rng(0), 100)
  assert statistics.bootstrap_interval([one, one], 'macro_f1') == (
      pytest.approx(statistics.bootstrap_interval([one], 'macro_f1'))
  )
  # What one template gets right the other gets wrong: the mean never changes.
  one = random_ranked(np.random.default_rng(0), 100, 2)
  opposite = ranked(one.prediction, 1 - one.gold)
  assert statistics.bootstrap_interval([one, opposite], 'accuracy') == (
      pytest.approx((0.5, 0.5))
  )


@pytest.mark.parametrize('metric', ('accuracy', 'macro_f1'))
def test_width_shrinks_with_the_root_of_the_rows(metric):
  rng = np.random.default_rng(3)
  widths = []
  for n in (300, 4800):
    low, high = statistics.bootstrap_interval(
        [random_ranked(rng, n)], metric, 2000
    )
    widths.append(high - low)
  assert widths[0] / widths[1] == pytest.approx(4, rel=0.12)
  # Of accuracy it is that of the binomial: 2/3 right, 1.96 standard errors.
  assert widths[1] == pytest.approx(
      2 * 1.96 * (2 / 9 / 4800) ** 0.5, rel=0.1
  )


def test_interval_covers_the_truth():
  rng = np.random.default_rng(0)
  covered = []
  for seed in range(400):
    right = (rng.random(150) < 0.7).astype(int)
    low, high = statistics.bootstrap_interval(
        [ranked(right, np.ones(150, int))], 'accuracy', 300, seed
    )
    covered.append(low <= 0.7 <= high)
  assert 0.92 <= np.mean(covered) <= 0.975


def test_bootstrap_of_a_sure_thing():
  right = ranked([0, 1, 2], [0, 1, 2])
  wrong = ranked([1, 2, 0], [0, 1, 2])
  for metric in ('accuracy', 'macro_f1'):
    assert statistics.bootstrap_interval([right], metric) == (1, 1)
    assert statistics.bootstrap_interval([wrong], metric) == (0, 0)
    assert statistics.bootstrap_interval([right, wrong], metric) == (0.5, 0.5)


def test_bootstrap_errors():
  one = ranked([0, 1], [0, 1])
  with pytest.raises(ValueError, match="metric 'f1' is not"):
    statistics.bootstrap_interval([one], 'f1')
  none = ranking.Predictions(*[np.zeros(0, int)] * 5)
  for templates in ((), (one, none)):
    with pytest.raises(ValueError, match='no template, or one without'):
      statistics.bootstrap_interval(templates, 'accuracy')
  twice = ranked([0, 1, 0], [0, 1, 0], example_id=[4, 7, 7])
  with pytest.raises(ValueError, match='example 7 appears twice'):
    statistics.bootstrap_interval([one, twice], 'accuracy')


def test_confusion_is_that_of_scikit_learn():
  rng = np.random.default_rng(0)
  for _ in range(200):
    num_options = rng.integers(2, 7, size=rng.integers(1, 60))
    often = rng.integers(2)  # Other options are seldom, or never, predicted.
    gold = rng.integers(num_options)
    prediction = np.where(
        rng.random(len(gold)) < 0.8, often, rng.integers(num_options)
    )
    expected = metrics.confusion_matrix(
        gold, prediction, labels=np.arange(num_options.max())
    )
    result = statistics.confusion(ranked(prediction, gold, num_options))
    assert result == expected.tolist()


def test_confusion_by_hand():
  # Option 3 exists, and is neither gold nor predicted.
  result = statistics.confusion(
      ranked([0, 0, 2, 1, 2], [0, 1, 1, 1, 2], [4, 3, 3, 3, 3])
  )
  assert result == [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_calibration_by_hand():
  scores = [
      np.log([0.75, 0.25]),  # Right.
      np.log([0.01, 0.03]) - 4000,  # Confidence 0.75 as well; wrong.
      np.array([-7.0, -7.0, -7.0, -7.0]),  # 0.25; of equals the first: right.
      np.array([-5000.0, 0.0]),  # 1.0; right.
      np.array([-2.0, -2.0]),  # 0.5, the upper end of its bin; wrong.
  ]
  result = statistics.calibration(scores, [0, 0, 0, 1, 1])
  filled = {2: (1, 0.25, 1), 4: (1, 0.5, 0), 7: (2, 0.75, 0.5), 9: (1, 1, 1)}
  for i, one in enumerate(result['bins']):
    count, confidence, accuracy = filled.get(i, (0, None, None))
    assert one['count'] == count
    assert one['confidence'] == pytest.approx(confidence)
    assert one['accuracy'] == accuracy
  # Gaps 0.75, 0.5, 0.25 (two examples) and 0.
  assert result['ece'] == pytest.approx((0.75 + 0.5 + 2 * 0.25 + 0) / 5)
  assert len(statistics.calibration(scores, [0] * 5, 4)['bins']) == 4


def test_calibration_of_what_is_calibrated():
  rng = np.random.default_rng(0)
  scores, gold = [], []
  for _ in range(6000):
    scores.append(rng.normal(-20, 2, rng.integers(2, 6)))
    p = np.exp(scores[-1] - scores[-1].max())
    gold.append(rng.choice(len(p), p=p / p.sum()))
  assert statistics.calibration(scores, gold)['ece'] < 0.025
  # Too sure of itself by far: 10 times the scores.
  assert statistics.calibration([10 * s for s in scores], gold)['ece'] > 0.15


@pytest.mark.parametrize('scores, gold, message', (
    ([], [], '0 examples, but gold options of 0'),
    ([np.zeros(2)], [0, 1], '1 examples, but gold options of 2'),
    ([np.zeros(2), np.zeros(0)], [0, 1], 'example number 1 has no option'),
))
def test_calibration_errors(scores, gold, message):
  with pytest.raises(ValueError, match=message):
    statistics.calibration(scores, gold)


def with_correct(correct, example_id=None):
  ids = range(len(correct)) if example_id is None else example_id
  return np.array(ids), np.array(correct, bool)


def test_paired_by_enumeration():
  a = {
      'x': with_correct([1, 1, 1, 1, 0, 1, 0]),
      'y': with_correct([1, 1, 0, 1, 1, 0, 0]),
  }
  b = {
      'x': with_correct([0, 0, 0, 1, 1, 0, 0]),
      'y': with_correct([0, 1, 0, 1, 0, 1, 0]),
  }
  # Row by row, in halves: 2, 1, 1, 0, 0, 0, 0.
  difference = np.array([2, 1, 1, 0, 0, 0, 0]) / 2
  result = statistics.paired_test(a, b)
  assert result['difference'] == pytest.approx(2 / 7)
  far = [
      abs(np.dot(signs, difference)) >= 2
      for signs in itertools.product((-1, 1), repeat=7)
  ]
  assert np.mean(far) == 1 / 4  # All three of one sign.
  assert result['p'] == 1 / 4  # Of so few rows all signs are tried.
  # All 7**7 resamples are 823,543: the quantiles of many of them.
  drawn = np.random.default_rng(5).choice(difference, (100_000, 7)).mean(axis=1)
  low, high = np.quantile(drawn, (0.025, 0.975))
  assert result['low'] == pytest.approx(low, abs=1 / 14 + 1e-9)  # One step.
  assert result['high'] == pytest.approx(high, abs=1 / 14 + 1e-9)


def test_paired_difference_is_that_of_the_tables():
  # Two of three templates have a part of the rows each, in any order.
  rng = np.random.default_rng(1)
  ids = {'all': np.arange(40), 'cause': rng.permutation(40)[:13],
         'effect': rng.permutation(40)[:27]}
  runs = [
      {t: random_ranked(rng, len(i), 2, skill, i) for t, i in ids.items()}
      for skill in (0.8, 0.3)
  ]
  means = [
      np.mean([ranking.accuracy(r.prediction, r.gold) for r in run.values()])
      for run in runs
  ]
  runs[1] = {t: (r.example_id[::-1], (r.prediction == r.gold)[::-1])
             for t, r in reversed(runs[1].items())}
  result = statistics.paired_test(*runs)
  assert result['difference'] == pytest.approx(means[0] - means[1])
  assert result['low'] <= result['difference'] <= result['high']
  back = statistics.paired_test(*reversed(runs))
  assert back['difference'] == pytest.approx(means[1] - means[0])
  assert back['p'] == result['p']


def two_runs(rng, skill_a, skill_b, n=120, templates=4):
  return [
      {str(t): with_correct(rng.random(n) < skill) for t in range(templates)}
      for skill in (skill_a, skill_b)
  ]


def test_paired_without_a_difference_p_is_uniform():
  rng = np.random.default_rng(2)
  p, covered = [], []
  for seed in range(300):
    result = statistics.paired_test(*two_runs(rng, 0.6, 0.6), seed, 400)
    p.append(result['p'])
    covered.append(result['low'] <= 0 <= result['high'])
  for limit in (0.05, 0.25, 0.5, 0.75):
    # Three standard errors; equal sums make p a little larger.
    error = 3 * (limit * (1 - limit) / 300) ** 0.5
    assert np.mean(np.array(p) <= limit) == pytest.approx(limit, abs=error)
  assert 0.91 <= np.mean(covered) <= 0.985


def test_paired_finds_a_difference():
  result = statistics.paired_test(
      *two_runs(np.random.default_rng(0), 0.8, 0.6), permutations=999
  )
  assert result['p'] == 1 / 1000  # The least there can be: never 0.
  assert 0 < result['low'] < result['difference'] < result['high'] < 0.4


def test_paired_is_drawn_where_there_are_too_many_signs(monkeypatch):
  rng = np.random.default_rng(4)
  a, b = two_runs(rng, 0.7, 0.6, n=60, templates=3)
  result = statistics.paired_test(a, b)
  difference = sum(a[t][1].astype(float) - b[t][1] for t in a) / 3
  assert np.count_nonzero(difference) > 13  # 2**13 is below 10,000.
  signs = rng.choice((-1, 1), (200_000, 60))
  far = np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9
  assert result['p'] == pytest.approx(
      far.mean(), abs=4 * (far.mean() * (1 - far.mean()) / 10_000) ** 0.5
  )
  # In any number of blocks.
  monkeypatch.setattr(statistics, '_CELLS', 1000)
  assert statistics.paired_test(a, b) == result


@pytest.mark.parametrize('correct', ([0, 1, 1], [0, 0, 1]))
def test_paired_where_sums_are_equal_in_spite_of_rounding(correct):
  # In thirds: 1, 2, -1 and so on; a sum of thirds depends on their order.
  rows = [(1, 0, 0), (1, 1, 0), (0, 0, -1), tuple(np.array(correct) - 1)] * 3
  a = {t: with_correct([r[t] > 0 for r in rows]) for t in range(3)}
  b = {t: with_correct([r[t] < 0 for r in rows]) for t in range(3)}
  thirds = np.array([sum(r) for r in rows])
  sums = np.array(list(itertools.product((-1, 1), repeat=len(rows)))) @ thirds
  assert statistics.paired_test(a, b)['p'] == (
      np.mean(np.abs(sums) >= abs(thirds.sum()))
  )


def test_paired_interval_is_the_published_one():
  # The numbers of the version that drew the signs itself.
  result = statistics.paired_test(
      *two_runs(np.random.default_rng(2), 0.62, 0.6, n=500)
  )
  assert (result['low'], result['high']) == (
      -0.0025124999999999995, 0.051
  )


def test_paired_with_a_difference_in_one_row():
  a, b = {'x': with_correct([1, 1, 0])}, {'x': with_correct([1, 0, 0])}
  assert statistics.paired_test(a, b)['p'] == 1


def test_paired_with_itself():
  run, _ = two_runs(np.random.default_rng(0), 0.8, 0.6)
  assert statistics.paired_test(run, run) == {
      'difference': 0, 'low': 0, 'high': 0, 'p': 1
  }


@pytest.mark.parametrize('b, message', (
    ({'x': with_correct([1, 0])}, "template 'y' is not in the second run"),
    (
        {k: with_correct([1, 0]) for k in 'xyz'},
        "template 'z' is not in the first run",
    ),
    (
        {'x': with_correct([1, 0]), 'y': with_correct([1, 0], [0, 3])},
        "template 'y': 2 rows are in only one of the runs, such as example 1,"
        ' in the first',
    ),
    (
        {'x': with_correct([1, 0, 1]), 'y': with_correct([1, 0])},
        "template 'x': 1 rows are .* example 2, in the second",
    ),
))
def test_paired_errors(b, message):
  a = {'x': with_correct([1, 1]), 'y': with_correct([0, 1])}
  with pytest.raises(ValueError, match=message):
    statistics.paired_test(a, b)


def test_paired_refuses_other_data():
  a = {'x': ranked([0, 1, 1], [0, 1, 0], example_id=[5, 6, 7])}
  b = {'x': ranked([0, 0, 0], [0, 1, 0], example_id=[7, 6, 5])}
  result = statistics.paired_test(a, b)  # In any order.
  assert result['difference'] == 0
  b['x'].gold[0] = 1
  with pytest.raises(
      ValueError, match="'x': example 7 has another gold option"
  ):
    statistics.paired_test(a, b)


def test_holm_by_hand():
  # Times 4, 3, 2, 1 from the smallest up; never below the one before.
  assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
      [0.03, 0.06, 0.06, 0.02]
  )
  assert statistics.holm([0.7, 0.6]) == [1, 1]
  assert statistics.holm([0.03]) == [0.03]
  assert statistics.holm([]) == []


def test_over_seeds_by_hand():
  # Deviations -2, -1, 3: 14 / 2 = 7. Of t, 2 degrees of freedom: 4.303.
  half = 4.303 * (7 / 3) ** 0.5
  assert statistics.over_seeds([1.0, 2.0, 6.0]) == pytest.approx(
      {'mean': 3, 'std': 7**0.5, 'low': 3 - half, 'high': 3 + half}
  )
  assert statistics.over_seeds([0.4]) == {
      'mean': 0.4, 'std': None, 'low': None, 'high': None
  }


@pytest.mark.parametrize('n, quantile', (
    (2, 12.706), (4, 3.182), (21, 2.086), (30, 2.045),  # As tables have them.
))
def test_interval_over_seeds(n, quantile):
  values = np.random.default_rng(0).normal(size=n)
  result = statistics.over_seeds(values)
  half = quantile * values.std(ddof=1) / n**0.5
  assert result['low'] == pytest.approx(values.mean() - half, abs=1e-12)
  assert result['high'] == pytest.approx(values.mean() + half, abs=1e-12)


def test_no_seeds():
  with pytest.raises(errors.UserError, match='0 seeds'):
    statistics.over_seeds([])
