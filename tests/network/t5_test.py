"""Tests of network/t5.py and network/layers.py.

Names, positions, masks, packing, dropout, types; scanned layers, what is
computed again in the backward pass, and the cache.
"""

import dataclasses
import functools

from flax import traverse_util
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.network import layers
from flipped_t5x.prompts import arrays
from flipped_t5x.weights import tensors
import forward
import jax
import jax.numpy as jnp
import numpy as np
import pytest

IN, OUT = ((6, 10), ('embed', 'joined_kv')), ((10, 6), ('joined_kv', 'embed'))
ATTENTION = {'query': IN, 'key': IN, 'value': IN, 'out': OUT}
IN, OUT = ((6, 7), ('embed', 'mlp')), ((7, 6), ('mlp', 'embed'))
GATED, RELU = {'wi_0': IN, 'wi_1': IN, 'wo': OUT}, {'wi': IN, 'wo': OUT}
NORM = ((6,), ('embed',))
BIAS = ((2, 32), ('heads', 'relpos_buckets'))
LOGITS = {'decoder/logits_dense/kernel': ((6, 11), ('embed', 'vocab'))}


def t5x_parameters(mlp, logits):
  """Name -> shape and axes in T5X's T5 of a layer a side, sizes as below."""
  kernels = {
      'encoder/layers_0/attention': ATTENTION,
      'encoder/layers_0/mlp': mlp,
      'decoder/layers_0/self_attention': ATTENTION,
      'decoder/layers_0/encoder_decoder_attention': ATTENTION,
      'decoder/layers_0/mlp': mlp,
  }
  return logits | {
      f'{block}/{name}/kernel': kernel
      for block, names in kernels.items()
      for name, kernel in names.items()
  } | {
      'token_embedder/embedding': ((11, 6), ('vocab', 'embed')),
      'encoder/relpos_bias/rel_embedding': BIAS,
      'encoder/layers_0/pre_attention_layer_norm/scale': NORM,
      'encoder/layers_0/pre_mlp_layer_norm/scale': NORM,
      'encoder/encoder_norm/scale': NORM,
      'decoder/relpos_bias/rel_embedding': BIAS,
      'decoder/layers_0/pre_self_attention_layer_norm/scale': NORM,
      'decoder/layers_0/pre_cross_attention_layer_norm/scale': NORM,
      'decoder/layers_0/pre_mlp_layer_norm/scale': NORM,
      'decoder/decoder_norm/scale': NORM,
  }


@pytest.mark.parametrize('activations, tied, expected', (
    (('gelu', 'linear'), False, t5x_parameters(GATED, LOGITS)),
    (('relu',), True, t5x_parameters(RELU, {})),
))
def test_parameters_are_those_of_t5x(activations, tied, expected):
  config = network_lib.T5Config(
      vocab_size=11, emb_dim=6, num_heads=2, num_encoder_layers=1,
      num_decoder_layers=1, head_dim=5, mlp_dim=7,
      mlp_activations=activations, logits_via_embedding=tied,
  )
  tokens = jnp.ones((1, 1), jnp.int32)
  variables = jax.eval_shape(lambda: network_lib.Transformer(config).init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  ))
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  axes = traverse_util.flatten_dict(variables['params_axes'], sep='/')
  assert {k: (v.shape, v.dtype) for k, v in params.items()} == {
      k: (shape, np.dtype('float32')) for k, (shape, _) in expected.items()
  }
  assert {k: tuple(v.names) for k, v in axes.items()} == {
      f'{k}_axes': names for k, (_, names) in expected.items()
  }


@functools.cache
def slow_bucket(distance, bidirectional):
  """Raffel et al. 2020, section 2.1, in whole numbers: nothing is rounded.

  Of n buckets the first n/2 hold one distance each; the others grow by the
  same factor, so that the last ends at 128, and all beyond share it. Positive
  distances are to keys before the query; keys after it have 16 buckets if
  `bidirectional`, else none.
  """
  n, offset = (16, 16 if distance < 0 else 0) if bidirectional else (32, 0)
  distance = int(abs(distance) if bidirectional else max(distance, 0))
  half = n // 2
  if distance < half:
    return offset + distance
  # The largest k < half with distance / half >= (128 / half)^(k / half).
  return offset + half + max(
      k for k in range(half)
      if distance**half * half**k >= half**half * 128**k
  )


@pytest.mark.parametrize('bidirectional', (True, False))
def test_relative_position_buckets(bidirectional):
  distance = np.subtract.outer(np.arange(300), np.arange(300))
  np.testing.assert_array_equal(
      layers.relative_position_buckets(300, bidirectional),
      np.vectorize(slow_bucket)(distance, bidirectional),
  )


@pytest.fixture(scope='module')
def apply(tiny_network, tiny_params):
  """(source, target, dropout seed, type) -> logits."""

  @functools.partial(jax.jit, static_argnames='dtype')
  def call(source, target, seed=None, dtype='float32'):
    config = dataclasses.replace(tiny_network, dtype=dtype)
    return network_lib.Transformer(config).apply(
        {'params': tiny_params}, source,
        jnp.pad(target[:, :-1], ((0, 0), (1, 0))), target,
        enable_dropout=seed is not None,
        rngs=None if seed is None else {'dropout': jax.random.key(seed)},
    )

  return lambda *args, **kwargs: np.asarray(call(*args, **kwargs))


@pytest.fixture(scope='module')
def tokens():
  """16 rows of random lengths: int32[16, 12] and int32[16, 8]."""
  rng = np.random.default_rng(0)
  return [
      rng.integers(1, 200, (16, n), np.int32)
      * (np.arange(n) < rng.integers(1, n + 1, (16, 1))) for n in (12, 8)
  ]


def assert_equal_logits(got, expected, target):
  assert len(got) == len(expected) == len(target)
  got, expected = np.asarray(got)[target > 0], np.asarray(expected)[target > 0]
  assert np.std(expected) > 0.5
  np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('change', (
    {'emb_dim': 12}, {'mlp_dim': 20}, {'vocab_size': 200}, {'head_dim': 7},
))
def test_weights_of_other_sizes(change, tiny_network, tiny_params, tokens):
  network = network_lib.Transformer(dataclasses.replace(tiny_network, **change))
  with pytest.raises(ValueError, match=r'/(kernel|embedding|scale) has the sh'):
    jax.eval_shape(functools.partial(
        network.apply, {'params': tiny_params}, *tokens, tokens[1],
        enable_dropout=False,
    ))


@pytest.mark.parametrize('source_padding, target_padding', (
    ((0, 9), (0, 0)), ((0, 0), (0, 9)), ((5, 3), (0, 2)),
))
def test_padding_does_not_matter(apply, tokens, source_padding, target_padding):
  source, target = tokens
  more_source = np.pad(source, ((0, 0), source_padding))
  padded = apply(more_source, np.pad(target, ((0, 0), target_padding)))
  assert_equal_logits(padded[:, :8], apply(source, target), target)


@pytest.mark.parametrize('size', (1, 7))
def test_batch_size_does_not_matter(apply, tokens, size):
  source, target = tokens
  expected = apply(source, target)
  for i in range(0, 17 - size, size):
    got = apply(source[i : i + size], target[i : i + size])
    assert_equal_logits(got, expected[i : i + size], target[i : i + size])


def test_logits_depend_on_all_earlier_tokens_alone(apply, tokens):
  source, target = np.maximum(tokens[0], 1), np.maximum(tokens[1], 1)
  expected = apply(source, target)
  for j in range(7):
    changed = target.copy()
    changed[:, j] = (target[:, j] + 100) % 199 + 1
    got = apply(source, changed)
    # Target j is the decoder's input at j + 1.
    np.testing.assert_array_equal(got[:, : j + 1], expected[:, : j + 1])
    assert np.all(np.abs(got - expected)[:, j + 1 :].max(axis=-1) > 1e-3)
  for j in range(12):
    changed = source.copy()
    changed[:, j] = (source[:, j] + 100) % 199 + 1
    difference = np.abs(apply(changed, target) - expected)
    assert np.all(difference.max(axis=-1) > 1e-3)


def pair_batches():
  """Three pairs, one a row and all in one row: two training batches."""
  rng = np.random.default_rng(2)
  single, packed = {}, {}
  for name, numbers in (
      ('inputs', (5, 3, 7)), ('wrong_inputs', (6, 2, 7)), ('targets', (4, 1, 2))
  ):
    rows = [rng.integers(2, 200, n) for n in numbers]
    single[name] = np.stack([np.pad(r, (0, 8 - len(r))) for r in rows])
    rest = (0, 17 - sum(numbers))
    packed[name] = np.pad(np.concatenate(rows), rest)[None]
    segments = np.pad(np.repeat((1, 2, 3), numbers), rest)
    packed[f'{name}_segment_ids'] = segments[None]
    packed[f'{name}_positions'] = 0 * segments[None]  # The network has none.
  return [arrays.training_batch(p, 'example') for p in (single, packed)]


def test_packed_examples_are_apart(apply, tiny_network, tiny_params):
  model = network_lib.Transformer(tiny_network)

  @jax.jit
  def logits_and_loss(batch):
    right, wrong = forward.pair_logits(model, tiny_params, batch)
    return (right, wrong), objectives.flipped_loss(
        right, wrong, batch['decoder_target_tokens'],
        batch['decoder_loss_weights'], unlikelihood_weight=3.0, eps=0.01,
    )[1]

  single, packed = pair_batches()
  targets = single['decoder_target_tokens']
  (right, wrong), parts = logits_and_loss(packed)
  for name, got in (('', right), ('wrong_', wrong)):
    expected = apply(single[f'{name}encoder_input_tokens'], targets)
    np.testing.assert_allclose(got[0, :7], expected[targets > 0], atol=1e-5)
  assert np.abs(right - wrong).max() > 0.1
  for name, value in logits_and_loss(single)[1].items():
    assert float(parts[name]) == pytest.approx(float(value), abs=1e-5)
  for name in ('encoder', 'wrong_encoder', 'decoder'):
    mixed = {**packed, f'{name}_segment_ids': np.ones((1, 17), np.int32)}
    other = logits_and_loss(mixed)[1]
    assert abs(float(other['loss'] - parts['loss'])) > 1e-3


def test_dropout(apply, tokens):
  without, first = apply(*tokens), apply(*tokens, seed=0)
  np.testing.assert_array_equal(first, apply(*tokens, seed=0))
  for other in (without, apply(*tokens, seed=1)):
    assert np.abs(first - other).max() > 0.1


def test_bfloat16_activations(apply, tokens):
  expected, got = apply(*tokens), apply(*tokens, dtype='bfloat16')
  assert got.dtype == np.float32 and np.all(np.isfinite(got))
  error = np.abs(got - expected)[tokens[1] > 0]
  assert 1e-4 < error.mean() < 0.05 * np.std(expected)


@pytest.mark.parametrize('sizes, expected', (
    ({}, [[-0.088575, 1.710976, -0.111202], [0.385676, -0.045282, -1.269035]]),
    (dict(mlp_activations=['relu'], logits_via_embedding=True),
     [[1.611077, -0.125699, 1.248012], [-0.093349, 1.455481, -0.262737]]),
))
def test_logits_are_those_of_t5x(tiny_network, make_params, sizes, expected):
  config = dataclasses.replace(tiny_network, **sizes)
  source, target = np.random.default_rng(4).integers(1, 200, (2, 1, 40))
  logits = network_lib.Transformer(config).apply(
      {'params': make_params(config, seed=3)}, source,
      arrays.shift_right(target), target, enable_dropout=False,
  )
  # From t5x.examples.t5.network at T5X cc342d4 with these weights.
  np.testing.assert_allclose(logits[0, [0, 39], :3], expected, atol=1e-5)


def test_scanned_parameters_are_those_of_t5x():
  config = network_lib.T5Config(
      vocab_size=11, emb_dim=6, num_heads=2, num_encoder_layers=3,
      num_decoder_layers=4, head_dim=5, mlp_dim=7, scan_layers=True,
  )
  tokens = jnp.ones((1, 1), jnp.int32)
  variables = jax.eval_shape(lambda: network_lib.Transformer(config).init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  ))
  expected = {}
  for name, (shape, names) in t5x_parameters(GATED, LOGITS).items():
    side = name.split('/')[0]
    if '/layers_0/' in name:
      depth = {'encoder': 3, 'decoder': 4}[side]
      name = name.replace('layers_0', side)
      shape = (shape[0], depth, *shape[1:])
      names = (names[0], 'layers', *names[1:])
    expected[name] = shape, names
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  axes = traverse_util.flatten_dict(variables['params_axes'], sep='/')
  assert {k: v.shape for k, v in params.items()} == {
      k: shape for k, (shape, _) in expected.items()
  }
  assert {k: tuple(v.names) for k, v in axes.items()} == {
      f'{k}_axes': names for k, (_, names) in expected.items()
  }


@pytest.fixture(scope='module')
def deep_network(tiny_network):
  """Layers enough for their order to matter."""
  return dataclasses.replace(tiny_network, num_decoder_layers=2)


@pytest.fixture(scope='module')
def deep_params(deep_network, make_params):
  """Weights of `deep_network`, by whether they are stacked."""
  params = make_params(deep_network, seed=5)
  stacked = tensors.stacked(tensors.from_arrays(params))
  return {False: params, True: tensors.tree(
      {name: jnp.asarray(t.read()) for name, t in stacked.items()}
  )}


@pytest.fixture(scope='module')
def backward(deep_network, deep_params, tokens):
  """(scan, remat policy, dropout seed) -> logits, and the loss's gradient."""
  source, target = tokens
  weights = jnp.asarray((target > 0) / np.sum(target > 0))

  @functools.cache
  def call(scan, policy='none', seed=None):
    model = network_lib.Transformer(dataclasses.replace(
        deep_network, scan_layers=scan, remat_policy=policy
    ))

    def loss(params):
      logits = model.apply(
          {'params': params}, source, arrays.shift_right(target), target,
          enable_dropout=seed is not None,
          # 'rbg' compiles in a fraction of the time.
          rngs=None if seed is None else {
              'dropout': jax.random.key(seed, impl='rbg')
          },
      )
      return objectives.likelihood_loss(logits, target, weights)[0], logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(deep_params[scan])
    return logits, tensors.from_arrays(gradient)

  return call


def assert_equal_gradients(got, expected):
  assert got.keys() == expected.keys()
  for name, tensor in expected.items():
    assert np.abs(tensor.read()).max() > 1e-4, name
    np.testing.assert_allclose(
        got[name].read(), tensor.read(), atol=1e-5, err_msg=name
    )


def test_scanned_equals_unscanned(backward, tokens):
  (logits, gradient), (expected, expected_gradient) = (
      backward(scan) for scan in (True, False)
  )
  assert_equal_logits(logits, expected, tokens[1])
  assert_equal_gradients(tensors.unstacked(gradient), expected_gradient)


@pytest.mark.parametrize('scan, policy', (
    (False, 'minimal'), (True, 'full'),
))
def test_remat_changes_nothing(scan, policy, backward, tokens):
  # With dropout: what is computed again has to drop the same again.
  logits, gradient = backward(scan, policy, seed=1)
  expected, expected_gradient = backward(scan, seed=1)
  assert_equal_logits(logits, expected, tokens[1])
  assert_equal_gradients(gradient, expected_gradient)


@pytest.mark.parametrize('dropout, times', ((False, 1), (True, 3)))
def test_layers_are_traced_once_for_all(
    dropout, times, tiny_network, tokens, monkeypatch
):
  network = dataclasses.replace(
      tiny_network, num_encoder_layers=3, num_decoder_layers=3
  )
  params = tensors.tree({
      name: jax.ShapeDtypeStruct(shape, jnp.float32)
      for name, shape in tensors.shapes(network).items()
  })
  traced, norm = [], layers.LayerNorm.__call__

  def record(self, x):
    traced.append(self.name)
    return norm(self, x)

  monkeypatch.setattr(layers.LayerNorm, '__call__', record)
  jax.eval_shape(
      functools.partial(
          network_lib.Transformer(network).apply, enable_dropout=dropout,
          rngs={'dropout': jax.random.key(0)},
      ),
      {'params': params}, *tokens, tokens[1],
  )
  # An encoder's layer has two norms, a decoder's three.
  assert sum(name.startswith('pre_') for name in traced) == 5 * times


def test_remat_policy_is_known(tiny_network):
  with pytest.raises(
      ValueError,
      match=r"remat_policy 'some' is not one of \['none', 'minimal', 'full'\]",
  ):
    dataclasses.replace(tiny_network, remat_policy='some')


# When the encoder's keys and values are kept. 'never' is what T5X does.
@pytest.mark.parametrize('scan, kept', (
    (False, 'never'), (False, 'in the first step'), (False, 'with the cache'),
    (True, 'never'), (True, 'with the cache'),
))
def test_decoding_with_a_cache_is_teacher_forcing(
    scan, kept, deep_network, deep_params, tokens
):
  model = network_lib.Transformer(
      dataclasses.replace(deep_network, scan_layers=scan)
  )
  params = deep_params[scan]
  source, target = tokens[0], np.maximum(tokens[1], 1)
  inputs = arrays.shift_right(target)

  @jax.jit
  def start(params):
    encoded = model.apply(
        {'params': params}, source, enable_dropout=False, method='encode'
    )
    expected = model.apply(
        {'params': params}, encoded, source, inputs, target,
        enable_dropout=False, method='decode',
    )
    _, state = model.apply(
        {'params': params}, encoded, source, inputs, inputs,
        enable_dropout=False, decode=True, method='decode',
        mutable=['cache', 'encoded'] if kept == 'with the cache' else ['cache'],
    )
    return encoded, expected, state

  @functools.partial(jax.jit, static_argnames='mutable')
  def step(params, state, encoded, tokens, mutable=('cache',)):
    logits, changed = model.apply(
        {'params': params, **state}, encoded, source, tokens, tokens,
        enable_dropout=False, decode=True, max_decode_length=target.shape[1],
        mutable=list(mutable), method='decode',
    )
    return logits, {**state, **changed}

  encoded, expected, state = start(params)
  logits = []
  for i in range(target.shape[1]):
    first = not i and kept == 'in the first step'
    one, state = step(
        params, state,
        # Where they are kept, nothing else is needed.
        encoded if first or kept == 'never' else encoded * np.nan,
        inputs[:, i : i + 1], ('cache', 'encoded') if first else ('cache',),
    )
    assert one.shape == (16, 1, 208)
    logits.append(one)
  assert ('encoded' in state) == (kept != 'never')
  assert_equal_logits(np.concatenate(logits, axis=1), expected, target)
  indices = [
      x for k, x in traverse_util.flatten_dict(state['cache']).items()
      if k[-1] == 'cache_index'
  ]
  assert [x.shape for x in indices] == ([(2,)] if scan else [()] * 2)
  assert all(np.all(x == target.shape[1]) for x in indices)
