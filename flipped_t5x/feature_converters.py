"""Task features to model arrays, with a right and a wrong side."""

from collections.abc import Mapping
from typing import Any, ClassVar

from flipped_t5x.prompts import arrays
import seqio
import tensorflow as tf

_Spec = seqio.FeatureConverter.FeatureSpec
_WRONG = 'wrong_'
# Feature of a wrong side -> the part of the model that reads or writes it.
_SIDES = {'wrong_inputs': 'encoder', 'wrong_targets': 'decoder'}


class WeightedFeatureConverter(seqio.EncDecFeatureConverter):
  """`seqio.EncDecFeatureConverter` with the weights of the objective.

  `decoder_loss_weights` are float32: with `averaging='example'` each token of a
  target of n tokens weighs 1/n, so that every example weighs the same however
  examples are packed; with 'token' each token weighs 1.
  """

  MODEL_FEATURES: ClassVar[Mapping[str, Any]] = {
      **seqio.EncDecFeatureConverter.MODEL_FEATURES,
      'decoder_loss_weights': _Spec(dtype=tf.float32),
  }

  def __init__(self, averaging: str = 'example', **kwargs):
    arrays.check_averaging(averaging)
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
  """`WeightedFeatureConverter` of two sides, where a dataset has a wrong one.

  With `wrong_inputs` it adds `wrong_encoder_input_tokens` (and, packed, its
  segment ids and positions), with `wrong_targets` all arrays of the decoder
  once more, with `wrong_` in front. When it packs, the three sequences of an
  example keep one segment id, and an example opens a new row if any of them is
  full.

  A dataset without either (score tasks, DIRECT) is converted without.
  """

  def __init__(self, averaging: str = 'example', **kwargs):
    super().__init__(averaging, **kwargs)
    self._paired = {
        wrong: _PairFeatureConverter(wrong, averaging, **kwargs)
        for wrong in _SIDES
    }

  def __call__(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    # Lengths of a wrong side that the dataset does not have are left out.
    lengths = {
        name: length for name, length in task_feature_lengths.items()
        if name not in _SIDES or name in ds.element_spec
    }
    for wrong, converter in self._paired.items():
      if wrong in ds.element_spec:
        return converter(ds, lengths)
    return super().__call__(ds, lengths)


class _PairFeatureConverter(WeightedFeatureConverter):
  """Converts the right side, and then the wrong one in its place."""

  def __init__(self, wrong: str, averaging: str, **kwargs):
    """Makes a converter of datasets with the feature `wrong`."""
    self._side = _SIDES[wrong]
    self.TASK_FEATURES = {
        **self.TASK_FEATURES, wrong: _Spec(dtype=tf.int32),
    }
    self.MODEL_FEATURES = self._with_wrong(self.MODEL_FEATURES)
    self.PACKING_FEATURE_DTYPES = self._with_wrong(self.PACKING_FEATURE_DTYPES)
    super().__init__(averaging, **kwargs)

  def _with_wrong(
      self, right: Mapping[str, Any], wrong: Mapping[str, Any] | None = None
  ) -> dict[str, Any]:
    """Adds values of the wrong side, or those of the right one, once more."""
    return dict(right) | {
        f'{_WRONG}{name}': value
        for name, value in (wrong or right).items()
        if name.startswith(self._side)
    }

  def _convert_example(
      self, features: Mapping[str, tf.Tensor]
  ) -> Mapping[str, tf.Tensor]:
    convert = super()._convert_example
    return self._with_wrong(convert(features), convert(_wrong(features)))

  def get_model_feature_lengths(
      self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    lengths = super().get_model_feature_lengths
    return self._with_wrong(
        lengths(task_feature_lengths), lengths(_wrong(task_feature_lengths))
    )


def _wrong(features: Mapping[str, Any]) -> dict[str, Any]:
  """Features with those of the wrong side in place of the right one's."""
  return dict(features) | {
      name.removeprefix(_WRONG): value
      for name, value in features.items() if name.startswith(_WRONG)
  }
