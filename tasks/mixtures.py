"""Named mixtures: which datasets, proportional to size, each capped."""

from collections.abc import Mapping
import dataclasses
import difflib

from flipped_t5x.tasks import catalog

CAP = 500_000  # The most examples that a dataset counts as.


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Datasets that are trained on together.

  Attributes:
    datasets: names in the catalog.
    cap: the most examples that a dataset counts as.
  """

  datasets: tuple[str, ...]
  cap: int = CAP

  def rates(self) -> Mapping[str, float]:
    """Dataset -> min(training examples, cap), its share of the draws."""
    return {
        name: float(min(catalog.dataset(name).num_examples['train'], self.cap))
        for name in self.datasets
    }


MIXTURES = {
    # The smaller set is the harder one: the cap gives it 46 % of the draws.
    'flipped_demo': Mixture(('vader_sentiment', 'vader_source'), cap=10_000),
}


def mixture(name: str) -> Mixture:
  """A mixture by name; ValueError gives the nearest names."""
  if name not in MIXTURES:
    near = difflib.get_close_matches(name, MIXTURES) or list(MIXTURES)
    raise ValueError(f'no mixture {name!r}; nearest: {near}')
  return MIXTURES[name]
