"""Greedy and beam search with a cache of keys and values.

Beam search keeps the likeliest unfinished sequences of each length (Graves
2012, arXiv 1211.3711; Sutskever et al. 2014, arXiv 1409.3215). Finished ones
compete by log-probability / length**penalty; Wu et al. 2016 (arXiv 1609.08144)
divide by ((5 + length) / 6)**penalty, `transformers` as here. What counts as
finished and when the search ends is `transformers`' too, so that its tokens are
the same: its `generate` with `early_stopping=False`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x.inference import low_memory_jit
from flipped_t5x.prompts import arrays
from flipped_t5x.prompts import tokenization
import jax
import jax.numpy as jnp
import numpy as np

_START_ID = 0


@dataclasses.dataclass(frozen=True)
class Generated:
  """What the decoder wrote.

  Attributes:
    tokens: without EOS, or the first `max_length` where it did not end.
    log_prob: sum of their log-probabilities, that of EOS counted in.
  """

  tokens: tuple[int, ...]
  log_prob: float


def generate(
    network: network_lib.T5Config,
    params: dict,
    inputs: Sequence[Sequence[int]],
    *,
    max_length: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = 32,
    length_multiple: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[Generated]:
  """Decodes the likeliest targets, each input on its own.

  Args:
    network: the network's sizes.
    params: its weights.
    inputs: encoder tokens of each input.
    max_length: tokens that a target has at most, EOS counted in.
    num_beams: sequences to keep; 1 is greedy search.
    length_penalty: a greater one prefers longer targets; nothing to greedy
      search.
    batch_size: inputs at a time; `num_beams` rows each in the decoder.
    length_multiple: input lengths are padded to a multiple of this.
    progress: called with the number of inputs of each batch that is done.

  Returns:
    The best target of each input, in their order.

  Raises:
    UserError: a number is below 1, or an input is empty; the message names it.
  """
  for name, value in (
      ('max_length', max_length), ('num_beams', num_beams),
      ('batch_size', batch_size), ('length_multiple', length_multiple),
  ):
    if value < 1:
      raise errors.UserError(f'{name} is {value}; at least 1 is needed')
  for i, row in enumerate(inputs):
    if not len(row):
      raise errors.UserError(f'input {i} is empty')
  if not inputs:
    return []
  generated = [None] * len(inputs)
  # In float64 and on the host, as `transformers` has them; none has length 0.
  lengths = np.maximum(np.arange(max_length + 1.0), 1.0)
  divisors = np.float32(lengths**length_penalty)
  search = low_memory_jit.jit(_search, params, static_argnums=(0, 1, 2))
  # A lone input is not worth a batch of padding.
  for chosen, batch in arrays.score_batches(
      inputs, [()] * len(inputs), min(batch_size, len(inputs)), length_multiple
  ):
    tokens, log_probs = jax.device_get(search(
        network, max_length, num_beams, params, batch['encoder_input_tokens'],
        divisors,
    ))
    for row, i in enumerate(chosen):
      ends = np.flatnonzero(tokens[row] == tokenization.EOS_ID)
      end = ends[0] if len(ends) else max_length
      generated[i] = Generated(
          tuple(tokens[row, :end].tolist()), float(log_probs[row])
      )
    if progress is not None:
      progress(len(chosen))
  return generated


# The whole search is one program on the device: one compilation for each input
# length, and no wait for the host between two tokens.
def _search(
    config: network_lib.T5Config,
    max_length: int,
    num_beams: int,
    params: dict,
    source: jax.Array,
    divisors: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Searches for the target of each row.

  Args:
    config: sizes.
    max_length: tokens of a target.
    num_beams: sequences to keep of each row.
    params: weights.
    source: int32[batch, length]; rows of padding alone are not decoded.
    divisors: float32[max_length + 1], length**penalty.

  Returns:
    int32[batch, max_length], what follows EOS having no meaning, and
    float32[batch], the log-probability.
  """
  model = network_lib.Transformer(config)
  batch = source.shape[0]
  encoded = model.apply(
      {'params': params}, source, enable_dropout=False, method='encode'
  )
  # Makes room in the cache, and keys and values of the encoder's output; the
  # rest of the forward pass is not computed, since nothing depends on it.
  room = jnp.zeros((batch, max_length), jnp.int32)
  _, caches = model.apply(
      {'params': params}, encoded, source, room, room, enable_dropout=False,
      decode=True, mutable=['cache', 'encoded'], method='decode',
  )
  caches = _take_rows(caches, jnp.repeat(jnp.arange(batch), num_beams))
  sources = jnp.repeat(source, num_beams, axis=0)

  def next_logits(tokens, cache):
    """int32[rows] -> float32[rows, vocab] and the cache with them in it."""
    logits, changed = model.apply(
        {'params': params, 'encoded': caches['encoded'], 'cache': cache},
        # For its keys and values, which are there already.
        encoded,
        sources, tokens[:, None], tokens[:, None], enable_dropout=False,
        decode=True, max_decode_length=max_length, mutable=['cache'],
        method='decode',
    )
    return logits[:, 0], changed['cache']

  is_open = jnp.any(source != tokenization.PAD_ID, axis=1)
  if num_beams == 1:
    return _greedy(next_logits, caches['cache'], is_open, max_length)
  return _beams(next_logits, caches['cache'], is_open, num_beams, divisors)


class _Greedy(NamedTuple):
  step: jax.Array  # int32[], tokens so far
  is_open: jax.Array  # bool[batch], whether EOS is still to come
  tokens: jax.Array  # int32[batch, 1 + max_length], from the start token on
  log_probs: jax.Array  # float32[batch]
  cache: dict


def _greedy(next_logits, cache, is_open, max_length):
  """Takes the likeliest token each time; see `_search`."""

  def advance(state):
    logits, cache = next_logits(state.tokens[:, state.step], state.cache)
    # Of logits: log-probabilities can be equal where logits are not.
    token = jnp.argmax(logits, axis=-1)
    log_prob = jnp.take_along_axis(
        jax.nn.log_softmax(logits), token[:, None], axis=-1
    )[:, 0]
    return _Greedy(
        state.step + 1,
        state.is_open & (token != tokenization.EOS_ID),
        state.tokens.at[:, state.step + 1].set(
            jnp.where(state.is_open, token, tokenization.PAD_ID)
        ),
        state.log_probs + jnp.where(state.is_open, log_prob, 0.0),
        cache,
    )

  batch = is_open.shape[0]
  state = jax.lax.while_loop(
      lambda state: (state.step < max_length) & jnp.any(state.is_open),
      advance,
      _Greedy(
          jnp.int32(0), is_open,
          jnp.full((batch, 1 + max_length), _START_ID, jnp.int32),
          jnp.zeros(batch), cache,
      ),
  )
  return state.tokens[:, 1:], state.log_probs


class _Beams(NamedTuple):
  """Best first in each row; log-probability -inf is no sequence at all."""

  step: jax.Array  # int32[], tokens so far
  is_open: jax.Array  # bool[batch], whether better targets may still come
  tokens: jax.Array  # int32[batch, beams, 1 + max_length]
  log_probs: jax.Array  # float32[batch, beams]
  finished_tokens: jax.Array  # int32[batch, beams, 1 + max_length]
  finished_log_probs: jax.Array  # float32[batch, beams]
  finished_scores: jax.Array  # float32[batch, beams], by which they compete
  cache: dict  # of batch * beams rows


def _beams(next_logits, cache, is_open, num_beams, divisors):
  """Keeps the likeliest `num_beams` sequences; see `_search`."""
  batch, max_length = is_open.shape[0], divisors.shape[0] - 1

  def advance(state):
    logits, cache = next_logits(
        state.tokens[:, :, state.step].reshape(-1), state.cache
    )
    vocab = logits.shape[-1]
    totals = state.log_probs[..., None] + jax.nn.log_softmax(logits).reshape(
        batch, num_beams, vocab
    )
    # At most one candidate of each sequence ends it, so that among twice as
    # many there are enough that do not.
    totals, flat = jax.lax.top_k(totals.reshape(batch, -1), 2 * num_beams)
    parents, token = flat // vocab, flat % vocab
    step = state.step + 1
    tokens = _choose(state.tokens, parents).at[:, :, step].set(token)
    ends = (token == tokenization.EOS_ID) | (step == max_length)

    log_probs, kept = jax.lax.top_k(
        jnp.where(ends, -jnp.inf, totals), num_beams
    )
    rows = jnp.arange(batch)[:, None] * num_beams + _choose(parents, kept)
    # An end that is not among the best `num_beams` candidates does not count.
    counts = ends & (jnp.arange(2 * num_beams) < num_beams)
    counts &= state.is_open[:, None]
    finished_scores, best = jax.lax.top_k(
        jnp.concatenate([
            state.finished_scores,
            jnp.where(counts, totals / divisors[step], -jnp.inf),
        ], axis=1),
        num_beams,
    )
    # The best sequence would have to end now to be worth what it is taken for;
    # with a positive length penalty it may be worth more later on.
    is_open = state.is_open & (
        log_probs[:, 0] / divisors[step] > finished_scores[:, -1]
    )
    return _Beams(
        step, is_open, _choose(tokens, kept), log_probs,
        _choose(jnp.concatenate([state.finished_tokens, tokens], 1), best),
        _choose(jnp.concatenate([state.finished_log_probs, totals], 1), best),
        finished_scores, _take_rows(cache, rows.reshape(-1)),
    )

  tokens = jnp.full((batch, num_beams, 1 + max_length), _START_ID, jnp.int32)
  nothing = jnp.full((batch, num_beams), -jnp.inf)
  state = jax.lax.while_loop(
      lambda state: (state.step < max_length) & jnp.any(state.is_open),
      advance,
      _Beams(
          # All start alike: only the first counts.
          jnp.int32(0), is_open, tokens, nothing.at[:, 0].set(0.0),
          tokens, nothing, nothing, cache,
      ),
  )
  return state.finished_tokens[:, 0, 1:], state.finished_log_probs[:, 0]


def _choose(values: jax.Array, index: jax.Array) -> jax.Array:
  """[batch, n, ...] and int[batch, m] -> [batch, m, ...]."""
  return jax.vmap(lambda row, i: row[i])(values, index)


def _take_rows(caches: dict, rows: jax.Array) -> dict:
  """Rows of keys and values [..., batch, heads, length, head_dim].

  Where layers are scanned they come first; indices have no rows.
  """
  return jax.tree.map(
      lambda x: x if x.ndim < 4 else jnp.take(x, rows, axis=-4), caches
  )
