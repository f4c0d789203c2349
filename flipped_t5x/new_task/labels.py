"""What the label's column says: words to rank, or one of a row's options."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import math
import string
from typing import Any

from flipped_t5x import errors
from flipped_t5x.prompts import jinja_chunks
from flipped_t5x.prompts import row_labels

MOST_WORDS = 200  # More are no labels, but names, numbers or texts.
_JINJA = ('{{', '{%', '{#', jinja_chunks.SEPARATOR)


def value_text(value: Any) -> str:
  """A cell as text: stripped, 1.0 as 1, nothing as ''."""
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return ''
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  # Lone surrogates are no text, and no file could hold them.
  return str(value).encode(errors='replace').decode().strip()


def parse(given: str) -> dict[str, str]:
  """`0=No,1=Yes` as value -> word; quotes around a pair protect commas.

  Raises:
    UserError: a pair has no `=`, or a value or a word is empty or is there
      twice.
  """
  words: dict[str, str] = {}
  for pair in next(csv.reader([given], skipinitialspace=True), []):
    value, equals, word = (part.strip() for part in pair.partition('='))
    if not (equals and value and word):
      raise errors.UserError(
          f'--labels: {pair!r} is not VALUE=WORD, such as 1=Yes'
      )
    if value in words:
      raise errors.UserError(f'--labels: {value!r} is there twice')
    words[value] = word
  return words


@dataclasses.dataclass(frozen=True)
class Words:
  """Labels that are the same for every row.

  Attributes:
    words: the labels, in the order in which they are offered.
    numbers: the value of the column -> the number of its word.
    of_table: whether the words are the table's own names of numbers.
  """

  words: Sequence[str]
  numbers: Mapping[str, int]
  of_table: bool = False

  def number(self, value: str, options: Sequence[str]) -> int | None:
    """The number of the word that a value stands for, if it is a label."""
    return self.numbers.get(value)


def class_words(values: Iterable[str], names: Sequence[str]) -> dict[str, str]:
  """Value -> word, for the values that are numbers of a table's names.

  Args:
    values: values of the column.
    names: the names, by number; see `reading.Table.class_names`.
  """
  return {
      value: names[int(value)].strip() or value
      for value in known_values(values)
      if _is_number(value) and int(value) < len(names)
  }


def known_values(found: Iterable[str]) -> list[str]:
  """The values that do not mean that a label is not known, in order."""
  return sorted((v for v in found if not _missing(v)), key=_order)


def words(
    found: Mapping[str, int], given: Mapping[str, str], column: str
) -> Words:
  """The words of a column's values.

  Args:
    found: value -> the number of rows with it.
    given: value -> word, for the values that are labels; if it is empty, all
      are, and are their own words.
    column: the column's name, for messages.

  Raises:
    UserError: there are less than two words, far too many, one with characters
      that templates give a meaning, or a given value that no row has.
  """
  for value in given:
    if value not in found:
      raise errors.UserError(
          f'--labels: no row has {value!r} in {column!r}; it has'
          f' {_listed(found)}'
      )
  if not given:
    given = {v: v for v in known_values(found)}
    if len(given) > MOST_WORDS:
      raise errors.UserError(
          f'--label: {column!r} has {len(given):,} different values, such as'
          f' {_listed(given)}: it is not a label; choose another column, or say'
          ' with --labels which values are'
      )
  chosen = tuple(dict.fromkeys(' '.join(w.split()) for w in given.values()))
  if len(chosen) < 2:
    raise errors.UserError(
        f'--label: {column!r} has one label only, {_listed(given) or "none"}:'
        ' there is nothing to choose from'
        + (
            "; empty cells and -1 mean that a row's label is not known (if -1"
            ' is a label, name it: --labels=-1=WORD,...)'
            if len(found) > len(given) else ''
        )
    )
  for word in chosen:
    for mark in _JINJA:
      if mark in word:
        raise errors.UserError(
            f'the label {word!r} has {mark}, which has a meaning in templates:'
            ' give it another word with --labels'
        )
  return Words(chosen, {
      value: chosen.index(' '.join(word.split()))
      for value, word in given.items()
  })


@dataclasses.dataclass(frozen=True)
class Choices:
  """Labels that name one of the options of their row.

  Attributes:
    columns: the names of the columns of the options, if there are several.
    letters: whether labels are letters, A for the first option.
    first: what number the first option has; None if labels are no numbers.
  """

  columns: Sequence[str]
  letters: bool
  first: int | None

  def number(self, value: str, options: Sequence[str]) -> int | None:
    """The number of the option that a value means, if it means one."""
    if value in self.columns and len(self.columns) > 1:
      return self.columns.index(value)
    if self.letters and len(value) == 1:
      return string.ascii_uppercase.find(value.upper())
    if self.first is not None and _is_number(value):
      return int(value) - self.first
    return options.index(value) if value in options else None


def choices(
    rows: Iterable[tuple[str, Sequence[str]]],
    columns: Sequence[str],
    first: int | None,
    column: str,
) -> Choices:
  """Finds out how a column names the options.

  Args:
    rows: the label and the options of each row.
    columns: the columns of the options.
    first: what number the first option has; None to find out.
    column: the label's column, for messages.

  Raises:
    UserError: labels are numbers that may count from 0 or from 1.
  """
  kinds, low, high, beyond = collections.Counter(), 1, 0, False
  for value, options in rows:
    if _missing(value):
      continue
    number = _is_number(value) and value not in options
    letter = (
        len(value) == 1 and value.upper() in string.ascii_uppercase
        and value not in options
    )
    kinds['number' if number else 'letter' if letter else 'text'] += 1
    if number:
      low, high = min(low, int(value)), max(high, int(value))
      beyond |= int(value) >= len(options)
  kind = kinds.most_common(1)[0][0] if kinds else 'text'
  if kind != 'number':
    return Choices(columns, kind == 'letter', None)
  if first is None and (low == 0) == beyond:
    raise errors.UserError(
        f'--label: {column!r} has the numbers {low} to {high}: do they count'
        ' the options from 0 or from 1? Say so with --first_option'
    )
  if first is None:
    first = 0 if low == 0 else 1
  return Choices(columns, False, first)


def _is_number(value: str) -> bool:
  return value.isascii() and value.isdigit() and len(value) < 10


def _missing(value: str) -> bool:
  return row_labels.is_missing(value)


def _order(value: str) -> tuple[bool, float, str]:
  """Numbers by size, before texts by letter."""
  try:
    return False, float(value), value
  except ValueError:
    return True, 0.0, value


def _listed(values: Iterable[str]) -> str:
  """The first values, for a message."""
  shown = [repr(v[:40]) for v in values]
  return ', '.join(shown[:8]) + (', ...' if len(shown) > 8 else '')
