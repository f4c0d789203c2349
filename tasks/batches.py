"""Catalog mixtures as Grain pipelines, for the embedded engine.

The rows, templates, draws and rates are those of the SeqIO tasks in
`registry.py`. Rows are read by number: a position is a few integers, a run that
resumes reads nothing twice, and TensorFlow is not imported.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import vocabulary_files
from flipped_t5x.prompts import arrays
from flipped_t5x.prompts import examples
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import labels
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks import origins
from flipped_t5x.tasks.sources import store
import grain
import numpy as np

_MOST_DROPS = 1000  # One after another, before something must be wrong.
_READ_AHEAD = 512  # Examples, over all shards.
_MIN_BINS = 64  # Rows packed at a time of a shard; see `open_rows`.


class TrainBatches:
  """Endless batches of a mixture; see `prompts/arrays.py`.

  The examples are dealt out to `num_shards` shards: of each `num_shards`
  examples one to each, by lot. Each shard makes its own rows. A batch has the
  same number of rows from each shard, in order. So batches depend on the number
  of shards, and not on which host reads which shard.
  """

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
      format: str = 'flipped',
      max_field_chars: int | None = None,
      num_shards: int = 1,
      unlikelihood_weight: float = 0.0,
      open_rows: int | None = None,
      packed_input_length: int | None = None,
      packed_target_length: int | None = None,
  ):
    """Opens the mixture's training splits.

    Args:
      mixture: a mixture of `mixtures.py`, or datasets, separated by commas.
      vocabulary: see `vocabulary_files.find`.
      batch_size: rows a batch; several examples share a row when packed.
      input_length: tokens of each encoder side, EOS counted in.
      target_length: tokens of the decoder side, EOS counted in.
      seed: of the order, the templates and the wrong options; the same seed
        gives the same batches.
      pack: whether to put several examples in one row.
      averaging: 'example' or 'token', see `arrays.loss_weights`.
      format: see `prompts/formats.py`.
      max_field_chars: see `templates.Template`.
      num_shards: parts of the stream that several hosts may share out.
      unlikelihood_weight: lambda; see `formats.wrong_side` for what it adds.
      open_rows: rows of a shard that are packed at a time, in which an example
        may find its place; the more, the less padding. They are then shuffled,
        since the first of them have more of the short examples. None packs a
        batch at a time, or 64 rows if there are several shards, in order.
      packed_input_length: tokens of each encoder side of a packed row, at least
        `input_length`; None for as many.
      packed_target_length: the same of the decoder side. Rows have least
        padding where both sides are full at the same time.

    Raises:
      UserError: an unknown name, data that do not fit the catalog, shards that
        do not divide the batch, or settings of packing that do not fit.
    """
    formats.get(format)
    arrays.check_averaging(averaging)
    if num_shards < 1 or batch_size % num_shards:
      fit = [n for n in range(1, batch_size + 1) if not batch_size % n]
      raise errors.UserError(
          f'DATA_SHARDS = {num_shards} does not divide BATCH_SIZE ='
          f' {batch_size}; {fit} do'
      )
    self._averaging, self._pack, self._seed = averaging, pack, seed
    self.batch_size, self._num_shards = batch_size, num_shards
    self.counts, self.origins = {}, {}
    side = formats.wrong_side(format, bool(unlikelihood_weight))
    self._lengths = lengths = {
        name: target_length if name.endswith('targets') else input_length
        for name in ('inputs', side, 'targets') if name
    }
    self._row_lengths = _row_lengths(
        lengths, pack, packed_input_length, packed_target_length
    )
    if open_rows is not None and (open_rows < 1 or not pack):
      raise errors.UserError(
          f'OPEN_ROWS = {open_rows} needs PACK = True, and at least one row'
      )
    self._open_rows = open_rows
    mixed_of = mixtures.mixture(mixture)
    if mixed_of.format not in ('flipped', format):
      raise errors.UserError(f'{mixture} is not of the format {format!r}')
    rates = mixed_of.rates()
    datasets = []
    loaded = tokenization.load_vocabulary(vocabulary_files.find(vocabulary))
    for number, (name, rate) in enumerate(rates.items()):
      data = catalog.dataset(name)
      self.counts[name] = collections.Counter()
      templates = data.load_templates(max_field_chars)
      draw = examples.DrawPair(
          name, templates,
          loaded, lengths, format, self.counts[name], bool(unlikelihood_weight),
      )
      self.origins[name] = {
          **origins.of(data, 'train', templates), 'rate': rate
      }
      datasets.append(_pairs(data, draw, seed + number))
    mixed = grain.MapDataset.mix(datasets, list(rates.values()))
    if num_shards > 1:
      # A mixture repeats its datasets in a fixed pattern, and a shard that took
      # every n-th example could have those of one dataset alone. Once packed,
      # the shares would be of rows, and not of examples.
      mixed = grain.experimental.WindowShuffleMapDataset(
          mixed, window_size=num_shards, seed=seed
      )
    self._mixed = mixed
    self.select(range(batch_size))

  def select(self, rows: Sequence[int]) -> int:
    """Makes these rows of each batch alone: reads the shards that have them.

    Args:
      rows: numbers of rows, ascending.

    Returns:
      How many rows there are in those shards. The stream begins anew.
    """
    per_shard = self.batch_size // self._num_shards
    shards = sorted({row // per_shard for row in rows})
    made = [s * per_shard + i for s in shards for i in range(per_shard)]
    self._rows = None if list(rows) == made else np.searchsorted(made, rows)
    read_ahead = -(-_READ_AHEAD // len(shards))
    self._iterators = {
        s: iter(self._shard(s, per_shard, read_ahead)) for s in shards
    }
    return len(made)

  def _shard(
      self, shard: int, batch_size: int, read_ahead: int
  ) -> grain.IterDataset:
    """Batches of the rows of one shard."""
    # One thread: the counts stay exact, and Python would not run two at once.
    dataset = self._mixed[shard :: self._num_shards].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=read_ahead)
    )
    lengths = self._lengths
    dataset = dataset.map(
        lambda pair: {k: np.array(pair[k], np.int32) for k in lengths}
    )
    if self._pack:
      bins = self._open_rows or batch_size
      if self._num_shards > 1 and self._open_rows is None:
        bins = max(bins, _MIN_BINS)
      dataset = grain.experimental.FirstFitPackIterDataset(
          dataset, length_struct=self._row_lengths, num_packing_bins=bins,
          shuffle_bins=self._open_rows is not None, seed=self._seed,
      )
    else:
      dataset = dataset.map(lambda pair: _pad(pair, lengths))
    return dataset.batch(batch_size, drop_remainder=True)

  def __iter__(self) -> Iterator[arrays.Batch]:
    return self

  def __next__(self) -> arrays.Batch:
    parts = [next(iterator) for iterator in self._iterators.values()]
    pairs = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    if self._rows is not None:
      pairs = {k: a[self._rows] for k, a in pairs.items()}
    return arrays.training_batch(pairs, self._averaging)

  def get_state(self) -> bytes:
    """The position of the shards that are read."""
    return json.dumps({
        'num_shards': self._num_shards,
        'shards': {s: i.get_state() for s, i in self._iterators.items()},
    }).encode()

  def set_state(self, *states: bytes) -> None:
    """Goes to the position that `get_state` gave, here or on several hosts.

    Raises:
      UserError: the states are of another number of shards, or some of a
        shard that is read here is missing.
    """
    found = {}
    for state in map(json.loads, states):
      # Those of runs from before there were shards are of the one alone.
      state = state if 'shards' in state else {
          'num_shards': 1, 'shards': {'0': state}
      }
      if state['num_shards'] != self._num_shards:
        raise errors.UserError(
            f'DATA_SHARDS = {self._num_shards}, but the position is one of'
            f' {state["num_shards"]}'
        )
      found.update(state['shards'])
    for shard, iterator in self._iterators.items():
      if str(shard) not in found:
        raise errors.UserError(
            f'the position has no shard {shard}, only {sorted(found)}'
        )
      iterator.set_state(found[str(shard)])


def _row_lengths(
    lengths: Mapping[str, int], pack: bool, input_length: int | None,
    target_length: int | None,
) -> dict[str, int]:
  """Feature -> tokens of a packed row.

  Args:
    lengths: feature -> the most tokens of an example.
    pack: whether rows are packed.
    input_length: see `TrainBatches`.
    target_length: see there.

  Raises:
    UserError: a length has no use, or is too short.
  """
  result = {}
  for name, length in lengths.items():
    side, wanted = (
        ('TARGET', target_length) if name.endswith('targets')
        else ('INPUT', input_length)
    )
    if wanted is not None and (wanted < length or not pack):
      raise errors.UserError(
          f'PACKED_{side}_LENGTH = {wanted} needs PACK = True, and must be at'
          f' least {side}_LENGTH = {length}'
      )
    result[name] = wanted or length
  return result


def _pairs(
    data: catalog.Dataset, draw: examples.DrawPair, seed: int
) -> grain.MapDataset:
  """Endless pairs of one dataset, shuffled anew in each epoch.

  In place of a row that is dropped another one of the same dataset is drawn, so
  that the shares of a mixture are those of its rates.
  """
  rows, numbers = data.open('train'), data.sample('train')
  data.check_labels('train')

  def draw_row(number, rng):
    for _ in range(_MOST_DROPS):
      with _named(data.name, 'train', number):
        pair = draw(rows[number], int(rng.integers(2**63)))
      if pair is not None:
        return pair
      number = numbers[int(rng.integers(len(numbers)))]
    raise errors.UserError(
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
    raise errors.UserError(f'{dataset}: {split} row {number + 1}: {e}') from e


def _pad(pair: Mapping[str, np.ndarray], lengths: Mapping[str, int]):
  return {
      k: np.pad(tokens, (0, lengths[k] - len(tokens)))
      for k, tokens in pair.items()
  }


@dataclasses.dataclass(frozen=True)
class CandidateSource:
  """The options of a split's rows in all templates, read by row number.

  Attributes:
    dataset: the dataset.
    split: the split.
    templates: name -> template.
    numbers: numbers of the rows to use, ascending.
    vocabulary: the vocabulary.
    lengths: the most tokens of `inputs` and of `targets`, EOS counted in.
    format: see `prompts/formats.py`.
  """

  dataset: catalog.Dataset
  split: str
  templates: Mapping[str, templates_lib.Template]
  numbers: Sequence[int]
  vocabulary: tokenization.Vocabulary
  lengths: Mapping[str, int]
  format: str

  @property
  def cluster(self) -> str:
    """Which kind of task it is."""
    return self.dataset.cluster

  @property
  def metric(self) -> str:
    """What the dataset is judged by, see `catalog.Dataset`."""
    return self.dataset.metric

  @property
  def origin(self) -> Mapping[str, Any]:
    """JSON that says which data these are."""
    return {'split': self.split, **self._rows.origin}

  @property
  def texts(self) -> Mapping[str, Sequence[str]]:
    """Template -> what its candidates depend on, beside the rows."""
    return origins.texts(self.templates)

  @property
  def label_words(self) -> Mapping[str, Sequence[str]]:
    """Template -> its label words, where they are not its own."""
    return {
        name: t.label_words for name, t in self.templates.items()
        if isinstance(t, labels.RelabelledTemplate)
    }

  def read(
      self, template: str, numbers: Sequence[int] | None = None
  ) -> arrays.Candidates:
    """All options of some rows in one template, in order.

    Args:
      template: the template's name.
      numbers: of the rows; by default all of `numbers`.

    Returns:
      The candidates, and the counts of these rows alone.

    Raises:
      UserError: a row does not fit the template; the message names both.
    """
    name = self.dataset.name
    expand = examples.ExpandOptions(
        name, self.templates[template], self.vocabulary, self.lengths,
        self.format,
    )
    rows, candidates = self._rows, []
    for number in self.numbers if numbers is None else numbers:
      with _named(name, self.split, number):
        candidates += expand(rows[number], number)
    return arrays.Candidates.from_examples(
        candidates, expand.counts, self.origin
    )

  @property
  def _rows(self) -> store.Rows:
    return self.dataset.open(self.split)


def open_candidates(
    dataset: str,
    vocabulary: str | pathlib.Path,
    input_length: int,
    target_length: int,
    format: str = 'flipped',
    max_field_chars: int | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> CandidateSource:
  """Opens a split and its templates.

  Args:
    dataset: a dataset of the catalog.
    vocabulary: see `vocabulary_files.find`.
    input_length: tokens of the encoder side, EOS counted in.
    target_length: tokens of the decoder side, EOS counted in.
    format: see `prompts/formats.py`.
    max_field_chars: see `templates.Template`.
    split: the split; None for the one that the catalog says.
    limit: the most rows, see `catalog.Dataset.sample`.

  Returns:
    What reads them.

  Raises:
    FileNotFoundError: no source has the split.
    UserError: an unknown name, or data that do not fit the catalog.
  """
  formats.get(format)
  data = catalog.dataset(dataset)
  split = split or data.eval_split
  return CandidateSource(
      data, split, data.load_templates(max_field_chars),
      data.sample(split, limit),
      tokenization.load_vocabulary(vocabulary_files.find(vocabulary)),
      {'inputs': input_length, 'targets': target_length}, format,
  )
