"""From scores to predictions and metrics, in plain NumPy.

The prediction for an example is the option with the highest score. The first of
equal scores wins, and such ties are counted. All options are taken to be
equally likely a priori.
"""

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
  """The predictions for n examples.

  Attributes:
    example_id: int[n], the example's number.
    prediction: int[n], the number of the option with the highest score.
    gold: int[n], the number of the right option.
    num_options: int[n], how many options the example has.
    tied: bool[n], whether another option has the same score as the prediction.
  """

  example_id: np.ndarray
  prediction: np.ndarray
  gold: np.ndarray
  num_options: np.ndarray
  tied: np.ndarray


def rank(
    scores: np.ndarray,
    example_id: np.ndarray,
    option_index: np.ndarray,
    is_correct: np.ndarray,
) -> Predictions:
  """Groups candidates by example and predicts the best option of each.

  Args:
    scores: float[m], the score of each candidate; candidates come in any order.
    example_id: int[m], the example that each candidate belongs to.
    option_index: int[m], the number of the option in its example, from 0.
    is_correct: bool[m], whether it is the right option; true for exactly one
      candidate of each example.

  Returns:
    The predictions, in ascending order of `example_id`.

  Raises:
    ValueError: a score is not finite, an example does not have exactly one
      right option, or its options are not numbered 0, 1, ...
  """
  scores = np.asarray(scores, np.float64)
  if not np.all(np.isfinite(scores)):
    bad = np.asarray(example_id)[~np.isfinite(scores)][0]
    raise ValueError(f'example {bad}: a score is not finite')
  ids, row = np.unique(example_id, return_inverse=True)
  num_options = np.bincount(row, minlength=len(ids))
  option_index = np.asarray(option_index)
  missing = (option_index >= num_options[row]) | (option_index < 0)
  if np.any(missing):
    raise ValueError(f'example {ids[row[missing][0]]}: an option is missing')
  # One row for each example, one column for each option.
  width = num_options.max(initial=0)
  table = np.full((len(ids), width), -np.inf)
  right = np.zeros((len(ids), width), bool)
  seen = np.zeros((len(ids), width), int)
  np.add.at(seen, (row, option_index), 1)
  table[row, option_index] = scores
  right[row, option_index] = is_correct
  invalid = np.any(seen > 1, axis=1) | (right.sum(axis=1) != 1)
  if np.any(invalid):
    raise ValueError(
        f'example {ids[invalid][0]}: an option appears twice, or not exactly'
        ' one option is right'
    )
  best = table.max(axis=1, keepdims=True, initial=-np.inf)
  return Predictions(
      example_id=ids,
      prediction=table.argmax(axis=1) if width else np.zeros(0, int),
      gold=right.argmax(axis=1) if width else np.zeros(0, int),
      num_options=num_options,
      tied=(table == best).sum(axis=1) > 1,
  )


def accuracy(prediction: np.ndarray, gold: np.ndarray) -> float:
  """Share of examples, from 0 to 1, whose prediction is the right option."""
  _check(prediction, gold)
  return float(np.mean(np.asarray(prediction) == np.asarray(gold)))


def macro_f1(prediction: np.ndarray, gold: np.ndarray) -> float:
  """Mean F1, from 0 to 1, over the options that are right for some example.

  An option that is never predicted has an F1 of 0.

  Args:
    prediction: int[n], the number of the predicted option.
    gold: int[n], the number of the right option.

  Returns:
    The mean of 2 TP / (2 TP + FP + FN).
  """
  _check(prediction, gold)
  prediction, gold = np.asarray(prediction), np.asarray(gold)
  f1 = []
  for label in np.unique(gold):
    hits = np.sum((prediction == label) & (gold == label))
    f1.append(2 * hits / (np.sum(prediction == label) + np.sum(gold == label)))
  return float(np.mean(f1))


def majority(
    options: Sequence[Sequence[str]], gold: np.ndarray
) -> np.ndarray:
  """int[n]: for every example the option whose text is right most often.

  Where examples have options of their own, as in multiple choice, the number
  of an option means nothing: the right one may always stand at the same place.

  Args:
    options: the texts of each example's options.
    gold: int[n], the number of the right option.

  Returns:
    The predictions; -1 for examples without that option. Of texts that are
    right equally often, the first in the order of options.
  """
  right = collections.Counter(
      texts[i] for texts, i in zip(options, gold, strict=True)
  )
  order = {text: k for texts in reversed(options)
           for k, text in enumerate(texts)}
  most = min(right, key=lambda text: (-right[text], order[text]))
  return np.array([
      texts.index(most) if most in texts else -1 for texts in options
  ])


def random_accuracy(num_options: np.ndarray) -> float:
  """Expected accuracy of a uniform draw among each example's options."""
  return float(np.mean(1 / np.asarray(num_options)))


def spread(values: Sequence[float]) -> dict[str, float]:
  """Mean, median and (population) standard deviation over templates."""
  return {
      'mean': float(np.mean(values)),
      'median': float(np.median(values)),
      'std': float(np.std(values)),
  }


def _check(prediction, gold):
  if len(prediction) != len(gold) or not len(gold):
    raise ValueError(
        f'{len(prediction)} predictions for {len(gold)} examples; their numbers'
        ' must be equal and not 0'
    )
