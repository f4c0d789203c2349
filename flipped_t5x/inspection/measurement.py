"""Measures a sample of a dataset's rows: lengths, drops, cuts, examples.

What is counted are *units*: training pairs, or in evaluation candidates, each
of which is one option of a row. The length of a pair's inputs is that of the
longer of its two sides, and so is that of its targets. Lengths include EOS.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flipped_t5x import errors
from flipped_t5x.inspection import units as units_lib
from flipped_t5x.prompts import examples

EITHER = 'inputs or targets'
PERCENTILES = {'50': 50, '90': 90, '99': 99, 'max': 100}


def percentile(values: Sequence[int], percent: int) -> int | None:
  """The smallest value that `percent` % do not exceed; None without values."""
  if not values:
    return None
  rank = -(-percent * len(values) // 100)  # Rounded up, without floats.
  return sorted(values)[max(rank, 1) - 1]


@dataclasses.dataclass
class Measured:
  """What was measured on rows, each of them in one template.

  Attributes:
    rows: the number of rows.
    dropped: reason -> number of rows that were dropped for it.
    options: number of options -> number of rows with so many.
    alike: number of kept rows in which two options are the same tokens, so that
      nothing can tell them apart.
    lengths: side -> number of tokens of each unit before cutting, including
      units of rows that are dropped only because a length is too small.
    units: the number of units kept.
    cut: `inputs`, `targets`, `inputs or targets` -> kept units cut there.
    examples: the first kept rows as text: `row` (from 1), `tokens` (side -> the
      most of a unit, before cutting) and what `units.PairUnits.example` gives.
  """

  rows: int = 0
  dropped: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  options: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  alike: int = 0
  lengths: Mapping[str, list[int]] = dataclasses.field(
      default_factory=lambda: {side: [] for side in units_lib.SIDES}
  )
  units: int = 0
  cut: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  examples: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)

  def dropped_share(self) -> float:
    """The share of the rows that was dropped."""
    return self.dropped.total() / self.rows

  def cut_share(self, side: str = EITHER) -> float | None:
    """The share of the kept units that was cut; None if none was kept."""
    return self.cut[side] / self.units if self.units else None

  def percentiles(self, side: str) -> dict[str, int | None]:
    """The lengths that 50, 90 and 99 % do not exceed, and the maximum."""
    return {
        name: percentile(self.lengths[side], p)
        for name, p in PERCENTILES.items()
    }

  def summary(self) -> dict[str, Any]:
    """The content as JSON, without the single lengths."""
    return {
        'sampled': self.rows,
        'dropped': dict(self.dropped.most_common()),
        'dropped_share': self.dropped_share(),
        'options': {str(n): rows for n, rows in sorted(self.options.items())},
        'alike': self.alike,
        'units': self.units,
        'cut_share': self.cut_share(),
        **{
            side: {
                'percentiles': self.percentiles(side),
                'cut_share': self.cut_share(side),
            }
            for side in units_lib.SIDES
        },
        'examples': self.examples,
    }


def measure(
    make: units_lib.PairUnits | units_lib.CandidateUnits,
    rows: Sequence[bytes],
    numbers: Sequence[int],
    seeds: Sequence[int],
    num_examples: int = 0,
) -> Measured:
  """Measures rows.

  Args:
    make: turns a row into units that are cut to its lengths.
    rows: all rows of a split, as JSON text.
    numbers: the numbers of the rows to measure.
    seeds: a seed for each of these rows.
    num_examples: the most rows to keep as text.

  Returns:
    What was found.

  Raises:
    UserError: a row does not fit a template; the message names both.
  """
  measured, whole = Measured(), make.whole()
  for number, seed in zip(numbers, seeds, strict=True):
    arguments = rows[number], number, seed
    try:
      before = after = whole(*arguments)
      # If nothing is too long, cutting changes nothing.
      if any(
          tokens > make.lengths[side]
          for unit in before for side, tokens in _sizes(unit).items()
      ):
        after = make(*arguments)
    except ValueError as e:
      raise errors.UserError(f'row {number + 1}: {e}') from e
    _count(measured, make, before, after)
    if after and len(measured.examples) < num_examples:
      most = {s: max(_sizes(u)[s] for u in before) for s in units_lib.SIDES}
      measured.examples.append(
          {'row': number + 1, 'tokens': most, **make.example(*arguments, after)}
      )
  measured.dropped.update(whole.counts + make.counts)
  del measured.dropped[examples.TRUNCATED]  # Counted by side.
  return measured


def _count(measured: Measured, make, before, after) -> None:
  """Counts a row's units without lengths and with them."""
  measured.rows += 1
  if before:
    measured.options[make.num_options(before)] += 1
  for unit in before:
    for side, tokens in _sizes(unit).items():
      measured.lengths[side].append(tokens)
  if not after:
    return
  measured.units += len(after)
  measured.alike += make.alike(after)
  for long, unit in zip(before, after, strict=True):
    kept = _sizes(unit)
    cut = [side for side, tokens in _sizes(long).items() if kept[side] < tokens]
    measured.cut.update([*cut, EITHER] if cut else [])


def _sizes(unit: units_lib.Unit) -> dict[str, int]:
  return {
      side: max(len(unit[side]), len(unit.get(f'wrong_{side}', ())))
      for side in units_lib.SIDES
  }
