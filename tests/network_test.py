"""Tests of network.py: names, positions, masks, packing, dropout, types."""

import functools

from flax import traverse_util
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.engine import batches
from flipped_t5x.engine import train
import jax
import jax.numpy as jnp
import numpy as np
import pytest

ATTENTION = {
    'query/kernel': ((6, 10), ('embed', 'joined_kv')),
    'key/kernel': ((6, 10), ('embed', 'joined_kv')),
    'value/kernel': ((6, 10), ('embed', 'joined_kv')),
    'out/kernel': ((10, 6), ('joined_kv', 'embed')),
}
GATED = {
    'mlp/wi_0/kernel': ((6, 7), ('embed', 'mlp')),
    'mlp/wi_1/kernel': ((6, 7), ('embed', 'mlp')),
    'mlp/wo/kernel': ((7, 6), ('mlp', 'embed')),
}
RELU = {
    'mlp/wi/kernel': ((6, 7), ('embed', 'mlp')),
    'mlp/wo/kernel': ((7, 6), ('mlp', 'embed')),
}
NORM = ((6,), ('embed',))
BIAS = ((2, 32), ('heads', 'relpos_buckets'))
LOGITS = {'decoder/logits_dense/kernel': ((6, 11), ('embed', 'vocab'))}


def t5x_parameters(mlp, logits):
  """Name -> shape and axes in T5X's T5 of a layer a side, sizes as below."""
  layer = {f'decoder/layers_0/{k}': v for k, v in mlp.items()}
  layer |= {f'encoder/layers_0/{k}': v for k, v in mlp.items()}
  for attention in (
      'encoder/layers_0/attention', 'decoder/layers_0/self_attention',
      'decoder/layers_0/encoder_decoder_attention',
  ):
    layer |= {f'{attention}/{k}': v for k, v in ATTENTION.items()}
  return layer | logits | {
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


def initialize(config):
  tokens = jnp.ones((1, 1), jnp.int32)
  return jax.jit(lambda: network_lib.Transformer(config).init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  ))()


@pytest.mark.parametrize(
    'activations, tied, expected',
    (
        (('gelu', 'linear'), False, t5x_parameters(GATED, LOGITS)),
        (('relu',), True, t5x_parameters(RELU, {})),
    ),
)
def test_parameters_are_those_of_t5x(activations, tied, expected):
  variables = initialize(network_lib.T5Config(
      vocab_size=11, emb_dim=6, num_heads=2, num_encoder_layers=1,
      num_decoder_layers=1, head_dim=5, mlp_dim=7,
      mlp_activations=activations, logits_via_embedding=tied,
  ))
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  axes = traverse_util.flatten_dict(variables['params_axes'], sep='/')
  assert {k: v.shape for k, v in params.items()} == {
      k: shape for k, (shape, _) in expected.items()
  }
  assert {v.dtype for v in params.values()} == {np.dtype('float32')}
  assert {k: tuple(v.names) for k, v in axes.items()} == {
      f'{k}_axes': names for k, (_, names) in expected.items()
  }


@functools.cache
def slow_bucket(distance, bidirectional):
  """Raffel et al. 2020, section 2.1, in whole numbers: nothing is rounded.

  Of n buckets the first n/2 hold one distance each; the others grow by the
  same factor, so that the last ends at 128, and all beyond share it.

  Args:
    distance: position of the query less that of the key.
    bidirectional: half of the 32 buckets are for keys after the query.

  Returns:
    The bucket.
  """
  n, offset = (16, 16 if distance < 0 else 0) if bidirectional else (32, 0)
  distance = abs(distance) if bidirectional else max(distance, 0)
  half = n // 2
  if distance < half:
    return offset + distance
  k = 0  # The largest k < n/2 with distance >= half * (128 / half)^(k / half).
  while k + 1 < half and (distance**half * half ** (k + 1)
                          >= half**half * 128 ** (k + 1)):
    k += 1
  return offset + half + k


@pytest.mark.parametrize('bidirectional', (True, False))
@pytest.mark.parametrize('length', (1, 9, 300))
def test_relative_position_buckets(length, bidirectional):
  expected = [
      [slow_bucket(q - k, bidirectional) for k in range(length)]
      for q in range(length)
  ]
  got = network_lib.relative_position_buckets(length, bidirectional)
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got, expected)


@pytest.fixture(scope='module')
def model(tiny_network):
  """The logits function, jitted, and weights; biases and norms are not 1."""
  params = initialize(tiny_network)['params']
  keys = iter(jax.random.split(jax.random.key(1), 99))
  params = jax.tree.map(
      lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params
  )

  @functools.partial(jax.jit, static_argnames=('dtype',))
  def apply(source, target, seed=None, dtype='float32'):
    config = network_lib.T5Config(**{**vars(tiny_network), 'dtype': dtype})
    return network_lib.Transformer(config).apply(
        {'params': params}, source, batches_input(target), target,
        enable_dropout=seed is not None,
        rngs=None if seed is None else {'dropout': jax.random.key(seed)},
    )

  return network_lib.Transformer(tiny_network), params, apply


def batches_input(target):
  return jnp.pad(target[:, :-1], ((0, 0), (1, 0)))


@pytest.fixture(scope='module')
def tokens():
  """16 rows of random lengths: int32[16, 12] and int32[16, 8]."""
  rng = np.random.default_rng(0)
  source, target = rng.integers(1, 200, (16, 12)), rng.integers(1, 200, (16, 8))
  source *= np.arange(12) < rng.integers(1, 13, (16, 1))
  target *= np.arange(8) < rng.integers(1, 9, (16, 1))
  return source.astype(np.int32), target.astype(np.int32)


def assert_equal_logits(got, expected, target):
  assert len(got) == len(expected) == len(target)
  real = np.asarray(target) > 0
  assert np.std(np.asarray(expected)[real]) > 0.5
  np.testing.assert_allclose(
      np.asarray(got)[real], np.asarray(expected)[real], atol=1e-5, rtol=1e-5
  )


@pytest.mark.parametrize(
    'source_padding, target_padding',
    (((0, 9), (0, 0)), ((0, 0), (0, 9)), ((5, 3), (0, 2))),
)
def test_padding_does_not_matter(model, tokens, source_padding, target_padding):
  _, _, apply = model
  source, target = tokens
  padded = apply(
      np.pad(source, ((0, 0), source_padding)),
      np.pad(target, ((0, 0), target_padding)),
  )
  assert_equal_logits(padded[:, :8], apply(source, target), target)


@pytest.mark.parametrize('size', (1, 7))
def test_batch_size_does_not_matter(model, tokens, size):
  _, _, apply = model
  source, target = tokens
  expected = apply(source, target)
  for i in range(0, 17 - size, size):
    rows = slice(i, i + size)
    assert_equal_logits(
        apply(source[rows], target[rows]), expected[rows], target[rows]
    )


def test_logits_do_not_depend_on_later_tokens(model, tokens):
  _, _, apply = model
  source, target = tokens[0], np.maximum(tokens[1], 1)
  expected = apply(source, target)
  for j in range(7):
    changed = target.copy()
    changed[:, j] = target[:, j] % 100 + 101 - target[:, j] // 101
    assert np.all(changed[:, j] != target[:, j])
    got = apply(source, changed)
    # Target j is the input of position j + 1.
    np.testing.assert_allclose(
        got[:, : j + 1], expected[:, : j + 1], atol=1e-5, rtol=1e-5
    )
    assert np.all(np.abs(got - expected)[:, j + 1].max(axis=-1) > 1e-3)


def test_logits_depend_on_every_input_token(model, tokens):
  _, _, apply = model
  source, target = np.maximum(tokens[0], 1)[:1], tokens[1][:1]
  expected = apply(source, target)
  for j in range(12):
    changed = source.copy()
    changed[:, j] = 150 if source[0, j] != 150 else 151
    assert np.abs(apply(changed, target) - expected)[:, 0].max() > 1e-4


def pack(rows, length):
  """One packed row: tokens, segment ids from 1, positions, each [1, length]."""
  flat = [np.concatenate(x) for x in (
      rows,
      [np.full(len(r), i + 1) for i, r in enumerate(rows)],
      [np.arange(len(r)) for r in rows],
  )]
  return [np.pad(x, (0, length - len(x)))[None].astype(np.int32) for x in flat]


def pair_batches():
  """Three pairs, one a row and all in one row: two training batches."""
  rng = np.random.default_rng(2)
  lengths = {'inputs': (5, 3, 7), 'wrong_inputs': (6, 2, 7),
             'targets': (4, 1, 2)}
  single, packed = {}, {}
  for name, numbers in lengths.items():
    rows = [rng.integers(2, 200, n) for n in numbers]
    single[name] = np.stack([np.pad(r, (0, 8 - len(r))) for r in rows])
    packed[name], segments, positions = pack(rows, 17)
    packed |= {f'{name}_segment_ids': segments, f'{name}_positions': positions}
  return (batches.training_batch(single, 'example'),
          batches.training_batch(packed, 'example'), lengths['targets'])


def test_packed_examples_do_not_see_each_other(model):
  network, params, _ = model
  single, packed, lengths = pair_batches()
  expected = train.pair_logits(network, params, single)
  got = train.pair_logits(network, params, packed)
  for one, side in zip(expected, got, strict=True):
    start = 0
    for row, n in enumerate(lengths):
      np.testing.assert_allclose(
          side[0, start : start + n], one[row, :n], atol=1e-5, rtol=1e-5
      )
      start += n
  assert np.abs(got[0] - got[1]).max() > 0.1

  def loss(batch):
    right, wrong = train.pair_logits(network, params, batch)
    return objectives.flipped_loss(
        right, wrong, batch['decoder_target_tokens'],
        batch['decoder_loss_weights'], unlikelihood_weight=3.0, eps=0.01,
    )[1]

  parts = {k: float(v) for k, v in loss(single).items()}
  assert {k: float(v) for k, v in loss(packed).items()} == pytest.approx(
      parts, rel=1e-5
  )
  for name in ('encoder', 'wrong_encoder', 'decoder'):
    mixed = {**packed, f'{name}_segment_ids': np.ones((1, 17), np.int32)}
    assert abs(float(loss(mixed)['loss']) - parts['loss']) > 1e-3


def test_dropout(model, tokens):
  _, _, apply = model
  without = apply(*tokens)
  first = apply(*tokens, seed=0)
  np.testing.assert_array_equal(first, apply(*tokens, seed=0))
  assert np.abs(first - apply(*tokens, seed=1)).max() > 0.1
  assert np.abs(first - without).max() > 0.1
  np.testing.assert_array_equal(without, apply(*tokens))


def test_bfloat16_activations(model, tokens):
  _, _, apply = model
  expected, got = apply(*tokens), apply(*tokens, dtype='bfloat16')
  assert got.dtype == jnp.float32
  assert np.all(np.isfinite(got))
  error = np.abs(got - expected)[tokens[1] > 0]
  assert 1e-4 < error.mean() < 0.05 * np.std(expected)


@pytest.mark.parametrize('tied', (False, True))
def test_logits_are_those_of_t5x(tied):
  t5x = pytest.importorskip('t5x.examples.t5.network')
  sizes = dict(
      vocab_size=50, emb_dim=16, num_heads=2, num_encoder_layers=2,
      num_decoder_layers=2, head_dim=8, mlp_dim=24,
      mlp_activations=('relu',) if tied else ('gelu', 'linear'),
      logits_via_embedding=tied,
  )
  config = network_lib.T5Config(**sizes)
  params = initialize(config)['params']
  _, packed, _ = pair_batches()
  arrays = [packed[k] % 50 for k in (
      'encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens',
      'encoder_segment_ids', 'decoder_segment_ids',
  )]
  ours, theirs = (
      module.apply({'params': params}, *arrays, enable_dropout=False)
      for module in (
          network_lib.Transformer(config),
          t5x.Transformer(t5x.T5Config(**sizes)),
      )
  )
  assert_equal_logits(ours, theirs, arrays[2])
