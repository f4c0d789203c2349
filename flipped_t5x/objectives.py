"""The loss of flipped learning, as pure functions of logits.

    L = L_LM + lambda * L_UL
    L_LM = - sum_t w_t log P(I_t | I_<t, x, right label)
    L_UL = - sum_t w_t log(1 - P(I_t | I_<t, x, wrong label) + eps)

I is the instruction, x the instance, and w the weights of the target tokens.
DIRECT has the same form. Its target is the label, and its input the prompt:

    L_LM = - sum_t w_t log P(l_t | l_<t, prompt) of the right label l
    L_UL = - sum_t w_t log(1 - P(l_t | l_<t, prompt) + eps) of a wrong label l

Guess the Instruction! (Ye et al. 2022, arXiv 2210.02969), equations 2 to 4;
eps = 0.01 is in the authors' code but not in the paper. Everything is computed
in float32, whatever the type of the logits.

A training batch has a right side and may have a wrong side. The arrays that a
wrong label changes have a twin whose name begins with `wrong_`; see
`prompts/arrays.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flipped_t5x import errors
import jax
import jax.numpy as jnp

_WRONG = 'wrong_'
Batch = Mapping[str, jax.Array]


def log_probs(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Log-probability of each target token.

  Args:
    logits: float[..., vocab].
    targets: int32[...].

  Returns:
    float32[...]: log P(target).
  """
  logits = logits.astype(jnp.float32)
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def log_one_minus_probs(
    logits: jax.Array, targets: jax.Array, eps: float
) -> jax.Array:
  """log(1 - P(target) + eps), finite and with bounded gradient even at P = 1.

  1 - P is the probability of all other tokens. Its logarithm is the log-sum-exp
  of all logits but the target's, minus the log-sum-exp of all logits. This is
  exact near P = 1, where 1 - P would cancel.

  Args:
    logits: float[..., vocab] with vocab >= 2.
    targets: int32[...].
    eps: added to 1 - P. The paper's formula has 0, the authors' code 0.01.

  Returns:
    float32[...]: at most log(1 + eps), and at least log(eps) if eps > 0.
  """
  logits = logits.astype(jnp.float32)
  is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
  others = jnp.where(is_target, jnp.finfo(jnp.float32).min, logits)
  log_rest = jax.nn.logsumexp(others, axis=-1) - jax.nn.logsumexp(
      logits, axis=-1
  )
  if eps == 0:
    return log_rest
  return jnp.log(jnp.exp(log_rest) + eps)


def flipped_loss(
    right_logits: jax.Array,
    wrong_logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    wrong_targets: jax.Array | None = None,
    wrong_weights: jax.Array | None = None,
    *,
    unlikelihood_weight: float,
    eps: float,
    total_weight: jax.Array | None = None,
    wrong_total_weight: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The objective of one batch with a right and a wrong side.

  In FLIPPED the two sides have different inputs and the same targets. In DIRECT
  they have the same inputs and different targets.

  Args:
    right_logits: float[batch, length, vocab] of the right side.
    wrong_logits: float[batch, length, vocab] of the wrong side.
    targets: int32[batch, length], the target tokens of the right side.
    weights: float[batch, length], the weights of `targets`; 0 on padding. If
      each token of a target of n tokens has the weight 1/n, all examples count
      equally; if each has the weight 1, all tokens do.
    wrong_targets: int32[batch, length], the target tokens of the wrong side;
      None if they are `targets`.
    wrong_weights: float[batch, length], the weights of `wrong_targets`; None if
      they are `weights`.
    unlikelihood_weight: lambda.
    eps: see `log_one_minus_probs`.
    total_weight: float32, the sum of `weights` over the whole batch, if this is
      a part of a batch. The results of all parts then add up to those of the
      whole batch.
    wrong_total_weight: float32, the sum of `wrong_weights` over the whole
      batch, if this is a part of a batch.

  Returns:
    The scalar loss and a dict of means over the batch: `loss`, `likelihood`
    (L_LM), `unlikelihood` (L_UL), and `prob_right` and `prob_wrong`, the
    probability of a target token on the right and on the wrong side.
  """
  mean = wrong_mean = _weighted_mean(weights, total_weight)
  if wrong_weights is not None:
    wrong_mean = _weighted_mean(wrong_weights, wrong_total_weight)
  if wrong_targets is None:
    wrong_targets = targets
  log_right = log_probs(right_logits, targets)
  log_wrong = log_probs(wrong_logits, wrong_targets)
  likelihood = -mean(log_right)
  unlikelihood = -wrong_mean(
      log_one_minus_probs(wrong_logits, wrong_targets, eps)
  )
  loss = likelihood + unlikelihood_weight * unlikelihood
  return loss, {
      'loss': loss,
      'likelihood': likelihood,
      'unlikelihood': unlikelihood,
      'prob_right': mean(jnp.exp(log_right)),
      'prob_wrong': wrong_mean(jnp.exp(log_wrong)),
  }


def likelihood_loss(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    total_weight: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The objective of one batch without a wrong side: L_LM alone.

  Args:
    logits: float[batch, length, vocab].
    targets: int32[batch, length].
    weights: float[batch, length], the weights of `targets`; 0 on padding.
    total_weight: float32, the sum of `weights` over the whole batch, if this is
      a part of a batch.

  Returns:
    The scalar loss and a dict of means over the batch: `loss`, `likelihood`
    (both L_LM), and `prob_right`, the probability of a target token.
  """
  mean = _weighted_mean(weights, total_weight)
  log_right = log_probs(logits, targets)
  loss = -mean(log_right)
  return loss, {
      'loss': loss,
      'likelihood': loss,
      'prob_right': mean(jnp.exp(log_right)),
  }


def _weighted_mean(
    weights: jax.Array, total_weight: jax.Array | None
) -> Callable[[jax.Array], jax.Array]:
  weights = weights.astype(jnp.float32)
  if total_weight is None:
    total_weight = weights.sum()
  total_weight = jnp.maximum(total_weight, 1e-8)  # Padding alone: loss 0.
  return lambda values: jnp.sum(values * weights) / total_weight


def has_wrong_side(batch: Mapping[str, Any]) -> bool:
  """Whether a batch has a wrong side: wrong inputs or wrong targets."""
  return any(name.startswith(_WRONG) for name in batch)


def pair(batch: Batch) -> dict[str, jax.Array]:
  """Makes two rows of each row: its right side, followed by its wrong side.

  The two are neighbours so that no row of a sharded batch moves to another
  device.

  Args:
    batch: arrays [batch, ...]. An array without a `wrong_` twin is used for
      both sides.

  Returns:
    Arrays [2 * batch, ...] under the names without `wrong_`.
  """
  def both(name, value):
    rows = jnp.stack([value, batch.get(_WRONG + name, value)], axis=1)
    return rows.reshape(-1, *value.shape[1:])

  return {
      name: both(name, value)
      for name, value in batch.items() if not name.startswith(_WRONG)
  }


def unpair(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits rows in the order of `pair`, [2 * batch, ...], into both sides."""
  rows = rows.reshape(-1, 2, *rows.shape[1:])
  return rows[:, 0], rows[:, 1]


def weighted_targets(batch: Batch) -> list[jax.Array]:
  """The targets and weights of a batch, as arguments of the losses.

  Args:
    batch: a training batch.

  Returns:
    `targets` and `weights`; if the wrong side has targets of its own, followed
    by `wrong_targets` and `wrong_weights`. See `flipped_loss`.
  """
  return [
      batch[side + name]
      for side in ('', _WRONG)
      for name in ('decoder_target_tokens', 'decoder_loss_weights')
      if side + name in batch
  ]


def total_weights(batch: Batch) -> dict[str, jax.Array]:
  """The keyword arguments `*total_weight` for the losses of a batch's parts."""
  return {
      f'{side}total_weight': batch[name].astype(jnp.float32).sum()
      for side in ('', _WRONG)
      if (name := f'{side}decoder_loss_weights') in batch
  }


def network_batch(batch: Batch, unlikelihood_weight: float) -> Batch:
  """The rows that the network has to read for the loss of a batch.

  Args:
    batch: a training batch.
    unlikelihood_weight: lambda.

  Returns:
    The rows of both sides, in the order of `pair`; the batch itself if it has
    no wrong side.

  Raises:
    UserError: lambda is not 0, but the batch has no wrong side.
  """
  if has_wrong_side(batch):
    return pair(batch)
  if unlikelihood_weight:
    raise errors.UserError(
        f'LAMBDA is {unlikelihood_weight}, but the batch has no wrong side:'
        ' neither wrong_encoder_input_tokens nor wrong_decoder_target_tokens.'
        ' On T5X, give the length of wrong_inputs or wrong_targets in'
        ' TASK_FEATURE_LENGTHS, or set LAMBDA = 0'
    )
  return batch


def batch_loss(
    logits: jax.Array,
    *targets: jax.Array,
    unlikelihood_weight: float,
    eps: float,
    **totals: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The objective of one batch, with or without a wrong side.

  Args:
    logits: float[rows, length, vocab], the network's output for the rows of
      `network_batch`.
    *targets: the batch's `weighted_targets`.
    unlikelihood_weight: lambda.
    eps: see `log_one_minus_probs`.
    **totals: the `total_weights` of the whole batch, if this is a part of it.

  Returns:
    The result of `flipped_loss` if there are twice as many rows as targets,
    otherwise that of `likelihood_loss`.
  """
  if logits.shape[0] == targets[0].shape[0]:
    return likelihood_loss(logits, *targets, **totals)
  right, wrong = unpair(logits)
  return flipped_loss(
      right, wrong, *targets, unlikelihood_weight=unlikelihood_weight, eps=eps,
      **totals,
  )


def sequence_scores(
    logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  """Log-probability of each whole target: the score that ranks options.

  Args:
    logits: float[batch, length, vocab].
    targets: int32[batch, length].
    weights: float[batch, length]: positive on the target's tokens, 0 on
      padding.

  Returns:
    float32[batch]: sum_t log P(target_t).
  """
  return jnp.sum(log_probs(logits, targets) * (weights > 0), axis=-1)
