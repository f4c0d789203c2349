"""T5 1.1 in Flax Linen, with the parameter names and axes of T5X.

The architecture is that of Raffel et al. 2020 (arXiv 1910.10683) with the gated
activations of Shazeer 2020 (arXiv 2002.05202): layer norm without mean or bias
before each block, relative position biases shared by a stack's layers, no
scaling of attention logits, no bias vectors.

Two choices differ from T5X's own network without changing its function: the
embedding is gathered rather than multiplied with one-hot vectors, and a stack
computes its position biases once for all layers.
"""

import dataclasses
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp
import numpy as np

param_with_axes = nn_partitioning.param_with_axes

NUM_BUCKETS = 32
MAX_DISTANCE = 128
_MASKED = -1e10


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes of a T5, named as T5X names them.

  Attributes:
    vocab_size: rows of the embedding.
    emb_dim: width of the residual stream.
    num_heads: attention heads.
    num_encoder_layers: encoder layers.
    num_decoder_layers: decoder layers.
    head_dim: width of one head.
    mlp_dim: width of the feed-forward layer.
    mlp_activations: `('gelu', 'linear')` for T5 1.1, `('relu',)` for T5 1.0.
    dropout_rate: dropout of embeddings, attention, feed-forward and residuals.
    logits_via_embedding: tied embedding and output, as in T5 1.0.
    dtype: of the activations; weights, softmax and logits are float32.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  num_encoder_layers: int
  num_decoder_layers: int
  head_dim: int
  mlp_dim: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  dtype: str = 'float32'

  def __post_init__(self):
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))


class Dense(nn.Module):
  """A linear layer without bias: float[..., n] -> float[..., features]."""

  features: int
  axes: tuple[str, str]
  dtype: Any
  init_scale: float = 1.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.variance_scaling(
        self.init_scale, 'fan_in', 'truncated_normal'
    )
    kernel = param_with_axes(
        'kernel', init, (x.shape[-1], self.features), jnp.float32,
        axes=self.axes,
    )
    # One matrix product over all positions: XLA's CPU backend is slow on the
    # weight gradient of a batched one.
    y = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel.astype(
        self.dtype
    )
    return y.reshape(*x.shape[:-1], self.features)


class LayerNorm(nn.Module):
  """Root mean square normalization of the last axis."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = param_with_axes(
        'scale', nn.initializers.ones, (x.shape[-1],), jnp.float32,
        axes=('embed',),
    )
    x = x.astype(jnp.float32)
    x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    return (x * scale).astype(self.dtype)


class RelativePositionBias(nn.Module):
  """One learned bias per head and bucket of distances."""

  config: T5Config
  bidirectional: bool

  @nn.compact
  def __call__(self, length: int) -> jax.Array:
    """Returns float32[1, heads, length, length]."""
    table = param_with_axes(
        'rel_embedding',
        nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
        (self.config.num_heads, NUM_BUCKETS), jnp.float32,
        axes=('heads', 'relpos_buckets'),
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
  """Multi-head attention with dropout shared by all queries of a head."""

  config: T5Config

  @nn.compact
  def __call__(
      self,
      queries: jax.Array,
      keys: jax.Array,
      bias: jax.Array,
      deterministic: bool,
  ) -> jax.Array:
    """Attends from `queries` to `keys`.

    Args:
      queries: float[batch, q, embed].
      keys: float[batch, k, embed].
      bias: float32[batch or 1, heads or 1, q, k], added to the logits.
      deterministic: no dropout.

    Returns:
      float[batch, q, embed].
    """
    cfg = self.config
    width = cfg.num_heads * cfg.head_dim

    def project(name, x, init_scale=1.0):
      x = Dense(
          width, ('embed', 'joined_kv'), cfg.dtype, init_scale, name=name
      )(x)
      x = x.reshape(*x.shape[:-1], cfg.num_heads, cfg.head_dim)
      return jnp.swapaxes(x, -3, -2)  # [batch, heads, length, head_dim]

    # T5 has no 1 / sqrt(head_dim) in the logits: it is in the initial weights.
    q = project('query', queries, 1.0 / cfg.head_dim)
    k = project('key', keys)
    v = project('value', keys)
    logits = jnp.einsum(
        'bhqd,bhkd->bhqk', q, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits + bias).astype(cfg.dtype)
    weights = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))(
        weights, deterministic
    )
    x = jnp.swapaxes(jnp.einsum('bhqk,bhkd->bhqd', weights, v), -3, -2)
    x = x.reshape(*x.shape[:-2], width)
    return Dense(cfg.emb_dim, ('joined_kv', 'embed'), cfg.dtype, name='out')(x)


class Mlp(nn.Module):
  """The feed-forward block; several activations gate one another."""

  config: T5Config

  @nn.compact
  def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
    cfg = self.config
    hidden = 1.0
    for i, activation in enumerate(cfg.mlp_activations):
      name = 'wi' if len(cfg.mlp_activations) == 1 else f'wi_{i}'
      y = Dense(cfg.mlp_dim, ('embed', 'mlp'), cfg.dtype, name=name)(x)
      hidden *= y if activation == 'linear' else getattr(nn, activation)(y)
    hidden = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))(
        hidden, deterministic
    )
    return Dense(cfg.emb_dim, ('mlp', 'embed'), cfg.dtype, name='wo')(hidden)


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward, each with its residual."""

  config: T5Config

  @nn.compact
  def __call__(
      self, x: jax.Array, bias: jax.Array, deterministic: bool
  ) -> jax.Array:
    cfg = self.config
    dropout = _residual_dropout(cfg, deterministic)
    y = LayerNorm(cfg.dtype, name='pre_attention_layer_norm')(x)
    x += dropout(Attention(cfg, name='attention')(y, y, bias, deterministic))
    y = LayerNorm(cfg.dtype, name='pre_mlp_layer_norm')(x)
    return x + dropout(Mlp(cfg, name='mlp')(y, deterministic))


class DecoderLayer(nn.Module):
  """Self-attention, attention to the encoder, feed-forward."""

  config: T5Config

  @nn.compact
  def __call__(
      self,
      x: jax.Array,
      encoded: jax.Array,
      bias: jax.Array,
      cross_bias: jax.Array,
      deterministic: bool,
  ) -> jax.Array:
    cfg = self.config
    dropout = _residual_dropout(cfg, deterministic)
    y = LayerNorm(cfg.dtype, name='pre_self_attention_layer_norm')(x)
    x += dropout(
        Attention(cfg, name='self_attention')(y, y, bias, deterministic)
    )
    y = LayerNorm(cfg.dtype, name='pre_cross_attention_layer_norm')(x)
    x += dropout(
        Attention(cfg, name='encoder_decoder_attention')(
            y, encoded, cross_bias, deterministic
        )
    )
    y = LayerNorm(cfg.dtype, name='pre_mlp_layer_norm')(x)
    return x + dropout(Mlp(cfg, name='mlp')(y, deterministic))


class Encoder(nn.Module):
  """The encoder's stack."""

  config: T5Config

  @nn.compact
  def __call__(
      self, x: jax.Array, mask: jax.Array, deterministic: bool
  ) -> jax.Array:
    """Encodes float[batch, length, embed] under bool[batch, 1, q, k]."""
    cfg = self.config
    dropout = _residual_dropout(cfg, deterministic)
    bias = RelativePositionBias(cfg, True, name='relpos_bias')(x.shape[1])
    bias += _mask_bias(mask)
    x = dropout(x)
    for i in range(cfg.num_encoder_layers):
      x = EncoderLayer(cfg, name=f'layers_{i}')(x, bias, deterministic)
    x = LayerNorm(cfg.dtype, name='encoder_norm')(x)
    # Here alone T5X draws for each position.
    return nn.Dropout(cfg.dropout_rate)(x, deterministic)


class Decoder(nn.Module):
  """The decoder's stack, up to the last layer norm or the logits."""

  config: T5Config

  @nn.compact
  def __call__(
      self,
      x: jax.Array,
      encoded: jax.Array,
      mask: jax.Array,
      cross_mask: jax.Array,
      deterministic: bool,
  ) -> jax.Array:
    """Decodes float[batch, length, embed]; see `Transformer.decode`."""
    cfg = self.config
    dropout = _residual_dropout(cfg, deterministic)
    bias = RelativePositionBias(cfg, False, name='relpos_bias')(x.shape[1])
    bias += _mask_bias(mask)
    cross_bias = _mask_bias(cross_mask)
    x = dropout(x)
    for i in range(cfg.num_decoder_layers):
      x = DecoderLayer(cfg, name=f'layers_{i}')(
          x, encoded, bias, cross_bias, deterministic
      )
    x = dropout(LayerNorm(cfg.dtype, name='decoder_norm')(x))
    if cfg.logits_via_embedding:
      return x.astype(jnp.float32) / np.sqrt(cfg.emb_dim)
    return Dense(
        cfg.vocab_size, ('embed', 'vocab'), jnp.float32, name='logits_dense'
    )(x)


class Embed(nn.Module):
  """The token embedding that encoder and decoder share."""

  config: T5Config

  def setup(self):
    self.embedding = param_with_axes(
        'embedding', nn.initializers.normal(1.0),
        (self.config.vocab_size, self.config.emb_dim), jnp.float32,
        axes=('vocab', 'embed'),
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    return self.embedding[tokens].astype(self.config.dtype)

  def attend(self, x: jax.Array) -> jax.Array:
    return x @ self.embedding.T


class Transformer(nn.Module):
  """An encoder-decoder T5."""

  config: T5Config

  def setup(self):
    self.token_embedder = Embed(self.config)
    self.encoder = Encoder(self.config)
    self.decoder = Decoder(self.config)

  def encode(
      self,
      encoder_input_tokens: jax.Array,
      encoder_segment_ids: jax.Array | None = None,
      enable_dropout: bool = True,
  ) -> jax.Array:
    """Encodes int32[batch, length] tokens, 0 being padding.

    Args:
      encoder_input_tokens: int32[batch, length].
      encoder_segment_ids: int32[batch, length], the example that each token of
        a packed row belongs to; None where rows are not packed.
      enable_dropout: needs the 'dropout' generator.

    Returns:
      float[batch, length, embed].
    """
    real = encoder_input_tokens > 0
    mask = _pair_mask(real, real, encoder_segment_ids, encoder_segment_ids)
    return self.encoder(
        self.token_embedder(encoder_input_tokens), mask, not enable_dropout
    )

  def decode(
      self,
      encoded: jax.Array,
      encoder_input_tokens: jax.Array,
      decoder_input_tokens: jax.Array,
      decoder_target_tokens: jax.Array,
      encoder_segment_ids: jax.Array | None = None,
      decoder_segment_ids: jax.Array | None = None,
      enable_dropout: bool = True,
  ) -> jax.Array:
    """Logits of every target token, teacher forced.

    Args:
      encoded: float[batch, source, embed], of `encode`.
      encoder_input_tokens: int32[batch, source], for the mask alone.
      decoder_input_tokens: int32[batch, length]: targets shifted right by one.
      decoder_target_tokens: int32[batch, length], for the mask alone.
      encoder_segment_ids: int32[batch, source] or None.
      decoder_segment_ids: int32[batch, length] or None.
      enable_dropout: needs the 'dropout' generator.

    Returns:
      float32[batch, length, vocab].
    """
    real = decoder_target_tokens > 0
    mask = _pair_mask(real, real, decoder_segment_ids, decoder_segment_ids)
    mask &= np.tri(real.shape[-1], dtype=bool)
    cross_mask = _pair_mask(
        real, encoder_input_tokens > 0, decoder_segment_ids, encoder_segment_ids
    )
    x = self.decoder(
        self.token_embedder(decoder_input_tokens), encoded, mask, cross_mask,
        not enable_dropout,
    )
    if self.config.logits_via_embedding:
      return self.token_embedder.attend(x)
    return x

  def __call__(
      self,
      encoder_input_tokens: jax.Array,
      decoder_input_tokens: jax.Array,
      decoder_target_tokens: jax.Array,
      encoder_segment_ids: jax.Array | None = None,
      decoder_segment_ids: jax.Array | None = None,
      encoder_positions: jax.Array | None = None,
      decoder_positions: jax.Array | None = None,
      decode: bool = False,
      enable_dropout: bool = True,
  ) -> jax.Array:
    """`decode(encode(...))`; see both for shapes.

    T5X gives positions, too; T5's are relative, and packed rows keep their
    examples apart by segment ids.

    Raises:
      NotImplementedError: `decode`, T5X's word for a cache.
    """
    del encoder_positions, decoder_positions
    if decode:
      raise NotImplementedError('this network has no cache to decode with')
    encoded = self.encode(
        encoder_input_tokens, encoder_segment_ids, enable_dropout
    )
    return self.decode(
        encoded, encoder_input_tokens, decoder_input_tokens,
        decoder_target_tokens, encoder_segment_ids, decoder_segment_ids,
        enable_dropout,
    )


def _residual_dropout(config: T5Config, deterministic: bool) -> nn.Dropout:
  """Dropout that is shared along the length, as in T5X."""
  return nn.Dropout(
      config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic
  )


def _pair_mask(queries, keys, query_segments, key_segments) -> jax.Array:
  """bool[batch, 1, q, k]: both are tokens, and of the same packed example."""
  mask = queries[:, None, :, None] & keys[:, None, None, :]
  if query_segments is not None:
    mask &= query_segments[:, None, :, None] == key_segments[:, None, None, :]
  return mask


def _mask_bias(mask: jax.Array) -> jax.Array:
  return jnp.where(mask, 0.0, _MASKED).astype(jnp.float32)
