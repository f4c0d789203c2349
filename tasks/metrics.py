"""SeqIO metric functions that rank the options of scoring tasks.

SeqIO gives a metric function the postprocessed targets and the scores of all
candidates of a task, in one order; `ranking.py` does the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flipped_t5x import ranking
import numpy as np


def candidate(
    decoded: Any, example: Mapping[str, Any], is_target: bool = False
) -> Any:
  """SeqIO postprocessor: a candidate's place instead of its decoded text."""
  if not is_target:
    return decoded
  return (
      int(example['example_id']),
      int(example['option_index']),
      bool(example['is_correct']),
  )


def rank_options(
    targets: Sequence[tuple[int, int, bool]], scores: Sequence[float]
) -> dict[str, float]:
  """Accuracy and macro-F1 of the best scored option.

  Args:
    targets: (example_id, option_index, is_correct) of each candidate.
    scores: its log-probability; or the pair (scores, intermediates) that a T5X
      model gives.

  Returns:
    `accuracy`, `macro_f1` in percent and `ties`, `examples`.
  """
  if len(scores) == 2 and isinstance(scores[1], Mapping):
    scores = scores[0]
  ranked = ranking.rank(np.asarray(scores), *np.transpose(targets))
  return {
      'accuracy': 100 * ranking.accuracy(ranked.prediction, ranked.gold),
      'macro_f1': 100 * ranking.macro_f1(ranked.prediction, ranked.gold),
      'ties': int(ranked.tied.sum()),
      'examples': len(ranked.gold),
  }
