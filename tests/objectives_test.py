"""Tests of objectives.py against values computed by hand."""

import functools
import math

from flipped_t5x import objectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest

EPSILONS = (0.0, 0.01)
P = (0.1, 0.2, 0.3, 0.4)  # A distribution over a vocabulary of 4.


def logits_of(*probabilities, shift=0.0):
  """float32[vocab]: logits whose softmax is `probabilities`."""
  return np.log(np.array(probabilities)).astype(np.float32) + np.float32(shift)


def binary(*probabilities):
  """float32[length, 2]: token 1 has these probabilities."""
  return np.stack([logits_of(1 - p, p) for p in probabilities])


def value_and_grad(logits, target, eps):
  return jax.value_and_grad(
      lambda x: objectives.log_one_minus_probs(x, jnp.array(target), eps).sum()
  )(jnp.asarray(logits))


def test_log_probs_by_hand():
  logits = np.stack([logits_of(*P), logits_of(*P, shift=50.0)])
  got = objectives.log_probs(jnp.array(logits), jnp.array([1, 3]))
  np.testing.assert_allclose(got, [math.log(0.2), math.log(0.4)], rtol=1e-5)


@pytest.mark.parametrize('eps', EPSILONS)
def test_log_one_minus_probs_by_hand(eps):
  logits = np.stack([logits_of(*P, shift=s) for s in (0, 0, 30, -30)])
  got = objectives.log_one_minus_probs(
      jnp.array(logits), jnp.array([0, 1, 2, 3]), eps
  )
  # 1 - 0.1, 1 - 0.2, 1 - 0.3, 1 - 0.4.
  expected = [math.log(q + eps) for q in (0.9, 0.8, 0.7, 0.6)]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize('eps, expected', ((0.0, 0.0), (0.01, math.log(1.01))))
@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_wrong_token_that_is_never_predicted(eps, expected, dtype):
  # P = 0: the term -log(1 - P + eps) is -log(1.01) = -0.00995, or 0.
  logits = jnp.array([-1e4, 0.0, 0.0], dtype)
  value, gradient = value_and_grad(logits, 0, eps)
  assert value == pytest.approx(expected, abs=1e-7)
  np.testing.assert_array_equal(gradient.astype(np.float32), 0)


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
@pytest.mark.parametrize('high, low', ((1e4, 0.0), (1e4, -1e4), (50.0, 0.0)))
def test_finite_with_bounded_gradient_where_p_is_1(dtype, high, low):
  logits = jnp.array([low, high, low, low], dtype)
  high, low = float(logits[1]), float(logits[0])  # As the type rounds them.
  value, gradient = value_and_grad(logits, 1, 0.0)
  # The others share e^low: log(1 - P) = log(3 e^low) - high.
  assert value.dtype == jnp.float32
  assert value == pytest.approx(math.log(3) + low - high, rel=1e-6)
  assert gradient.dtype == logits.dtype
  # d log(1 - P): the softmax of the others, -P = -1 for the target.
  np.testing.assert_allclose(
      gradient.astype(np.float32), [1 / 3, -1, 1 / 3, 1 / 3], atol=2e-3
  )
  value, gradient = value_and_grad(logits, 1, 0.01)
  assert value == pytest.approx(math.log(0.01), rel=1e-6)
  np.testing.assert_allclose(gradient.astype(np.float32), 0, atol=1e-15)


@pytest.mark.parametrize('eps', EPSILONS)
def test_gradient_by_hand(eps):
  # d log(1 - p_k + eps) / d z_j = p_k (p_j - [j = k]) / (1 - p_k + eps).
  for k, p in enumerate(P):
    _, gradient = value_and_grad(logits_of(*P), k, eps)
    expected = p * (np.array(P) - np.eye(4)[k]) / (1 - p + eps)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


@pytest.mark.parametrize('margin', (1, 5, 10, 16, 17, 20, 40, 80))
def test_accurate_near_p_1(margin):
  # 1 - P = 3 / (3 + e^margin): from 10 on float32 cannot hold it as 1 - P.
  got = objectives.log_one_minus_probs(
      jnp.array([0.0, 0.0, margin, 0.0]), jnp.array(2), 0.0
  )
  expected = math.log(3) - margin - math.log1p(3 * math.exp(-margin))
  assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('scale', (1, 10, 100, 1e4))
def test_a_token_costs_at_most_4_605(scale):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, scale, (500, 5)).astype(np.float32)
  term = -objectives.log_one_minus_probs(
      jnp.array(logits), jnp.array(rng.integers(5, size=500)), 0.01
  )
  assert term.max() <= 4.6052  # -log 0.01
  assert term.min() >= -0.009951  # -log 1.01
  if scale >= 100:
    assert term.max() > 4.605
    assert term.min() < -0.00995


@pytest.mark.parametrize('eps', EPSILONS)
def test_flipped_loss_by_hand(eps):
  # Two tokens, and one; what stands on the padding must not matter.
  right = np.stack([binary(0.5, 0.25), binary(0.8, 0.999)])
  wrong = np.stack([binary(0.5, 0.1), binary(0.2, 0.999)])
  wrong[1, 1] = (-1e4, 1e4)
  loss, parts = objectives.flipped_loss(
      jnp.array(right), jnp.array(wrong), jnp.ones((2, 2), jnp.int32),
      jnp.array([[0.5, 0.5], [1.0, 0.0]]), unlikelihood_weight=3.0, eps=eps,
  )
  likelihood = -(math.log(0.5) + math.log(0.25)) / 2 - math.log(0.8)
  unlikelihood = (
      -(math.log(0.5 + eps) + math.log(0.9 + eps)) / 2 - math.log(0.8 + eps)
  )
  expected = {
      'likelihood': likelihood / 2,
      'unlikelihood': unlikelihood / 2,
      'loss': likelihood / 2 + 3 * unlikelihood / 2,
      'prob_right': ((0.5 + 0.25) / 2 + 0.8) / 2,
      'prob_wrong': ((0.5 + 0.1) / 2 + 0.2) / 2,
  }
  assert {k: float(v) for k, v in parts.items()} == pytest.approx(
      expected, rel=1e-5
  )
  assert loss == parts['loss']
  assert loss.shape == () and loss.dtype == jnp.float32


@pytest.mark.parametrize('eps', EPSILONS)
def test_wrong_targets_by_hand(eps):
  """DIRECT: labels of two tokens and of one, wrong ones of one and of two."""
  right = np.stack([binary(0.5, 0.25), binary(0.8, 0.999)])
  # Token 0 of the second wrong label has 1 - 0.7.
  wrong = np.stack([binary(0.6, 0.999), binary(0.7, 0.1)])
  loss, parts = objectives.flipped_loss(
      jnp.array(right), jnp.array(wrong),
      jnp.ones((2, 2), jnp.int32), jnp.array([[0.5, 0.5], [1.0, 0.0]]),
      jnp.array([[1, 1], [0, 1]]), jnp.array([[1.0, 0.0], [0.5, 0.5]]),
      unlikelihood_weight=2.0, eps=eps,
  )
  likelihood = -(math.log(0.5) + math.log(0.25)) / 2 - math.log(0.8)
  unlikelihood = (
      -math.log(0.4 + eps) - (math.log(0.7 + eps) + math.log(0.9 + eps)) / 2
  )
  expected = {
      'likelihood': likelihood / 2,
      'unlikelihood': unlikelihood / 2,
      'loss': likelihood / 2 + 2 * unlikelihood / 2,
      'prob_right': ((0.5 + 0.25) / 2 + 0.8) / 2,
      'prob_wrong': (0.6 + (0.3 + 0.1) / 2) / 2,
  }
  assert {k: float(v) for k, v in parts.items()} == pytest.approx(
      expected, rel=1e-5
  )
  assert loss == parts['loss']


def test_each_side_is_a_mean_over_its_own_weights():
  """With weight 1 a token, 3 right tokens and 2 wrong ones; in two parts."""
  right = np.stack([binary(0.5, 0.25), binary(0.8, 0.999)])
  wrong = np.stack([binary(0.6, 0.999), binary(0.9, 0.999)])
  ones = jnp.ones((2, 2), jnp.int32)
  weights = jnp.array([[1.0, 1.0], [1.0, 0.0]])
  wrong_weights = jnp.array([[1.0, 0.0], [1.0, 0.0]])
  arrays = (jnp.array(right), jnp.array(wrong), ones, weights, ones,
            wrong_weights)
  loss = functools.partial(
      objectives.flipped_loss, unlikelihood_weight=3.0, eps=0.0
  )
  _, parts = loss(*arrays)
  expected = {
      'likelihood': -math.log(0.5 * 0.25 * 0.8) / 3,
      'unlikelihood': -math.log(0.4 * 0.1) / 2,
      'prob_right': (0.5 + 0.25 + 0.8) / 3,
      'prob_wrong': (0.6 + 0.9) / 2,
  }
  assert {k: float(parts[k]) for k in expected} == pytest.approx(
      expected, rel=1e-5
  )
  halves = [
      loss(*(a[i : i + 1] for a in arrays), total_weight=weights.sum(),
           wrong_total_weight=wrong_weights.sum())[1]
      for i in range(2)
  ]
  for name, value in parts.items():
    total = float(halves[0][name] + halves[1][name])
    assert total == pytest.approx(float(value), rel=1e-5)


def test_the_right_side_again_as_wrong_targets_changes_nothing():
  right, wrong, targets, real, _ = random_batch()
  loss = functools.partial(
      objectives.flipped_loss, right, wrong, targets, real,
      unlikelihood_weight=3.0, eps=0.01,
  )
  _, parts = loss()
  _, again = loss(targets, real)
  assert parts == again


def test_wrong_targets_become_less_likely():
  right, wrong, targets, real, _ = random_batch()
  wrong_targets = (targets + 1) % 7

  def loss(right, wrong):
    return objectives.flipped_loss(
        right, wrong, targets, real, wrong_targets, real,
        unlikelihood_weight=3.0, eps=0.0,
    )[0]

  d_right, d_wrong = jax.grad(loss, argnums=(0, 1))(right, wrong)
  place = np.indices(targets.shape)
  of_right = d_right[(*place, targets)][real > 0]
  of_wrong = d_wrong[(*place, wrong_targets)][real > 0]
  # A step down the gradient raises a right token's logit, and lowers a wrong
  # one's; all others move the other way.
  assert np.all(of_right < 0) and np.all(of_wrong > 0)
  assert np.sum(d_right[real > 0] < 0) == np.sum(real)
  assert np.sum(d_wrong[real > 0] > 0) == np.sum(real)


def random_batch():
  rng = np.random.default_rng(1)
  right, wrong = rng.normal(0, 3, (2, 4, 6, 7)).astype(np.float32)
  targets = rng.integers(1, 7, (4, 6)).astype(np.int32)
  lengths = np.array([6, 1, 3, 4])
  real = (np.arange(6) < lengths[:, None]).astype(np.float32)
  return right, wrong, targets * real.astype(np.int32), real, lengths


@pytest.mark.parametrize('eps', EPSILONS)
def test_weights_of_1_over_length_let_every_example_weigh_the_same(eps):
  right, wrong, targets, real, lengths = random_batch()

  def probabilities(logits, row):
    e = np.exp(logits[row, : lengths[row]].astype(np.float64))
    return (e / e.sum(-1, keepdims=True))[
        np.arange(lengths[row]), targets[row, : lengths[row]]
    ]

  terms = [
      -np.log(probabilities(right, i))
      - 3 * np.log(1 - probabilities(wrong, i) + eps)
      for i in range(4)
  ]
  loss = functools.partial(
      objectives.flipped_loss, jnp.array(right), jnp.array(wrong),
      jnp.array(targets), unlikelihood_weight=3.0, eps=eps,
  )
  by_example, _ = loss(jnp.array(real / lengths[:, None]))
  assert by_example == pytest.approx(np.mean([t.mean() for t in terms]), 1e-5)
  by_token, _ = loss(jnp.array(real))
  assert by_token == pytest.approx(np.concatenate(terms).mean(), 1e-5)
  assert abs(by_example - by_token) > 0.01


def test_lambda_0_is_the_likelihood_alone():
  right, wrong, targets, real, _ = random_batch()

  def loss(right, wrong, weight):
    return objectives.flipped_loss(
        right, wrong, jnp.array(targets), jnp.array(real),
        unlikelihood_weight=weight, eps=0.0,
    )

  gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
  (d_right, d_wrong), parts = gradient(right, wrong, 0.0)
  assert parts['loss'] == parts['likelihood']
  np.testing.assert_array_equal(d_wrong, 0)
  (d_right_3, d_wrong_3), _ = gradient(right, wrong, 3.0)
  np.testing.assert_array_equal(d_right, d_right_3)
  assert np.abs(d_wrong_3).max() > 0.01
  np.testing.assert_array_equal(d_wrong_3[real == 0], 0)


def test_likelihood_loss_by_hand():
  # Two examples, of two tokens and of one.
  logits = np.stack([binary(0.5, 0.25), binary(0.1, 0.9)])
  weights = np.array([[0.5, 0.5], [1, 0]])
  loss, parts = objectives.likelihood_loss(
      jnp.array(logits), jnp.ones((2, 2), jnp.int32), jnp.array(weights)
  )
  expected = -(math.log(0.5) / 2 + math.log(0.25) / 2 + math.log(0.1)) / 2
  assert loss == pytest.approx(expected, rel=1e-5)
  assert parts.keys() == {'loss', 'likelihood', 'prob_right'}
  assert parts['loss'] == parts['likelihood'] == loss
  assert parts['prob_right'] == pytest.approx((0.375 + 0.1) / 2, rel=1e-5)


def test_a_batch_of_padding_has_loss_0():
  right, wrong, targets, real, _ = random_batch()
  loss, parts = objectives.flipped_loss(
      right, wrong, jnp.array(targets * 0), jnp.array(real * 0),
      unlikelihood_weight=3.0, eps=0.0,
  )
  assert loss == 0
  assert all(v == 0 for v in parts.values())


def test_sequence_scores_by_hand():
  # log 0.5 + log 0.25 and log 0.8; P = 0 on the padding does not count.
  logits = np.stack([binary(0.5, 0.25), binary(0.8, 0.5)])
  logits[1, 1] = (1e4, -1e4)
  for weights in ([[1.0, 1.0], [1.0, 0.0]], [[0.5, 0.5], [0.1, 0.0]]):
    for dtype, rel in (('float32', 1e-5), ('bfloat16', 2e-2)):
      scores = objectives.sequence_scores(
          jnp.array(logits, dtype), jnp.ones((2, 2), jnp.int32),
          jnp.array(weights),
      )
      assert scores.dtype == jnp.float32
      expected = [math.log(0.5) + math.log(0.25), math.log(0.8)]
      np.testing.assert_allclose(scores, expected, rtol=rel)
