"""FLIPPED as a T5X model; no other file imports T5X."""

from collections.abc import Mapping
import functools
import inspect
from typing import Any

from flipped_t5x import errors
from flipped_t5x import feature_converters
from flipped_t5x import objectives
from flipped_t5x import t5x_network
from flipped_t5x.weights import t5x_checkpoints
import jax
import jax.numpy as jnp
from t5x import metrics as metrics_lib
from t5x import models

if 'feature_converter_cls' not in inspect.signature(
    models.EncoderDecoderModel
).parameters:
  raise errors.MissingPackage(
      f'{models.__file__}: T5X of another version; install the one that'
      " setup.py's extra t5x names"
  )


@functools.cache
def initial_step(path: str | tuple[()], pretrained_steps: int | None) -> int:
  """The step of the checkpoint that a training starts from.

  Args:
    path: a checkpoint; () for random weights.
    pretrained_steps: what the step has to be; None for any.

  Returns:
    The step, 0 for random weights.

  Raises:
    UserError: the step is another one, or the checkpoint is damaged.
  """
  step = t5x_checkpoints.open(path)[1] if path else 0
  if pretrained_steps not in (None, step):
    raise errors.UserError(
        f'PRETRAINED_STEPS is {pretrained_steps}, but the step of'
        f' {path or "random weights"} is {step}: leave it out'
    )
  return step


def total_steps(pretrained_steps: int, train_steps: int) -> int:
  """The step to stop at, which T5X counts from the start of pretraining.

  T5X's own `relative_steps` would count from the step of the last restart.

  Args:
    pretrained_steps: the step of the checkpoint that the training starts from.
    train_steps: steps to train beyond it.

  Returns:
    Their sum.
  """
  return pretrained_steps + train_steps


class FlippedModel(models.EncoderDecoderModel):
  """`EncoderDecoderModel` with the loss L_LM + lambda * L_UL.

  Its network is T5X's own or `network.Transformer`. A dataset without a wrong
  side, such as those of CHANNEL, needs `unlikelihood_weight=0`.
  """

  def __init__(
      self,
      *args,
      unlikelihood_weight: float = 3.0,
      eps: float = 0.01,
      averaging: str = 'example',
      num_microbatches: int | None = None,
      **kwargs,
  ):
    """Adds the objective's settings to those of `EncoderDecoderModel`.

    Args:
      *args: arguments of `EncoderDecoderModel`.
      unlikelihood_weight: lambda.
      eps: see `objectives.log_one_minus_probs`.
      averaging: see `feature_converters.WeightedFeatureConverter`.
      num_microbatches: the same as for `trainer.Trainer`, which adds up the
        gradients and the metrics of the microbatches: in training, the loss and
        its parts, all of them means, are divided by it.
      **kwargs: keyword arguments of `EncoderDecoderModel`.

    Raises:
      UserError: an unknown averaging, or see `t5x_network.check`.
    """
    super().__init__(
        *args,
        feature_converter_cls=functools.partial(
            feature_converters.FlippedFeatureConverter, averaging
        ),
        **kwargs,
    )
    self.FEATURE_CONVERTER_CLS(pack=False)  # Checks the averaging now.
    t5x_network.check(self.module.config, self.input_vocabulary)
    self._unlikelihood_weight = unlikelihood_weight
    self._eps = eps
    self._num_microbatches = num_microbatches or 1

  def loss_fn(
      self,
      params: Any,
      batch: Mapping[str, jax.Array],
      dropout_rng: jax.Array | None,
  ) -> tuple[jax.Array, Mapping[str, Any]]:
    """The loss of a microbatch, and metrics: T5X's and the objective's parts.

    Args:
      params: weights of the network.
      batch: a training batch, or a microbatch of it; see `prompts/arrays.py`.
      dropout_rng: None for no dropout.

    Returns:
      The scalar loss, and metrics, both for T5X to sum up over microbatches.

    Raises:
      UserError: the batch has no wrong side, and lambda is not 0.
    """
    return self._loss(params, batch, dropout_rng, self._num_microbatches)

  def eval_fn(
      self, params: Any, batch: Mapping[str, jax.Array]
  ) -> tuple[jax.Array, Mapping[str, Any]]:
    """`loss_fn` without dropout, of a batch that T5X does not divide."""
    return self._loss(params, batch, None, num_microbatches=1)

  def _loss(
      self,
      params: Any,
      batch: Mapping[str, jax.Array],
      dropout_rng: jax.Array | None,
      num_microbatches: int,
  ) -> tuple[jax.Array, Mapping[str, Any]]:
    """See `loss_fn`."""
    targets = objectives.weighted_targets(batch)
    logits = self._compute_logits(
        params, objectives.network_batch(batch, self._unlikelihood_weight),
        dropout_rng,
    )
    loss, parts = objectives.batch_loss(
        logits, *targets, unlikelihood_weight=self._unlikelihood_weight,
        eps=self._eps,
    )
    loss /= num_microbatches
    if objectives.has_wrong_side(batch):
      logits, _ = objectives.unpair(logits)
    metrics = self._compute_metrics(
        logits=logits,
        targets=targets[0],
        mask=targets[1] > 0,
        loss=loss,
        segment_ids={
            side: batch.get(f'{side}_segment_ids', batch[tokens] != 0)
            for side, tokens in (
                ('encoder', 'encoder_input_tokens'),
                ('decoder', 'decoder_target_tokens'),
            )
        },
    )
    metrics |= {
        name: metrics_lib.AveragePerStep(total=value / num_microbatches)
        for name, value in parts.items()
    }
    return loss, metrics

  def score_batch(
      self,
      params: Any,
      batch: Mapping[str, jax.Array],
      return_intermediates: bool = False,
  ) -> Any:
    """Log-probability of each whole target, which ranks options.

    Args:
      params: weights of the network.
      batch: a batch without a wrong side.
      return_intermediates: whether to return T5X's intermediates as well.

    Returns:
      float32[batch].
    """
    batch = dict(
        batch,
        decoder_loss_weights=jnp.float32(batch['decoder_loss_weights'] > 0),
    )
    if return_intermediates:
      return super().score_batch(params, batch, return_intermediates=True)
    return objectives.sequence_scores(
        self._compute_logits(params, batch), batch['decoder_target_tokens'],
        batch['decoder_loss_weights'],
    )
