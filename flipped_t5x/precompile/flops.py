"""Floating-point operations of T5's matrix products, by formula.

A multiplication and an addition count as 2. Attention is counted in full, as it
is computed, though half of the decoder's own is masked; relative positions,
norms, softmax and the optimizer are left out: together below 1 %.
"""

import dataclasses

from flipped_t5x import network as network_lib


@dataclasses.dataclass(frozen=True)
class Forward:
  """Operations of one pass of one row through the network, by part.

  Attributes:
    weights: products with weights, but for the last of each layer.
    last_weights: the last of each layer, the feed-forward's way out.
    attention: queries by keys, and weights by values.
    logits: hidden states by the vocabulary.
  """

  weights: float
  last_weights: float
  attention: float
  logits: float

  @property
  def total(self) -> float:
    return self.weights + self.last_weights + self.attention + self.logits


  def __add__(self, other: 'Forward') -> 'Forward':
    return Forward(**{
        field.name: getattr(self, field.name) + getattr(other, field.name)
        for field in dataclasses.fields(self)
    })


def forward(
    network: network_lib.T5Config, input_length: int, target_length: int
) -> Forward:
  """One row of `input_length` and `target_length` tokens, padding included."""
  return encoder(network, input_length) + decoder(
      network, input_length, target_length
  )


def encoder(network: network_lib.T5Config, length: int) -> Forward:
  """One row of the encoder."""
  width = network.num_heads * network.head_dim
  tokens = network.num_encoder_layers * length
  mlp = network.emb_dim * network.mlp_dim
  gates = len(network.mlp_activations)
  return Forward(
      weights=2 * tokens * (4 * network.emb_dim * width + gates * mlp),
      last_weights=2 * tokens * mlp,
      attention=4 * tokens * width * length,
      logits=0,
  )


def decoder(
    network: network_lib.T5Config, input_length: int, target_length: int
) -> Forward:
  """One row of the decoder, keys and values of the encoder's row included."""
  width = network.num_heads * network.head_dim
  projection = network.emb_dim * width
  tokens = network.num_decoder_layers * target_length
  mlp = network.emb_dim * network.mlp_dim
  gates = len(network.mlp_activations)
  return Forward(
      weights=2 * (
          # Two attentions: of the second, keys and values are the encoder's.
          tokens * (6 * projection + gates * mlp)
          + network.num_decoder_layers * input_length * 2 * projection
      ),
      last_weights=2 * tokens * mlp,
      attention=4 * tokens * width * (target_length + input_length),
      logits=2 * target_length * network.emb_dim * network.vocab_size,
  )


def train_step(
    network: network_lib.T5Config,
    batch_size: int,
    input_length: int,
    target_length: int,
    sides: int = 2,
) -> float:
  """One update: the backward pass costs twice the forward one.

  Args:
    network: sizes.
    batch_size: pairs, or examples of a format that has one side.
    input_length: encoder tokens.
    target_length: decoder tokens.
    sides: 2 where each example goes through the network with a right and with a
      wrong label, else 1.

  Returns:
    Operations that the update needs, whatever is computed again.
  """
  row = forward(network, input_length, target_length)
  return 3 * sides * batch_size * row.total


def recomputed(
    network: network_lib.T5Config,
    batch_size: int,
    input_length: int,
    target_length: int,
    sides: int = 2,
    num_logit_chunks: int = 1,
) -> float:
  """What an update computes a second time to save memory; see `train_step`.

  With the policy 'full' it is the layers but for their last product, which no
  gradient needs; with 'minimal' attention; in chunks the logits.
  """
  row = forward(network, input_length, target_length)
  again = {
      'none': 0.0,
      'minimal': row.attention,
      'full': row.attention + row.weights,
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
  """One forward pass of `batch_size` candidates."""
  return batch_size * forward(network, input_length, target_length).total
