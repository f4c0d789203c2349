"""`transformers` generates the same tokens from the same weights."""

import functools

from flipped_t5x.inference import generation
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import tensors
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]

MAX_LENGTH = 12
# No decoder here is deeper than its encoder: of such a one `transformers` makes
# too small a cache.
SIZES = {
    't5_1_1': {
        'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False,
        'vocab_size': 60, 'd_model': 24, 'd_kv': 8, 'd_ff': 40,
        'num_layers': 3, 'num_decoder_layers': 2, 'num_heads': 3,
    },
    't5_1_0': {
        'feed_forward_proj': 'relu', 'tie_word_embeddings': True,
        'vocab_size': 40, 'd_model': 16, 'd_kv': 4, 'd_ff': 48,
        'num_layers': 2, 'num_heads': 4,
    },
    'wide': {
        'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False,
        'vocab_size': 300, 'd_model': 48, 'd_kv': 16, 'd_ff': 80,
        'num_layers': 2, 'num_heads': 2,
    },
}


@functools.cache
def their_model(name):
  """Random weights with which some targets end early and others not at all."""
  import torch
  import transformers

  config = transformers.T5Config(**SIZES[name], decoder_start_token_id=0)
  torch.manual_seed(1)
  model = transformers.T5ForConditionalGeneration(config).eval()
  is_tied = SIZES[name]['tie_word_embeddings']
  if not is_tied:  # It ties whatever the configuration.
    model.lm_head.weight = torch.nn.Parameter(
        torch.empty(config.vocab_size, config.d_model)
    )
  with torch.no_grad():
    for path, values in model.named_parameters():
      torch.nn.init.normal_(values)
      if path.endswith('layer_norm.weight'):
        values.mul_(0.2).add_(1)
      elif path == ('shared.weight' if is_tied else 'lm_head.weight'):
        values.mul_(2 * values.shape[1] ** -0.5)
        values[1].mul_(2)
      elif 'bias' not in path and 'shared' not in path:
        values.mul_(values.shape[1] ** -0.5)
      if '.q.' in path:
        values.mul_(config.d_kv**-0.5)
  return model


@pytest.fixture(scope='module')
def our_model(tmp_path_factory):
  """name -> the same, read from the files that it is saved in."""

  @functools.cache
  def load(name):
    folder = tmp_path_factory.mktemp('models') / name
    their_model(name).save_pretrained(folder)
    config, found = hf_checkpoints.open(folder)
    return config, tensors.tree({
        n: jnp.asarray(t.read()) for n, t in found.items()
    })

  return load


def random_inputs(vocab_size):
  """50 inputs of 2 to 31 tokens."""
  rng = np.random.default_rng(0)
  return [
      [*rng.integers(2, vocab_size, n).tolist(), 1]
      for n in rng.integers(1, 31, 50)
  ]


def their_targets(model, inputs, num_beams, length_penalty):
  """Tokens without EOS, and what `transformers` calls scores of beams."""
  import torch

  tokens = torch.zeros((len(inputs), max(map(len, inputs))), dtype=torch.long)
  for row, values in zip(tokens, inputs, strict=True):
    row[: len(values)] = torch.tensor(values)
  output = model.generate(
      tokens, attention_mask=(tokens > 0).long(), num_beams=num_beams,
      do_sample=False, max_new_tokens=MAX_LENGTH, early_stopping=False,
      length_penalty=length_penalty, return_dict_in_generate=True,
      output_scores=True,
  )
  targets = []
  for row in output.sequences[:, 1:].tolist():
    end = row.index(1) if 1 in row else MAX_LENGTH
    targets.append(tuple(row[:end]))
  return targets, output.sequences_scores if num_beams > 1 else None


# Each number of beams of a model is a program to compile; penalties are not.
@pytest.mark.parametrize('name, num_beams, length_penalties', (
    ('t5_1_1', 1, (1.0,)),
    ('t5_1_1', 2, (1.0, 0.6)),
    ('t5_1_1', 4, (1.0, 0.0, 2.0, -1.0)),
    ('t5_1_1', 8, (1.0, 0.6)),
    ('t5_1_0', 1, (1.0,)),
    ('t5_1_0', 2, (1.0, 0.6)),
    ('t5_1_0', 4, (1.0, 0.0, 2.0, -1.0)),
    ('wide', 1, (1.0,)),
    ('wide', 4, (1.0, 0.6)),
))
def test_same_tokens(name, num_beams, length_penalties, our_model):
  config, params = our_model(name)
  assert config.logits_via_embedding == SIZES[name]['tie_word_embeddings']
  inputs = random_inputs(config.vocab_size)
  found = set()
  for length_penalty in length_penalties:
    theirs, scores = their_targets(
        their_model(name), inputs, num_beams, length_penalty
    )
    ours = generation.generate(
        config, params, inputs, max_length=MAX_LENGTH, num_beams=num_beams,
        length_penalty=length_penalty, batch_size=20, length_multiple=32,
    )
    assert [g.tokens for g in ours] == theirs
    if scores is not None:
      lengths = [min(len(g.tokens) + 1, MAX_LENGTH) for g in ours]
      np.testing.assert_allclose(
          [g.log_prob / n**length_penalty
           for g, n in zip(ours, lengths, strict=True)],
          scores, rtol=1e-4,
      )
    found.update(theirs)
  lengths = {len(tokens) for tokens in found}
  assert len(found) > 20 and len(lengths) > 3 and MAX_LENGTH in lengths
