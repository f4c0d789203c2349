"""Tokens that were added to a T5's vocabulary, as Hugging Face reads them.

A T5 that was trained further often has tokens of its own behind the sentinels,
such as `{` or a line feed, which SentencePiece alone would not find. Text is
split at these tokens first, and what is between them is encoded by itself.

They are kept in the SentencePiece file, so that they go wherever it goes: the
100 sentinels and then the added tokens follow the model's own pieces, all of
the type USER_DEFINED. The score of an added token says where it is looked for.
"""

from collections.abc import Iterator, Sequence
import re

import sentencepiece

# The scores of added tokens.
IN_TEXT, IN_NORMALIZED_TEXT = 0.0, 1.0


class Splitter:
  """Splits text at added tokens, in the order of the library `tokenizers`."""

  def __init__(
      self,
      tokens: Sequence[tuple[str, int, float]],
      model_proto: bytes,
  ):
    """Prepares the search.

    Args:
      tokens: text, id and score of each token, sentinels included.
      model_proto: the SentencePiece model, for how it normalizes.
    """
    self._normalizer = sentencepiece.SentencePieceNormalizer(
        model_proto=model_proto
    )
    self._exact = {t: i for t, i, score in tokens if score == IN_TEXT}
    self._normalized = {
        self._normalizer.Normalize(t): i
        for t, i, score in tokens if score == IN_NORMALIZED_TEXT
    }

  def split(self, text: str) -> Iterator[str | int]:
    """The ids of added tokens, and the texts between them, in order."""
    for piece in _split(text, self._exact):
      if isinstance(piece, int) or not self._normalized:
        yield piece
      else:
        yield from _split(self._normalizer.Normalize(piece), self._normalized)


def _split(text: str, tokens: dict[str, int]) -> Iterator[str | int]:
  # Of those that begin at one place, the longest is taken.
  alternatives = '|'.join(map(re.escape, sorted(tokens, key=len)[::-1]))
  for i, piece in enumerate(re.split(f'({alternatives})', text)):
    if piece:
      yield tokens[piece] if i % 2 else piece
