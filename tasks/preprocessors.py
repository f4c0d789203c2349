"""SeqIO preprocessors: rows as JSON text to the token features of a task.

Rendering, drawing and tokenizing are one Python call per row; see
`prompts/examples.py`.
"""

import collections
from collections.abc import Callable, Mapping
import dataclasses

from flipped_t5x.prompts import examples
from flipped_t5x.prompts import templates as templates_lib
import numpy as np
import seqio
import tensorflow as tf

_PAIR = {
    'task': tf.TensorSpec([], tf.string),
    'template': tf.TensorSpec([], tf.string),
    'options': tf.TensorSpec([None], tf.string),
    'option_index': tf.TensorSpec([], tf.int32),
}
_CANDIDATES = {
    'inputs': tf.TensorSpec([None, None], tf.int32),
    'targets': tf.TensorSpec([None, None], tf.int32),
    'example_id': tf.TensorSpec([None], tf.int32),
    'option_index': tf.TensorSpec([None], tf.int32),
    'is_correct': tf.TensorSpec([None], tf.bool),
    'num_options': tf.TensorSpec([None], tf.int32),
    'option': tf.TensorSpec([None], tf.string),
    'task': tf.TensorSpec([None], tf.string),
    'template': tf.TensorSpec([None], tf.string),
}


@dataclasses.dataclass(frozen=True)
class PairPreprocessor:
  """`examples.DrawPair` over a dataset of `row` (JSON) and `index`.

  `wrong_targets` are drawn where a length is given for them alone: only a loss
  with unlikelihood needs them.

  Attributes:
    task: the task's name.
    load_templates: gives the templates to draw from, uniformly.
    format: name of the text format, see `prompts/formats.py`.
    counts: reason -> rows dropped so far, and `truncated` -> pairs cut.
    output_features: set by SeqIO.
    sequence_length: set by SeqIO.
  """

  task: str
  load_templates: Callable[[], Mapping[str, templates_lib.Template]]
  format: str = 'flipped'
  counts: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  output_features: Mapping[str, seqio.Feature] | None = None
  sequence_length: Mapping[str, int] | None = None

  def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    lengths = self.sequence_length or {}
    names = [
        name for name in self.output_features
        if name != 'wrong_targets' or name in lengths
    ]
    draw = examples.DrawPair(
        self.task, self.load_templates(),
        self.output_features['inputs'].vocabulary, lengths, self.format,
        self.counts, 'wrong_targets' in names,
    )
    spec = {**dict.fromkeys(names, tf.TensorSpec([None], tf.int32)), **_PAIR}

    def run(row, seed):
      pair = draw(row, int(seed[0]) * 2**32 + int(seed[1]))
      return pair and {k: [pair[k]] for k in spec}

    @seqio.map_over_dataset(num_seeds=1)
    def draw_pair(row, seed):
      return _call(run, [row['row'], seed], _batched(spec))

    return draw_pair(dataset).unbatch()


@dataclasses.dataclass(frozen=True)
class OptionsPreprocessor:
  """`examples.ExpandOptions` over a dataset of `row` (JSON) and `index`.

  Attributes:
    task: the task's name.
    load_template: gives the template.
    format: name of the text format, see `prompts/formats.py`.
    counts: reason -> rows dropped so far, and `truncated` -> candidates cut.
    output_features: set by SeqIO.
    sequence_length: set by SeqIO.
  """

  task: str
  load_template: Callable[[], templates_lib.Template]
  format: str = 'flipped'
  counts: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  output_features: Mapping[str, seqio.Feature] | None = None
  sequence_length: Mapping[str, int] | None = None

  def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    expand = examples.ExpandOptions(
        self.task, self.load_template(),
        self.output_features['inputs'].vocabulary, self.sequence_length or {},
        self.format, self.counts,
    )

    def run(row, index):
      candidates = expand(row, int(index))
      if not candidates:
        return None
      columns = {k: [c[k] for c in candidates] for k in _CANDIDATES}
      for name in ('inputs', 'targets'):
        length = max(map(len, columns[name]))
        columns[name] = [t + [0] * (length - len(t)) for t in columns[name]]
      return columns

    def trim(candidate):
      for name in ('inputs', 'targets'):
        tokens = candidate[name]
        candidate[name] = tokens[: tf.math.count_nonzero(tokens)]
      return candidate

    dataset = dataset.map(
        lambda row: _call(run, [row['row'], row['index']], _CANDIDATES),
        tf.data.AUTOTUNE,
    )
    return dataset.unbatch().map(trim)


def _batched(spec):
  return {k: tf.TensorSpec([None, *s.shape], s.dtype) for k, s in spec.items()}


def _call(function, arguments, spec):
  """Runs Python on one row; None comes back as arrays with no rows."""

  def run(*values):
    columns = function(*values)
    return [
        np.array(columns[name], _numpy_type(s)) if columns
        else np.zeros([0] * len(s.shape), _numpy_type(s))
        for name, s in spec.items()
    ]

  # No state: every draw is from the seed, and an iterator can be saved.
  values = tf.numpy_function(
      run, arguments, [s.dtype for s in spec.values()], stateful=False
  )
  return {
      name: tf.ensure_shape(value, s.shape)
      for (name, s), value in zip(spec.items(), values, strict=True)
  }


def _numpy_type(spec):
  return object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
