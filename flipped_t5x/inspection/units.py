"""What training and evaluation make of a row: a pair, or all candidates.

`PairUnits` and `CandidateUnits` have the same methods, so that `measurement.py`
need not know which of the two it measures.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import json
import random
from typing import Any

from flipped_t5x.prompts import examples
from flipped_t5x.prompts import tokenization

SIDES = ('inputs', 'targets')

# A training pair or a candidate: tokens by feature, and what else it carries.
Unit = Mapping[str, Any]


class PairUnits:
  """The training pair of a row.

  Attributes:
    lengths: the most tokens of `inputs` and `targets`; empty for no limit.
    counts: reason -> number of rows dropped so far.
  """

  def __init__(self, draw: examples.DrawPair):
    self._draw = draw
    self.lengths, self.counts = draw.lengths, draw.counts

  def whole(self) -> 'PairUnits':
    """The same without limits, and with counts of its own."""
    return PairUnits(_whole(self._draw, collections.Counter()))

  def __call__(self, row: bytes, number: int, seed: int) -> list[Unit]:
    """The units of a row; none if it is dropped.

    Args:
      row: field name -> value, as JSON.
      number: the row's number in its split.
      seed: the seed of the template and the wrong option.
    """
    pair = self._draw(row, seed)
    return [] if pair is None else [pair]

  def num_options(self, units: Sequence[Unit]) -> int:
    """The number of options of a row with these units."""
    return len(units[0]['options'])

  def alike(self, units: Sequence[Unit]) -> bool:
    """Whether two options are the same tokens; such pairs are dropped."""
    return False

  def example(
      self, row: bytes, number: int, seed: int, units: Sequence[Unit]
  ) -> dict[str, Any]:
    """A row as text.

    Returns:
      `template`, `options` and `gold` (an index); the decoded `inputs` and
      `targets` of the right option; and `wrong_inputs` and `wrong_targets` of a
      wrong option, if they differ.
    """
    pair, = units
    wrong = {side: pair.get(f'wrong_{side}', pair[side]) for side in SIDES}
    return {
        'template': pair['template'],
        'options': list(pair['options']),
        'gold': pair['option_index'],
        **_texts(self._draw.vocabulary, pair, wrong),
    }


class CandidateUnits:
  """The candidates of a row, in a template that a seed draws.

  Attributes:
    lengths: the most tokens of `inputs` and `targets`; empty for no limit.
    counts: reason -> number of rows dropped so far.
  """

  def __init__(self, expand: Sequence[examples.ExpandOptions]):
    """Takes one for each template; all must share their counts."""
    self._expand = expand
    self.lengths, self.counts = expand[0].lengths, expand[0].counts

  def whole(self) -> 'CandidateUnits':
    """See `PairUnits`."""
    counts = collections.Counter()
    return CandidateUnits([_whole(e, counts) for e in self._expand])

  def _drawn(self, seed: int) -> examples.ExpandOptions:
    return random.Random(seed).choice(self._expand)

  def __call__(self, row: bytes, number: int, seed: int) -> list[Unit]:
    """See `PairUnits`; the seed is of the template only."""
    return self._drawn(seed)(row, number)

  def num_options(self, units: Sequence[Unit]) -> int:
    """See `PairUnits`."""
    return len(units)

  def alike(self, units: Sequence[Unit]) -> bool:
    """Whether two options are the same tokens: nothing can tell them apart."""
    return len({tuple(map(tuple, _sides(u))) for u in units}) < len(units)

  def example(
      self, row: bytes, number: int, seed: int, units: Sequence[Unit]
  ) -> dict[str, Any]:
    """See `PairUnits`; the wrong option is the one after the right one."""
    expand = self._drawn(seed)
    rendered = expand.template.render(json.loads(row), seed=number)
    wrong = (rendered.gold + 1) % len(units)
    return {
        'template': expand.template.name,
        'options': list(rendered.options),
        'gold': rendered.gold,
        **_texts(expand.vocabulary, units[rendered.gold], units[wrong]),
    }


def _whole(make, counts: collections.Counter):
  return dataclasses.replace(make, lengths={}, counts=counts)


def _sides(unit: Unit) -> list[Sequence[int]]:
  return [unit[side] for side in SIDES]


def _texts(
    vocabulary: tokenization.Vocabulary, right: Unit, wrong: Unit
) -> dict[str, str]:
  texts = {side: vocabulary.decode(right[side]) for side in SIDES}
  for side in SIDES:
    if list(wrong[side]) != list(right[side]):
      texts[f'wrong_{side}'] = vocabulary.decode(wrong[side])
  return texts
