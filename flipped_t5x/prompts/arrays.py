"""The arrays that a model reads, wherever the examples come from."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, Protocol

from flipped_t5x import errors
from flipped_t5x.prompts import tokenization
import numpy as np

Batch = Mapping[str, np.ndarray]


class Batches(Protocol):
  """An endless iterator of training batches.

  A batch has the arrays `encoder_input_tokens` int32[B, L],
  `decoder_input_tokens` and `decoder_target_tokens` int32[B, T], and
  `decoder_loss_weights` float32[B, T]. A packed batch also has
  `encoder_segment_ids`, `decoder_segment_ids`, `encoder_positions` and
  `decoder_positions`.

  A batch with a wrong side also has all arrays of the encoder for the wrong
  label, with `wrong_` before their names. In DIRECT with unlikelihood these are
  the arrays of the decoder instead.

  Attributes:
    batch_size: number of rows in a batch, over all hosts.
    counts: dataset -> reason -> number of examples that were dropped or cut
      since the iterator was made.
    origins: dataset -> a JSON object that identifies its data.
  """

  batch_size: int
  counts: Mapping[str, Mapping[str, int]]
  origins: Mapping[str, Mapping[str, Any]]

  def __next__(self) -> Batch:
    ...

  def select(self, rows: Sequence[int]) -> int:
    """Restricts each batch to some of its rows: those that a host needs.

    Args:
      rows: the numbers of the rows, in ascending order.

    Returns:
      The number of rows that have to be made to get these.
    """
    ...

  def get_state(self) -> bytes:
    ...

  def set_state(self, *states: bytes) -> None:
    """Moves to a position.

    Args:
      *states: the results of `get_state`, one for each host.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Candidates:
  """The options of all rows of a split in one template, ready to score.

  Attributes:
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    example_id: int32[n], the number of the row in its split.
    option_index: int32[n], the number of the option in its row.
    is_correct: bool[n], whether it is the right option.
    counts: reason -> number of rows dropped or candidates truncated.
    origin: a JSON object that identifies the data.
    options: the text of each candidate's option; empty if not requested.
  """

  inputs: Sequence[Sequence[int]]
  targets: Sequence[Sequence[int]]
  example_id: np.ndarray
  option_index: np.ndarray
  is_correct: np.ndarray
  counts: Mapping[str, int]
  origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  options: Sequence[str] = ()

  @classmethod
  def from_examples(
      cls,
      examples: Sequence[Mapping[str, Any]],
      counts: Mapping[str, int],
      origin: Mapping[str, Any],
  ) -> 'Candidates':
    """Collects the candidates that `examples.ExpandOptions` makes."""
    return cls(
        [e['inputs'] for e in examples],
        [e['targets'] for e in examples],
        np.array([e['example_id'] for e in examples], np.int32),
        np.array([e['option_index'] for e in examples], np.int32),
        np.array([e['is_correct'] for e in examples], bool),
        {reason: n for reason, n in sorted(counts.items()) if n},
        origin,
        [e['option'] for e in examples if 'option' in e],
    )


def score_batches(
    inputs: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    batch_size: int,
    multiple: int = 16,
) -> Iterator[tuple[np.ndarray, Batch]]:
  """Batches of candidates of similar lengths, to have little padding.

  Every batch has `batch_size` rows, and the lengths of its longest input and
  target rounded up to a multiple of `multiple`, so that few shapes have to be
  compiled. The last batch is filled up with empty rows.

  Args:
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    batch_size: number of rows in a batch.
    multiple: lengths are padded to a multiple of this.

  Yields:
    The numbers of the candidates in the batch's first rows, int[n] with n <=
    `batch_size`, and the batch: the arrays of `Batches` without a wrong side.
  """
  def pad_to(sequences):
    return np.array([-(-len(s) // multiple) * multiple for s in sequences])

  input_lengths, target_lengths = pad_to(inputs), pad_to(targets)
  # Sorted by target length, the longest first, and then by input length, which
  # ascends and descends in turn: the inputs of a batch with two target lengths
  # are then similar.
  _, turn = np.unique(-target_lengths, return_inverse=True)
  order = np.lexsort((input_lengths * (-1) ** (turn + 1), turn))
  for start in range(0, len(order), batch_size):
    chosen = order[start : start + batch_size]
    encoder = np.zeros((batch_size, input_lengths[chosen].max()), np.int32)
    target = np.zeros((batch_size, target_lengths[chosen].max()), np.int32)
    for row, i in enumerate(chosen):
      encoder[row, : len(inputs[i])] = inputs[i]
      target[row, : len(targets[i])] = targets[i]
    yield chosen, {
        'encoder_input_tokens': encoder,
        'decoder_input_tokens': shift_right(target),
        'decoder_target_tokens': target,
        'decoder_loss_weights': (target != tokenization.PAD_ID).astype(
            np.float32
        ),
    }


AVERAGINGS = ('example', 'token')
_SIDES = {
    'inputs': 'encoder',
    'wrong_inputs': 'wrong_encoder',
    'targets': 'decoder',
    'wrong_targets': 'wrong_decoder',
}


def check_averaging(averaging: str) -> None:
  """Raises a UserError unless the averaging is one of `AVERAGINGS`."""
  if averaging not in AVERAGINGS:
    raise errors.UserError(
        f'averaging {averaging!r} is not one of {AVERAGINGS}'
    )


def training_batch(pairs: Batch, averaging: str) -> Batch:
  """Makes a training batch of padded or packed pairs.

  Args:
    pairs: `inputs` int32[B, L], `targets` int32[B, T], possibly `wrong_inputs`
      or `wrong_targets`, and, if packed, `*_segment_ids` and `*_positions` for
      each of these.
    averaging: see `loss_weights`.

  Returns:
    The arrays of `Batches`.
  """
  batch: dict[str, np.ndarray] = {}
  for name, side in _SIDES.items():
    if name not in pairs:
      continue
    tokens, segments = pairs[name], pairs.get(f'{name}_segment_ids')
    if name.endswith('targets'):
      batch |= {
          f'{side}_input_tokens': shift_right(tokens, segments),
          f'{side}_target_tokens': tokens,
          f'{side}_loss_weights': loss_weights(tokens, segments, averaging),
      }
    else:
      batch[f'{side}_input_tokens'] = tokens
    if segments is not None:
      for suffix in ('segment_ids', 'positions'):
        batch[f'{side}_{suffix}'] = pairs[f'{name}_{suffix}']
  return {name: np.ascontiguousarray(a) for name, a in batch.items()}


def loss_weights(
    targets: np.ndarray, segments: np.ndarray | None, averaging: str
) -> np.ndarray:
  """The weight of each target token; 0 on padding.

  Args:
    targets: int32[batch, length].
    segments: int32[batch, length], the number of each token's example in a
      packed row; None if a row is one example.
    averaging: 'example' gives each token of a target of n tokens the weight
      1/n, so that all examples count equally; 'token' gives each token the
      weight 1.

  Returns:
    float32[batch, length].
  """
  real = (targets != tokenization.PAD_ID).astype(np.float32)
  if averaging == 'token':
    return real
  if segments is None:
    lengths = real.sum(axis=1, keepdims=True)
  else:
    same = segments[:, :, None] == segments[:, None, :]
    lengths = (same * real[:, None, :]).sum(axis=2)
  return real / np.maximum(lengths, 1)


def shift_right(
    targets: np.ndarray, segments: np.ndarray | None = None
) -> np.ndarray:
  """The decoder's input for teacher forcing; each example begins with 0.

  Args:
    targets: int32[batch, length].
    segments: int32[batch, length], the number of each token's example in a
      packed row; None if a row is one example.

  Returns:
    int32[batch, length].
  """
  shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  if segments is None:
    return shifted
  previous = np.pad(segments[:, :-1], ((0, 0), (1, 0)))
  return np.where(segments == previous, shifted, 0)
