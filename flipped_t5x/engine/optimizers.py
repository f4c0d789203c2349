"""Adafactor as T5 is finetuned with, from Optax."""

from collections.abc import Callable

from flax import traverse_util
from flipped_t5x import errors
from flipped_t5x.network import layers
from flipped_t5x.weights import tensors
import jax
import optax

Schedule = Callable[[int], float]


def adafactor(
    learning_rate: float | Schedule,
    max_gradient_norm: float | None = 0.5,
    clipping_threshold: float = 1.0,
    decay_rate: float = 0.8,
) -> optax.GradientTransformation:
  """Adafactor without parameter scaling, relative step or momentum.

  The settings are those of the FLIPPED model card and released code; the
  algorithm is Shazeer and Stern 2018 (arXiv 1804.04235).

  Args:
    learning_rate: a constant or a schedule of the step.
    max_gradient_norm: global norm to which gradients are clipped first; None
      for no clipping.
    clipping_threshold: largest root mean square of one tensor's update.
    decay_rate: the second moment decays by 1 - step ** -decay_rate.

  Returns:
    The optimizer.
  """
  transforms = [
      _each_layer(optax.adafactor(
          learning_rate,
          multiply_by_parameter_scale=False,
          clipping_threshold=clipping_threshold,
          decay_rate=decay_rate,
          momentum=None,
          weight_decay_rate=None,
      ))
  ]
  if max_gradient_norm is not None:
    transforms.insert(0, optax.clip_by_global_norm(max_gradient_norm))
  return optax.chain(*transforms)


def _each_layer(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies it to each layer of a stack by itself, as if they lay apart.

  Adafactor clips the update of a tensor by its root mean square: a stack of
  layers that were one tensor would be trained otherwise than its layers.
  """
  axis = layers.SCAN_AXIS

  def split(tree):
    """The stacks of each side, which may differ in depth, and the others."""
    parts = {}
    for name, leaf in traverse_util.flatten_dict(tree, sep='/').items():
      part = name.split('/')[0] if tensors.is_stacked([name]) else 'others'
      parts.setdefault(part, {})[name] = leaf
    return parts

  def init(params):
    if set(parts := split(params)) == {'others'}:
      return optimizer.init(params)
    return {
        part: optimizer.init(leaves) if part == 'others'
        else jax.vmap(optimizer.init, in_axes=axis)(leaves)
        for part, leaves in parts.items()
    }

  def update(updates, state, params):
    if set(parts := split(updates)) == {'others'}:
      return optimizer.update(updates, state, params)
    of_layers = jax.vmap(
        optimizer.update, in_axes=(axis, 0, axis), out_axes=(axis, 0)
    )
    new_updates, new_state, weights = {}, {}, split(params)
    for part, leaves in parts.items():
      updated, new_state[part] = (
          optimizer.update if part == 'others' else of_layers
      )(leaves, state[part], weights[part])
      new_updates |= updated
    return tensors.tree(new_updates), new_state

  return optax.GradientTransformation(init, update)


def warmup_linear_decay(
    peak: float, warmup_steps: int, total_steps: int
) -> Schedule:
  """From 0 up to `peak` and down to 0, for training from scratch.

  Args:
    peak: the highest learning rate.
    warmup_steps: steps on which it rises.
    total_steps: the step at which it is 0 again.

  Returns:
    The schedule.

  Raises:
    UserError: the warm-up is not shorter than the whole.
  """
  if not 0 < warmup_steps < total_steps:
    raise errors.UserError(
        f'warmup_steps {warmup_steps} must lie between 0 and total_steps'
        f' {total_steps}'
    )
  return optax.join_schedules(
      [
          optax.linear_schedule(0.0, peak, warmup_steps),
          optax.linear_schedule(peak, 0.0, total_steps - warmup_steps),
      ],
      [warmup_steps],
  )
