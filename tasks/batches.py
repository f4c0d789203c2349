"""Catalog mixtures as Grain pipelines, for the embedded engine.

The same rows, templates, draws and rates as the SeqIO tasks of `registry.py`,
read by number: a position is a few integers, going on after a restart reads
nothing twice, and TensorFlow is not imported.
"""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import pathlib

from flipped_t5x import examples
from flipped_t5x import features
from flipped_t5x import formats
from flipped_t5x.engine import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import grain
import numpy as np

_MOST_DROPS = 1000  # One after another, before something must be wrong.


class TrainBatches:
  """Endless batches of a mixture; see `engine.batches.Batches`."""

  def __init__(
      self,
      mixture: str,
      vocabulary: str | pathlib.Path,
      batch_size: int,
      input_length: int,
      target_length: int,
      seed: int,
      pack: bool = True,
      averaging: str = 'example',
      format: str = 'flipped',  # pylint: disable=redefined-builtin
      max_field_chars: int | None = None,
  ):
    """Opens the mixture's training splits.

    Args:
      mixture: a mixture of `mixtures.py`, or datasets, separated by commas.
      vocabulary: file of the SentencePiece model, without sentinels.
      batch_size: rows a batch; several examples share a row when packed.
      input_length: tokens of each encoder side, EOS counted in.
      target_length: tokens of the decoder side, EOS counted in.
      seed: of the order, the templates and the wrong options; the same seed
        gives the same batches.
      pack: whether to put several examples in one row.
      averaging: 'example' or 'token', see `engine.batches.loss_weights`.
      format: see `formats.py`.
      max_field_chars: see `templates.Template`.

    Raises:
      ValueError: an unknown name, or data that do not fit the catalog.
    """
    formats.get(format)
    batches.check_averaging(averaging)
    self._averaging = averaging
    self.counts, self.origins = {}, {}
    lengths = {
        'inputs': input_length,
        'wrong_inputs': input_length,
        'targets': target_length,
    }
    mixed_of = mixtures.mixture(mixture)
    if mixed_of.format not in ('flipped', format):
      raise ValueError(f'{mixture} is not of the format {format!r}')
    rates = mixed_of.rates()
    if format in formats.WITHOUT_WRONG_SIDE:
      del lengths['wrong_inputs']
    datasets = []
    for number, name in enumerate(rates):
      data = catalog.dataset(name)
      self.counts[name] = collections.Counter()
      draw = examples.DrawPair(
          name, data.load_templates(max_field_chars),
          features.load_vocabulary(pathlib.Path(vocabulary)), lengths, format,
          self.counts[name],
      )
      self.origins[name] = data.open('train').origin
      datasets.append(_pairs(data, draw, seed + number))
    mixed = grain.MapDataset.mix(datasets, list(rates.values()))
    # One thread: the counts stay exact, and Python would not run two at once.
    dataset = mixed.to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=512)
    )
    dataset = dataset.map(
        lambda pair: {k: np.array(pair[k], np.int32) for k in lengths}
    )
    if pack:
      dataset = grain.experimental.FirstFitPackIterDataset(
          dataset, length_struct=lengths, num_packing_bins=batch_size,
          shuffle_bins=False,
      )
    else:
      dataset = dataset.map(lambda pair: _pad(pair, lengths))
    self._iterator = iter(dataset.batch(batch_size, drop_remainder=True))

  def __iter__(self) -> Iterator[batches.Batch]:
    return self

  def __next__(self) -> batches.Batch:
    return batches.training_batch(next(self._iterator), self._averaging)

  def get_state(self) -> bytes:
    """The position, to be given to `set_state` of a like iterator."""
    return json.dumps(self._iterator.get_state()).encode()

  def set_state(self, state: bytes) -> None:
    """Goes to the position that `get_state` gave."""
    self._iterator.set_state(json.loads(state))


def _pairs(
    data: catalog.Dataset, draw: examples.DrawPair, seed: int
) -> grain.MapDataset:
  """Endless pairs of one dataset, shuffled anew in each epoch.

  In place of a row that is dropped another one of the same dataset is drawn, so
  that the shares of a mixture are those of its rates.
  """
  rows, numbers = data.open('train'), data.sample('train')

  def draw_row(number, rng):
    for _ in range(_MOST_DROPS):
      with _named(data.name, 'train', number):
        pair = draw(rows[number], int(rng.integers(2**63)))
      if pair is not None:
        return pair
      number = numbers[int(rng.integers(len(numbers)))]
    raise ValueError(
        f'{data.name}: {_MOST_DROPS} rows in a row were dropped:'
        f' {dict(draw.counts)}'
    )

  return (
      grain.MapDataset.source(numbers)
      .seed(seed)
      .shuffle()
      .repeat()
      .random_map(draw_row)
  )


@contextlib.contextmanager
def _named(dataset: str, split: str, number: int) -> Iterator[None]:
  """Puts the row before the message of a ValueError."""
  try:
    yield
  except ValueError as e:
    raise ValueError(f'{dataset}: {split} row {number + 1}: {e}') from e


def _pad(pair: Mapping[str, np.ndarray], lengths: Mapping[str, int]):
  return {
      k: np.pad(tokens, (0, lengths[k] - len(tokens)))
      for k, tokens in pair.items()
  }


def read_candidates(
    dataset: str,
    template: str,
    vocabulary: str | pathlib.Path,
    input_length: int,
    target_length: int,
    format: str = 'flipped',  # pylint: disable=redefined-builtin
    max_field_chars: int | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> batches.Candidates:
  """All options of all rows of a split in one template, in order.

  Args:
    dataset: a dataset of the catalog.
    template: the template's name.
    vocabulary: file of the SentencePiece model, without sentinels.
    input_length: tokens of the encoder side, EOS counted in.
    target_length: tokens of the decoder side, EOS counted in.
    format: see `formats.py`.
    max_field_chars: see `templates.Template`.
    split: the split; None for the one that the catalog says.
    limit: the most rows, see `catalog.Dataset.sample`.

  Returns:
    The candidates.
  """
  data = catalog.dataset(dataset)
  expand = examples.ExpandOptions(
      dataset, data.load_templates(max_field_chars)[template],
      features.load_vocabulary(pathlib.Path(vocabulary)),
      {'inputs': input_length, 'targets': target_length}, format,
  )
  split = split or data.eval_split
  rows = data.open(split)
  candidates = []
  for number in data.sample(split, limit):
    with _named(dataset, split, number):
      candidates += expand(rows[number], number)
  return batches.Candidates.of(
      candidates, expand.counts, {'split': split, **rows.origin}
  )
