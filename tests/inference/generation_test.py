"""Tests of inference/generation.py: the cache, greedy and beam search.

`generation_peer_test.py` has the comparison with `transformers`.
"""

import dataclasses
import functools
import itertools

from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.inference import generation
from flipped_t5x.weights import tensors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

MAX_LENGTH = 10
NETWORK = network_lib.T5Config(
    vocab_size=24, emb_dim=16, num_heads=2, num_encoder_layers=1,
    num_decoder_layers=1, head_dim=8, mlp_dim=24,
)
DEEP = dataclasses.replace(NETWORK, num_decoder_layers=2)


@pytest.fixture(scope='module')
def params(make_params):
  """Weights that end some targets early and others not at all."""
  params = make_params(NETWORK, seed=8)
  kernel = params['decoder']['logits_dense']['kernel']
  params['decoder']['logits_dense']['kernel'] = kernel.at[:, 1].mul(2.5)
  return params


@pytest.fixture(scope='module')
def inputs():
  """40 inputs of 2 to 30 tokens."""
  rng = np.random.default_rng(0)
  return [
      [*rng.integers(2, 24, n).tolist(), 1] for n in rng.integers(1, 30, 40)
  ]


@functools.partial(jax.jit, static_argnums=0)
def plain_logits(network, params, source, decoder_input):
  """float32[batch, length, vocab], of one forward pass without a cache."""
  return network_lib.Transformer(network).apply(
      {'params': params}, source, decoder_input, jnp.ones_like(decoder_input),
      enable_dropout=False,
  )


def padded(rows, length):
  return np.stack([np.pad(r, (0, length - len(r))) for r in rows]).astype(
      np.int32
  )


def generate(network, params, inputs, **kwargs):
  """In batches of one shape, so that there is one program to compile."""
  return generation.generate(
      network, params, inputs,
      **{'max_length': MAX_LENGTH, 'batch_size': 40, 'length_multiple': 32}
      | kwargs,
  )


def stacked(params):
  """`params` for scanned layers."""
  return tensors.tree({
      name: jnp.asarray(tensor.read())
      for name, tensor in tensors.stacked(tensors.from_arrays(params)).items()
  })


def plain_greedy(network, params, inputs, max_length):
  """Greedy search where each token is a forward pass over all before it."""
  source = padded(inputs, 32)
  tokens = np.zeros((len(inputs), 1 + max_length), np.int32)
  for i in range(max_length):
    logits = plain_logits(network, params, source, tokens[:, :-1])
    tokens[:, i + 1] = np.argmax(logits[:, i], axis=-1)
  return [until_eos(row[1:]) for row in tokens.tolist()]


def until_eos(tokens):
  return tuple(itertools.takewhile(lambda token: token != 1, tokens))


def plain_log_probs(network, params, inputs, generated, max_length):
  """`objectives.sequence_scores` of what was generated."""
  targets = [[*g.tokens, 1][:max_length] for g in generated]
  weights = padded([np.ones(len(t)) for t in targets], max_length)
  targets = padded(targets, max_length)
  logits = plain_logits(
      network, params, padded(inputs, 32), np.pad(targets, ((0, 0), (1, 0)))[
          :, :-1]
  )
  return objectives.sequence_scores(logits, targets, weights)


def assert_same(got, expected):
  assert [g.tokens for g in got] == [g.tokens for g in expected]
  np.testing.assert_allclose(
      [g.log_prob for g in got], [g.log_prob for g in expected], atol=1e-5,
      rtol=1e-5,
  )


def test_greedy_equals_greedy_without_a_cache(params, inputs):
  generated = generate(NETWORK, params, inputs)
  tokens = [g.tokens for g in generated]
  assert tokens == plain_greedy(NETWORK, params, inputs, MAX_LENGTH)
  lengths = {len(t) for t in tokens}
  assert len(lengths) > 3 and MAX_LENGTH in lengths and len(set(tokens)) > 15
  assert all(1 not in t for t in tokens)


@pytest.mark.parametrize('num_beams', (1, 3))
@pytest.mark.parametrize('max_length', (MAX_LENGTH, 150))
def test_log_prob_is_the_score_of_the_tokens(
    params, inputs, num_beams, max_length
):
  # 150: beyond the last bucket of relative positions.
  generated = generate(
      NETWORK, params, inputs, max_length=max_length, num_beams=num_beams
  )
  assert max(len(g.tokens) for g in generated) == max_length
  np.testing.assert_allclose(
      [g.log_prob for g in generated],
      plain_log_probs(NETWORK, params, inputs, generated, max_length),
      rtol=1e-4,
  )


# A search that went on for its neighbours' sake could find a better target.
@pytest.mark.parametrize('num_beams', (1, 3))
def test_results_do_not_depend_on_batches(params, inputs, num_beams):
  search = functools.partial(generate, NETWORK, params, num_beams=num_beams)
  expected = search(inputs)
  assert_same(search(inputs[::-1], batch_size=50)[::-1], expected)
  assert_same(search(inputs, batch_size=7, length_multiple=40), expected)
  for i in range(0, 40, 2):
    assert_same(search(inputs[i : i + 1]), expected[i : i + 1])


@pytest.mark.slow
def test_scanned_equals_unscanned(make_params, inputs):
  params = make_params(DEEP, seed=5)
  scanned = dataclasses.replace(DEEP, scan_layers=True)
  assert_same(
      generate(scanned, stacked(params), inputs, num_beams=3),
      generate(DEEP, params, inputs, num_beams=3),
  )


def test_bfloat16(params, inputs):
  network = dataclasses.replace(NETWORK, dtype='bfloat16')
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  generated = generate(network, half, inputs, num_beams=3)
  assert len({g.tokens for g in generated}) > 15
  np.testing.assert_allclose(
      [g.log_prob for g in generated],
      plain_log_probs(network, half, inputs, generated, MAX_LENGTH),
      rtol=0.02, atol=0.1,
  )


@pytest.mark.parametrize('length_penalty', (-1.0, 0.0, 0.5, 1.0, 2.0))
def test_as_many_beams_as_sequences_find_the_best_one(
    length_penalty, make_params
):
  network = dataclasses.replace(NETWORK, vocab_size=4)
  params, length = make_params(network, seed=3), 4
  rng = np.random.default_rng(1)
  inputs = [[*rng.integers(2, 4, n).tolist(), 1] for n in range(1, 11)]
  found = generation.generate(
      network, params, inputs, max_length=length, num_beams=4**length,
      length_penalty=length_penalty, batch_size=10,
  )
  # Without EOS, of each length below the greatest, and of the greatest.
  all_targets = [
      t for n in range(length + 1) for t in itertools.product((0, 2, 3),
                                                              repeat=n)
  ]
  assert len(all_targets) == 1 + 3 + 9 + 27 + 81
  for source, got in zip(inputs, found, strict=True):
    targets = [generation.Generated(t, 0.0) for t in all_targets]
    log_probs = plain_log_probs(
        network, params, [source] * len(targets), targets, length
    )
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-5)
    lengths = np.array([min(len(t) + 1, length) for t in all_targets])
    best = np.argmax(log_probs / lengths**length_penalty)
    assert got.tokens == all_targets[best]
    assert got.log_prob == pytest.approx(float(log_probs[best]), abs=1e-5)


A, B, C, D = 2, 3, 4, 5


@pytest.fixture
def chain(make_params):
  """A network whose next token depends on the last one alone.

  A function of the probabilities of the tokens after each, by name: 'start',
  'a' to 'd', and 'end', which is EOS; the start token is padding. What is left
  out is all but impossible. It returns the network and its weights.
  """
  names = {'start': 0, 'end': 1, 'a': A, 'b': B, 'c': C, 'd': D}
  network = network_lib.T5Config(
      vocab_size=6, emb_dim=6, num_heads=1, num_encoder_layers=1,
      num_decoder_layers=1, head_dim=2, mlp_dim=2,
  )

  def make(**probabilities):
    table = np.full((6, 6), 1e-6)
    for last, row in probabilities.items():
      for name, probability in row.items():
        table[names[last], names[name]] = probability
    table /= table.sum(axis=1, keepdims=True)
    params = make_params(network, seed=0)
    # Layers that add nothing to the embedding, which says which token it is of;
    # normalization makes its 1 the square root of 6.
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x * (path[-2].key not in ('out', 'wo')), params
    )
    params['decoder']['decoder_norm']['scale'] = jnp.ones(6)
    params['token_embedder']['embedding'] = jnp.eye(6)
    params['decoder']['logits_dense']['kernel'] = jnp.log(table) / np.sqrt(6)
    return network, params

  return make


def decode(model, **kwargs):
  """Tokens and probability of the target."""
  generated, = generation.generate(*model, [[1]], **kwargs)
  return generated.tokens, pytest.approx(np.exp(generated.log_prob), rel=1e-3)


def test_beams_find_what_greedy_search_misses(chain):
  model = chain(
      start=dict(a=0.6, b=0.4), a=dict(end=0.4, a=0.3, c=0.3),
      b=dict(end=0.9, b=0.1),
  )
  assert decode(model, max_length=4) == ((A,), 0.6 * 0.4)
  assert decode(model, max_length=4, num_beams=2) == ((B,), 0.4 * 0.9)


def test_length_penalty(chain):
  model = chain(
      start=dict(end=0.5, a=0.5), a=dict(b=0.95, end=0.05), b=dict(end=1.0)
  )
  for penalty, expected in (
      (-1.0, ((), 0.5)), (0.0, ((), 0.5)),
      # log 0.475 / 3 = -0.25 against log 0.5 = -0.69.
      (1.0, ((A, B), 0.475)), (2.0, ((A, B), 0.475)),
      # log 0.475 / 3^0.05 = -0.705 against -0.693.
      (0.05, ((), 0.5)), (0.1, ((A, B), 0.475)),
  ):
    assert decode(
        model, max_length=4, num_beams=2, length_penalty=penalty
    ) == expected


def test_ends_below_the_best_candidates_do_not_count(chain):
  model = chain(
      start=dict(a=0.4, b=0.35, end=0.25),
      **{x: dict(a=0.3, b=0.3, c=0.3, end=0.1) for x in 'abcd'},
  )
  # 0.25 is more than any longer target has.
  for num_beams, best in ((2, False), (3, True)):
    tokens, _ = decode(
        model, max_length=4, num_beams=num_beams, length_penalty=0.0
    )
    assert (tokens == ()) == best


def test_search_ends_when_none_could_end_better_now(chain):
  model = chain(
      start=dict(end=0.5, a=0.3, b=0.2), a=dict(end=0.9, c=0.1), b=dict(d=1.0),
      c=dict(c=1.0), d=dict(d=1.0),
  )
  # After two tokens log 0.5 = -0.69 and log(0.3 * 0.9) / 2 = -0.65 have
  # finished; the best that has not, 'bd', has log 0.2 / 2 = -0.80. In the end
  # it would have log 0.2 / 4 = -0.40. More beams wait for more to finish.
  assert decode(model, max_length=4, num_beams=2) == ((A,), 0.3 * 0.9)
  assert decode(model, max_length=4, num_beams=3) == ((B, D, D, D), 0.2)


def test_padding_is_a_token_like_others(chain):
  # Nothing keeps a network from writing it; the start token is the same.
  model = chain(start=dict(a=1.0), a=dict(start=0.8, b=0.2))
  for num_beams in (1, 2):
    assert decode(model, max_length=4, num_beams=num_beams) == (
        (A, 0, A, 0), 0.8**2
    )


@pytest.mark.parametrize('num_beams', (1, 2))
def test_max_length(num_beams, chain):
  model = chain(start=dict(a=1.0), a=dict(b=1.0), b=dict(end=1.0))
  for max_length, tokens in ((1, (A,)), (2, (A, B)), (4, (A, B))):
    assert decode(model, max_length=max_length, num_beams=num_beams) == (
        tokens, 1.0
    )


def test_progress_and_no_inputs(params, inputs):
  counts = []
  generation.generate(
      NETWORK, params, inputs, max_length=2, batch_size=16, length_multiple=32,
      progress=counts.append,
  )
  assert sum(counts) == 40 and max(counts) <= 16
  assert generation.generate(NETWORK, params, [], max_length=3) == []


@pytest.mark.parametrize('wrong, message', (
    ({'max_length': 0}, 'max_length is 0; at least 1 is needed'),
    ({'num_beams': 0}, 'num_beams is 0'),
    ({'batch_size': -1}, 'batch_size is -1'),
    ({'inputs': [[5, 1], [], [1]]}, 'input 1 is empty'),
))
def test_bad_input(wrong, message, params):
  arguments = {'inputs': [[5, 1]], 'max_length': 3, **wrong}
  with pytest.raises(ValueError, match=message):
    generation.generate(NETWORK, params, **arguments)


@pytest.fixture
def predict(inputs):
  """(network, T5X's decoding function, beams) -> what T5X predicts."""
  from flipped_t5x import models

  def call(network, params, decode_fn, num_beams):
    model = models.FlippedModel(
        module=network, input_vocabulary=None, output_vocabulary=None,
        optimizer_def=None, decode_fn=decode_fn,
    )
    batch = {
        'encoder_input_tokens': padded(inputs, 32),
        'decoder_input_tokens': np.zeros((40, MAX_LENGTH), np.int32),
    }
    tokens, aux = jax.jit(functools.partial(
        model.predict_batch_with_aux, num_decodes=num_beams,
        decoder_params={'eos_id': 1},
    ))(params, batch)
    return np.asarray(tokens), np.asarray(aux['scores'])

  return call


@pytest.mark.t5x
@pytest.mark.parametrize('num_beams', (1, 3))
def test_t5x_decodes_with_our_cache(num_beams, make_params, inputs, predict):
  from t5x import decoding
  from t5x.examples.t5 import network

  params = make_params(DEEP, seed=5)
  decode_fn = decoding.beam_search if num_beams > 1 else functools.partial(
      decoding.temperature_sample, topk=1
  )
  names = {field.name for field in dataclasses.fields(network.T5Config)}
  sizes = {k: v for k, v in vars(DEEP).items() if k in names}
  theirs, their_scores = predict(
      network.Transformer(network.T5Config(**sizes)), params, decode_fn,
      num_beams,
  )
  for scan in (False, True):
    ours, our_scores = predict(
        network_lib.Transformer(dataclasses.replace(DEEP, scan_layers=scan)),
        stacked(params) if scan else params, decode_fn, num_beams,
    )
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(our_scores, their_scores, rtol=1e-4)
  assert len({tuple(row) for row in theirs}) > 15
  if num_beams == 1:
    generated = generate(DEEP, params, inputs)
    assert [g.tokens for g in generated] == [
        until_eos(row) for row in theirs.tolist()
    ]
