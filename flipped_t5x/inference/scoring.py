"""Log-probabilities of given targets, in batches of similar lengths.

`token_log_probs` runs the encoder and the decoder once for each candidate. With
`encode_once` the encoder reads each input once, however many targets it has,
and the decoder reads several targets of one input side by side in one row, kept
apart by masks. The scores are the same, up to rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import cast

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x import partitioning
from flipped_t5x.inference import low_memory_jit
from flipped_t5x.prompts import arrays
import jax
import numpy as np

# The most tokens of a decoder row that several targets share, unless a single
# target is longer. It is the target length of the published models, so that the
# logits of a batch need no more memory than theirs.
_ROW_LENGTH = 64


def token_log_probs(
    network: network_lib.T5Config,
    params: dict,
    inputs: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    batch_size: int,
    length_multiple: int = 16,
    progress: Callable[[int], object] | None = None,
    partitioner: partitioning.Placement = partitioning.ONE_DEVICE,
) -> list[np.ndarray]:
  """Log-probability of each token of each target given its input.

  Args:
    network: the network's sizes.
    params: the network's weights.
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    batch_size: number of candidates in a forward pass.
    length_multiple: lengths are padded to a multiple of this.
    progress: called after each batch with its number of candidates.
    partitioner: where `params` lie; its data axis divides the batches, and
      `batch_size` is rounded up for it.

  Returns:
    A float32[number of target tokens] for each candidate.

  Raises:
    UserError: `batch_size` or `length_multiple` is below 1.
  """
  _check_positive(batch_size=batch_size, length_multiple=length_multiple)
  if not len(inputs):
    return []
  found: dict[int, np.ndarray] = {}
  score = low_memory_jit.jit(log_probs, params, static_argnums=(0,))
  size = partitioner.padded(_num_rows(batch_size, len(inputs)))
  for chosen, batch in arrays.score_batches(
      inputs, targets, size, length_multiple
  ):
    with partitioner.active():
      values = np.asarray(
          score(network, params, partitioner.place_batch(batch))
      )
    for row, i in enumerate(chosen):
      found[i] = values[row, : len(targets[i])]
    if progress is not None:
      progress(len(chosen))
  return [found[i] for i in range(len(inputs))]


def _check_positive(**numbers: int) -> None:
  for name, value in numbers.items():
    if value < 1:
      raise errors.UserError(f'{name} is {value}; at least 1 is needed')


def _num_rows(batch_size: int, candidates: int) -> int:
  # A few candidates do not fill a batch of full size. The number is a power of
  # two because each number of rows is compiled on its own.
  return min(batch_size, 2 ** (candidates - 1).bit_length())


def log_probs(
    config: network_lib.T5Config, params: dict, batch: objectives.Batch
) -> jax.Array:
  """Log-probabilities of the target tokens of a batch.

  Args:
    config: the network's sizes.
    params: the network's weights.
    batch: the arrays of `arrays.score_batches`.

  Returns:
    float32[batch, length].
  """
  logits = network_lib.Transformer(config).apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      enable_dropout=False,
  )
  return objectives.log_probs(
      cast(jax.Array, logits), batch['decoder_target_tokens']
  )


@dataclasses.dataclass(frozen=True)
class EncodedOnce:
  """The result of `encode_once`.

  Attributes:
    log_probs: a float32[number of target tokens] for each candidate.
    encoder_passes: number of inputs that the encoder read; `token_log_probs`
      reads as many as there are candidates.
    shapes: for each batch of the decoder, with padding: the number of encoder
      rows (0 if an earlier batch has already encoded these inputs), the number
      of decoder rows, the input length and the target length.
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
    progress: Callable[[int], object] | None = None,
    partitioner: partitioning.Placement = partitioning.ONE_DEVICE,
) -> EncodedOnce:
  """Computes `token_log_probs` faster where candidates share inputs.

  Candidates with the same input and target are computed once.

  Args:
    network: the network's sizes.
    params: the network's weights.
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    batch_size: number of rows of the encoder and of the decoder; a decoder row
      may hold several targets.
    length_multiple: lengths are padded to a multiple of this.
    progress: called after each batch of the decoder with its number of
      candidates.
    partitioner: see `token_log_probs`.

  Returns:
    The log-probabilities, and the shapes that were computed.

  Raises:
    UserError: `batch_size` or `length_multiple` is below 1.
  """
  _check_positive(batch_size=batch_size, length_multiple=length_multiple)
  # Input -> target -> the candidates that have both.
  shared: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
  for i, (source, target) in enumerate(zip(inputs, targets, strict=True)):
    source, target = tuple(map(int, source)), tuple(map(int, target))
    shared.setdefault(source, {}).setdefault(target, []).append(i)
  found: dict[int, np.ndarray] = {}
  shapes = []
  encode = low_memory_jit.jit(_encode, params, static_argnums=(0,))
  decode = low_memory_jit.jit(_decode, params, static_argnums=(0,))
  size = partitioner.padded(_num_rows(batch_size, len(shared)))
  for batch in _batches(shared, size, length_multiple):
    with partitioner.active():
      tokens = partitioner.place_batch(batch.tokens)
      encoded = encode(network, params, tokens)
    encoder_rows = len(tokens)
    for rows, decoder_batch in batch.decoder:
      with partitioner.active():
        values = np.asarray(decode(
            network, params, encoded, tokens,
            partitioner.place_batch(decoder_batch),
        ))
      shapes.append((
          encoder_rows, len(values), tokens.shape[1], values.shape[1]
      ))
      encoder_rows, done = 0, 0
      # The rows that fill up the last batch have no `_Row`.
      for row, row_values in zip(rows, values, strict=False):
        for key, target_values in row.split(row_values):
          candidates = shared[row.source][key]
          found.update(dict.fromkeys(candidates, target_values))
          done += len(candidates)
      if progress is not None:
        progress(done)
  return EncodedOnce(
      [found[i] for i in range(len(inputs))], len(shared), shapes
  )


@dataclasses.dataclass(frozen=True)
class _Row:
  """Targets of one input, side by side in a row of the decoder."""

  source: tuple[int, ...]
  targets: list[tuple[int, ...]]
  length: int

  def split(
      self, values: np.ndarray
  ) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields each target with its part of the row's values."""
    start = 0
    for target in self.targets:
      end = start + len(target)
      yield target, values[start:end]
      start = end


@dataclasses.dataclass(frozen=True)
class _Batch:
  """A batch of the encoder, and the decoder's batches for all its targets.

  Attributes:
    tokens: int32[rows, length], the encoder's input.
    decoder: for each batch of the decoder its rows, and the arrays that
      `_decode` takes. It has as many rows as the encoder's batch.
  """

  tokens: np.ndarray
  decoder: list[tuple[list[_Row], dict[str, np.ndarray]]]


def _batches(
    shared: Mapping[tuple[int, ...], Iterable[tuple[int, ...]]],
    size: int,
    length_multiple: int,
) -> Iterator[_Batch]:
  """Batches of inputs and their targets, padded.

  Args:
    shared: input -> its targets.
    size: number of rows of a batch.
    length_multiple: lengths are padded to a multiple of this.

  Yields:
    The batches, together with every input and target once.
  """
  longest = max(
      (len(target) for targets in shared.values() for target in targets),
      default=0,
  )
  rows = {
      source: _rows(source, targets, max(_ROW_LENGTH, longest))
      for source, targets in shared.items()
  }

  def padded(length):
    return -(-length // length_multiple) * length_multiple

  def lengths(source):
    return [padded(row.length) for row in rows[source]], padded(len(source))

  # Sorted by the lengths of the targets first, because a target's tokens cost
  # the most; the longest come first, so that shorter ones fill up their last
  # batch.
  sources = sorted(rows, key=lengths, reverse=True)
  for first in range(0, len(sources), size):
    batch = sources[first : first + size]
    tokens = np.zeros((size, padded(max(map(len, batch)))), np.int32)
    for i, source in enumerate(batch):
      tokens[i, : len(source)] = source
    waiting = sorted(
        ((i, row) for i, source in enumerate(batch) for row in rows[source]),
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
    source: tuple[int, ...], targets: Iterable[tuple[int, ...]], room: int
) -> list[_Row]:
  """Packs targets into decoder rows of at most `room` tokens.

  Args:
    source: the input.
    targets: the input's targets, none longer than `room`.
    room: the most tokens of a row.

  Returns:
    The rows; targets of similar lengths share one.
  """
  rows: list[_Row] = []
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
  """The arrays that `_decode` takes.

  Args:
    chosen: the targets of each row, with the row of their input in the
      encoder's batch.
    size: number of rows, padding included.
    length: number of tokens, padding included.

  Returns:
    The argument `batch` of `_decode`.
  """
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
      'inputs': arrays.shift_right(targets, segments),
      'targets': targets,
      'segments': segments,
  }


def _encode(
    config: network_lib.T5Config, params: dict, tokens: jax.Array
) -> jax.Array:
  encoded = network_lib.Transformer(config).apply(
      {'params': params}, tokens, enable_dropout=False, method='encode'
  )
  return cast(jax.Array, encoded)


def _decode(
    config: network_lib.T5Config,
    params: dict,
    encoded: jax.Array,
    tokens: jax.Array,
    batch: Mapping[str, jax.Array],
) -> jax.Array:
  """Log-probabilities of targets that share rows.

  Args:
    config: the network's sizes.
    params: the network's weights.
    encoded: float[batch, source, embed], the encoder's output.
    tokens: int32[batch, source], the encoder's input.
    batch: the decoder's arrays. `encoder_row`, int32[rows], is the row of
      `encoded` that each decoder row attends to. `targets`, int32[rows,
      length], are the targets, and `inputs` are these shifted right.
      `segments`, int32[rows, length], number the targets of a row from 1; 0 is
      padding.

  Returns:
    float32[rows, length].
  """
  segments = batch['segments']
  real = segments > 0
  mask = segments[:, None, :, None] == segments[:, None, None, :]
  mask &= real[:, None, None, :]
  mask &= np.tri(segments.shape[1], dtype=bool)
  # Each target attends to the whole input, which has no segments.
  # `Transformer.decode` has no arguments for such a mask.
  source = tokens[batch['encoder_row']] > 0
  cross_mask = real[:, None, :, None] & source[:, None, None, :]

  def compute_logits(module: network_lib.Transformer) -> jax.Array:
    return module.logits(module.decoder(
        module.token_embedder(batch['inputs']),
        encoded[batch['encoder_row']], mask, cross_mask, True, False,
    ))

  logits = network_lib.Transformer(config).apply(
      {'params': params}, method=compute_logits
  )
  return objectives.log_probs(cast(jax.Array, logits), batch['targets'])
