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
from typing import Any, Protocol

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.prompts import added_tokens
from flipped_t5x.prompts import formats
from google.protobuf import message as protobuf_message
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
  Tokens that were added to a T5 follow the sentinels, which the file then has,
  too; see `added_tokens.py`.

  Attributes:
    path: the file.
    vocab_size: the number of ids.
    first_sentinel: the lowest id of a sentinel, of `<extra_id_99>`.
    added: the tokens that follow the sentinels.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Loads a model; UserError if the file is not one in T5's conventions."""
    self.path = pathlib.Path(path)
    model = read_model(self.path)
    try:
      self.first_sentinel = add_sentinels(model)
      self._processor = _processor(model)
      end = self.first_sentinel + EXTRA_IDS
      added = list(model.pieces)[end:]
      del model.pieces[end:]
      # The parts of a text between added tokens have none; not even one that
      # they would have once they are normalized.
      self._encoder = _processor(model) if added else self._processor
    except Exception as e:
      raise errors.UserError(f'{path}: not a SentencePiece model: {e}') from e
    p = self._processor
    if (p.pad_id(), p.eos_id(), p.unk_id()) != (PAD_ID, EOS_ID, UNK_ID):
      raise errors.UserError(f'{path}: pad, eos, unk are not 0, 1, 2, as in T5')
    self.vocab_size = p.GetPieceSize()
    self.added = tuple(piece.piece for piece in added)
    self._splitter = None
    if added:
      sentinels = [
          (f'<extra_id_{k}>', end - 1 - k, added_tokens.IN_TEXT)
          for k in range(EXTRA_IDS)
      ]
      self._splitter = added_tokens.Splitter(
          [*sentinels, *(
              (piece.piece, end + i, piece.score)
              for i, piece in enumerate(added)
          )],
          model.SerializeToString(),
      )

  def encode(self, text: str) -> list[int]:
    """The ids of a text; UserError if it is no text that UTF-8 can have."""
    try:
      return self._encode(text)
    except RuntimeError as e:  # What SentencePiece makes of such a text.
      lone = next((c for c in text if '\ud800' <= c <= '\udfff'), None)
      if lone is None:
        raise
      start = text.index(lone)
      raise errors.UserError(
          f'{lone!a} at character {start + 1} of'
          f' {text[max(start - 20, 0) : start + 20]!a} is no character:'
          ' half of a pair, or a byte of a text that is not UTF-8'
      ) from e

  def _encode(self, text: str) -> list[int]:
    if self._splitter is None:
      return self._encoder.EncodeAsIds(text)
    ids = []
    for piece in self._splitter.split(text):
      if isinstance(piece, int):
        ids.append(piece)
      else:
        ids += self._encoder.EncodeAsIds(piece)
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    return self._processor.DecodeIds([int(i) for i in ids])


def _processor(model: Any) -> sentencepiece.SentencePieceProcessor:
  return sentencepiece.SentencePieceProcessor(
      model_proto=model.SerializeToString()
  )


def read_model(path: pathlib.Path) -> Any:
  """The `ModelProto` of a file; UserError if it has none."""
  try:
    return _ModelProto.FromString(path.read_bytes())
  except protobuf_message.DecodeError as e:
    files.check_is_fetched(path)
    raise errors.UserError(f'{path}: not a SentencePiece model: {e}') from e


def add_sentinels(model: Any) -> int:
  """Adds the sentinels to a `ModelProto` that has none.

  Args:
    model: the model.

  Returns:
    The id of the first, `<extra_id_99>`.

  Raises:
    UserError: it has other sentinels.
  """
  names = [piece.piece for piece in model.pieces]
  sentinels = [f'▁<extra_id_{k}>' for k in reversed(range(EXTRA_IDS))]
  if sentinels[0] in names:
    first = names.index(sentinels[0])
    if names[first : first + EXTRA_IDS] == sentinels:
      return first
  if any('<extra_id_' in name for name in names):
    raise errors.UserError('it has sentinels of its own, not those of T5')
  for piece in sentinels:
    model.pieces.add(
        piece=piece, score=0.0, type=_ModelProto.SentencePiece.USER_DEFINED
    )
  return len(names)


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

  Raises:
    UserError: the texts have too few different pieces for so many ids, or more
      characters than there are ids.
  """
  model = io.BytesIO()
  try:
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
  except RuntimeError as e:
    raise errors.UserError(
        f'VOCAB_SIZE {vocab_size}: SentencePiece cannot train a vocabulary of'
        f' {vocab_size - EXTRA_IDS} pieces and {EXTRA_IDS} sentinels on these'
        f' texts: {e}'
    ) from e
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write(path, model.getvalue())


def _sentinels(vocabulary: Vocabulary) -> range:
  """The ids of the sentinels; SeqIO's vocabularies have them at the end."""
  first = getattr(
      vocabulary, 'first_sentinel', vocabulary.vocab_size - EXTRA_IDS
  )
  return range(first, first + EXTRA_IDS)


def encode_inputs(
    vocabulary: Vocabulary, text: formats.Text, length: int | None = None
) -> tuple[list[int], bool]:
  """Tokens of the encoder's side, the instance cut to fit.

  Where there is no instance, as in CHANNEL, it is the label that is cut.

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
  # The line feed between the two is a token if it was added as one.
  if '\n' in getattr(vocabulary, 'added', ()) and text.instance and label:
    label = [*vocabulary.encode('\n'), *label]
  tokens = sum(map(len, pieces))
  excess = 0 if length is None else tokens + len(label) + 1 - length
  if not text.instance and length is not None and length > 1:
    return [*label[: length - 1], EOS_ID], excess > 0
  if excess >= max(tokens, 1):
    raise TooLong(
        'label too long',
        f'{text.label!r} has {len(label)} tokens: with EOS it leaves no room'
        f' for the instance in {length}',
    )
  truncated = excess > 0
  sentinels = _sentinels(vocabulary)
  while excess > 0:
    # Sentinels are cut last.
    longest = max(
        pieces, key=lambda p: (len(p) > 0 and p[0] not in sentinels, len(p))
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
  sentinels = _sentinels(vocabulary)
  if truncated and all(token in sentinels for token in kept):
    raise TooLong(
        'target cut to nothing',
        f'target {text.targets!r} of {len(tokens)} tokens is cut to nothing at'
        f' {length} tokens; set a longer target length',
    )
  return [*kept, EOS_ID], truncated
