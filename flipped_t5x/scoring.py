"""Log-probabilities of given targets, in batches of like lengths."""

from collections.abc import Callable
from collections.abc import Sequence

from flipped_t5x import compilation
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.engine import batches
import jax
import numpy as np


def token_log_probs(
    network: network_lib.T5Config,
    params: dict,
    inputs: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    batch_size: int,
    length_multiple: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
  """Log-probability of each token of each target given its input.

  Args:
    network: the network's sizes.
    params: its weights.
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    batch_size: candidates a forward pass.
    length_multiple: lengths are padded to a multiple of this.
    progress: called with the number of candidates of each batch that is done.

  Returns:
    For each candidate float32[tokens of its target].

  Raises:
    ValueError: a number is below 1; the message names it.
  """
  for name, value in (
      ('batch_size', batch_size), ('length_multiple', length_multiple)
  ):
    if value < 1:
      raise ValueError(f'{name} is {value}; at least 1 is needed')
  if not len(inputs):
    return []
  found = [None] * len(inputs)
  # Few candidates are not worth a batch of padding; a power of two, because
  # each number of rows is compiled on its own.
  few = 2 ** (len(inputs) - 1).bit_length()
  score = compilation.jit(log_probs, params, static_argnums=(0,))
  for chosen, batch in batches.score_batches(
      inputs, targets, min(batch_size, few), length_multiple
  ):
    values = np.asarray(score(network, params, batch))
    for row, i in enumerate(chosen):
      found[i] = values[row, : len(targets[i])]
    if progress is not None:
      progress(len(chosen))
  return found


def log_probs(
    config: network_lib.T5Config, params: dict, batch: batches.Batch
) -> jax.Array:
  """float32[batch, length]: log-probabilities of the targets' tokens."""
  logits = network_lib.Transformer(config).apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      enable_dropout=False,
  )
  return objectives.log_probs(logits, batch['decoder_target_tokens'])
