"""One task's results from the predictions of its templates."""

from collections.abc import Mapping, Sequence
from typing import Any

from flipped_t5x import ranking
from flipped_t5x.evaluation import statistics
import numpy as np


def summarize(
    ranked: Mapping[str, ranking.Predictions],
    counts: Mapping[str, Mapping[str, int]],
    options: Mapping[str, Sequence[Sequence[str]]],
    scores: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> dict[str, Any]:
  """Summarizes the predictions of one task's templates.

  Args:
    ranked: template -> predictions.
    counts: template -> reason -> the number of rows that were dropped, or of
      candidates that were truncated.
    options: template -> the texts of each example's options, by which the
      majority is found.
    scores: template -> float[options] of each example. Without scores there is
      no `calibration`.

  Returns:
    The task's results that depend on predictions, see docs/evaluation.md.
  """
  templates = {
      name: _template(predictions, counts[name], options[name])
      for name, predictions in ranked.items()
  }

  def mean(key):
    return float(np.mean([t[key] for t in templates.values()]))

  def over_templates(metric):
    low, high = statistics.bootstrap_interval(list(ranked.values()), metric)
    values = [t[metric] for t in templates.values()]
    return {**ranking.spread(values), 'low': low, 'high': high}

  result = {
      'examples': max(t['examples'] for t in templates.values()),
      'options': sorted({n for t in templates.values() for n in t['options']}),
      'accuracy': over_templates('accuracy'),
      'macro_f1': over_templates('macro_f1'),
      'majority_accuracy': mean('majority_accuracy'),
      'majority_macro_f1': mean('majority_macro_f1'),
      'random_accuracy': mean('random_accuracy'),
      'ties': sum(t['ties'] for t in templates.values()),
      'templates': templates,
  }
  if scores is not None:
    result['calibration'] = statistics.calibration(
        [s for name in ranked for s in scores[name]],
        np.concatenate([r.gold for r in ranked.values()]),
    )
  return result


def _template(
    ranked: ranking.Predictions,
    counts: Mapping[str, int],
    options: Sequence[Sequence[str]],
) -> dict[str, Any]:
  """One template's results."""
  constant = ranking.majority(options, ranked.gold)
  return {
      'examples': len(ranked.gold),
      'options': sorted({int(n) for n in ranked.num_options}),
      'accuracy': ranking.accuracy(ranked.prediction, ranked.gold),
      'macro_f1': ranking.macro_f1(ranked.prediction, ranked.gold),
      'majority_accuracy': ranking.accuracy(constant, ranked.gold),
      'majority_macro_f1': ranking.macro_f1(constant, ranked.gold),
      'random_accuracy': ranking.random_accuracy(ranked.num_options),
      'ties': int(ranked.tied.sum()),
      'counts': dict(counts),
      'confusion': statistics.confusion(ranked),
  }
