"""One update of the weights, on one device or on a mesh of them."""

from collections.abc import Callable
import functools
from typing import Any

from flax import traverse_util
from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x import partitioning
from flipped_t5x.network import adapters
from flipped_t5x.network import layers
from flipped_t5x.prompts import arrays as arrays_lib
import jax
import jax.numpy as jnp
import optax

# params, opt_state, step; and with adapters, of which `params` are the weights,
# `frozen`, the weights of the network that they adapt.
State = dict[str, Any]


def init_state(
    model: network_lib.Transformer,
    optimizer: optax.GradientTransformation,
    seed: int,
    params: Any = None,
) -> State:
  """The state at step 0.

  Args:
    model: the network.
    optimizer: an Optax optimizer.
    seed: of random weights.
    params: the weights to start from, without those of adapters, which are
      always drawn; None for random weights.

  Returns:
    The state, with a fresh optimizer.
  """
  frozen: Any = {}
  if params is None or model.config.lora.rank:
    trained, drawn = adapters.split(
        partitioning.init_variables(model, seed)['params']
    )
    if model.config.lora.rank:
      frozen = drawn if params is None else params
    params = trained
  return {
      'params': params,
      'opt_state': optimizer.init(params),
      'step': jnp.zeros((), jnp.int32),
  } | ({'frozen': frozen} if frozen else {})


def abstract_state(
    partitioner: partitioning.Partitioner,
    model: network_lib.Transformer,
    optimizer: optax.GradientTransformation,
) -> State:
  """The state as `jax.ShapeDtypeStruct`s with their shardings.

  What the optimizer keeps of a weight in the weight's own shape lies where the
  weight does; Adafactor's rows and columns are small and on all devices.
  """
  params, frozen = adapters.split(partitioner.abstract_params(model))
  by_name = traverse_util.flatten_dict(params, sep='/')

  def place(path, kept):
    keys = [str(getattr(k, 'key', k)) for k in path]
    names = ('/'.join(keys[i:]) for i in range(len(keys)))
    weight = next((by_name[n] for n in names if n in by_name), None)
    same = weight is not None and weight.shape == kept.shape
    return jax.ShapeDtypeStruct(
        kept.shape, kept.dtype,
        sharding=weight.sharding if same else partitioner.replicated,
    )

  return {
      'params': params,
      'opt_state': jax.tree_util.tree_map_with_path(
          place, jax.eval_shape(optimizer.init, params)
      ),
      'step': jax.ShapeDtypeStruct(
          (), jnp.int32, sharding=partitioner.replicated
      ),
  } | ({'frozen': frozen} if frozen else {})


def to_save(state: State) -> State:
  """What a checkpoint has of a state: all that training changes."""
  return {name: value for name, value in state.items() if name != 'frozen'}


def weights(state: State) -> Any:
  """All weights of the network of a state."""
  return adapters.joined(state['params'], state.get('frozen', {}))


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
) -> Callable[[State, arrays_lib.Batch], tuple[State, dict[str, jax.Array]]]:
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
  param_shardings, jit_options = None, {}
  if partitioner is not None:
    shardings = jax.tree.map(
        lambda a: a.sharding, abstract_state(partitioner, model, optimizer)
    )
    param_shardings = shardings['params']
    jit_options['out_shardings'] = (shardings, partitioner.replicated)
  loss = functools.partial(
      _loss, model, unlikelihood_weight=unlikelihood_weight, eps=eps,
      num_logit_chunks=num_logit_chunks,
  )
  # XLA's own generator: threefry is a good part of a small model's CPU step.
  dropout_key = jax.random.key(seed, impl='rbg')

  def step_fn(state, batch):
    key = jax.random.fold_in(dropout_key, state['step'])
    frozen = state.get('frozen', {})
    gradients, metrics = _gradients(
        jax.grad(functools.partial(loss, frozen), has_aux=True),
        num_microbatches, param_shardings, state['params'], batch, key,
    )
    updates, opt_state = optimizer.update(
        gradients, state['opt_state'], state['params']
    )
    return {
        'params': optax.apply_updates(state['params'], updates),
        'opt_state': opt_state,
        'step': state['step'] + 1,
        **({'frozen': frozen} if frozen else {}),
    }, metrics | {'gradient_norm': optax.tree.norm(gradients)}

  return jax.jit(step_fn, donate_argnums=0, **jit_options)


def _loss(
    model, frozen, trained, batch, totals, dropout_key, *, unlikelihood_weight,
    eps, num_logit_chunks,
):
  """The loss of a batch or of a microbatch, and its parts."""
  params = adapters.joined(trained, frozen)
  read = objectives.network_batch(batch, unlikelihood_weight)
  hidden = model.apply(
      {'params': params},
      read['encoder_input_tokens'],
      read['decoder_input_tokens'],
      read['decoder_target_tokens'],
      read.get('encoder_segment_ids'),
      read.get('decoder_segment_ids'),
      enable_dropout=True,
      rngs={'dropout': dropout_key},
      with_logits=False,
  )

  def loss_of(hidden, *targets):
    return objectives.batch_loss(
        model.apply({'params': params}, hidden, method='logits'), *targets,
        unlikelihood_weight=unlikelihood_weight, eps=eps, **totals,
    )

  arrays = (hidden, *objectives.weighted_targets(batch))
  if num_logit_chunks == 1:
    return loss_of(*arrays)
  # Along the length, which no mesh divides.
  return _sum_over(
      jax.checkpoint(loss_of),
      [_split(a, num_logit_chunks, axis=1) for a in arrays],
  )


def _gradients(gradient, num_microbatches, shardings, params, batch, key):
  """The gradients and metrics of a batch, one microbatch at a time.

  Args:
    gradient: (params, batch, totals, key) -> gradients and metrics.
    num_microbatches: parts of the batch.
    shardings: where the gradients lie; None for one device.
    params: the weights.
    batch: the whole batch.
    key: the key of dropout.
  """
  totals = objectives.total_weights(batch)
  if num_microbatches == 1:
    return gradient(params, batch, totals, key)

  def of_part(number, part):
    gradients, metrics = gradient(
        params, part, totals, jax.random.fold_in(key, number)
    )
    if shardings is not None:
      # Otherwise the sum may lie whole on each device.
      gradients = jax.lax.with_sharding_constraint(gradients, shardings)
    return gradients, metrics

  return _sum_over(of_part, (
      jnp.arange(num_microbatches),
      jax.tree.map(lambda a: _microbatches(a, num_microbatches), batch),
  ))


def _split(array: jax.Array, number: int, axis: int) -> jax.Array:
  """Cuts an axis into `number` pieces, the piece's index in front."""
  if array.shape[axis] % number:
    raise errors.UserError(
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
    raise errors.UserError(
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
