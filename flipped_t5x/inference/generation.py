"""Greedy and beam search with a cache of keys and values.

Beam search keeps the most probable unfinished sequences of each length (Graves
2012, arXiv 1211.3711; Sutskever et al. 2014, arXiv 1409.3215). Finished
sequences are compared by log-probability / length**penalty, as in
`transformers`; Wu et al. 2016 (arXiv 1609.08144) divide by
((5 + length) / 6)**penalty instead. Which sequences count as finished, and when
the search ends, also follows `transformers`, so that the tokens are those of
its `generate` with `early_stopping=False`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import cast, NamedTuple

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x import partitioning
from flipped_t5x.inference import low_memory_jit
from flipped_t5x.prompts import arrays
from flipped_t5x.prompts import tokenization
import jax
import jax.numpy as jnp
import numpy as np

_START_ID = 0


@dataclasses.dataclass(frozen=True)
class Generated:
  """A generated target.

  Attributes:
    tokens: the tokens before EOS, or `max_length` tokens without an EOS.
    log_prob: the sum of the tokens' log-probabilities, including that of EOS.
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
    progress: Callable[[int], object] | None = None,
    partitioner: partitioning.Placement = partitioning.ONE_DEVICE,
) -> list[Generated]:
  """Searches for the most probable target of each input.

  Args:
    network: the network's sizes.
    params: the network's weights.
    inputs: encoder tokens of each input.
    max_length: the most tokens of a target, including EOS.
    num_beams: number of sequences to keep; 1 is greedy search.
    length_penalty: greater values prefer longer targets; greedy search ignores
      it.
    batch_size: number of inputs in a batch; the decoder has `num_beams` rows
      for each.
    length_multiple: input lengths are padded to a multiple of this.
    progress: called after each batch with its number of inputs.
    partitioner: where `params` lie; its data axis divides the batches, and
      `batch_size` is rounded up for it.

  Returns:
    The best target of each input, in the order of the inputs.

  Raises:
    UserError: `max_length`, `num_beams`, `batch_size` or `length_multiple` is
      below 1, or an input is empty.
  """
  for name, value in (
      ('max_length', max_length), ('num_beams', num_beams),
      ('batch_size', batch_size), ('length_multiple', length_multiple),
  ):
    if value < 1:
      raise errors.UserError(f'{name} is {value}; at least 1 is needed')
  for i, source in enumerate(inputs):
    if not len(source):
      raise errors.UserError(f'input {i} is empty')
  if not inputs:
    return []
  generated: dict[int, Generated] = {}
  # Computed in float64 on the host, as in `transformers`. No length is 0.
  lengths = np.maximum(np.arange(max_length + 1.0), 1.0)
  divisors = np.float32(lengths**length_penalty)
  search = low_memory_jit.jit(_search, params, static_argnums=(0, 1, 2))
  # A few inputs do not fill a batch of full size.
  size = partitioner.padded(min(batch_size, len(inputs)))
  for chosen, batch in arrays.score_batches(
      inputs, [()] * len(inputs), size, length_multiple
  ):
    with partitioner.active():
      source = partitioner.place_batch(batch['encoder_input_tokens'])
      tokens, log_probs = jax.device_get(search(
          network, max_length, num_beams, params, source, divisors
      ))
    for row, i in enumerate(chosen):
      ends = np.flatnonzero(tokens[row] == tokenization.EOS_ID)
      end = ends[0] if len(ends) else max_length
      generated[i] = Generated(
          tuple(tokens[row, :end].tolist()), float(log_probs[row])
      )
    if progress is not None:
      progress(len(chosen))
  return [generated[i] for i in range(len(inputs))]


# The whole search is one program on the device: it is compiled once for each
# input length, and does not wait for the host between two tokens.
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
    config: the network's sizes.
    max_length: the most tokens of a target.
    num_beams: number of sequences to keep for each row.
    params: the network's weights.
    source: int32[batch, length]; rows of padding alone are not decoded.
    divisors: float32[max_length + 1], length**penalty.

  Returns:
    The targets, int32[batch, max_length], in which what follows EOS has no
    meaning, and their log-probabilities, float32[batch].
  """
  model = network_lib.Transformer(config)
  batch = source.shape[0]
  encoded = model.apply(
      {'params': params}, source, enable_dropout=False, method='encode'
  )
  # Allocates the cache, and computes the keys and values of the encoder's
  # output. XLA drops the rest of this forward pass, which nothing depends on.
  room = jnp.zeros((batch, max_length), jnp.int32)
  _, caches = model.apply(
      {'params': params}, encoded, source, room, room, enable_dropout=False,
      decode=True, mutable=['cache', 'encoded'], method='decode',
  )
  caches = _take_rows(
      cast(dict, caches), jnp.repeat(jnp.arange(batch), num_beams)
  )
  sources = jnp.repeat(source, num_beams, axis=0)

  def next_logits(tokens, cache):
    """Reads int32[rows]; gives float32[rows, vocab] and the next cache."""
    logits, changed = model.apply(
        {'params': params, 'encoded': caches['encoded'], 'cache': cache},
        # Not read: its keys and values are in the collection 'encoded'.
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
  """Takes the most probable token each time; see `_search`."""

  def advance(state):
    logits, cache = next_logits(state.tokens[:, state.step], state.cache)
    # Compares logits, since log-probabilities can be equal where they are not.
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
  """The state of beam search, the best sequences of each row first.

  A log-probability of -inf marks a place without a sequence.
  """

  step: jax.Array  # int32[], tokens so far
  is_open: jax.Array  # bool[batch], whether a better target may follow
  tokens: jax.Array  # int32[batch, beams, 1 + max_length]
  log_probs: jax.Array  # float32[batch, beams]
  finished_tokens: jax.Array  # int32[batch, beams, 1 + max_length]
  finished_log_probs: jax.Array  # float32[batch, beams]
  finished_scores: jax.Array  # float32[batch, beams], to compare them by
  cache: dict  # of batch * beams rows


def _beams(next_logits, cache, is_open, num_beams, divisors):
  """Keeps the most probable `num_beams` sequences; see `_search`."""
  batch, max_length = is_open.shape[0], divisors.shape[0] - 1
  tokens = jnp.full((batch, num_beams, 1 + max_length), _START_ID, jnp.int32)
  nothing = jnp.full((batch, num_beams), -jnp.inf)
  state = jax.lax.while_loop(
      lambda state: (state.step < max_length) & jnp.any(state.is_open),
      functools.partial(_advance_beams, next_logits, divisors),
      _Beams(
          # All beams start with the same sequence, so only the first counts.
          jnp.int32(0), is_open, tokens, nothing.at[:, 0].set(0.0),
          tokens, nothing, nothing, cache,
      ),
  )
  return state.finished_tokens[:, 0, 1:], state.finished_log_probs[:, 0]


def _advance_beams(next_logits, divisors, state: _Beams) -> _Beams:
  """Extends all sequences by one token; see `_search`."""
  batch, num_beams = state.log_probs.shape
  max_length = divisors.shape[0] - 1
  logits, cache = next_logits(
      state.tokens[:, :, state.step].reshape(-1), state.cache
  )
  vocab = logits.shape[-1]
  totals = state.log_probs[..., None] + jax.nn.log_softmax(logits).reshape(
      batch, num_beams, vocab
  )
  # At most one candidate of each sequence ends it, so among twice as many
  # candidates as beams there are enough that do not.
  totals, flat = jax.lax.top_k(totals.reshape(batch, -1), 2 * num_beams)
  parents, token = flat // vocab, flat % vocab
  step = state.step + 1
  tokens = _choose(state.tokens, parents).at[:, :, step].set(token)
  ends = (token == tokenization.EOS_ID) | (step == max_length)

  log_probs, kept = jax.lax.top_k(
      jnp.where(ends, -jnp.inf, totals), num_beams
  )
  rows = jnp.arange(batch)[:, None] * num_beams + _choose(parents, kept)
  # A finished sequence counts only among the best `num_beams` candidates.
  counts = ends & (jnp.arange(2 * num_beams) < num_beams)
  counts &= state.is_open[:, None]
  finished_scores, best = jax.lax.top_k(
      jnp.concatenate([
          state.finished_scores,
          jnp.where(counts, totals / divisors[step], -jnp.inf),
      ], axis=1),
      num_beams,
  )
  # Compares the best open sequence as if it ended now, as `transformers`
  # does; with a positive length penalty it might score higher later.
  is_open = state.is_open & (
      log_probs[:, 0] / divisors[step] > finished_scores[:, -1]
  )
  return _Beams(
      step, is_open, _choose(tokens, kept), log_probs,
      _choose(jnp.concatenate([state.finished_tokens, tokens], 1), best),
      _choose(jnp.concatenate([state.finished_log_probs, totals], 1), best),
      finished_scores, _take_rows(cache, rows.reshape(-1)),
  )


def _choose(values: jax.Array, index: jax.Array) -> jax.Array:
  """[batch, n, ...] and int[batch, m] -> [batch, m, ...]."""
  return jax.vmap(lambda row, i: row[i])(values, index)


def _take_rows(caches: dict, rows: jax.Array) -> dict:
  """Takes rows of keys and values, [..., batch, heads, length, head_dim].

  Scanned layers add an axis in front. The cache's indices have no rows.
  """
  return jax.tree.map(
      lambda x: x if x.ndim < 4 else jnp.take(x, rows, axis=-4), caches
  )
