"""Tests of precompile/flops.py: the traced steps, and a count by hand."""

import dataclasses

from flipped_t5x import network as network_lib
from flipped_t5x.engine import optimizers
from flipped_t5x.engine import train_step
from flipped_t5x.network import layers
from flipped_t5x.precompile import flops
from flipped_t5x.prompts import arrays
import forward
import jax
from jax.extend import core
import numpy as np
import pytest

L, T, ROWS = 12, 8, 4


def count(jaxpr):
  """Operations of all products of a jaxpr, loops by their rounds."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      left = eqn.invars[0].aval.shape
      total += 2 * eqn.outvars[0].aval.size * int(
          np.prod([left[i] for i in contracted])
      )
    times = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for inner in core.jaxprs_in_params(eqn.params):
      total += times * count(inner)
  return total


def batch():
  rng = np.random.default_rng(0)

  def rows(length):
    return rng.integers(2, 200, (ROWS, length)).astype(np.int32)

  return arrays.training_batch(
      {'inputs': rows(L), 'wrong_inputs': rows(L), 'targets': rows(T)},
      'example',
  )


def positions(network, passes):
  """The one-hot products of relative positions, which the formula leaves out.

  Args:
    network: sizes.
    passes: 1 forward; 2 with the gradient of the table: that of one-hot vectors
      is not asked for.
  """
  return passes * 2 * network.num_heads * layers.NUM_BUCKETS * (L**2 + T**2)


@pytest.mark.parametrize('policy, scan, microbatches, chunks', (
    ('none', False, 1, 1), ('none', True, 2, 2),
    ('minimal', False, 2, 1), ('minimal', True, 1, 2),
    ('full', False, 1, 2), ('full', True, 1, 1), ('full', True, 2, 2),
))
def test_train_step_is_what_is_traced(
    tiny_network, policy, scan, microbatches, chunks
):
  network = dataclasses.replace(
      tiny_network, scan_layers=scan, remat_policy=policy,
      num_decoder_layers=2 if scan else 1,
  )
  model = network_lib.Transformer(network)
  optimizer = optimizers.adafactor(1e-3)
  state = jax.eval_shape(
      lambda: train_step.init_state(model, optimizer, seed=0)
  )
  step = train_step.make_train_step(
      model, optimizer, unlikelihood_weight=3.0, eps=0.01, seed=0,
      num_microbatches=microbatches, num_logit_chunks=chunks,
  )
  traced = count(jax.make_jaxpr(step)(state, batch()).jaxpr)
  expected = (
      flops.train_step(network, ROWS, L, T)
      + flops.recomputed(network, ROWS, L, T, num_logit_chunks=chunks)
      + microbatches * positions(network, passes=2)
  )
  assert traced == expected


@pytest.mark.parametrize('policy', ('none', 'minimal', 'full'))
@pytest.mark.parametrize('int8, targets', (
    (False, ('query', 'value', 'out', 'wi_0', 'wo')),
    (True, ('query', 'value', 'wi_1')),
), ids=('float', 'int8'))
def test_step_of_adapters_is_what_is_traced(
    tiny_network, policy, int8, targets
):
  """With scanned layers; otherwise the first needs less."""
  network = dataclasses.replace(
      tiny_network, scan_layers=True, remat_policy=policy, lora_rank=1,
      lora_alpha=6.0, lora_targets=targets,
      int8_weights=int8, num_decoder_layers=2,
  )
  model = network_lib.Transformer(network)
  optimizer = optimizers.adafactor(1e-3)
  state = jax.eval_shape(
      lambda: train_step.init_state(model, optimizer, seed=0)
  )
  step = train_step.make_train_step(
      model, optimizer, unlikelihood_weight=3.0, eps=0.01, seed=0
  )
  traced = count(jax.make_jaxpr(step)(state, batch()).jaxpr)
  expected = (
      flops.train_step(network, ROWS, L, T)
      + flops.recomputed(network, ROWS, L, T)
      + positions(network, passes=1)  # Their table is frozen.
  )
  assert traced == expected
  whole = network.without_adapters()
  assert traced < 0.9 * (
      flops.train_step(whole, ROWS, L, T) + flops.recomputed(whole, ROWS, L, T)
  )


def test_rank_step_is_what_is_traced(tiny_network):
  model = network_lib.Transformer(tiny_network)
  params = jax.eval_shape(
      lambda: train_step.init_state(model, optimizers.adafactor(1e-3), seed=0)
  )['params']
  traced = jax.make_jaxpr(
      lambda params, batch: forward.logits(model, params, batch)
  )(params, batch())
  assert count(traced.jaxpr) == flops.rank_step(
      tiny_network, ROWS, L, T
  ) + positions(tiny_network, passes=1)


def test_one_side_is_half_and_xl_is_known():
  xl = network_lib.T5Config(
      vocab_size=32128, emb_dim=2048, num_heads=32, num_encoder_layers=24,
      num_decoder_layers=24, head_dim=64, mlp_dim=5120,
  )
  both = flops.train_step(xl, 240, 384, 64)
  assert flops.train_step(xl, 240, 384, 64, sides=1) * 2 == both
  # docs/tpu.md: 1.26e12 a row, from the numbers of parameters there.
  projection, mlp = 2048 * 2048, 2048 * 5120
  by_hand = 2 * (
      384 * 24 * (4 * projection + 3 * mlp + 2 * projection)
      + 64 * (24 * (6 * projection + 3 * mlp) + 2048 * 32128)
  ) + 4 * 2048 * 24 * (384**2 + 64**2 + 64 * 384)
  assert flops.forward(xl, 384, 64).total == by_hand
  assert by_hand == pytest.approx(1.26e12, rel=0.005)
  assert both == 3 * 2 * 240 * by_hand


def test_an_unknown_policy_has_no_number(tiny_network):
  object.__setattr__(
      policy := dataclasses.replace(tiny_network), 'remat_policy', 'some'
  )
  with pytest.raises(KeyError):
    flops.recomputed(policy, 1, L, T)
