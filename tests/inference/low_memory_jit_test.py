"""Weights that are not float32 are never all in float32, as the compiler says.

What is computed besides the weights is small here, so that the memory for what
lies between is that of converted matrices.
"""

import dataclasses

from flipped_t5x import network as network_lib
from flipped_t5x.inference import generation
from flipped_t5x.inference import low_memory_jit
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import scoring
from flipped_t5x.weights import convert
from flipped_t5x.weights import tensors
import jax
import jax.numpy as jnp
import pytest

NETWORK = network_lib.T5Config(
    vocab_size=256, emb_dim=256, num_heads=4, num_encoder_layers=3,
    num_decoder_layers=3, head_dim=64, mlp_dim=1024,
)
LARGEST = 4 * 256 * 1024  # Bytes of the largest matrix in float32.
BATCH, LENGTH = 2, 8


def abstract(network, dtype):
  return tensors.tree({
      name: jax.ShapeDtypeStruct(
          shape,
          'float32' if dtype == 'int8' and not tensors.is_matrix(name) else
          dtype,
      )
      for name, shape in tensors.shapes(network).items()
  })


def rank(network, params):
  batch = dict.fromkeys(
      ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens'),
      jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32),
  )
  return low_memory_jit.jit(
      scoring.log_probs, params, static_argnums=(0,)
  ).lower(network, params, batch)


def guess(network, params):
  return low_memory_jit.jit(
      generation._search, params, static_argnums=(0, 1, 2)
  ).lower(
      network, LENGTH, 1, params,
      jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32),
      jax.ShapeDtypeStruct((LENGTH + 1,), jnp.float32),
  )


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='other backends have no such options'
)
@pytest.mark.parametrize('lower', (rank, guess))
@pytest.mark.parametrize('weights, activations', (
    ('int8', 'float32'), ('int8', 'bfloat16'), ('bfloat16', 'bfloat16'),
))
def test_one_matrix_at_a_time(lower, weights, activations):
  network = dataclasses.replace(
      NETWORK, dtype=activations, int8_weights=weights == 'int8'
  )
  params = abstract(network, weights)
  memory = lower(network, params).compile().memory_analysis()
  assert LARGEST / 3 < memory.temp_size_in_bytes < 1.6 * LARGEST


def test_stacked_layers_are_taken_apart(tiny_run, tmp_path):
  """A scan copies the stack of a side."""
  for dtype in ('float32', 'int8'):
    path = convert.convert(
        tiny_run, tmp_path / dtype, to='native', scan_layers=True, dtype=dtype,
        progress=False,
    ).path
    for asked in (None, 'bfloat16', 'float32', 'int8'):
      model = model_lib.load(path, dtype=asked)
      assert model.config.network.scan_layers == ((asked or dtype) == 'float32')
      scores = model.score([[5, 6, 7, 1]], [[8, 9, 1]])
      assert scores[0] == pytest.approx(
          model_lib.load(tiny_run).score([[5, 6, 7, 1]], [[8, 9, 1]])[0],
          rel=0.05,
      )
