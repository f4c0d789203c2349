"""How sure a metric is: intervals, tests, calibration.

All draws come from an explicit seed, so the same data give the same numbers.
SciPy's statistics are imported where they are used, as their import takes
seconds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flipped_t5x import errors
from flipped_t5x import ranking
import numpy as np

_TAILS = (0.025, 0.975)  # Of a 95 % interval.
_RESAMPLES = 1000
_CELLS = 2_000_000  # Of a block of resamples: 16 MB of row numbers.


def bootstrap_interval(
    ranked: Sequence[ranking.Predictions],
    metric: str,
    resamples: int = _RESAMPLES,
    seed: int = 42,
) -> tuple[float, float]:
  """The 95 % interval of a metric's mean over templates, over rows.

  This is the percentile bootstrap (Efron 1979; Efron and Tibshirani 1993,
  chapter 13): each resample has as many rows as the data, drawn with
  replacement. A row is drawn for all of its templates at once, because their
  errors on the same text are correlated. Templates are not resampled: the
  interval is about other rows, and `ranking.spread` about other templates.

  The metric of a resample is computed from its own rows as `ranking` defines
  it. Macro-F1 is over the classes that are gold *in the resample*: a rare class
  that was not drawn is left out, and does not count as an F1 of 0. A template
  is left out of a resample's mean if none of its rows was drawn.

  Args:
    ranked: the predictions of each template; templates may have different
      subsets of the rows.
    metric: 'accuracy' or 'macro_f1'.
    resamples: how many resamples to draw.
    seed: the seed of the draws.

  Returns:
    The 2.5 % and the 97.5 % quantile of the means over templates, 0 to 1.

  Raises:
    UserError: the metric is unknown; there is no template, or one without
      rows; or a row appears twice.
  """
  if metric not in ('accuracy', 'macro_f1'):
    raise errors.UserError(f"metric {metric!r} is not 'accuracy' or 'macro_f1'")
  rows, num_rows = _joint_rows([r.example_id for r in ranked])
  columns = _indicators(ranked, rows, num_rows, metric)
  templates = np.cumsum([c.shape[1] for c in columns])[:-1]
  columns = np.concatenate(columns, axis=1)
  means = []
  for drawn in _multiplicities(num_rows, resamples, seed):
    # Whole numbers below 2**24: the sums are exact, in any order.
    counts = (drawn @ columns).astype(np.float64)
    values = [
        _of_counts(c, metric) for c in np.split(counts, templates, axis=1)
    ]
    means.append(np.nanmean(values, axis=0))
  low, high = np.quantile(np.concatenate(means), _TAILS)
  return float(low), float(high)


def _joint_rows(ids: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
  """Numbers the rows of all templates.

  Args:
    ids: int[n] of each template, the `example_id` of its rows.

  Returns:
    int[n] of each template, the numbers of its rows from 0; and how many
    different rows all templates have together.
  """
  if not ids or not all(map(len, ids)):
    raise errors.UserError('no template, or one without examples')
  for one in ids:
    values, counts = np.unique(one, return_counts=True)
    if counts.max() > 1:
      raise errors.UserError(f'example {values[counts > 1][0]} appears twice')
  union, number = np.unique(np.concatenate(ids), return_inverse=True)
  return np.split(number, np.cumsum(list(map(len, ids)))[:-1]), len(union)


def _indicators(ranked, rows, num_rows, metric) -> list[np.ndarray]:
  """The 0s and 1s that are counted, float32[rows, columns] of each template.

  The columns for accuracy are: right, present. Those for macro-F1 are: hits,
  predicted and gold, each for every class that is gold in the template.
  """
  found = []
  for r, at in zip(ranked, rows, strict=True):
    right = np.asarray(r.prediction) == np.asarray(r.gold)
    if metric == 'accuracy':
      flags = np.stack([right, np.ones_like(right)], axis=1)
    else:
      classes = np.unique(r.gold)
      predicted = np.asarray(r.prediction)[:, None] == classes
      gold = np.asarray(r.gold)[:, None] == classes
      flags = np.concatenate([predicted & gold, predicted, gold], axis=1)
    columns = np.zeros((num_rows, flags.shape[1]), np.float32)
    columns[at] = flags
    found.append(columns)
  return found


def _multiplicities(
    num_rows: int, resamples: int, seed: int
) -> Iterator[np.ndarray]:
  """Yields how often each row is drawn, float32[resamples, rows], in blocks."""
  rng = np.random.default_rng(seed)
  block = max(1, _CELLS // num_rows)
  for start in range(0, resamples, block):
    size = min(block, resamples - start)
    drawn = rng.integers(num_rows, size=(size, num_rows))
    drawn += np.arange(size)[:, None] * num_rows
    counts = np.bincount(drawn.ravel(), minlength=size * num_rows)
    yield counts.reshape(size, num_rows).astype(np.float32)


def _of_counts(counts: np.ndarray, metric: str) -> np.ndarray:
  """The metric of each resample, float[resamples]; NaN for one without rows."""
  with np.errstate(invalid='ignore'):  # 0 / 0 is NaN.
    if metric == 'accuracy':
      return counts[:, 0] / counts[:, 1]
    hits, predicted, gold = np.split(counts, 3, axis=1)
    f1 = np.where(gold > 0, 2 * hits / (predicted + gold), 0)
    return f1.sum(axis=1) / (gold > 0).sum(axis=1)


def confusion(ranked: ranking.Predictions) -> list[list[int]]:
  """Counts how often each option was predicted for each gold option.

  Args:
    ranked: the predictions of one template.

  Returns:
    Counts, with a row for each gold option and a column for each predicted
    option. There are as many of both as the largest number of options.
  """
  size = int(np.max(ranked.num_options, initial=0))
  cell = np.asarray(ranked.gold) * size + np.asarray(ranked.prediction)
  counts = np.bincount(cell, minlength=size * size)
  return counts.reshape(size, size).tolist()


def calibration(
    scores: Sequence[np.ndarray], gold: Sequence[int], num_bins: int = 10
) -> dict[str, Any]:
  """Compares how often rankings are right with how confident they are.

  The confidence is the softmax probability of the best option, i.e. its share
  of the probability under a uniform prior over options. The bins and the
  expected calibration error (ECE) are those of Guo et al. 2017 (arXiv
  1706.04599): bin m of M has the confidences in ((m - 1) / M, m / M].

  Args:
    scores: float[options] of each example, log-probabilities.
    gold: the number of the right option of each example.
    num_bins: the number of bins, which have the same width.

  Returns:
    `bins`, each with its `count`, mean `confidence` and `accuracy` (None if the
    bin is empty); and `ece`, the mean of |accuracy - confidence| over bins,
    weighted by count.

  Raises:
    UserError: there is no example, an example has no option, or `scores` and
      `gold` have different lengths.
  """
  if len(scores) != len(gold) or not len(gold):
    raise errors.UserError(
        f'scores of {len(scores)} examples, but gold options of {len(gold)}'
    )
  lengths = np.array([len(s) for s in scores])
  if not lengths.all():
    raise errors.UserError(
        f'example number {int(np.argmin(lengths))} has no option'
    )
  table = np.full((len(scores), lengths.max()), -np.inf)
  table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(scores)
  best = table.max(axis=1, keepdims=True)
  confidence = 1 / np.exp(table - best).sum(axis=1)
  right = table.argmax(axis=1) == np.asarray(gold)
  edges = np.linspace(0, 1, num_bins + 1)[1:-1]
  number = np.digitize(confidence, edges, right=True)
  bins, ece = [], 0.0
  for i in range(num_bins):
    inside = number == i
    if not inside.any():
      bins.append({'count': 0, 'confidence': None, 'accuracy': None})
      continue
    means = float(confidence[inside].mean()), float(right[inside].mean())
    bins.append({
        'count': int(inside.sum()), 'confidence': means[0],
        'accuracy': means[1],
    })
    ece += inside.mean() * abs(means[1] - means[0])
  return {'bins': bins, 'ece': float(ece)}


def paired_test(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    seed: int = 42,
    permutations: int = 10_000,
) -> dict[str, float]:
  """Tests whether two runs on the same rows differ in accuracy.

  The value of a row is its mean correctness over templates. Where templates
  have different rows, they are weighted so that the mean over rows is the mean
  accuracy over templates, as in the results.

  p is that of a sign-flip test, see `_sign_flip_test`. It is exact where few
  rows differ, and otherwise from `permutations` random choices of signs. The
  interval is that of a percentile bootstrap over rows with 1,000 resamples.

  Args:
    a: template -> `ranking.Predictions`, or (example_id int[n], correct
      bool[n]).
    b: the other run, in the same form.
    seed: the seed of all draws.
    permutations: the largest number of choices of signs to try.

  Returns:
    `difference`, the accuracy of `a` minus that of `b`; `low` and `high`, its
    95 % interval; and `p`.

  Raises:
    UserError: the runs have different templates or rows; the message says
      which.
  """
  return difference_test(
      row_values(a, b) - row_values(b, a), seed, permutations
  )


def difference_test(
    difference: np.ndarray, seed: int = 42, permutations: int = 10_000
) -> dict[str, float]:
  """Tests whether the mean of paired differences is 0; see `paired_test`.

  Args:
    difference: float[rows], one difference for each row.
    seed: the seed of all draws.
    permutations: the largest number of choices of signs to try.

  Returns:
    `difference`, the mean; `low` and `high`, its 95 % interval; and `p`.
  """
  mean = float(difference.mean())
  # Rounded, so that differences that are equal but for rounding are grouped.
  difference = np.round(difference, 12)
  values, counts = np.unique(difference, return_counts=True)
  drawn = _after_signs(difference, seed, permutations).multinomial(
      len(difference), counts / len(difference), size=_RESAMPLES
  )
  low, high = np.quantile(drawn @ values / len(difference), _TAILS)
  return {
      'difference': mean,
      'low': float(low),
      'high': float(high),
      'p': _sign_flip_test(difference, seed, permutations),
  }


def _after_signs(
    difference: np.ndarray, seed: int, permutations: int
) -> np.random.Generator:
  """The generator for the draws of the bootstrap.

  Earlier versions used the generator for signs first, with a binomial for each
  size of a difference. The same numbers are drawn and discarded here, so that
  the intervals of published results can be reproduced.
  """
  rng = np.random.default_rng(seed)
  _, counts = np.unique(np.abs(difference), return_counts=True)
  for count in counts:
    rng.binomial(count, 0.5, permutations)
  return rng


def _sign_flip_test(
    difference: np.ndarray, seed: int, permutations: int
) -> float:
  """The two-sided p of the sign-flip test (Fisher 1935).

  If two runs were equally good, each row's difference would be as likely to
  have the other sign. p is the share of choices of signs whose sum is at least
  as far from 0 as the sum that was found. If there are at most `permutations`
  choices, all are tried. Otherwise `permutations` random choices are, and 1 is
  added to both counts, so that p is never 0 (Phipson and Smyth 2010).

  Args:
    difference: float[rows], the difference between the runs.
    seed: the seed of the random choices.
    permutations: the largest number of choices to try.
  """
  from scipy import stats

  difference = difference[difference != 0]  # 0 has no sign.
  if len(difference) < 2:
    return 1.0
  return float(stats.permutation_test(
      (difference,),
      # Rounded, so that sums that are equal but for rounding count as equal.
      lambda signed, axis: np.abs(signed.sum(axis=axis)).round(6),
      permutation_type='samples', alternative='greater',
      n_resamples=permutations, batch=max(1, _CELLS // len(difference)),
      rng=seed,
  ).pvalue)


def row_values(
    run: Mapping[str, Any], other: Mapping[str, Any]
) -> np.ndarray:
  """The mean correctness of each row over templates; see `paired_test`.

  Args:
    run: template -> predictions, as for `paired_test`.
    other: a run that must have the same templates and rows.

  Returns:
    float[rows], in ascending order of `example_id`.

  Raises:
    UserError: the runs have different templates or rows.
  """
  for one, another, which in ((run, other, 'second'), (other, run, 'first')):
    for template in one.keys() - another.keys():
      raise errors.UserError(f'template {template!r} is not in the {which} run')
  for name in run:
    _check_same_rows(name, run[name], other[name])
  names = sorted(run)
  pairs = [_id_and_correct(run[name]) for name in names]
  rows, num_rows = _joint_rows([ids for ids, _ in pairs])
  values = np.zeros(num_rows)
  for at, (_, correct) in zip(rows, pairs, strict=True):
    values[at] += np.asarray(correct) * num_rows / (len(names) * len(at))
  return values


def _check_same_rows(template, first, second) -> None:
  """UserError unless both ranked the same rows with the same gold options."""
  ids, other_ids = _id_and_correct(first)[0], _id_and_correct(second)[0]
  single = np.setxor1d(ids, other_ids)
  if len(single):
    where = 'first' if single[0] in ids else 'second'
    raise errors.UserError(
        f'template {template!r}: {len(single)} rows are in only one of the'
        f' runs, such as example {single[0]}, in the {where}'
    )
  if not all(isinstance(x, ranking.Predictions) for x in (first, second)):
    return
  gold = np.asarray(first.gold)[np.argsort(ids)]
  other_gold = np.asarray(second.gold)[np.argsort(other_ids)]
  if not np.array_equal(gold, other_gold):
    bad = np.sort(ids)[gold != other_gold][0]
    raise errors.UserError(
        f'template {template!r}: example {bad} has another gold option in the'
        ' second run: the runs were evaluated on different data'
    )


def _id_and_correct(examples) -> tuple[np.ndarray, np.ndarray]:
  if isinstance(examples, ranking.Predictions):
    correct = np.asarray(examples.prediction) == np.asarray(examples.gold)
    return np.asarray(examples.example_id), correct
  return np.asarray(examples[0]), np.asarray(examples[1])


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjusts the p of several tests for their number (Holm 1979).

  Args:
    p_values: the p of each test.

  Returns:
    The adjusted p of each test, in the same order. If tests with an adjusted p
    below 0.05 are called significant, the probability that any of them is a
    false positive is below 5 %.
  """
  p = np.asarray(p_values, np.float64)
  order = np.argsort(p, kind='stable')
  steps = p[order] * np.arange(len(p), 0, -1)
  adjusted = np.empty_like(p)
  adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
  return adjusted.tolist()


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
  """The mean and spread of a number over runs with different seeds.

  The interval is that of Student's t, which assumes a normal distribution over
  seeds. With 3 seeds it is the mean ± 2.48 (4.303 / sqrt(3)) standard
  deviations. Normal and bootstrap intervals would be too narrow for so few
  runs.

  Args:
    values: one value for each seed.

  Returns:
    `mean`; `std`, the sample standard deviation (divided by n - 1); and `low`
    and `high`, the 95 % interval of the mean. All but the mean are None for one
    seed.

  Raises:
    UserError: there is no value.
  """
  from scipy import stats

  n = len(values)
  if not n:
    raise errors.UserError('0 seeds; at least one is needed')
  mean = float(np.mean(values))
  if n == 1:
    return {'mean': mean, 'std': None, 'low': None, 'high': None}
  std = float(np.std(values, ddof=1))
  # Three decimals, as in tables of t and in the published results.
  quantile = round(float(stats.t.ppf(_TAILS[1], n - 1)), 3)
  half = quantile * std / n**0.5
  return {'mean': mean, 'std': std, 'low': mean - half, 'high': mean + half}
