"""What T5X can do with a network; T5X itself is not needed to tell."""

import os
from typing import Any

from flipped_t5x import errors


def check(config: Any, vocabulary: Any = None) -> None:
  """Checks that T5X can train and evaluate a network.

  Args:
    config: the sizes of `network.Transformer`, or those of T5X's own network,
      which knows neither int8 nor adapters.
    vocabulary: SeqIO's SentencePiece vocabulary; None for any.

  Raises:
    UserError: the weights are in int8, the network has adapters, or it has
      fewer ids than the vocabulary.
  """
  if getattr(config, 'int8_weights', False):
    raise errors.UserError(
        'int8_weights: T5X can neither train nor read weights in int8'
    )
  if getattr(config, 'lora_rank', 0):
    raise errors.UserError(
        'LORA_RANK: T5X would train all weights; adapters are trained by'
        ' flipped-t5x train'
    )
  if vocabulary is not None and vocabulary.vocab_size > config.vocab_size:
    raise errors.UserError(
        f'VOCAB_SIZE is {config.vocab_size}, but'
        f' {os.fspath(vocabulary.sentencepiece_model_file)} has'
        f' {vocabulary.vocab_size} ids, its sentinels counted in'
    )
