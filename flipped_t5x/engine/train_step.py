"""One update of the weights, on one device or on a mesh of them."""

from collections.abc import Callable
from typing import Any

from flipped_t5x import layers
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.engine import batches as batches_lib
from flipped_t5x.engine import partitioning
import jax
import jax.numpy as jnp
import optax

State = dict[str, Any]  # params, opt_state, step
_WRONG = 'wrong_'


def init_state(
    model: network_lib.Transformer,
    optimizer: optax.GradientTransformation,
    seed: int,
    params: Any = None,
) -> State:
  """The given weights, else random ones, and a fresh optimizer at step 0."""
  if params is None:
    params = partitioning.init_variables(model, seed)['params']
  return {
      'params': params,
      'opt_state': optimizer.init(params),
      'step': jnp.zeros((), jnp.int32),
  }


def make_train_step(
    model: network_lib.Transformer,
    optimizer: optax.GradientTransformation,
    *,
    unlikelihood_weight: float,
    eps: float,
    seed: int,
    num_microbatches: int = 1,
    num_logit_chunks: int = 1,
    partitioner: partitioning.Partitioner | None = None,
) -> Callable[[State, batches_lib.Batch], tuple[State, dict[str, jax.Array]]]:
  """Compiles the update: (state, batch) -> (state, metrics).

  Right and wrong sides go through the network as one batch of twice the size.
  The loss is a mean over the whole batch, in however many pieces: without
  dropout neither number changes the update but by rounding.

  Args:
    model: the network.
    optimizer: an Optax optimizer.
    unlikelihood_weight: lambda.
    eps: see `objectives.log_one_minus_probs`.
    seed: of dropout, with the step folded in.
    num_microbatches: parts of the batch that are one after another in memory;
      their gradients are added up in float32.
    num_logit_chunks: pieces along the targets in which logits are made, and
      made again for the gradient; 1 keeps those of a microbatch.
    partitioner: where the state is to lie; None for one device. With one, call
      and lower the function within its `active()`.

  Returns:
    The jitted function; it consumes the state that it is given.
  """
  # XLA's own generator: threefry is a good part of a small model's CPU step.
  dropout_key = jax.random.key(seed, impl='rbg')

  def loss_fn(params, batch, totals, key):
    paired = has_wrong_side(batch)
    if not paired and unlikelihood_weight:
      raise ValueError(
          f'lambda is {unlikelihood_weight}, but the batch has no wrong side:'
          f' no {_WRONG}encoder_input_tokens or {_WRONG}decoder_target_tokens;'
          ' set LAMBDA = 0'
      )
    hidden = _apply(
        model, params, pair(batch) if paired else batch, key, with_logits=False
    )

    def objective(hidden, *targets):
      logits = model.apply({'params': params}, hidden, method='logits')
      if not paired:
        return objectives.likelihood_loss(logits, *targets, **totals)
      right, wrong = unpair(logits)
      return objectives.flipped_loss(
          right, wrong, *targets, unlikelihood_weight=unlikelihood_weight,
          eps=eps, **totals,
      )

    arrays = (hidden, *weighted_targets(batch))
    if num_logit_chunks == 1:
      return objective(*arrays)
    # Along the length, which no mesh divides.
    return _sum_over(
        jax.checkpoint(objective),
        [_split(a, num_logit_chunks, axis=1) for a in arrays],
    )

  def step_fn(state, batch):
    key = jax.random.fold_in(dropout_key, state['step'])
    totals = {
        f'{side}total_weight': batch[name].astype(jnp.float32).sum()
        for side in ('', _WRONG)
        if (name := f'{side}decoder_loss_weights') in batch
    }
    gradient = jax.grad(loss_fn, has_aux=True)
    if num_microbatches == 1:
      gradients, metrics = gradient(state['params'], batch, totals, key)
    else:
      def of_part(number, part):
        gradients, metrics = gradient(
            state['params'], part, totals, jax.random.fold_in(key, number)
        )
        if shardings is not None:
          # Else the sum may lie whole on each device.
          gradients = jax.lax.with_sharding_constraint(gradients, shardings)
        return gradients, metrics

      gradients, metrics = _sum_over(of_part, (
          jnp.arange(num_microbatches),
          jax.tree.map(lambda a: _microbatches(a, num_microbatches), batch),
      ))
    updates, opt_state = optimizer.update(
        gradients, state['opt_state'], state['params']
    )
    return {
        'params': optax.apply_updates(state['params'], updates),
        'opt_state': opt_state,
        'step': state['step'] + 1,
    }, metrics | {'gradient_norm': optax.tree.norm(gradients)}

  if partitioner is None:
    shardings = None
    return jax.jit(step_fn, donate_argnums=0)
  state_shardings = jax.tree.map(
      lambda a: a.sharding, partitioner.abstract_state(model, optimizer)
  )
  shardings = state_shardings['params']
  return jax.jit(
      step_fn, donate_argnums=0,
      out_shardings=(state_shardings, partitioner.replicated),
  )


def logits(
    model: network_lib.Transformer,
    params: Any,
    batch: batches_lib.Batch,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Logits of the targets; arguments as for `pair_logits`.

  Returns:
    float32[batch, length, vocab].
  """
  return _apply(model, params, batch, dropout_key)


def pair_logits(
    model: network_lib.Transformer,
    params: Any,
    batch: batches_lib.Batch,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Logits given the right and the wrong side, in one forward pass.

  Args:
    model: the network.
    params: its weights.
    batch: see `batches.Batches`.
    dropout_key: None for no dropout.

  Returns:
    Two float32[batch, length, vocab].
  """
  return unpair(_apply(model, params, pair(batch), dropout_key))


def has_wrong_side(batch: batches_lib.Batch) -> bool:
  """Whether rows have a wrong side, another input or another target."""
  return any(name.startswith(_WRONG) for name in batch)


def weighted_targets(batch: batches_lib.Batch) -> list[jax.Array]:
  """Targets and their weights and, where the wrong side has others, those."""
  return [
      batch[side + name]
      for side in ('', _WRONG)
      for name in ('decoder_target_tokens', 'decoder_loss_weights')
      if side + name in batch
  ]


def pair(batch: batches_lib.Batch) -> dict[str, jax.Array]:
  """A batch of twice the rows: each row's right side, then its wrong one.

  Side by side, so that no row of a sharded batch has to change its device.
  """
  def both(name, value):
    rows = jnp.stack([value, batch.get(_WRONG + name, value)], axis=1)
    return rows.reshape(-1, *value.shape[1:])

  return {
      name: both(name, value)
      for name, value in batch.items() if not name.startswith(_WRONG)
  }


def unpair(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The rows of the right and of the wrong side of what `pair` made."""
  rows = rows.reshape(-1, 2, *rows.shape[1:])
  return rows[:, 0], rows[:, 1]


def _apply(model, params, batch, dropout_key, **kwargs) -> jax.Array:
  return model.apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      batch.get('encoder_segment_ids'),
      batch.get('decoder_segment_ids'),
      enable_dropout=dropout_key is not None,
      rngs=None if dropout_key is None else {'dropout': dropout_key},
      **kwargs,
  )


def _split(array: jax.Array, number: int, axis: int) -> jax.Array:
  """Cuts an axis into `number` pieces, the piece's index in front."""
  if array.shape[axis] % number:
    raise ValueError(
        f'NUM_LOGIT_CHUNKS = {number} does not divide the target length'
        f' {array.shape[axis]}'
    )
  shape = list(array.shape)
  shape[axis : axis + 1] = number, shape[axis] // number
  return jnp.moveaxis(array.reshape(shape), axis, 0)


def _microbatches(array: jax.Array, number: int) -> jax.Array:
  """[batch, ...] -> [number, batch / number, ...] where each device keeps its.

  Microbatch m has the rows m, m + number, ...: of each device's rows as many.
  """
  if array.shape[0] % number:
    fit = [n for n in range(1, array.shape[0] + 1) if not array.shape[0] % n]
    raise ValueError(
        f'NUM_MICROBATCHES = {number} does not divide the {array.shape[0]} rows'
        f' of a batch; {fit} do'
    )
  array = array.reshape(-1, number, *array.shape[1:]).swapaxes(0, 1)
  return layers.constrain(
      array, (None, 'batch', *(None,) * (array.ndim - 2))
  )


def _sum_over(function: Callable[..., Any], arguments: Any) -> Any:
  """The sum of `function` over the arguments' first axis, one at a time."""
  first = jax.tree.map(lambda a: a[0], arguments)
  start = jax.tree.map(
      lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, *first)
  )

  def add(total, argument):
    return jax.tree.map(jnp.add, total, function(*argument)), None

  return jax.lax.scan(add, start, tuple(arguments))[0]
