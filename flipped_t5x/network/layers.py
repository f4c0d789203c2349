"""The layers of a T5 in Flax Linen, with the parameter names and axes of T5X.

Layer norm without mean or bias, no bias vectors, no scaling of the attention
logits (Raffel et al. 2020, arXiv 1910.10683), gated activations (Shazeer 2020,
arXiv 2002.05202). Axes have T5X's logical names. Within `axis_rules` and a mesh
they determine how weights and activations are sharded; otherwise they have no
effect.
"""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from flipped_t5x.network import adapters
import jax
import jax.numpy as jnp
import numpy as np

# The axis along which the weights of scanned layers are stacked, as in T5X.
SCAN_AXIS = 1
# The name of a matrix in int8 -> that of the scales of its output channels.
SCALE = '_scale'

constrain = nn_partitioning.with_sharding_constraint

Initializer = Callable[..., jax.Array]

NUM_BUCKETS = 32
MAX_DISTANCE = 128
_MASKED = -1e10
_HEADS = ('batch', 'heads', 'length', 'kv')
RESIDUAL = ('batch', 'length', 'embed')


def _param(
    module: nn.Module,
    name: str,
    init: Initializer,
    shape: tuple[int, ...],
    dtype: Any,
    axes: tuple[str, ...],
) -> jax.Array:
  """A parameter of a module: its weights where it has some, else new ones.

  Flax's `param` would trace `init` in each call, only to compare shapes.

  Raises:
    ValueError: the weights have another shape.
  """
  if not module.has_variable('params', name):
    return nn_partitioning.param_with_axes(
        name, init, shape, dtype, axes=axes, module=module
    )
  value = module.get_variable('params', name)
  if value.shape != shape:
    raise ValueError(
        f'{"/".join((*module.path, name))} has the shape {value.shape} where'
        f' {shape} is needed'
    )
  return constrain(value, axes)


def _matrix(
    module: nn.Module,
    name: str,
    init: Initializer,
    shape: tuple[int, int],
    axes: tuple[str, str],
    channels: int,
    int8: bool,
) -> tuple[jax.Array, jax.Array | None]:
  """A matrix of a module.

  Args:
    module: the module, which is being computed.
    name: the parameter's name.
    init: its initial values; a matrix in int8 is zero until weights are loaded.
    shape: its shape.
    axes: its logical axes.
    channels: which axis is that of the output channels.
    int8: whether it is stored in int8.

  Returns:
    The matrix, float32 or int8, and float32[channels], what each channel is to
    be multiplied by; None if the matrix is float.
  """
  if not int8:
    return _param(module, name, init, shape, jnp.float32, axes), None
  return (
      _param(module, name, nn.initializers.zeros, shape, jnp.int8, axes),
      _param(
          module, name + SCALE, nn.initializers.ones, (shape[channels],),
          jnp.float32, (axes[channels],),
      ),
  )


class Dense(nn.Module):
  """A linear layer without bias: float[..., n] -> float[..., features]."""

  features: int
  axes: tuple[str, str]
  dtype: Any
  init_scale: float = 1.0
  int8: bool = False
  lora: adapters.Lora = adapters.NONE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.variance_scaling(
        self.init_scale, 'fan_in', 'truncated_normal'
    )
    kernel, scale = _matrix(
        self, 'kernel', init, (x.shape[-1], self.features), self.axes, 1,
        self.int8,
    )
    # One matrix product over all positions: XLA's CPU backend is slow on the
    # weight gradient of a batched one.
    flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
    y = _product(flat, kernel, scale)
    if rank := self.lora.rank_of(self.name):
      y += self._adapter(flat, rank)
    return y.reshape(*x.shape[:-1], self.features)

  def _adapter(self, x: jax.Array, rank: int) -> jax.Array:
    """float[n, m] -> float[n, features]; see `adapters.py`."""
    a = _param(
        self, adapters.A, adapters.init_a, (x.shape[-1], rank), jnp.float32,
        (self.axes[0], 'lora'),
    )
    b = _param(
        self, adapters.B, nn.initializers.zeros, (rank, self.features),
        jnp.float32, ('lora', self.axes[1]),
    )
    y = (x @ a.astype(self.dtype)) @ b.astype(self.dtype)
    return y * self.lora.scale


def _product(
    x: jax.Array, kernel: jax.Array, scale: jax.Array | None
) -> jax.Array:
  """float[n, m] of x and a matrix of `_matrix`, in the type of x.

  The integers are exact in bfloat16, too. A channel's scale is the same for all
  of its terms, so that it can wait for their sum.
  """
  kernel = kernel.astype(x.dtype)
  if scale is None:
    return x @ kernel
  y = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
  return (y * scale).astype(x.dtype)


class LayerNorm(nn.Module):
  """Root mean square normalization of the last axis."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = _param(
        self, 'scale', nn.initializers.ones, (x.shape[-1],), jnp.float32,
        ('embed',),
    )
    x = x.astype(jnp.float32)
    x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    return (x * scale).astype(self.dtype)


class RelativePositionBias(nn.Module):
  """One learned bias per head and bucket of distances."""

  num_heads: int
  bidirectional: bool

  @nn.compact
  def __call__(self, length: int) -> jax.Array:
    """Returns float32[1, heads, length, length]."""
    table = _param(
        self, 'rel_embedding',
        nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
        (self.num_heads, NUM_BUCKETS), jnp.float32,
        ('heads', 'relpos_buckets'),
    )
    buckets = relative_position_buckets(length, self.bidirectional)
    one_hot = jax.nn.one_hot(buckets, NUM_BUCKETS, dtype=jnp.float32)
    return jnp.einsum('hn,qkn->hqk', table, one_hot)[None]


def relative_position_buckets(length: int, bidirectional: bool) -> np.ndarray:
  """Bucket of each (query, key) pair: exact when near, logarithmic when far.

  Args:
    length: number of positions.
    bidirectional: whether keys after the query have buckets of their own; else
      they share the bucket of distance 0.

  Returns:
    int32[length, length] in [0, NUM_BUCKETS).
  """
  position = np.arange(length)
  distance = position[:, None] - position[None, :]  # Positive: key is before.
  buckets = NUM_BUCKETS
  offset = np.zeros_like(distance)
  if bidirectional:
    buckets //= 2
    offset = np.where(distance < 0, buckets, 0)
    distance = np.abs(distance)
  distance = np.maximum(distance, 0)
  exact = buckets // 2
  # float32 throughout: the boundaries of the buckets are those of T5X.
  ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
  far = exact + (
      np.log(ratio) / np.log(MAX_DISTANCE / exact) * (buckets - exact)
  ).astype(np.int32)
  far = np.minimum(far, buckets - 1)
  return (offset + np.where(distance < exact, distance, far)).astype(np.int32)


class Attention(nn.Module):
  """Multi-head attention with dropout shared by all queries of a head.

  When decoding token by token, the collection 'cache' holds the keys and values
  of the tokens so far, under T5X's names. Attention to the encoder keeps its
  keys and values in the collection 'encoded' if the caller made it mutable
  once; otherwise it computes them again for each token.
  """

  num_heads: int
  head_dim: int
  dropout_rate: float
  dtype: Any
  int8: bool = False
  lora: adapters.Lora = adapters.NONE

  @nn.compact
  def __call__(
      self,
      queries: jax.Array,
      keys: jax.Array,
      bias: jax.Array,
      deterministic: bool,
      cache: str | None = None,
  ) -> jax.Array:
    """Attends from `queries` to `keys`.

    Args:
      queries: float[batch, q, embed].
      keys: float[batch, k, embed].
      bias: float32[batch or 1, heads or 1, q, k], added to the logits. With the
        collection 'cache', q and k are the number of tokens it has room for.
      deterministic: whether to leave out dropout.
      cache: the collection of keys and values, 'cache' or 'encoded', or None.

    Returns:
      float[batch, q, embed].
    """
    width = self.num_heads * self.head_dim

    def project(name, x, init_scale=1.0):
      x = Dense(
          width, ('embed', 'joined_kv'), self.dtype, init_scale, self.int8,
          self.lora,
          name=name,
      )(x)
      x = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
      return constrain(jnp.swapaxes(x, -3, -2), _HEADS)

    # T5 has no 1 / sqrt(head_dim) in the logits: it is in the initial weights.
    q = project('query', queries, 1.0 / self.head_dim)
    if cache == 'encoded' and (
        self.has_variable(cache, 'encoded_key')
        or self.is_mutable_collection(cache)
    ):
      k, v = (
          self.variable(
              cache, f'encoded_{name}', lambda name=name: project(name, keys)
          ).value
          for name in ('key', 'value')
      )
    else:
      k, v = project('key', keys), project('value', keys)
    if cache == 'cache':
      k, v, bias = self._extend(k, v, bias)
    logits = jnp.einsum(
        'bhqd,bhkd->bhqk', q, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits + bias).astype(self.dtype)
    weights = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
        weights, deterministic
    )
    x = jnp.swapaxes(jnp.einsum('bhqk,bhkd->bhqd', weights, v), -3, -2)
    x = x.reshape(*x.shape[:-2], width)
    return Dense(
        queries.shape[-1], ('joined_kv', 'embed'), self.dtype, int8=self.int8,
        lora=self.lora,
        name='out',
    )(x)

  def _extend(
      self, k: jax.Array, v: jax.Array, bias: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Appends one token to the cache; the first call allocates it instead.

    Args:
      k: float[batch, heads, 1, head_dim], the token's keys; in the first call
        float[batch, heads, room, head_dim].
      v: the token's values, in the shape of `k`.
      bias: float32[batch or 1, heads or 1, room, room].

    Returns:
      Keys and values float[batch, heads, room, head_dim], and the token's row
      of `bias` with all positions after it masked.
    """
    is_first = not self.has_variable('cache', 'cached_key')
    cached = [
        self.variable('cache', f'cached_{name}', jnp.zeros, x.shape, x.dtype)
        for name, x in (('key', k), ('value', v))
    ]
    index = self.variable('cache', 'cache_index', lambda: jnp.int32(0))
    if is_first:
      return k, v, bias
    now = index.value
    for variable, x in zip(cached, (k, v), strict=True):
      variable.value = jax.lax.dynamic_update_slice_in_dim(
          variable.value, x, now, axis=2
      )
    index.value += 1
    bias = jax.lax.dynamic_slice_in_dim(bias, now, 1, axis=2)
    future = jnp.arange(bias.shape[-1]) > now
    return cached[0].value, cached[1].value, bias + future * _MASKED


def mlp_names(activations: Sequence[str]) -> list[str]:
  """The names of the layers of `Mlp`: wi, or wi_0 and so on, and wo."""
  if len(activations) == 1:
    return ['wi', 'wo']
  return [*(f'wi_{i}' for i in range(len(activations))), 'wo']


class Mlp(nn.Module):
  """The feed-forward block; with several activations, their product."""

  hidden_dim: int
  activations: tuple[str, ...]
  dropout_rate: float
  dtype: Any
  int8: bool = False
  lora: adapters.Lora = adapters.NONE

  @nn.compact
  def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
    hidden = 1.0
    *inputs, output = mlp_names(self.activations)
    for name, activation in zip(inputs, self.activations, strict=True):
      y = Dense(
          self.hidden_dim, ('embed', 'mlp'), self.dtype, int8=self.int8,
          lora=self.lora, name=name,
      )(x)
      y = constrain(y, ('batch', 'length', 'mlp'))
      hidden *= y if activation == 'linear' else getattr(nn, activation)(y)
    hidden = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
        hidden, deterministic
    )
    return Dense(
        x.shape[-1], ('mlp', 'embed'), self.dtype, int8=self.int8,
        lora=self.lora, name=output,
    )(hidden)


class Embed(nn.Module):
  """The token embedding that encoder and decoder share."""

  vocab_size: int
  emb_dim: int
  dtype: Any
  int8: bool = False

  def setup(self):
    self.embedding, self.embedding_scale = _matrix(
        self, 'embedding', nn.initializers.normal(1.0),
        (self.vocab_size, self.emb_dim), ('vocab', 'embed'), 0, self.int8,
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = self.embedding[tokens]
    if self.embedding_scale is not None:
      x = x * self.embedding_scale[tokens][..., None]
    return constrain(x.astype(self.dtype), RESIDUAL)

  def attend(self, x: jax.Array) -> jax.Array:
    """float[..., embed] -> float32[..., vocab]."""
    logits = _product(
        x.reshape(-1, self.emb_dim).astype(jnp.float32), self.embedding.T,
        self.embedding_scale,
    )
    return logits.reshape(*x.shape[:-1], self.vocab_size)


def mask_bias(mask: jax.Array) -> jax.Array:
  """float32: 0 where `mask` is true, elsewhere so low that softmax gives 0."""
  return jnp.where(mask, 0.0, _MASKED).astype(jnp.float32)
