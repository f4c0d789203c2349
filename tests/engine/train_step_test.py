"""One update where the two sides differ by what the decoder writes."""

import dataclasses
import functools

from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.engine import train_step
from flipped_t5x.prompts import arrays
import forward
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

ROWS, INPUTS, TARGETS = 4, 24, 12


def sequences(seed=0):
  """Two examples a row: tokens of a prompt, a right and a wrong label."""
  rng = np.random.default_rng(seed)
  return [
      {
          name: [*rng.integers(2, 90, rng.integers(2, most)), 1]
          for name, most in (
              ('inputs', INPUTS // 2), ('targets', TARGETS // 2),
              ('wrong_targets', TARGETS // 2),
          )
      }
      for _ in range(2 * ROWS)
  ]


def unpacked(averaging='example'):
  return arrays.training_batch({
      name: np.stack([
          np.pad(e[name], (0, length - len(e[name]))) for e in sequences()
      ]).astype(np.int32)
      for name, length in (
          ('inputs', INPUTS), ('targets', TARGETS), ('wrong_targets', TARGETS)
      )
  }, averaging)


def packed(averaging='example'):
  pairs = {}
  for name, length in (
      ('inputs', INPUTS), ('targets', TARGETS), ('wrong_targets', TARGETS)
  ):
    tokens = np.zeros((ROWS, length), np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for number, example in enumerate(sequences()):
      row, segment = divmod(number, 2)
      start = np.count_nonzero(segments[row])
      place = row, slice(start, start + len(example[name]))
      tokens[place] = example[name]
      segments[place] = segment + 1
      positions[place] = np.arange(len(example[name]))
    pairs[name] = tokens
    pairs[f'{name}_segment_ids'] = segments
    pairs[f'{name}_positions'] = positions
  return arrays.training_batch(pairs, averaging)


@pytest.fixture(scope='module')
def network(tiny_network):
  return dataclasses.replace(tiny_network, num_encoder_layers=1, dropout_rate=0)


@pytest.fixture(scope='module')
def params(network, make_params):
  return make_params(network, 2)


@pytest.fixture(scope='module')
def update(network, params):
  """(batch, lambda, ...) -> weights after a step of 1 down the gradient."""
  model, optimizer = network_lib.Transformer(network), optax.sgd(1.0)

  @functools.cache
  def make(**kwargs):
    return train_step.make_train_step(
        model, optimizer, eps=0.01, seed=0, **kwargs
    )

  def run(batch, unlikelihood_weight=3.0, **kwargs):
    step = make(unlikelihood_weight=unlikelihood_weight, **kwargs)
    # The step consumes its state.
    state = train_step.init_state(
        model, optimizer, 0, jax.tree.map(jnp.copy, params)
    )
    state, metrics = step(state, batch)
    return state['params'], {k: float(v) for k, v in metrics.items()}

  return run


@pytest.fixture(scope='module')
def log_probs(network):
  """(weights, batch) -> log-probability of each target token of a side."""
  logits = jax.jit(functools.partial(
      forward.logits, network_lib.Transformer(network)
  ))

  def run(params, batch, wrong=False):
    if wrong:
      batch = batch | {
          name.removeprefix('wrong_'): a
          for name, a in batch.items() if name.startswith('wrong_')
      }
    batch = {k: a for k, a in batch.items() if not k.startswith('wrong_')}
    targets = batch['decoder_target_tokens']
    return np.ma.masked_where(
        targets == 0, objectives.log_probs(logits(params, batch), targets)
    )

  return run


def assert_same(one, other):
  assert one[1] == pytest.approx(other[1], rel=1e-4)
  for ours, theirs in zip(*map(jax.tree.leaves, (one[0], other[0])),
                          strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_metrics_are_those_of_two_passes(params, update, log_probs):
  batch = unpacked()
  right = log_probs(params, batch)
  wrong = log_probs(params, batch, wrong=True)
  mean = lambda values: values.mean(axis=1).mean()  # Of examples, of tokens.
  likelihood = -mean(right)
  unlikelihood = -mean(np.ma.log(1 - np.ma.exp(wrong) + 0.01))
  _, metrics = update(batch)
  del metrics['gradient_norm']
  assert metrics == pytest.approx({
      'likelihood': likelihood, 'unlikelihood': unlikelihood,
      'loss': likelihood + 3 * unlikelihood,
      'prob_right': mean(np.ma.exp(right)),
      'prob_wrong': mean(np.ma.exp(wrong)),
  }, rel=1e-4)


@pytest.mark.parametrize('averaging', arrays.AVERAGINGS)
def test_packed_is_unpacked(averaging, update):
  rows = packed(averaging)
  assert len(rows['decoder_target_tokens']) == ROWS
  assert_same(update(rows), update(unpacked(averaging)))


@pytest.mark.parametrize('averaging', arrays.AVERAGINGS)
def test_parts_of_a_batch_are_the_whole(averaging, update):
  batch = packed(averaging)
  assert_same(
      update(batch, num_microbatches=2, num_logit_chunks=3), update(batch)
  )


def test_unlikelihood_makes_wrong_labels_less_likely(
    params, update, log_probs
):
  batch = unpacked()
  right_alone = {k: a for k, a in batch.items() if not k.startswith('wrong_')}
  with_it, without, of_right = (
      update(*arguments)[0]
      for arguments in ((batch, 3.0), (batch, 0.0), (right_alone, 0.0))
  )
  # With lambda 0 the wrong side is watched, and changes nothing.
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5),
      without, of_right,
  )

  def wrong(rate, weights):
    """Mean log-probability of a wrong token some way down the gradient."""
    return log_probs(
        jax.tree.map(lambda a, b: a + rate * (b - a), params, weights), batch,
        wrong=True,
    ).mean()

  for rate in (0.01, 0.1):
    assert wrong(rate, with_it) < wrong(rate, without) - rate / 50
  # What unlikelihood alone adds to a step.
  alone = jax.tree.map(lambda a, b, c: a + b - c, params, with_it, without)
  assert wrong(1, alone) < wrong(0, alone) - 0.02


def test_unlikelihood_needs_a_wrong_side(update):
  batch = {k: a for k, a in unpacked().items() if not k.startswith('wrong_')}
  with pytest.raises(
      ValueError, match='LAMBDA is 3.0, but the batch .* set LAMBDA = 0'
  ):
    update(batch)
  _, metrics = update(batch, 0.0)
  assert metrics['loss'] == metrics['likelihood']
  assert 'unlikelihood' not in metrics
