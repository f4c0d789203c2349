"""Datasets of the catalog as SeqIO tasks, registered on request."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import re

from flipped_t5x import features
from flipped_t5x import metrics
from flipped_t5x import preprocessors
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import numpy as np
import seqio
import tensorflow as tf


class RowSource(seqio.DataSource):
  """SeqIO source of `row` (JSON text) and `index` (its number in the split).

  Rows are drawn by number, so that a shuffle is over the whole split and any
  number of shards can be read.
  """

  def __init__(self, dataset: catalog.Dataset):
    super().__init__(
        splits=tuple(dataset.num_examples),
        num_input_examples=dict(dataset.num_examples),
    )
    self._dataset = dataset

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  @property
  def performs_internal_shuffling(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def get_dataset(
      self,
      split: str = 'train',
      shuffle: bool = True,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
  ) -> tf.data.Dataset:
    rows = self._dataset.open(split)
    dataset = tf.data.Dataset.range(len(rows))
    if shard_info:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      dataset = dataset.shuffle(len(rows), seed=seed)

    def read(index):
      row = tf.numpy_function(
          lambda i: np.array(rows[i], object), [index], tf.string
      )
      return {
          'row': tf.ensure_shape(row, []),
          'index': tf.cast(index, tf.int32),
      }

    return dataset.map(read, tf.data.AUTOTUNE)


def register(
    name: str,
    vocabulary: pathlib.Path,
    format: str = 'flipped',  # pylint: disable=redefined-builtin
    max_field_chars: int | None = None,
) -> seqio.Mixture:
  """Registers a mixture and its training tasks.

  Args:
    name: a mixture of `mixtures.py`.
    vocabulary: file of the SentencePiece model, without sentinels.
    format: see `formats.py`; other formats than 'flipped' register the mixture
      as `FORMAT_NAME`.
    max_field_chars: see `templates.Template`.

  Returns:
    The mixture, also to be had by `seqio.get_mixture_or_task(name)`.
  """
  mixture = mixtures.mixture(name)
  tasks = [
      (train_task(d, vocabulary, format, max_field_chars), rate)
      for d, rate in mixture.rates().items()
  ]
  if format != 'flipped':
    name = f'{format}_{name}'
  seqio.MixtureRegistry.remove(name)
  return seqio.MixtureRegistry.add(name, tasks)


def train_task(
    name: str,
    vocabulary: pathlib.Path,
    format: str = 'flipped',  # pylint: disable=redefined-builtin
    max_field_chars: int | None = None,
) -> seqio.Task:
  """Registers a training task: a template and a wrong option drawn per row.

  Args:
    name: a dataset of the catalog.
    vocabulary: file of the SentencePiece model, without sentinels.
    format: see `formats.py`.
    max_field_chars: see `templates.Template`.

  Returns:
    The task `FORMAT_NAME`, with `inputs`, `wrong_inputs` and `targets`.
  """
  data = catalog.dataset(name)
  feature = _feature(vocabulary)
  return _register(
      f'{format}_{name}',
      RowSource(data),
      preprocessors.DrawPair(
          name, data.load_templates(max_field_chars), format
      ),
      {'inputs': feature, 'wrong_inputs': feature, 'targets': feature},
  )


def score_tasks(
    name: str,
    vocabulary: pathlib.Path,
    format: str = 'flipped',  # pylint: disable=redefined-builtin
    max_field_chars: int | None = None,
) -> Mapping[str, seqio.Task]:
  """Registers a scoring task for each template of a dataset.

  Args:
    name: a dataset of the catalog.
    vocabulary: file of the SentencePiece model, without sentinels.
    format: see `formats.py`.
    max_field_chars: see `templates.Template`.

  Returns:
    Template name -> task `FORMAT_NAME_score_TEMPLATE`, with `inputs` and
    `targets`, judged by `metrics.rank_options`.
  """
  data = catalog.dataset(name)
  feature = _feature(vocabulary)
  tasks = {}
  for template in data.load_templates(max_field_chars).values():
    slug = re.sub(r'\W+', '_', template.name).strip('_')
    tasks[template.name] = _register(
        f'{format}_{name}_score_{slug}',
        RowSource(data),
        preprocessors.ExpandOptions(name, template, format),
        {'inputs': feature, 'targets': feature},
        postprocess_fn=metrics.candidate,
        metric_fns=[metrics.rank_options],
    )
  return tasks


def _feature(vocabulary: pathlib.Path) -> seqio.Feature:
  return seqio.Feature(
      seqio.SentencePieceVocabulary(
          str(vocabulary), extra_ids=features.EXTRA_IDS
      ),
      add_eos=True,
  )


def _register(
    name, source, preprocessor, output_features, postprocess_fn=None,
    metric_fns=(),
) -> seqio.Task:
  """Adds a task, in place of one of that name with other settings."""
  seqio.TaskRegistry.remove(name)
  return seqio.TaskRegistry.add(
      name,
      source=source,
      preprocessors=[seqio.CacheDatasetPlaceholder(), preprocessor],
      output_features=output_features,
      postprocess_fn=postprocess_fn,
      metric_fns=list(metric_fns),
      shuffle_buffer_size=None,  # The source shuffles a whole split.
  )
