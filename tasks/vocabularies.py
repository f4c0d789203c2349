"""Vocabularies that are trained here, once, on training text."""

from collections.abc import Iterator
import hashlib
import json
import pathlib

from flipped_t5x import files
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures

_TEMPLATE_REPEATS = 200  # A template's words count as often as 200 texts.


def trained(mixture: str, vocab_size: int) -> pathlib.Path:
  """The vocabulary of a mixture's training texts and templates.

  Args:
    mixture: a mixture of `mixtures.py`.
    vocab_size: number of ids, the 100 sentinels counted in.

  Returns:
    The SentencePiece model's file in the data folder, trained at first use and
    again if the texts have changed.
  """
  digest = hashlib.sha256()
  for text in _texts(mixture):
    digest.update(text.encode() + b'\0')
  folder = files.data_folder() / 'vocabularies'
  path = folder / f'{mixture}-{vocab_size}-{digest.hexdigest()[:8]}.model'
  if not path.is_file():
    tokenization.train_vocabulary(_texts(mixture), vocab_size, path)
  return path


def _texts(mixture: str) -> Iterator[str]:
  seen = set()
  for name in mixtures.mixture(mixture).datasets:
    dataset = catalog.dataset(name)
    for template in dataset.load_templates().values():
      for text in (*template.chunks, template.answer_choices, 'input: output:'):
        yield from [text] * _TEMPLATE_REPEATS
    for row in dataset.open('train'):
      for value in json.loads(row).values():
        if isinstance(value, str) and value not in seen:
          seen.add(value)
          yield value
