"""Task features to model arrays, with a right and a wrong encoder side."""

from collections.abc import Mapping

from flipped_t5x.engine import batches
import seqio
import tensorflow as tf

_Spec = seqio.FeatureConverter.FeatureSpec


class FlippedFeatureConverter(seqio.EncDecFeatureConverter):
  """`seqio.EncDecFeatureConverter` with `wrong_inputs` beside `inputs`.

  Adds `wrong_encoder_input_tokens` (and, packed, its segment ids and
  positions). When it packs, the two inputs and the target of an example keep
  one segment id, and an example opens a new row if any of the three is full.

  `decoder_loss_weights` are float32: with `averaging='example'` each token of a
  target of n tokens weighs 1/n, so that every example weighs the same however
  examples are packed; with 'token' each token weighs 1.
  """

  TASK_FEATURES = {
      **seqio.EncDecFeatureConverter.TASK_FEATURES,
      'wrong_inputs': _Spec(dtype=tf.int32),
  }
  MODEL_FEATURES = {
      **seqio.EncDecFeatureConverter.MODEL_FEATURES,
      'wrong_encoder_input_tokens': _Spec(dtype=tf.int32),
      'decoder_loss_weights': _Spec(dtype=tf.float32),
  }
  PACKING_FEATURE_DTYPES = {
      **seqio.EncDecFeatureConverter.PACKING_FEATURE_DTYPES,
      'wrong_encoder_segment_ids': tf.int32,
      'wrong_encoder_positions': tf.int32,
  }

  def __init__(self, averaging: str = 'example', **kwargs):
    batches.check_averaging(averaging)
    super().__init__(**kwargs)
    self._averaging = averaging

  def _convert_example(
      self, features: Mapping[str, tf.Tensor]
  ) -> Mapping[str, tf.Tensor]:
    converted = dict(super()._convert_example(features))
    converted['wrong_encoder_input_tokens'] = features['wrong_inputs']
    if self.pack:
      for suffix in ('segment_ids', 'positions'):
        converted[f'wrong_encoder_{suffix}'] = features[
            f'wrong_inputs_{suffix}'
        ]
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

  def get_model_feature_lengths(
      self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    lengths = dict(super().get_model_feature_lengths(task_feature_lengths))
    length = task_feature_lengths['wrong_inputs']
    lengths['wrong_encoder_input_tokens'] = length
    if self.pack:
      lengths['wrong_encoder_segment_ids'] = length
      lengths['wrong_encoder_positions'] = length
    return lengths
