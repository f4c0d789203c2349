"""Floating-point operations of T5's matrix products, by formula.

A multiplication and an addition count as two operations. Attention is counted
in full, as it is computed, although half of the decoder's self-attention is
masked. Relative positions, norms, softmax and the optimizer are left out; they
are below 1 % together.
"""

import dataclasses

from flipped_t5x import network as network_lib


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
  """Operations of one row in the network; padding counts as tokens do."""
  return encoder(network, input_length) + decoder(
      network, input_length, target_length
  )


def encoder(network: network_lib.T5Config, length: int) -> Forward:
  """Operations of one row in the encoder."""
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
  """Operations of one row in the decoder.

  Among them are the keys and values that it makes of the encoder's output.
  """
  width = network.num_heads * network.head_dim
  projection = network.emb_dim * width
  tokens = network.num_decoder_layers * target_length
  mlp = network.emb_dim * network.mlp_dim
  gates = len(network.mlp_activations)
  return Forward(
      weights=2 * (
          # Self-attention has four projections and cross-attention two of the
          # decoder's tokens; its keys and values are of the encoder's.
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
  """Operations of one update: the backward pass costs twice the forward pass.

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
  return 3 * sides * batch_size * row.total


def recomputed(
    network: network_lib.T5Config,
    batch_size: int,
    input_length: int,
    target_length: int,
    sides: int = 2,
    num_logit_chunks: int = 1,
) -> float:
  """Operations that an update repeats to save memory.

  The policy 'full' repeats all of each layer but its last product, which no
  gradient needs; the policy 'minimal' repeats attention. Logits are repeated
  where they are made in chunks. The number of microbatches changes nothing.

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
  """Operations of one forward pass of `batch_size` candidates."""
  return batch_size * forward(network, input_length, target_length).total
