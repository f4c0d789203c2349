"""Tests of inference/scoring.py: encoded once or one at a time, same scores."""

import dataclasses
import itertools

from flipped_t5x import network as network_lib
from flipped_t5x.inference import scoring
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope='module')
def plain(tiny_network, tiny_params):
  """(input, target) -> log-probabilities of one candidate, not padded."""
  apply = jax.jit(network_lib.Transformer(tiny_network).apply, static_argnames=(
      'enable_dropout',
  ))

  def log_probs(source, target):
    arrays = [
        np.array([row], np.int32)
        for row in (source, [0, *target[:-1]], target)
    ]
    logits = apply({'params': tiny_params}, *arrays, enable_dropout=False)
    logits = np.float64(logits)[0]
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits[np.arange(len(target)), target]

  return log_probs


@pytest.fixture(scope='module')
def candidates(plain):
  """46 pairs of 6 inputs and 8 targets, some twice, and their plain scores."""
  rng = np.random.default_rng(0)

  def tokens(length):
    return [*rng.integers(2, 200, length).tolist(), 1]

  inputs = [tokens(n) for n in (3, 3, 3, 20, 20, 20)]
  targets = [tokens(n) for n in (2, 2, 2, 2, 20, 20, 20, 20)]
  pairs = list(itertools.product(inputs, targets))
  pairs = [pairs[i] for i in rng.permutation(len(pairs))[:36]]
  pairs += pairs[:10]
  return pairs, [plain(*pair) for pair in pairs]


@pytest.fixture
def score(tiny_network, tiny_params):
  """Pairs -> what `encode_once` gives."""

  def encode_once(pairs, batch_size=4, network=tiny_network, **kwargs):
    return scoring.encode_once(
        network, kwargs.pop('params', tiny_params), [p[0] for p in pairs],
        [p[1] for p in pairs], batch_size=batch_size, **kwargs,
    )

  return encode_once


def assert_close(found, expected):
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize('batch_size, multiple', (
    (1, 64), (4, 16), (64, 64),
))
def test_same_as_one_at_a_time(score, candidates, batch_size, multiple):
  pairs, expected = candidates
  done = []
  found = score(
      pairs, batch_size, length_multiple=multiple, progress=done.append
  )
  assert_close(found.log_probs, expected)
  assert found.encoder_passes == len({tuple(p[0]) for p in pairs}) == 6
  assert sum(done) == len(pairs)
  assert all(v.dtype == np.float32 for v in found.log_probs)


def test_order_does_not_matter(score, candidates):
  pairs, expected = candidates
  order = np.random.default_rng(1).permutation(len(pairs))
  found = score([pairs[i] for i in order])
  assert_close(found.log_probs, [expected[i] for i in order])


def test_equal_candidates_have_equal_scores(score, candidates):
  pairs, _ = candidates
  found = score(pairs).log_probs
  for i in range(10):
    np.testing.assert_array_equal(found[i], found[36 + i])


def test_passes_by_hand(score):
  a, b, c = [5, 1], [6, 7, 1], [8, 1]
  x, y = [9, 1], [10, 11, 1]
  for pairs, passes in (
      ([(a, x), (a, y), (b, x), (b, y), (c, x), (a, x)], 3),
      ([(a, x), (b, x), (c, y)], 3),
      ([(a, x), (b, x), (c, x)] * 2, 3),
      ([], 0),
  ):
    found = score(pairs)
    assert (found.encoder_passes, len(found.log_probs)) == (passes, len(pairs))


@pytest.mark.slow
def test_shapes_by_hand(score):
  a, b = [5, 1], [6, 7, 1]
  x, y, long = [9, 1], [10, 11, 1], [9] * 70 + [1]
  # Two inputs; the first has two targets side by side.
  assert score([(a, x), (a, y), (b, x)]).shapes == [(2, 2, 16, 16)]
  # One input that needs three rows of the decoder, and is encoded once.
  assert score([(a, long), (a, [8, *long[1:]]), (a, x), (a, y)]).shapes == [
      (1, 1, 16, 80), (0, 1, 16, 80), (0, 1, 16, 16)
  ]


@pytest.mark.slow
def test_nothing_shared_is_plain_scoring(
    score, candidates, tiny_network, tiny_params
):
  pairs, expected = candidates
  first = {tuple(source): i for i, (source, _) in enumerate(pairs)}
  pairs = [pairs[i] for i in first.values()]
  done = []
  found = score([*pairs, pairs[2]], progress=done.append)
  assert_close(
      found.log_probs, [expected[i] for i in first.values()]
      + [expected[[*first.values()][2]]],
  )
  plain = scoring.token_log_probs(
      tiny_network, tiny_params, *zip(*pairs, strict=True), batch_size=4
  )
  for one, other in zip(plain, found.log_probs[:-1], strict=True):
    np.testing.assert_array_equal(one, other)
  assert sum(done) == len(pairs) + 1


def test_one_input_of_many_targets(score, candidates, plain):
  """As in CHANNEL: a label, and the prompts of all rows."""
  rng = np.random.default_rng(3)
  source = min((p[0] for p in candidates[0]), key=len)
  # Three of them fill a row of the decoder, in which another has no room.
  targets = [[*rng.integers(2, 200, 20).tolist(), 1] for _ in range(11)]
  pairs = [(source, target) for target in targets]
  found = score(pairs)
  assert found.encoder_passes == 1
  assert_close(found.log_probs, [plain(*pair) for pair in pairs])


def test_targets_longer_than_a_row_that_is_shared(score, plain):
  rng = np.random.default_rng(3)
  pairs = [
      ([7, 1], [*rng.integers(2, 200, n).tolist(), 1]) for n in (70, 2, 70, 2)
  ]
  assert_close(score(pairs).log_probs, [plain(*pair) for pair in pairs])


def test_other_targets_of_a_row_do_not_matter(score, candidates):
  pairs, _ = candidates
  source = pairs[0][0]
  targets = [t for s, t in pairs if s == source]
  alone = score([(source, targets[0]), (source, [5, 5, 1])]).log_probs[0]
  for other in ([3, 1], [199] * 40, targets[0][:-1]):
    found = score([(source, other), (source, targets[0])]).log_probs[1]
    np.testing.assert_allclose(found, alone, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_scanned_layers(score, candidates, tiny_network, make_params):
  network = dataclasses.replace(
      tiny_network, scan_layers=True, num_decoder_layers=2
  )
  params = make_params(network, 4)
  pairs = [p for p in candidates[0] if len(p[0]) < 9][:12]
  assert len({tuple(p[0]) for p in pairs}) < 12  # Or nothing would be shared.
  expected = scoring.token_log_probs(
      network, params, *zip(*pairs, strict=True), batch_size=4
  )
  found = score(pairs, network=network, params=params)
  assert_close(found.log_probs, expected)


def test_bfloat16(score, candidates, tiny_network, tiny_params):
  network = dataclasses.replace(tiny_network, dtype='bfloat16')
  params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), tiny_params)
  pairs = [p for p in candidates[0] if len(p[0]) < 9][:12]
  found = score(pairs, network=network, params=params)
  expected = scoring.token_log_probs(
      network, params, *zip(*pairs, strict=True), batch_size=4
  )
  for one, other in zip(found.log_probs, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=0.1)


@pytest.mark.parametrize('name', ('batch_size', 'length_multiple'))
def test_numbers_below_one(score, name):
  with pytest.raises(ValueError, match=f'{name} is 0; at least 1'):
    score([([3, 1], [4, 1])], **{name: 0})
