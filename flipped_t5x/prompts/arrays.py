"""Arrays for the embedded engine; knows nothing of where examples come from."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol

from flipped_t5x import errors
from flipped_t5x.prompts import tokenization
import numpy as np

Batch = Mapping[str, np.ndarray]


class Batches(Protocol):
  """Endless training batches; Grain's iterators fit too.

  A batch has `encoder_input_tokens` int32[B, L], `decoder_input_tokens` and
  `decoder_target_tokens` int32[B, T], `decoder_loss_weights` float32[B, T] and,
  packed, `encoder_segment_ids`, `decoder_segment_ids` and their positions.
  What is another on the wrong side appears twice, once with `wrong_` in front:
  all of the encoder's arrays or, in DIRECT with unlikelihood, of the decoder's.

  Attributes:
    batch_size: rows of a batch, on all hosts.
    counts: dataset -> reason -> examples dropped, or cut, since it was opened.
    origins: dataset -> JSON that says which data these are.
  """

  batch_size: int
  counts: Mapping[str, Mapping[str, int]]
  origins: Mapping[str, Mapping[str, Any]]

  def __next__(self) -> Batch:
    ...

  def select(self, rows: Sequence[int]) -> int:
    """With several hosts: makes these rows of each batch alone.

    Args:
      rows: numbers of rows, ascending.

    Returns:
      How many rows have to be made for them.
    """
    ...

  def get_state(self) -> bytes:
    ...

  def set_state(self, *states: bytes) -> None:
    """Goes to a position: what `get_state` gave, on each of several hosts."""
    ...


@dataclasses.dataclass(frozen=True)
class Candidates:
  """The options of all rows of a split in one template, ready to score.

  Attributes:
    inputs: int32 tokens of each candidate's encoder side.
    targets: int32 tokens of each candidate's decoder side.
    example_id: int32[n], the row's number in its split.
    option_index: int32[n], the option's number in its row.
    is_correct: bool[n], whether it is the right option.
    counts: reason -> rows dropped or candidates truncated.
    origin: JSON that says which data these are.
    options: text of each candidate's option; empty where nobody asked for it.
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
    """From the mappings that `examples.ExpandOptions` gives."""
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
  """Batches of like lengths, so that little is spent on padding.

  Every batch has `batch_size` rows, and the lengths of its longest candidate as
  multiples of `multiple`: few shapes to compile. Only the last one is not full:
  rows that fill it up are empty.

  Args:
    inputs: encoder tokens of each candidate.
    targets: decoder tokens of each candidate.
    batch_size: rows a batch.
    multiple: lengths are padded to a multiple of this.

  Yields:
    int[n <= batch_size], the candidates in the batch's first n rows, and the
    batch: the arrays of `Batches` but those of the wrong side.
  """
  def pad_to(sequences):
    return np.array([-(-len(s) // multiple) * multiple for s in sequences])

  input_lengths, target_lengths = pad_to(inputs), pad_to(targets)
  # By target, the longest first, and by input, up and down in turn: a batch
  # that holds two lengths of targets has like inputs.
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
  """UserError unless it is 'example' or 'token'."""
  if averaging not in AVERAGINGS:
    raise errors.UserError(
        f'averaging {averaging!r} is not one of {AVERAGINGS}'
    )


def training_batch(pairs: Batch, averaging: str) -> Batch:
  """Padded or packed pairs as model arrays.

  Args:
    pairs: int32[B, L] `inputs`, int32[B, T] `targets`, perhaps `wrong_inputs`
      or `wrong_targets` and, packed, their `*_segment_ids` and `*_positions`.
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
  """Weight of each target token, 0 on padding.

  Args:
    targets: int32[batch, length].
    segments: int32[batch, length], the example of each token; None where a row
      is one example.
    averaging: 'example' gives each token of a target of n tokens 1/n, so that
      every example weighs the same; 'token' gives 1.

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
  """The decoder's input for teacher forcing, each example starting with 0.

  Args:
    targets: int32[batch, length].
    segments: int32[batch, length] or None, see `loss_weights`.

  Returns:
    int32[batch, length].
  """
  shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  if segments is None:
    return shifted
  previous = np.pad(segments[:, :-1], ((0, 0), (1, 0)))
  return np.where(segments == previous, shifted, 0)
