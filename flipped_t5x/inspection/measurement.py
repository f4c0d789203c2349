"""What a sample of a dataset's rows gives: lengths, drops, cuts, examples.

Counted in *units*: training pairs, or candidates (one option of a row in
evaluation). The inputs of a pair are the longer of its right and its wrong
side, and so are its targets: that many tokens it needs. EOS is counted
everywhere.
"""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from flipped_t5x import errors
from flipped_t5x.inspection import units as units_lib
from flipped_t5x.prompts import examples

EITHER = 'inputs or targets'
PERCENTILES = {'50': 50, '90': 90, '99': 99, 'max': 100}


def percentile(values: Sequence[int], percent: int) -> int | None:
  """The smallest value that `percent` % of all do not exceed; None of none."""
  if not values:
    return None
  rank = -(-percent * len(values) // 100)  # Rounded up, without floats.
  return sorted(values)[max(rank, 1) - 1]


@dataclasses.dataclass
class Measured:
  """What rows gave, each of them in one template.

  Attributes:
    rows: the number of rows.
    dropped: reason -> rows dropped for it.
    options: number of options -> rows that have so many.
    alike: kept rows of which two options are the same tokens: nothing can tell
      them apart.
    lengths: side -> tokens of each unit before cutting; those of rows that are
      dropped only because the lengths are too small count too.
    units: the number of units kept.
    cut: `inputs`, `targets`, `inputs or targets` -> kept units cut there.
    examples: the first kept rows as text: `row` (from 1), `tokens` (side -> the
      most of a unit, before cutting) and what `units.Pairs.example` gives.
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
    """The lengths that 50, 90, 99 % do not exceed, and the greatest."""
    return {
        name: percentile(self.lengths[side], p)
        for name, p in PERCENTILES.items()
    }

  def summary(self) -> dict[str, Any]:
    """What JSON can hold; without the single lengths."""
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
    make: row -> units, cut to its lengths of `inputs` and `targets`.
    rows: all rows of a split, as JSON text.
    numbers: the numbers of the rows to measure.
    seeds: one for each of them.
    num_examples: the most rows to keep as text.

  Returns:
    What was found.

  Raises:
    UserError: a row does not fit a template; names both.
  """
  measured, whole = Measured(), make.whole()
  for number, seed in zip(numbers, seeds, strict=True):
    arguments = rows[number], number, seed
    try:
      before = after = whole(*arguments)
      # Where nothing is too long, the same would come out.
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
    measured.cut.update(cut + [EITHER] * bool(cut))


def _sizes(unit: units_lib.Unit) -> dict[str, int]:
  return {
      side: max(len(unit[side]), len(unit.get(f'wrong_{side}', ())))
      for side in units_lib.SIDES
  }
