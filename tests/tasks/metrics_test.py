"""Tests of tasks/metrics.py."""

from flipped_t5x.tasks import metrics
import numpy as np
import pytest

# Two examples, of 2 and 3 options; the right options are 1 and 0.
TARGETS = [
    (4, 0, False), (4, 1, True), (9, 0, True), (9, 1, False), (9, 2, False),
]


def test_candidate_gives_its_place_as_target_alone():
  example = {
      'example_id': np.int32(4), 'option_index': np.int32(1),
      'is_correct': np.bool_(True), 'targets_pretokenized': 'text',
  }
  place = metrics.candidate('decoded', example, is_target=True)
  assert place == (4, 1, True)
  assert [type(v) for v in place] == [int, int, bool]
  assert metrics.candidate('decoded', example, is_target=False) == 'decoded'
  assert metrics.candidate('decoded', example) == 'decoded'


@pytest.mark.parametrize('scores, accuracy, macro_f1, ties', (
    ((-2.0, -1.0, -1.0, -5.0, -6.0), 100, 100, 0),
    # Predictions 1, 1 for 1, 0: class 0 has F1 0 and class 1 2/3.
    ((-2.0, -1.0, -5.0, -1.0, -6.0), 50, 100 / 3, 0),
    # Predictions 0, 0 by a tie, for 1, 0: class 0 has F1 2/3 and class 1 0.
    ((-1.0, -1.0, -2.0, -3.0, -3.0), 50, 100 / 3, 1),
    ((-1.0, -2.0, -9.0, -8.0, -8.0), 0, 0, 1),
))
def test_rank_options_by_hand(scores, accuracy, macro_f1, ties):
  expected = {
      'accuracy': accuracy, 'macro_f1': macro_f1, 'ties': ties, 'examples': 2,
  }
  for targets, given in (
      (TARGETS, list(scores)),
      (TARGETS, (np.array(scores), {'intermediates': 1})),  # As T5X gives them.
      (TARGETS[::-1], list(scores[::-1])),
  ):
    assert metrics.rank_options(targets, given) == pytest.approx(expected)


def test_rank_options_checks_the_candidates():
  with pytest.raises(ValueError, match='example 9: an option is missing'):
    metrics.rank_options(TARGETS[:2] + TARGETS[3:], [-1.0] * 4)
  with pytest.raises(ValueError, match='example 4: a score is not finite'):
    metrics.rank_options(TARGETS, [float('nan'), -1.0, -1.0, -2.0, -3.0])
