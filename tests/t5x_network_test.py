"""Networks that T5X cannot train, told without T5X."""

import dataclasses
import types

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x import t5x_network
import pytest

OURS = network_lib.T5Config(
    vocab_size=208, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
    num_encoder_layers=1, num_decoder_layers=1,
)
# T5X's own `T5Config` has no field of this project's.
THEIRS = types.SimpleNamespace(vocab_size=208, emb_dim=16)


def vocabulary(size):
  return types.SimpleNamespace(
      vocab_size=size, sentencepiece_model_file='/v/spiece.model'
  )


@pytest.mark.parametrize('config', (OURS, THEIRS), ids=('ours', 'theirs'))
def test_sizes(config):
  t5x_network.check(config)
  t5x_network.check(config, vocabulary(208))
  with pytest.raises(
      errors.UserError,
      match='^VOCAB_SIZE is 208, but /v/spiece.model has 209 ids, its sentinels'
      ' counted in$',
  ):
    t5x_network.check(config, vocabulary(209))


@pytest.mark.parametrize('fields, message', (
    ({'int8_weights': True},
     '^int8_weights: T5X can neither train nor read weights in int8$'),
    ({'lora_rank': 4, 'lora_alpha': 8.0, 'lora_targets': ('query',)},
     '^LORA_RANK: T5X would train all weights; adapters are trained by'
     ' flipped-t5x train$'),
))
def test_what_t5x_cannot_train(fields, message):
  with pytest.raises(errors.UserError, match=message):
    t5x_network.check(dataclasses.replace(OURS, **fields))
