"""Task features to model arrays, with a right and a wrong encoder side."""

from collections.abc import Mapping

from flipped_t5x.engine import batches
import seqio
import tensorflow as tf

_Spec = seqio.FeatureConverter.FeatureSpec
_WRONG = 'wrong_inputs'


class WeightedFeatureConverter(seqio.EncDecFeatureConverter):
  """`seqio.EncDecFeatureConverter` with the weights of the objective.

  `decoder_loss_weights` are float32: with `averaging='example'` each token of a
  target of n tokens weighs 1/n, so that every example weighs the same however
  examples are packed; with 'token' each token weighs 1.
  """

  MODEL_FEATURES = {
      **seqio.EncDecFeatureConverter.MODEL_FEATURES,
      'decoder_loss_weights': _Spec(dtype=tf.float32),
  }

  def __init__(self, averaging: str = 'example', **kwargs):
    batches.check_averaging(averaging)
    super().__init__(**kwargs)
    self._averaging = averaging

  def _convert_example(
      self, features: Mapping[str, tf.Tensor]
  ) -> Mapping[str, tf.Tensor]:
    converted = dict(super()._convert_example(features))
    weights = tf.cast(converted['decoder_loss_weights'], tf.float32)
    if self._averaging == 'example':
      segments = converted.get(
          'decoder_segment_ids', tf.cast(weights, tf.int32)
      )
      lengths = tf.math.unsorted_segment_sum(
          weights, segments, tf.reduce_max(segments) + 1
      )
      weights = tf.math.divide_no_nan(weights, tf.gather(lengths, segments))
    converted['decoder_loss_weights'] = weights
    return converted


class FlippedFeatureConverter(WeightedFeatureConverter):
  """`WeightedFeatureConverter` with `wrong_inputs` beside `inputs`.

  Adds `wrong_encoder_input_tokens` (and, packed, its segment ids and
  positions). When it packs, the two inputs and the target of an example keep
  one segment id, and an example opens a new row if any of the three is full.

  A dataset without `wrong_inputs` (score tasks, DIRECT) is converted without.
  """

  TASK_FEATURES = {
      **WeightedFeatureConverter.TASK_FEATURES,
      _WRONG: _Spec(dtype=tf.int32),
  }
  MODEL_FEATURES = {
      **WeightedFeatureConverter.MODEL_FEATURES,
      'wrong_encoder_input_tokens': _Spec(dtype=tf.int32),
  }
  PACKING_FEATURE_DTYPES = {
      **WeightedFeatureConverter.PACKING_FEATURE_DTYPES,
      'wrong_encoder_segment_ids': tf.int32,
      'wrong_encoder_positions': tf.int32,
  }

  def __init__(self, averaging: str = 'example', **kwargs):
    super().__init__(averaging, **kwargs)
    self._without_wrong = WeightedFeatureConverter(averaging, **kwargs)

  def __call__(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    if _WRONG in ds.element_spec:
      return super().__call__(ds, task_feature_lengths)
    lengths = {k: n for k, n in task_feature_lengths.items() if k != _WRONG}
    return self._without_wrong(ds, lengths)

  def _convert_example(
      self, features: Mapping[str, tf.Tensor]
  ) -> Mapping[str, tf.Tensor]:
    converted = dict(super()._convert_example(features))
    converted['wrong_encoder_input_tokens'] = features[_WRONG]
    if self.pack:
      for suffix in ('segment_ids', 'positions'):
        converted[f'wrong_encoder_{suffix}'] = features[f'{_WRONG}_{suffix}']
    return converted

  def get_model_feature_lengths(
      self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    lengths = dict(super().get_model_feature_lengths(task_feature_lengths))
    if _WRONG in task_feature_lengths:
      length = task_feature_lengths[_WRONG]
      lengths['wrong_encoder_input_tokens'] = length
      if self.pack:
        lengths['wrong_encoder_segment_ids'] = length
        lengths['wrong_encoder_positions'] = length
    return lengths
