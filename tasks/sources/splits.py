"""Splits of texts that have no official ones: by a hash of their words."""

import hashlib
import re


def split_of(text: str) -> str:
  """The split of a text: 12 % test, 4 % validation, by a hash of its words."""
  percent = int(hashlib.sha256(words(text).encode()).hexdigest(), 16) % 100
  if percent < 12:
    return 'test'
  return 'validation' if percent < 16 else 'train'


def words(text: str) -> str:
  """A text's words: what makes two texts the same."""
  return ' '.join(re.findall(r'\w+', text.casefold()))
