"""Tasks from the rated corpora in vaderSentiment's source distribution.

Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment
Analysis of Social Media Text" (ICWSM): film review snippets, product review
sentences, newspaper sentences and tweets with a mean valence from -4 to 4.
"""

from collections.abc import Iterator
import html
import pathlib
import tarfile

from flipped_t5x import errors
from flipped_t5x.tasks.sources import readers
from flipped_t5x.tasks.sources import splits

MEMBER = 'vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz'
_KINDS = (
    'movieReviewSnippets', 'amazonReviewSnippets', 'nytEditorialSnippets',
    'tweets',
)
_NEUTRAL = 0.5  # A review of smaller absolute valence has no sentiment.


def read(
    path: pathlib.Path, dataset: str, split: str
) -> Iterator[readers.Row]:
  """The rows of a split of one of the tasks.

  Args:
    path: the archive `MEMBER`.
    dataset: which task, one of `_LABELS`.
    split: the split, see `splits.py`.

  Yields:
    `text` and `label`.

  Raises:
    UserError: the archive is not what it was.
  """
  label_of = _LABELS[dataset]
  for kind, text, valence in _texts(path):
    if splits.split_of(text) != split:
      continue
    label = label_of(kind, text, valence)
    if label is not None:
      yield {'text': text, 'label': label}


def _sentiment(kind: int, unused_text: str, valence: float) -> int | None:
  """Whether a film review is positive."""
  return int(valence > 0) if kind == 0 and abs(valence) >= _NEUTRAL else None


def _product(kind: int, unused_text: str, valence: float) -> int | None:
  """Whether a sentence of a product review is positive."""
  return int(valence > 0) if kind == 1 and abs(valence) >= _NEUTRAL else None


def _source(kind: int, unused_text: str, unused_valence: float) -> int:
  """Which of the four kinds it is."""
  return kind


# Dataset -> (kind, text, valence) -> label, or None where the task has no such
# text.
_LABELS = {
    'vader_sentiment': _sentiment,
    'vader_product': _product,
    'vader_source': _source,
}


def _texts(path: pathlib.Path) -> Iterator[tuple[int, str, float]]:
  """(kind, text, valence) of every text, the first time that it occurs."""
  seen = set()
  with tarfile.open(path) as archive:
    for kind, stem in enumerate(_KINDS):
      name = f'hutto_ICWSM_2014/{stem}_GroundTruth.txt'
      for number, line in enumerate(
          _member(archive, name).decode('utf-8').splitlines(), 1
      ):
        try:
          _, valence, text = line.split('\t')
          valence = float(valence)
        except ValueError as e:
          raise errors.UserError(f'{path}: {name}, line {number}: {e}') from e
        text = html.unescape(text).strip()
        words = splits.words(text)
        if words and words not in seen:
          seen.add(words)
          yield kind, text, valence


def _member(archive: tarfile.TarFile, name: str) -> bytes:
  """The bytes of one regular file; nothing is unpacked to disk."""
  try:
    member = archive.getmember(name)
  except KeyError as e:
    raise errors.UserError(f'{archive.name}: no file {name}') from e
  if not member.isfile():  # A link would be followed.
    raise errors.UserError(f'{archive.name}: {name} is not a regular file')
  return archive.extractfile(member).read()
