"""The vocabulary, EOS and truncation.

Inputs and targets end with EOS, which counts towards their length. When an
input is too long its *instance* is cut and never the label: without it, the
inputs of the right and the wrong label would be the same.
"""

from collections.abc import Iterable, Sequence
import functools
import io
import itertools
import os
import pathlib
from typing import Protocol

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.prompts import formats
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
EXTRA_IDS = 100

# Protobuf adds its classes to the module when it is imported, where mypy cannot
# see them.
_ModelProto = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]


class TooLong(errors.UserError):
  """A text whose essential part does not fit its length.

  Attributes:
    reason: a short reason, under which such texts are counted.
  """

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason


class Vocabulary(Protocol):
  """The interface of a vocabulary; SeqIO's vocabularies have it too."""

  vocab_size: int

  def encode(self, text: str) -> Sequence[int]:
    ...

  def decode(self, ids: Iterable[int]) -> str:
    ...


class SentencePiece:
  """A SentencePiece vocabulary with T5's sentinels, without TensorFlow.

  Gives the ids of `seqio.SentencePieceVocabulary(path, extra_ids=100)`: the
  sentinels follow the model's own pieces, and `<extra_id_0>` is the last.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Loads a model; UserError if the file is not one in T5's conventions."""
    self.path = pathlib.Path(path)
    model = _ModelProto()
    try:
      model.ParseFromString(self.path.read_bytes())
      for k in reversed(range(EXTRA_IDS)):
        model.pieces.add(
            piece=f'▁<extra_id_{k}>', score=0.0,
            type=_ModelProto.SentencePiece.USER_DEFINED,
        )
      self._processor = sentencepiece.SentencePieceProcessor(
          model_proto=model.SerializeToString()
      )
    except Exception as e:
      raise errors.UserError(f'{path}: not a SentencePiece model: {e}') from e
    p = self._processor
    if (p.pad_id(), p.eos_id(), p.unk_id()) != (PAD_ID, EOS_ID, UNK_ID):
      raise errors.UserError(f'{path}: pad, eos, unk are not 0, 1, 2, as in T5')
    self.vocab_size = p.GetPieceSize()

  def encode(self, text: str) -> list[int]:
    return self._processor.EncodeAsIds(text)

  def decode(self, ids: Iterable[int]) -> str:
    return self._processor.DecodeIds([int(i) for i in ids])


@functools.cache
def load_vocabulary(path: pathlib.Path) -> SentencePiece:
  """The vocabulary of a file, read once."""
  return SentencePiece(path)


def is_same(first: pathlib.Path, second: pathlib.Path) -> bool:
  """Whether two files have the same pieces, and so give the same ids.

  Their bytes may differ: notes of the training are left out where a file is
  made of a `tokenizer.json`.
  """
  one, other = first.read_bytes(), second.read_bytes()
  return one == other or _rules(one) == _rules(other)


def _rules(content: bytes) -> tuple[list[tuple[str, float]], bytes]:
  """What ids depend on: the pieces, and how characters are normalized."""
  model = _ModelProto.FromString(content)
  return (
      [(piece.piece, piece.score) for piece in model.pieces],
      model.normalizer_spec.precompiled_charsmap,
  )


def train_vocabulary(
    texts: Iterable[str], vocab_size: int, path: pathlib.Path
) -> None:
  """Trains a unigram SentencePiece model in T5's conventions.

  Args:
    texts: training text, one document each.
    vocab_size: number of ids, including the 100 sentinels.
    path: the file to write.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts),
      model_writer=model,
      vocab_size=vocab_size - EXTRA_IDS,
      model_type='unigram',
      pad_id=PAD_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      bos_id=-1,
      character_coverage=0.9999,
      num_threads=1,  # The pieces do not depend on the number of cores.
      minloglevel=2,
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write(path, model.getvalue())


def encode_inputs(
    vocabulary: Vocabulary, text: formats.Text, length: int | None = None
) -> tuple[list[int], bool]:
  """Tokens of the encoder's side, the instance cut to fit.

  Args:
    vocabulary: the vocabulary.
    text: instance and label.
    length: the most tokens, including EOS; None for no limit.

  Returns:
    The tokens with EOS, and whether the instance was cut.

  Raises:
    TooLong: the label leaves no room for the instance.
  """
  # No SentencePiece token crosses a space, so the pieces can be encoded apart.
  pieces = [list(vocabulary.encode(piece)) for piece in text.instance]
  label = vocabulary.encode(text.label)
  tokens = sum(map(len, pieces))
  excess = 0 if length is None else tokens + len(label) + 1 - length
  if excess >= max(tokens, 1):
    raise TooLong(
        'label too long',
        f'{text.label!r} has {len(label)} tokens: with EOS it leaves no room'
        f' for the instance in {length}',
    )
  truncated = excess > 0
  first_sentinel = vocabulary.vocab_size - EXTRA_IDS
  while excess > 0:
    # Sentinels are cut last.
    longest = max(
        pieces, key=lambda p: (len(p) > 0 and p[0] < first_sentinel, len(p))
    )
    cut = min(excess, len(longest))
    del longest[len(longest) - cut :]
    excess -= cut
  return [*itertools.chain(*pieces), *label, EOS_ID], truncated


def encode_targets(
    vocabulary: Vocabulary, text: formats.Text, length: int | None = None
) -> tuple[list[int], bool]:
  """Tokens of the decoder's side.

  Args:
    vocabulary: the vocabulary.
    text: the text, whose targets are encoded.
    length: the most tokens, including EOS; None for no limit.

  Returns:
    The tokens with EOS, and whether the targets were cut.

  Raises:
    TooLong: the target is empty, or nothing but sentinels is left after it was
      cut. A target that had only sentinels is kept: some templates insert all
      of their words.
  """
  tokens = vocabulary.encode(text.targets)
  room = len(tokens) if length is None else max(length - 1, 0)
  kept, truncated = tokens[:room], len(tokens) > room
  if not tokens:
    raise TooLong('empty target', 'the target has no text')
  first_sentinel = vocabulary.vocab_size - EXTRA_IDS
  if truncated and all(t >= first_sentinel for t in kept):
    raise TooLong(
        'target cut to nothing',
        f'target {text.targets!r} of {len(tokens)} tokens is cut to nothing at'
        f' {length} tokens; set a longer target length',
    )
  return [*kept, EOS_ID], truncated
