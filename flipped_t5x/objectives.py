"""The loss of flipped learning, as pure functions of logits.

    L = L_LM + lambda * L_UL
    L_LM = - sum_t w_t log P(I_t | I_<t, x, right label)
    L_UL = - sum_t w_t log(1 - P(I_t | I_<t, x, wrong label) + eps)

DIRECT has the same form with a label for I, and the prompt for x and the label:

    L_LM = - sum_t w_t log P(l_t | l_<t, prompt) of the right label l
    L_UL = - sum_t w_t log(1 - P(l_t | l_<t, prompt) + eps) of a wrong label l

Guess the Instruction! (Ye et al. 2022, arXiv 2210.02969), equations 2 to 4;
eps = 0.01 is in the authors' code and not in the paper. Everything is computed
in float32, whatever the type of the logits.

A training batch has two sides. What the wrong label changes appears twice in
it, the second time with `wrong_` before its name; see `prompts/arrays.py`.
"""

from collections.abc import Callable
from collections.abc import Mapping
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

  1 - P is the share of all other tokens, so its logarithm is the log-sum-exp
  without the target less the log-sum-exp of all: nothing cancels near P = 1.

  Args:
    logits: float[..., vocab] with vocab >= 2.
    targets: int32[...].
    eps: added to 1 - P; 0 is the paper's formula, 0.01 the released code's.

  Returns:
    float32[...]: at most log(1 + eps), at least log(eps) where eps > 0.
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
  """The objective of one batch, right and wrong labels side by side.

  In FLIPPED the two sides differ by the encoder's input, and have one target.
  In DIRECT they have one input, and the label that is written differs.

  Args:
    right_logits: float[batch, length, vocab] of the right side.
    wrong_logits: float[batch, length, vocab] of the wrong side.
    targets: int32[batch, length], the right side's tokens.
    weights: float[batch, length]; 0 on padding. With `1 / len` on each token of
      a target of `len` tokens every example weighs the same; with 1 every token
      does.
    wrong_targets: int32[batch, length], the wrong side's tokens; None where
      both sides have the same, with the same weights.
    wrong_weights: float[batch, length], theirs.
    unlikelihood_weight: lambda.
    eps: see `log_one_minus_probs`.
    total_weight: float32, the sum of `weights` over a batch of which this is a
      part: the results of all parts then add up to those of the batch.
    wrong_total_weight: float32, that of `wrong_weights`.

  Returns:
    The scalar loss and its parts, each a weighted mean over the batch:
    `likelihood` (L_LM), `unlikelihood` (L_UL), and the mean probability of a
    target token on the right and on the wrong side, `prob_right` and
    `prob_wrong`.
  """
  mean = wrong_mean = _weighted_mean(weights, total_weight)
  if wrong_targets is None:
    wrong_targets = targets
  else:
    wrong_mean = _weighted_mean(wrong_weights, wrong_total_weight)
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
  """L_LM alone, for formats without a wrong side.

  Args:
    logits: float[batch, length, vocab].
    targets: int32[batch, length].
    weights: float[batch, length], see `flipped_loss`.
    total_weight: see `flipped_loss`.

  Returns:
    The scalar loss and `loss`, `likelihood` and `prob_right`, as there.
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
  total_weight = jnp.maximum(total_weight, 1e-8)  # All padding has loss 0.
  return lambda values: jnp.sum(values * weights) / total_weight


def has_wrong_side(batch: Mapping[str, Any]) -> bool:
  """Whether the rows have a wrong side: another input or another target."""
  return any(name.startswith(_WRONG) for name in batch)


def pair(batch: Batch) -> dict[str, jax.Array]:
  """A batch of twice the rows: each row's right side, then its wrong one.

  The two are neighbours, so that no row of a sharded batch changes its device.

  Args:
    batch: arrays [batch, ...]; an array without a `wrong_` twin is the same on
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
  """Splits [2 * batch, ...], in the order of `pair`, into right and wrong."""
  rows = rows.reshape(-1, 2, *rows.shape[1:])
  return rows[:, 0], rows[:, 1]


def weighted_targets(batch: Batch) -> list[jax.Array]:
  """The targets and weights that the losses take, of the sides that differ.

  Args:
    batch: a training batch.

  Returns:
    The arguments of `flipped_loss` after the logits, or of `likelihood_loss`.
  """
  return [
      batch[side + name]
      for side in ('', _WRONG)
      for name in ('decoder_target_tokens', 'decoder_loss_weights')
      if side + name in batch
  ]


def total_weights(batch: Batch) -> dict[str, jax.Array]:
  """The sums of a whole batch's weights, for the losses of its parts."""
  return {
      f'{side}total_weight': batch[name].astype(jnp.float32).sum()
      for side in ('', _WRONG)
      if (name := f'{side}decoder_loss_weights') in batch
  }


def network_batch(batch: Batch, unlikelihood_weight: float) -> Batch:
  """What the network has to read for the loss of a batch.

  Args:
    batch: a training batch.
    unlikelihood_weight: lambda.

  Returns:
    The batch itself if it has no wrong side, else both sides; see `pair`.

  Raises:
    UserError: the batch has no wrong side, and lambda is not 0.
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
  """The loss of what `network_batch` gives, with or without a wrong side.

  Args:
    logits: float[rows, length, vocab], for as many rows as `targets` has, or
      for twice as many in the order of `pair`.
    *targets: see `weighted_targets`.
    unlikelihood_weight: lambda.
    eps: see `log_one_minus_probs`.
    **totals: see `total_weights`; none if the batch is whole.

  Returns:
    The scalar loss and its parts; see `flipped_loss` and `likelihood_loss`.
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
  """Log-probability of each whole target, the score that ranks options.

  Args:
    logits: float[batch, length, vocab].
    targets: int32[batch, length].
    weights: float[batch, length]: positive on the target's tokens, 0 on
      padding.

  Returns:
    float32[batch]: sum_t log P(target_t).
  """
  return jnp.sum(log_probs(logits, targets) * (weights > 0), axis=-1)
