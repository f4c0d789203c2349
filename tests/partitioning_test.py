"""Training on meshes of virtual devices, in microbatches, scanned and not."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

from flipped_t5x import network as network_lib
from flipped_t5x import partitioning
from flipped_t5x.engine import optimizers
from flipped_t5x.engine import train_step
from flipped_t5x.prompts import arrays as arrays_lib
from flipped_t5x.weights import tensors
import forward
import jax
import numpy as np
import pytest

P = jax.sharding.PartitionSpec

# Large enough that Adafactor factors some of the weights (128 and more).
NETWORK = network_lib.T5Config(
    vocab_size=160, emb_dim=136, num_heads=8, num_encoder_layers=2,
    num_decoder_layers=1, head_dim=2, mlp_dim=16, dropout_rate=0.0,
)
ROWS, LENGTH, TARGETS, STEPS = 16, 24, 12, 2


def batch(seed, packed=False):
  """Pairs of random lengths; packed, three to a row."""
  rng = np.random.default_rng(seed)
  per_row = 3 if packed else 1

  def side(length, wide):
    tokens = np.zeros((ROWS, length), np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for row in range(ROWS):
      start = 0
      for k in range(per_row):
        n = int(rng.integers(2, length // per_row + 1)) if wide else 3
        tokens[row, start : start + n] = rng.integers(2, 160, n)
        segments[row, start : start + n] = k + 1
        positions[row, start : start + n] = np.arange(n)
        start += n
    return tokens, segments, positions

  pairs = {}
  for name, length in (
      ('inputs', LENGTH), ('wrong_inputs', LENGTH), ('targets', TARGETS)
  ):
    pairs[name], segments, positions = side(length, True)
    if packed:
      pairs[f'{name}_segment_ids'] = segments
      pairs[f'{name}_positions'] = positions
  return arrays_lib.training_batch(pairs, 'example')


def test_each_weight_is_constrained_where_it_is_used(make_params):
  """Else XLA is free to lay it, and its gradient, out in another way."""
  params = make_params(NETWORK, seed=0)
  partitioner = partitioning.Partitioner()
  tokens = np.ones((2, 3), np.int32)
  with partitioner.active():
    traced = jax.make_jaxpr(functools.partial(
        network_lib.Transformer(NETWORK).apply, enable_dropout=False
    ))({'params': params}, tokens, tokens, tokens)
  weights = traced.jaxpr.invars[: len(jax.tree.leaves(params))]
  assert len(weights) == len(tensors.shapes(NETWORK))
  assert {str(w) for w in weights} <= set(constrained(traced.jaxpr))


def constrained(jaxpr):
  """Names of the variables that have a constraint, in called functions, too."""
  names = []
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'sharding_constraint':
      names.append(str(equation.invars[0]))
    elif 'jaxpr' in equation.params:
      called = equation.params['jaxpr'].jaxpr
      inside = set(constrained(called))
      names += [
          str(outer) for outer, inner in zip(
              equation.invars, called.invars, strict=True
          ) if str(inner) in inside
      ]
  return names


def unpack(packed):
  """The examples of a packed batch in rows of their own, padded."""
  rows = []
  for row in range(ROWS):
    for segment in range(1, packed['decoder_segment_ids'][row].max() + 1):
      rows.append({
          name: packed[f'{side}_{tokens}'][row][
              packed[f'{side}_segment_ids'][row] == segment
          ]
          for name, side, tokens in (
              ('inputs', 'encoder', 'input_tokens'),
              ('wrong_inputs', 'wrong_encoder', 'input_tokens'),
              ('targets', 'decoder', 'target_tokens'),
          )
      })
  return arrays_lib.training_batch({
      name: np.stack([
          np.pad(r[name], (0, length - len(r[name]))) for r in rows
      ])
      for name, length in (
          ('inputs', LENGTH), ('wrong_inputs', LENGTH), ('targets', TARGETS)
      )
  }, 'example')


def train(
    mesh=None, *, fsdp=False, scanned=False, packed=False, change=None,
    network=NETWORK, **kwargs,
):
  """Losses of a few steps, and the weights after them, layers apart."""
  network = dataclasses.replace(network, scan_layers=scanned)
  model = network_lib.Transformer(network)
  optimizer = optimizers.adafactor(1e-2)
  devices = jax.devices()[: np.prod(mesh)] if mesh else jax.devices()[:1]
  partitioner = partitioning.Partitioner(
      mesh[1] if mesh else 1, fsdp, devices=devices
  )
  abstract = train_step.abstract_state(partitioner, model, optimizer)
  apart = network_lib.Transformer(
      dataclasses.replace(network, scan_layers=False)
  )
  params = tensors.from_arrays(partitioning.init_variables(apart, 0)['params'])
  params = tensors.tree({
      n: t.read()
      for n, t in (tensors.stacked(params) if scanned else params).items()
  })
  state = jax.device_put(
      train_step.init_state(model, optimizer, 0, params),
      jax.tree.map(lambda a: a.sharding, abstract),
  )
  step = train_step.make_train_step(
      model, optimizer, unlikelihood_weight=3.0, eps=0.01, seed=0,
      partitioner=partitioner, **kwargs,
  )
  losses = []
  with partitioner.active():
    for number in range(STEPS):
      rows = batch(number, packed)
      rows = change(rows) if change else rows
      state, metrics = step(state, partitioner.place_batch(rows))
      losses.append(float(metrics['loss']))
  params = tensors.unstacked(
      tensors.from_arrays(jax.device_get(state['params']))
  )
  return losses, {n: t.read() for n, t in params.items()}


def assert_same(one, other):
  np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-5)
  assert one[1].keys() == other[1].keys()
  # Adafactor divides by the root of the squared gradient: where that is next
  # to nothing, rounding moves a weight; none by a hundredth of a step.
  for name, values in one[1].items():
    np.testing.assert_allclose(values, other[1][name], atol=1e-4, err_msg=name)


@pytest.fixture(scope='module')
def alone():
  return train()


@pytest.mark.slow
@pytest.mark.parametrize('variant', (
    {'scanned': True},
    {'num_microbatches': 2},
    {'num_microbatches': 4},
    {'num_logit_chunks': 3},
    {'num_microbatches': 2, 'num_logit_chunks': 4, 'scanned': True},
    {'network': dataclasses.replace(NETWORK, remat_policy='full')},
    {'network': dataclasses.replace(NETWORK, remat_policy='minimal'),
     'scanned': True},
), ids=str)
def test_one_device(alone, variant):
  assert_same(train(**variant), alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    'policy, scanned', (('minimal', False), ('full', True))
)
def test_dropout_is_the_same_when_computed_again(policy, scanned):
  """The gradient's second forward pass draws what the first one drew."""
  network = dataclasses.replace(
      NETWORK, dropout_rate=0.3, scan_layers=scanned, num_encoder_layers=1,
      num_decoder_layers=1,
  )
  params = partitioning.init_variables(
      network_lib.Transformer(network), 0
  )['params']
  rows = batch(0)

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(network, params):
    return jax.grad(lambda params: forward.logits(
        network_lib.Transformer(network), params, rows, jax.random.key(1)
    )[:, 0, 0].sum())(params)

  kept = gradient(network, params)
  again = gradient(dataclasses.replace(network, remat_policy=policy), params)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      kept, again,
  )


@pytest.mark.slow
def test_packed_trains_as_unpacked():
  packed = train(packed=True)
  assert_same(train(packed=True, change=unpack), packed)


MESHES = {
    '8x1': {'mesh': (8, 1)},
    '4x2': {'mesh': (4, 2), 'fsdp': True},
    '2x4': {'mesh': (2, 4), 'num_microbatches': 2, 'num_logit_chunks': 2},
    '1x8': {'mesh': (1, 8), 'scanned': True},
}
_SCRIPT = """
import sys
import numpy as np
import partitioning_test
for name, variant in partitioning_test.MESHES.items():
  losses, weights = partitioning_test.train(**variant)
  np.savez(f'{sys.argv[1]}/{name}.npz', losses=losses, **weights)
"""


@pytest.fixture(scope='module')
def on_meshes(tmp_path_factory):
  """Name -> losses and weights, trained on eight virtual devices."""
  folder = tmp_path_factory.mktemp('meshes')
  subprocess.run(
      [sys.executable, '-c', _SCRIPT, folder], check=True, timeout=600,
      cwd=os.path.dirname(__file__), env=os.environ | {
          'PYTHONPATH': str(pathlib.Path(__file__).parent / 'helpers'),
          'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
      },
  )
  results = {}
  for name in MESHES:
    with np.load(folder / f'{name}.npz') as arrays:
      weights = dict(arrays)
    results[name] = weights.pop('losses'), weights
  return results


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('mesh', MESHES)
def test_meshes(alone, on_meshes, mesh):
  assert_same(on_meshes[mesh], alone)


def test_weights_are_divided():
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  model = network_lib.Transformer(NETWORK)
  params = partitioner.abstract_params(model)
  kernel = params['encoder']['layers_0']['mlp']['wi_0']['kernel']
  assert kernel.sharding.spec == P(None, 'model')
  fsdp = partitioning.Partitioner(
      shard_params_over_data=True, devices=jax.devices()[:1]
  ).abstract_params(model)
  kernel = fsdp['encoder']['layers_0']['mlp']['wo']['kernel']
  assert kernel.sharding.spec == P('model', 'data')
  assert fsdp['token_embedder']['embedding'].sharding.spec == P('model', 'data')


def test_sizes_that_do_not_divide():
  with pytest.raises(ValueError, match=r'MODEL_PARALLEL = 3 .*\[1\] do'):
    partitioning.Partitioner(3, devices=jax.devices()[:1])
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  with pytest.raises(ValueError, match=r'BATCH_SIZE = 10 .* 4 .*\[8, 12\]'):
    partitioner.check(NETWORK, 10, 4)
  step = train_step.make_train_step(
      network_lib.Transformer(NETWORK), optimizers.adafactor(1e-2),
      unlikelihood_weight=3.0, eps=0.01, seed=0, num_logit_chunks=5,
  )
  model = network_lib.Transformer(NETWORK)
  state = jax.eval_shape(lambda: train_step.init_state(
      model, optimizers.adafactor(1e-2), 0
  ))
  with pytest.raises(ValueError, match='NUM_LOGIT_CHUNKS = 5 .* 12'):
    step.lower(state, batch(0))
