"""Log-probabilities of given targets, in batches of like lengths.

`token_log_probs` runs encoder and decoder once for each candidate. With
`encode_once` the encoder reads each input once, however many targets it has,
and the decoder writes the targets of one input side by side in one row, kept
apart by masks: the scores are the same, up to rounding.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.inference import low_memory_jit
from flipped_t5x.prompts import arrays as arrays_lib
import jax
import numpy as np

# Tokens of a decoder row that several targets may share, if none is longer: as
# many as a target of the published models has, so that the logits of a batch
# need no more memory than theirs.
_ROOM = 64


def token_log_probs(
    network: network_lib.T5Config,
    params: dict,
    inputs: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    batch_size: int,
    length_multiple: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
  """Log-probability of each token of each target given its input.

  Args:
    network: the network's sizes.
    params: its weights.
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    batch_size: candidates a forward pass.
    length_multiple: lengths are padded to a multiple of this.
    progress: called with the number of candidates of each batch that is done.

  Returns:
    For each candidate float32[tokens of its target].

  Raises:
    UserError: a number is below 1; the message names it.
  """
  _check_positive(batch_size=batch_size, length_multiple=length_multiple)
  if not len(inputs):
    return []
  found = [None] * len(inputs)
  score = low_memory_jit.jit(log_probs, params, static_argnums=(0,))
  for chosen, batch in arrays_lib.score_batches(
      inputs, targets, _num_rows(batch_size, len(inputs)), length_multiple
  ):
    values = np.asarray(score(network, params, batch))
    for row, i in enumerate(chosen):
      found[i] = values[row, : len(targets[i])]
    if progress is not None:
      progress(len(chosen))
  return found


def _check_positive(**numbers: int) -> None:
  for name, value in numbers.items():
    if value < 1:
      raise errors.UserError(f'{name} is {value}; at least 1 is needed')


def _num_rows(batch_size: int, candidates: int) -> int:
  # Few candidates are not worth a batch of padding; a power of two, because
  # each number of rows is compiled on its own.
  return min(batch_size, 2 ** (candidates - 1).bit_length())


def log_probs(
    config: network_lib.T5Config, params: dict, batch: arrays_lib.Batch
) -> jax.Array:
  """float32[batch, length]: log-probabilities of the targets' tokens."""
  logits = network_lib.Transformer(config).apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      enable_dropout=False,
  )
  return objectives.log_probs(logits, batch['decoder_target_tokens'])


@dataclasses.dataclass(frozen=True)
class EncodedOnce:
  """What `encode_once` computed.

  Attributes:
    log_probs: for each candidate float32[tokens of its target].
    encoder_passes: inputs that the encoder read; one at a time it would have
      been as many as there are candidates.
    shapes: for each batch of the decoder the encoder's rows, 0 if it is not the
      first of these inputs, the decoder's, and the lengths of inputs and
      targets; padding included.
  """

  log_probs: list[np.ndarray]
  encoder_passes: int
  shapes: list[tuple[int, int, int, int]]


def encode_once(
    network: network_lib.T5Config,
    params: dict,
    inputs: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    batch_size: int,
    length_multiple: int = 16,
    progress: Callable[[int], None] | None = None,
) -> EncodedOnce:
  """`token_log_probs` where candidates share inputs; equal ones count once.

  Args:
    network: as for `token_log_probs`, and so are the others.
    params: weights.
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    batch_size: rows of encoder and decoder; a decoder row may hold several
      targets.
    length_multiple: lengths are padded to a multiple of this.
    progress: called with a number of candidates that are done.

  Returns:
    The log-probabilities, and what ran for them.

  Raises:
    UserError: a number is below 1; the message names it.
  """
  _check_positive(batch_size=batch_size, length_multiple=length_multiple)
  inputs = [tuple(map(int, tokens)) for tokens in inputs]
  targets = [tuple(map(int, tokens)) for tokens in targets]
  # Input -> target -> the candidates that have both.
  shared = {}
  for i, pair in enumerate(zip(inputs, targets, strict=True)):
    shared.setdefault(pair[0], {}).setdefault(pair[1], []).append(i)
  found, shapes = [None] * len(inputs), []
  encode = low_memory_jit.jit(_encode, params, static_argnums=(0,))
  decode = low_memory_jit.jit(_decode, params, static_argnums=(0,))
  for some in _batches(shared, batch_size, length_multiple):
    encoded = encode(network, params, some.tokens)
    encoder_rows = len(some.tokens)
    for rows, arrays in some.decoder:
      values = np.asarray(decode(network, params, encoded, some.tokens, arrays))
      shapes.append((
          encoder_rows, len(values), some.tokens.shape[1], values.shape[1]
      ))
      encoder_rows, number = 0, 0
      for value, row in zip(values, rows, strict=False):
        end = 0
        for target in row.targets:
          end += len(target)
          for i in shared[row.source][target]:
            found[i] = value[end - len(target) : end]
            number += 1
      if progress is not None:
        progress(number)
  return EncodedOnce(found, len(shared), shapes)


@dataclasses.dataclass(frozen=True)
class _Row:
  """Targets of one input, side by side in a row of the decoder."""

  source: tuple[int, ...]
  targets: list[tuple[int, ...]]
  length: int


@dataclasses.dataclass(frozen=True)
class _Batch:
  """Inputs, and all of their targets in batches of as many rows.

  Attributes:
    tokens: int32[rows, length] of the encoder.
    decoder: the rows of each batch, and the arrays of `_decode` for them.
  """

  tokens: np.ndarray
  decoder: list[tuple[list[_Row], dict[str, np.ndarray]]]


def _batches(
    shared: Mapping[tuple[int, ...], Iterable[tuple[int, ...]]],
    batch_size: int,
    length_multiple: int,
) -> Iterator[_Batch]:
  """Packs input -> its targets."""
  room = max((len(t) for of in shared.values() for t in of), default=0)
  rows = {
      source: _rows(source, targets, max(_ROOM, room))
      for source, targets in shared.items()
  }

  def padded(length):
    return -(-length // length_multiple) * length_multiple

  def lengths(source):
    return [padded(row.length) for row in rows[source]], padded(len(source))

  # Like targets together, the longest first, and of these like inputs: what is
  # shorter fills up their last batch. A token of a target costs the most.
  sources = sorted(rows, key=lengths, reverse=True)
  size = _num_rows(batch_size, len(sources))
  for first in range(0, len(sources), size):
    some = sources[first : first + size]
    tokens = np.zeros((size, padded(max(map(len, some)))), np.int32)
    for i, source in enumerate(some):
      tokens[i, : len(source)] = source
    waiting = sorted(
        ((i, row) for i, source in enumerate(some) for row in rows[source]),
        key=lambda pair: pair[1].length, reverse=True,
    )
    chosen = [waiting[i : i + size] for i in range(0, len(waiting), size)]
    yield _Batch(tokens, [
        (
            [row for _, row in pairs],
            _decoder_arrays(pairs, size, padded(pairs[0][1].length)),
        )
        for pairs in chosen
    ])


def _rows(
    source: tuple[int, ...], targets: Sequence[tuple[int, ...]], room: int
) -> list[_Row]:
  """Decoder rows of at most `room` tokens; like lengths side by side."""
  rows = []
  for target in sorted(targets, key=len, reverse=True):
    if rows and rows[-1].length + len(target) <= room:
      last = rows.pop()
      rows.append(_Row(
          source, [*last.targets, target], last.length + len(target)
      ))
    else:
      rows.append(_Row(source, [target], len(target)))
  return rows


def _decoder_arrays(
    chosen: Sequence[tuple[int, _Row]], size: int, length: int
) -> dict[str, np.ndarray]:
  """The arrays of `_decode` but for what was encoded."""
  encoder_row = np.zeros(size, np.int32)
  targets, segments = np.zeros((2, size, length), np.int32)
  for i, (number, row) in enumerate(chosen):
    encoder_row[i] = number
    targets[i, : row.length] = np.concatenate(row.targets)
    segments[i, : row.length] = np.repeat(
        np.arange(len(row.targets)) + 1, list(map(len, row.targets))
    )
  return {
      'encoder_row': encoder_row,
      'inputs': arrays_lib.shift_right(targets, segments),
      'targets': targets,
      'segments': segments,
  }


def _encode(
    config: network_lib.T5Config, params: dict, tokens: jax.Array
) -> jax.Array:
  return network_lib.Transformer(config).apply(
      {'params': params}, tokens, enable_dropout=False, method='encode'
  )


def _decode(
    config: network_lib.T5Config,
    params: dict,
    encoded: jax.Array,
    tokens: jax.Array,
    batch: Mapping[str, jax.Array],
) -> jax.Array:
  """Log-probabilities of targets that share rows.

  Args:
    config: sizes.
    params: weights.
    encoded: float[batch, source, embed].
    tokens: int32[batch, source], what was encoded.
    batch: `encoder_row` int32[rows], which of these each decoder row is of;
      int32[rows, length] `targets`, `inputs`, these shifted right, and
      `segments`, 1, 2, ... for each target of a row, 0 being padding.

  Returns:
    float32[rows, length].
  """
  segments = batch['segments']
  real = segments > 0
  mask = segments[:, None, :, None] == segments[:, None, None, :]
  mask &= real[:, None, None, :]
  mask &= np.tri(segments.shape[1], dtype=bool)
  # Each target sees the whole input, which has no segments: that is what
  # `Transformer.decode` has no arguments for.
  source = tokens[batch['encoder_row']] > 0
  cross_mask = real[:, None, :, None] & source[:, None, None, :]

  def logits(module: network_lib.Transformer) -> jax.Array:
    return module.logits(module.decoder(
        module.token_embedder(batch['inputs']),
        encoded[batch['encoder_row']], mask, cross_mask, True, False,
    ))

  return objectives.log_probs(
      network_lib.Transformer(config).apply({'params': params}, method=logits),
      batch['targets'],
  )
