"""Floating-point operations of T5's matrix products, by formula.

A multiplication and an addition count as two operations. Attention is counted
in full, as it is computed, although half of the decoder's self-attention is
masked. Relative positions, norms, softmax and the optimizer are left out; they
are below 1 % together.
"""

from collections.abc import Mapping
import dataclasses

from flipped_t5x import network as network_lib
from flipped_t5x.network import layers as layers_lib


@dataclasses.dataclass(frozen=True)
class Forward:
  """Operations of one pass of one row through the network, by part.

  Attributes:
    weights: the products with weights, but for the last product of each layer.
    last_weights: the last product of each layer, which is the feed-forward
      block's output projection.
    attention: the products of queries with keys, and of attention weights with
      values.
    logits: the product of the decoder's output with the vocabulary.
    adapters: the products with adapters, but for `last_adapters`.
    last_adapters: the second product with the adapter of each layer's last
      matrix.
  """

  weights: float
  last_weights: float
  attention: float
  logits: float
  adapters: float
  last_adapters: float

  @property
  def total(self) -> float:
    return sum(dataclasses.astuple(self))

  def __add__(self, other: 'Forward') -> 'Forward':
    return Forward(**{
        field.name: getattr(self, field.name) + getattr(other, field.name)
        for field in dataclasses.fields(self)
    })


def forward(
    network: network_lib.T5Config, input_length: int, target_length: int
) -> Forward:
  """Operations of one row in the network; padding counts as tokens do."""
  return encoder(network, input_length) + decoder(
      network, input_length, target_length
  )


def encoder(network: network_lib.T5Config, length: int) -> Forward:
  """Operations of one row in the encoder."""
  layers = network.num_encoder_layers
  return _stack(
      network, layers,
      {
          **dict.fromkeys(network.linear_layers, length),
      },
      attention=layers * length * length, logits=0,
  )


def decoder(
    network: network_lib.T5Config, input_length: int, target_length: int
) -> Forward:
  """Operations of one row in the decoder.

  Among them are the keys and values that it makes of the encoder's output.
  """
  layers = network.num_decoder_layers
  mlp = layers_lib.mlp_names(network.mlp_activations)
  return _stack(
      network, layers,
      {
          # Self-attention, and attention to the encoder.
          **dict.fromkeys(('query', 'out'), 2 * target_length),
          **dict.fromkeys(('key', 'value'), target_length + input_length),
          **dict.fromkeys(mlp, target_length),
      },
      attention=layers * target_length * (target_length + input_length),
      logits=2 * target_length * network.emb_dim * network.vocab_size,
  )


def _stack(
    network: network_lib.T5Config, layers: int, tokens: Mapping[str, int],
    attention: float, logits: float,
) -> Forward:
  """Operations of one row in all layers of a stack.

  Args:
    network: the sizes of the T5.
    layers: the number of layers.
    tokens: matrix of a layer -> the tokens that it is multiplied with.
    attention: pairs of a query and a key, in all layers.
    logits: see `Forward`.
  """
  width = network.num_heads * network.head_dim
  weights, adapters = {}, {}
  for name, number in tokens.items():
    other = network.mlp_dim if name.startswith('w') else width
    rank = network.lora.rank_of(name)
    weights[name] = 2 * layers * number * network.emb_dim * other
    adapters[name] = 2 * layers * number * rank * (network.emb_dim + other)
  last = 2 * layers * tokens['wo'] * network.lora.rank_of('wo')
  last *= network.emb_dim
  return Forward(
      weights=sum(weights.values()) - weights['wo'],
      last_weights=weights['wo'],
      attention=4 * width * attention,
      logits=logits,
      adapters=sum(adapters.values()) - last,
      last_adapters=last,
  )


def train_step(
    network: network_lib.T5Config,
    batch_size: int,
    input_length: int,
    target_length: int,
    sides: int = 2,
) -> float:
  """Operations of one update: the backward pass costs twice the forward pass.

  Where adapters alone are trained, it costs once the products with weights:
  those for the gradients of weights are left out.

  Args:
    network: the sizes of the T5.
    batch_size: the number of pairs, or of examples of a format that has no
      wrong labels.
    input_length: the number of encoder tokens of a row.
    target_length: the number of decoder tokens of a row.
    sides: 2 where each example goes through the network with a right and with a
      wrong label, else 1.

  Returns:
    The operations that the update needs, without what is computed again.
  """
  row = forward(network, input_length, target_length)
  needed = 3 * row.total
  if network.lora.rank:
    needed -= row.weights + row.last_weights + row.logits
  return sides * batch_size * needed


def recomputed(
    network: network_lib.T5Config,
    batch_size: int,
    input_length: int,
    target_length: int,
    sides: int = 2,
    num_logit_chunks: int = 1,
) -> float:
  """Operations that an update repeats to save memory.

  The policy 'full' repeats all of each layer but its last products, which no
  gradient needs; the policy 'minimal' repeats attention (of adapters without
  `out`, half of it). Logits are repeated where they are made in chunks. The
  number of microbatches changes nothing.

  Args:
    network: the sizes of the T5, and its rematerialization policy.
    batch_size: as in `train_step`.
    input_length: as in `train_step`.
    target_length: as in `train_step`.
    sides: as in `train_step`.
    num_logit_chunks: the number of pieces in which the logits are made.

  Returns:
    The operations beyond those of `train_step`.
  """
  row = forward(network, input_length, target_length)
  lora = network.lora
  # The values' sum is only read by the gradients of what it is multiplied with.
  needs_values = not lora.rank or lora.rank_of('out')
  again = {
      'none': 0.0,
      'minimal': row.attention / (1 if needs_values else 2),
      'full': row.attention + row.weights + row.adapters,
  }[network.remat_policy]
  if num_logit_chunks > 1:
    again += row.logits
  return sides * batch_size * again


def rank_step(
    network: network_lib.T5Config,
    batch_size: int,
    input_length: int,
    target_length: int,
) -> float:
  """Operations of one forward pass of `batch_size` candidates."""
  return batch_size * forward(network, input_length, target_length).total
