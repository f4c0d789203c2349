"""T5 1.1 in Flax Linen, with the parameter names and axes of T5X.

It computes the same function as T5X's own network, with three differences in
how: the embedding is gathered instead of multiplied with one-hot vectors, a
stack computes its position biases once for all layers, and decoding keeps the
keys and values of the encoder's output. With scanned layers a stack is one
layer's program over weights stacked along axis 1, under T5X's names of scanned
layers (`encoder/encoder/...`); its compile time does not grow with depth.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from flipped_t5x import errors
from flipped_t5x.network import adapters
from flipped_t5x.network import layers
import jax
import jax.numpy as jnp
import numpy as np

_REMAT_POLICIES = {
    'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}


# The largest sizes that are believed: what is larger is a damaged or hostile
# file, for which names and shapes would be made for hours.
MOST = {
    'num_encoder_layers': 10**4, 'num_decoder_layers': 10**4,
    **dict.fromkeys(
        ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim'), 10**7
    ),
}


def check_size(name: str, value: Any, most: int) -> None:
  """Raises UserError unless a size is a whole number from 1 to `most`."""
  if type(value) is not int or not 1 <= value <= most:
    raise errors.UserError(
        f'{name} {value!r} is not a size, a whole number from 1 to {most:,}'
    )


# Functions of one number, by their names in `flax.linen`.
_ACTIVATIONS = (
    'linear', 'celu', 'elu', 'gelu', 'hard_sigmoid', 'hard_silu', 'hard_swish',
    'hard_tanh', 'leaky_relu', 'log_sigmoid', 'relu', 'relu6', 'selu',
    'sigmoid', 'silu', 'soft_sign', 'softplus', 'swish', 'tanh',
)
_DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class T5Config:
  """The sizes of a T5, named as in T5X.

  Attributes:
    vocab_size: number of rows of the embedding.
    emb_dim: width of the residual stream.
    num_heads: number of attention heads.
    num_encoder_layers: number of encoder layers.
    num_decoder_layers: number of decoder layers.
    head_dim: width of one head.
    mlp_dim: width of the feed-forward layer.
    mlp_activations: `('gelu', 'linear')` for T5 1.1, `('relu',)` for T5 1.0.
    dropout_rate: dropout of embeddings, attention, feed-forward and residuals.
    logits_via_embedding: whether the output layer shares the embedding's
      weights, as in T5 1.0.
    dtype: type of the activations; softmax and logits are float32.
    scan_layers: whether the weights of a stack's layers are stacked, and one
      program computes all layers.
    remat_policy: which activations are kept for the backward pass, instead of
      being computed again: 'none' keeps all, 'minimal' the matrix products with
      weights, 'full' the inputs of the layers only.
    int8_weights: whether the matrices, embedding and head among them, are in
      int8, with a float32 scale for each output channel (for the embedding:
      for each id). Such weights are made by `weights/quantization.py`; they
      cannot be trained.
    lora_rank: the rank of the layers' adapters, see `adapters.py`; 0 for none.
    lora_alpha: by which, divided by the rank, their output is multiplied.
    lora_targets: the layers that have one, some of `linear_layers`.
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
  scan_layers: bool = False
  remat_policy: str = 'none'
  int8_weights: bool = False
  lora_rank: int = 0
  lora_alpha: float = 0.0
  lora_targets: tuple[str, ...] = ()

  def __post_init__(self):
    for name, most in MOST.items():
      check_size(name, getattr(self, name), most)
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
    for name in self.mlp_activations:
      if name not in _ACTIVATIONS:
        raise errors.UserError(
            f'mlp_activations {name!r} is no activation; give linear, or a'
            ' function of flax.linen such as gelu, relu or silu'
        )
    if self.dtype not in _DTYPES:
      raise errors.UserError(
          f'dtype {self.dtype!r} is not one of {", ".join(_DTYPES)}'
      )
    if self.remat_policy not in ('none', *_REMAT_POLICIES):
      raise errors.UserError(
          f'remat_policy {self.remat_policy!r} is not one of'
          f' {["none", *_REMAT_POLICIES]}'
      )
    self._check_adapters()

  def _check_adapters(self) -> None:
    object.__setattr__(self, 'lora_targets', tuple(self.lora_targets))
    if not self.lora_rank and (self.lora_alpha or self.lora_targets):
      raise errors.UserError(
          'lora_alpha and lora_targets have no effect with lora_rank 0'
      )
    if self.lora_rank:
      check_size('lora_rank', self.lora_rank, self.emb_dim)
      if self.lora_alpha <= 0:
        raise errors.UserError(
            f'lora_alpha {self.lora_alpha!r} is not above 0'
        )
      names = self.linear_layers
      if not self.lora_targets or set(self.lora_targets) - set(names):
        raise errors.UserError(
            f'lora_targets {self.lora_targets} must be some of the layers of'
            f' this network, {names}'
        )

  @property
  def linear_layers(self) -> tuple[str, ...]:
    """The names of the linear layers of a block; each can have adapters."""
    mlp = layers.mlp_names(self.mlp_activations)
    return ('query', 'key', 'value', 'out', *mlp)

  @property
  def lora(self) -> adapters.Lora:
    """The network's adapters."""
    return adapters.Lora(self.lora_rank, self.lora_alpha, self.lora_targets)

  def without_adapters(self) -> 'T5Config':
    """The network that the adapters adapt."""
    return dataclasses.replace(
        self, lora_rank=0, lora_alpha=0.0, lora_targets=()
    )


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward, each with its residual."""

  config: T5Config

  @nn.compact
  def __call__(
      self, x: jax.Array, bias: jax.Array, deterministic: bool
  ) -> tuple[jax.Array, None]:
    cfg = self.config
    dropout = _residual_dropout(cfg, deterministic)
    y = layers.LayerNorm(cfg.dtype, name='pre_attention_layer_norm')(x)
    x += dropout(_attention(cfg, 'attention')(y, y, bias, deterministic))
    y = layers.LayerNorm(cfg.dtype, name='pre_mlp_layer_norm')(x)
    x += dropout(_mlp(cfg)(y, deterministic))
    return layers.constrain(x, layers.RESIDUAL), None


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
      decode: bool,
  ) -> tuple[jax.Array, None]:
    cfg = self.config
    dropout = _residual_dropout(cfg, deterministic)
    y = layers.LayerNorm(cfg.dtype, name='pre_self_attention_layer_norm')(x)
    x += dropout(
        _attention(cfg, 'self_attention')(
            y, y, bias, deterministic, 'cache' if decode else None
        )
    )
    y = layers.LayerNorm(cfg.dtype, name='pre_cross_attention_layer_norm')(x)
    x += dropout(
        _attention(cfg, 'encoder_decoder_attention')(
            y, encoded, cross_bias, deterministic,
            'encoded' if decode else None,
        )
    )
    y = layers.LayerNorm(cfg.dtype, name='pre_mlp_layer_norm')(x)
    x += dropout(_mlp(cfg)(y, deterministic))
    return layers.constrain(x, layers.RESIDUAL), None


class Encoder(nn.Module):
  """The encoder's stack."""

  config: T5Config

  @nn.compact
  def __call__(
      self, x: jax.Array, mask: jax.Array, deterministic: bool
  ) -> jax.Array:
    """Encodes float[batch, length, embed] under bool[batch, 1, q, k]."""
    cfg = self.config
    bias = layers.RelativePositionBias(
        cfg.num_heads, True, name='relpos_bias'
    )(x.shape[1])
    bias += layers.mask_bias(mask)
    x = _residual_dropout(cfg, deterministic)(x)
    stack = _stack(EncoderLayer, cfg, cfg.num_encoder_layers, 'encoder')
    x = _run(stack, x, (bias,), deterministic)
    x = layers.LayerNorm(cfg.dtype, name='encoder_norm')(x)
    # Only here does T5X draw dropout for each position separately.
    return nn.Dropout(cfg.dropout_rate)(x, deterministic)


class Decoder(nn.Module):
  """The decoder's stack, without the linear layer that gives the logits."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.relpos_bias = layers.RelativePositionBias(cfg.num_heads, False)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    stack = _stack(DecoderLayer, cfg, cfg.num_decoder_layers)
    if cfg.scan_layers:
      self.decoder, = stack
    else:
      self.layers = stack
    self.decoder_norm = layers.LayerNorm(cfg.dtype)
    if not cfg.logits_via_embedding:
      self.logits_dense = layers.Dense(
          cfg.vocab_size, ('embed', 'vocab'), jnp.float32,
          int8=cfg.int8_weights,
      )

  def __call__(
      self,
      x: jax.Array,
      encoded: jax.Array,
      mask: jax.Array,
      cross_mask: jax.Array,
      deterministic: bool,
      decode: bool,
  ) -> jax.Array:
    """Decodes float[batch, length, embed]; see `Transformer.hidden`."""
    bias = self.relpos_bias(mask.shape[-1]) + layers.mask_bias(mask)
    cross_bias = layers.mask_bias(cross_mask)
    x = self.dropout(x, deterministic)
    stack = [self.decoder] if self.config.scan_layers else self.layers
    x = _run(stack, x, (encoded, bias, cross_bias), deterministic, decode)
    return self.dropout(self.decoder_norm(x), deterministic)


class Transformer(nn.Module):
  """An encoder-decoder T5."""

  config: T5Config

  @property
  def scan_layers(self) -> bool:
    """Read by T5X from the module."""
    return self.config.scan_layers

  def setup(self):
    cfg = self.config
    self.token_embedder = layers.Embed(
        cfg.vocab_size, cfg.emb_dim, cfg.dtype, cfg.int8_weights
    )
    self.encoder = Encoder(cfg)
    self.decoder = Decoder(cfg)

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
      enable_dropout: whether to use dropout, which needs the generator
        'dropout'.

    Returns:
      float[batch, length, embed].
    """
    real = encoder_input_tokens > 0
    mask = _pair_mask(real, real, encoder_segment_ids, encoder_segment_ids)
    return self.encoder(
        self.token_embedder(encoder_input_tokens), mask, not enable_dropout
    )

  def hidden(
      self,
      encoded: jax.Array,
      encoder_input_tokens: jax.Array,
      decoder_input_tokens: jax.Array,
      decoder_target_tokens: jax.Array,
      encoder_segment_ids: jax.Array | None = None,
      decoder_segment_ids: jax.Array | None = None,
      enable_dropout: bool = True,
      decode: bool = False,
      max_decode_length: int | None = None,
  ) -> jax.Array:
    """The decoder's output before `logits`; see `decode` for the arguments.

    Returns:
      float[batch, length, embed].
    """
    if decode:
      length = max_decode_length or decoder_input_tokens.shape[1]
      mask = np.tri(length, dtype=bool)[None, None]
      real = jnp.ones_like(decoder_input_tokens, bool)
    else:
      real = decoder_target_tokens > 0
      mask = _pair_mask(real, real, decoder_segment_ids, decoder_segment_ids)
      mask &= np.tri(real.shape[-1], dtype=bool)
    cross_mask = _pair_mask(
        real, encoder_input_tokens > 0, decoder_segment_ids, encoder_segment_ids
    )
    return self.decoder(
        self.token_embedder(decoder_input_tokens), encoded, mask, cross_mask,
        not enable_dropout, decode,
    )

  def logits(self, hidden: jax.Array) -> jax.Array:
    """float[..., length, embed] of `hidden` -> float32[..., length, vocab]."""
    if self.config.logits_via_embedding:
      hidden = hidden.astype(jnp.float32) / np.sqrt(self.config.emb_dim)
      logits = self.token_embedder.attend(hidden)
    else:
      logits = self.decoder.logits_dense(hidden)
    return layers.constrain(logits, ('batch', 'length', 'vocab'))

  def decode(
      self,
      encoded: jax.Array,
      encoder_input_tokens: jax.Array,
      decoder_input_tokens: jax.Array,
      decoder_target_tokens: jax.Array,
      encoder_segment_ids: jax.Array | None = None,
      decoder_segment_ids: jax.Array | None = None,
      decoder_positions: jax.Array | None = None,
      enable_dropout: bool = True,
      decode: bool = False,
      max_decode_length: int | None = None,
  ) -> jax.Array:
    """Logits of all target tokens at once, or of the next one.

    Decoding token by token works as in T5X. A call with `decode`, tokens
    int32[batch, room] and the mutable collection 'cache' allocates the cache.
    Each later call reads the next tokens, int32[batch, 1], and needs
    `max_decode_length=room`. If the collection 'encoded' is mutable in one of
    these calls, it keeps the keys and values of the encoder's output, and later
    calls do not compute them again.

    Args:
      encoded: float[batch, source, embed], the result of `encode`.
      encoder_input_tokens: int32[batch, source], used for the mask only.
      decoder_input_tokens: int32[batch, length], the targets shifted right by
        one.
      decoder_target_tokens: int32[batch, length], used for the mask only, and
        ignored with `decode`.
      encoder_segment_ids: int32[batch, source], the example that each token of
        a packed input belongs to; None where rows are not packed.
      decoder_segment_ids: int32[batch, length], the example that each token of
        a packed target belongs to; None where rows are not packed.
      decoder_positions: ignored, since T5's positions are relative.
      enable_dropout: whether to use dropout, which needs the generator
        'dropout'.
      decode: whether to decode token by token.
      max_decode_length: the number of tokens that the cache has room for.

    Returns:
      float32[batch, length, vocab].
    """
    del decoder_positions
    return self.logits(self.hidden(
        encoded, encoder_input_tokens, decoder_input_tokens,
        decoder_target_tokens, encoder_segment_ids, decoder_segment_ids,
        enable_dropout, decode, max_decode_length,
    ))

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
      with_logits: bool = True,
  ) -> jax.Array:
    """Encodes and decodes; see `encode` and `decode` for the shapes.

    T5X passes positions too. They are ignored: T5's positions are relative, and
    segment ids keep the examples of packed rows apart. With `with_logits=False`
    the result is that of `hidden`.
    """
    del encoder_positions, decoder_positions
    encoded = self.encode(
        encoder_input_tokens, encoder_segment_ids, enable_dropout
    )
    hidden = self.hidden(
        encoded, encoder_input_tokens, decoder_input_tokens,
        decoder_target_tokens, encoder_segment_ids, decoder_segment_ids,
        enable_dropout, decode,
    )
    return self.logits(hidden) if with_logits else hidden


def _stack(
    layer: type[nn.Module], config: T5Config, number: int,
    name: str | None = None,
) -> list[nn.Module]:
  """The layers of a stack; a single scanned one with `scan_layers`.

  Args:
    layer: a module that takes x and arguments shared by all layers, and returns
      (x, None).
    config: the network's sizes.
    number: number of layers.
    name: the name of the stack in a compact method; None in `setup`, where
      modules are named after the attributes they are assigned to.

  Returns:
    The modules, to be called one after the other.
  """
  # Positions of the static arguments, `self` not counted.
  statics = {EncoderLayer: (2,), DecoderLayer: (4, 5)}[layer]
  arguments = {EncoderLayer: 2, DecoderLayer: 5}[layer]
  if config.remat_policy != 'none':
    layer = nn_partitioning.remat(
        layer, policy=_REMAT_POLICIES[config.remat_policy],
        prevent_cse=not config.scan_layers, static_argnums=statics,
    )
  if not config.scan_layers:
    return [
        layer(config, **({} if name is None else {'name': f'layers_{i}'}))
        for i in range(number)
    ]
  scanned = nn_partitioning.scan_with_axes(
      layer,
      variable_axes={'params': layers.SCAN_AXIS, 'cache': 0, 'encoded': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(nn.broadcast,) * arguments,
      length=number,
      axis_name='layers',
  )
  return [scanned(config, **({} if name is None else {'name': name}))]


def _run(
    stack: Sequence[nn.Module],
    x: jax.Array,
    shared: tuple[jax.Array, ...],
    deterministic: bool,
    *flags: bool,
) -> jax.Array:
  """The output of a stack.

  Layers that are not scanned are traced once for all of them, unless random
  numbers are drawn: inside `nn.jit`, Flax would draw other ones.

  Args:
    stack: the modules of `_stack`.
    x: float[batch, length, embed].
    shared: the arrays that all layers read.
    deterministic: whether to leave out dropout.
    *flags: other arguments of the layers, which follow `deterministic`.

  Returns:
    float[batch, length, embed].
  """

  def call(layer, x, *shared):
    return layer(x, *shared, deterministic, *flags)[0]

  if deterministic and len(stack) > 1 and not stack[0].is_initializing():
    call = nn.jit(call)
  for layer in stack:
    x = call(layer, x, *shared)
  return x


def _attention(config: T5Config, name: str) -> layers.Attention:
  return layers.Attention(
      config.num_heads, config.head_dim, config.dropout_rate, config.dtype,
      config.int8_weights, config.lora, name=name,
  )


def _mlp(config: T5Config) -> layers.Mlp:
  return layers.Mlp(
      config.mlp_dim, config.mlp_activations, config.dropout_rate,
      config.dtype, config.int8_weights, config.lora, name='mlp',
  )


def _residual_dropout(config: T5Config, deterministic: bool) -> nn.Dropout:
  """Dropout that is the same at all positions, as in T5X."""
  return nn.Dropout(
      config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic
  )


def _pair_mask(queries, keys, query_segments, key_segments) -> jax.Array:
  """bool[batch, 1, q, k]: both are tokens of the same example."""
  mask = queries[:, None, :, None] & keys[:, None, None, :]
  if query_segments is not None:
    mask &= query_segments[:, None, :, None] == key_segments[:, None, None, :]
  return mask
