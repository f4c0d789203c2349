"""Types of the benchmarks' flags."""

import argparse


def count(text: str) -> int:
  """An integer of at least 1.

  Raises:
    argparse.ArgumentTypeError: it is something else.
  """
  if not (text.isdecimal() and int(text)):
    raise argparse.ArgumentTypeError(f'{text}: an integer of at least 1')
  return int(text)


def counts(text: str) -> list[int]:
  """Integers of at least 1, separated by commas; raises as `count` does."""
  return [count(part) for part in text.split(',')]
