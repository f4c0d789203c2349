"""The rows of a dataset as a SeqIO data source."""

from collections.abc import Mapping, Sequence

from flipped_t5x import errors
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks.sources import store
import numpy as np
import seqio
import tensorflow as tf

EVAL_SPLIT = 'eval'  # What the catalog says to evaluate on.
_ROWS_PER_SHARD = 10_000  # Of caching; any other number can be read.
_MAX_SHARDS = 64


class RowSource(seqio.DataSource):
  """SeqIO source of `row` (JSON text) and `index` (its number in the split).

  Rows are drawn by number, so that a shuffle is over the whole split and any
  number of shards can be read.

  Attributes:
    dataset: the dataset of the catalog.
  """

  def __init__(self, dataset: catalog.Dataset, splits: Mapping[str, str]):
    """Opens nothing yet.

    Args:
      dataset: a dataset of the catalog.
      splits: split -> split of the catalog that it is.
    """
    owner = catalog.dataset(dataset.rows_of or dataset.name)
    self._sizes = {s: owner.num_examples[real] for s, real in splits.items()}
    for split, limit in (('train', catalog.CAP), (EVAL_SPLIT, dataset.limit)):
      if split in self._sizes and limit is not None:
        self._sizes[split] = min(self._sizes[split], limit)
    super().__init__(
        splits=tuple(splits), num_input_examples=dict(self._sizes)
    )
    self.dataset = dataset
    self._real = splits

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  @property
  def performs_internal_shuffling(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    number = -(-self._sizes[split] // _ROWS_PER_SHARD)
    return [f'{split}-{i}' for i in range(min(number, _MAX_SHARDS))]

  def real_split(self, split: str) -> str:
    """The catalog's name of a split; UserError if there is no such split."""
    if split not in self._real:
      raise errors.UserError(
          f'{self.dataset.name} has no split {split!r}; it has'
          f' {list(self._real)}'
      )
    return self._real[split]

  def rows(self, split: str) -> store.Rows:
    """The rows of the catalog's split; UserError if there is no such split."""
    return self.dataset.open(self.real_split(split))

  def numbers(self, split: str) -> Sequence[int]:
    """Which of these rows a split has."""
    if split in ('train', EVAL_SPLIT):
      return self.dataset.sample(self._real[split])
    return range(len(self.rows(split)))

  def get_dataset(
      self,
      split: str = 'train',
      shuffle: bool = True,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
  ) -> tf.data.Dataset:
    rows, numbers = self.rows(split), self.numbers(split)
    self.dataset.check_labels(self._real[split])
    dataset = tf.data.Dataset.range(len(numbers))
    if shard_info:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      dataset = dataset.shuffle(len(numbers), seed=seed)

    def read(i):
      number = numbers[i]
      return np.array(rows[number], object), np.int32(number)

    def read_tensors(i):
      # No state: T5X can save where an iterator is.
      row, number = tf.numpy_function(
          read, [i], [tf.string, tf.int32], stateful=False
      )
      return {
          'row': tf.ensure_shape(row, []),
          'index': tf.ensure_shape(number, []),
      }

    return dataset.map(read_tensors, tf.data.AUTOTUNE)
