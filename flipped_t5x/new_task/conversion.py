"""A table's rows as rows of a dataset: labels as numbers, texts in splits."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import keyword
import re
from typing import Any

from flipped_t5x import errors
from flipped_t5x.new_task import instructions
from flipped_t5x.new_task import labels
from flipped_t5x.prompts import row_labels
from flipped_t5x.tables import reading
from flipped_t5x.tasks.sources import splits

NO_TEXT = 'no text'
NO_LABEL = 'no label'
OTHER_LABEL = 'label that is none of those given'
NO_OPTION = 'label that means no option'
FEW_OPTIONS = 'fewer than two options'
REPEATED = 'repeats an earlier row'
_RESERVED = (
    instructions.LABEL, instructions.OPTIONS, 'answer_choices', 'input',
)
_SHOWN = 3  # Texts with two labels.


@dataclasses.dataclass(frozen=True)
class Columns:
  """What the columns of a table are.

  Attributes:
    texts: the columns of the texts; the first decides in which split a row is.
    label: the column of the label.
    options: the columns of the options of multiple choice, or one column of
      lists; empty if all rows have the same labels.
  """

  texts: Sequence[str]
  label: str
  options: Sequence[str] = ()

  def check(self, table: reading.Table) -> None:
    """Raises `UserError` if there is no such column, or one is there twice."""
    named = [
        *(('--text', column) for column in self.texts),
        ('--label', self.label),
        *(('--options', column) for column in self.options),
    ]
    for flag, column in named:
      table.check_column(column, flag)
    for (_, first), (flag, second) in itertools.combinations(named, 2):
      if first == second:
        raise errors.UserError(f'{flag}: the column {second!r} is named twice')

  @property
  def fields(self) -> dict[str, str]:
    """Column -> field of each text: `text`, or names that templates can use."""
    if len(self.texts) == 1:
      return {self.texts[0]: 'text'}
    found: dict[str, str] = {}
    for column in self.texts:
      field = re.sub(r'\W+', '_', column).strip('_') or 'text'
      if not field.isidentifier() or keyword.iskeyword(field):
        field = f'text_{field}'
      while field in found.values() or field in _RESERVED:
        field += '_'
      found[column] = field
    return found

  def row(
      self, cells: Mapping[str, Any], name: str, number: int
  ) -> dict[str, Any]:
    """The dataset's row without its label: the texts, and its options.

    Args:
      cells: the row of the table.
      name: the table's name, for messages.
      number: the row's number, from 1.

    Raises:
      UserError: a cell is no text, or the column of options has no list.
    """
    row: dict[str, Any] = {}
    for column, field in self.fields.items():
      value = cells[column]
      if isinstance(value, (dict, list, tuple, bytes)):
        raise errors.UserError(
            f'{name}, row {number}: the column {column!r} has no text but'
            f' {type(value).__name__}; a list can be given as --options'
        )
      row[field] = labels.value_text(value)
    if self.options:
      row[instructions.OPTIONS] = row_options(cells, self, name, number)
    return row


@dataclasses.dataclass
class Converted:
  """What became of the rows.

  Attributes:
    rows: the number of rows of the table.
    dropped: why -> number of rows.
    kept: split -> label -> number of rows; the label is a word, or of multiple
      choice the number of the option, from 1.
    two_labels: how many texts stand in the table with two labels.
    shown: a few of these texts.
    lowest: the digest of the text, of all in training, that would be the next
      to be held out.
  """

  rows: int = 0
  dropped: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  kept: dict[str, collections.Counter] = dataclasses.field(
      default_factory=lambda: collections.defaultdict(collections.Counter)
  )
  two_labels: int = 0
  shown: list[str] = dataclasses.field(default_factory=list)
  lowest: bytes | None = None


class Conversion:
  """Makes rows of a dataset; its `converted` counts what became of them."""

  def __init__(
      self,
      table: reading.Table,
      columns: Columns,
      kind: labels.Words | labels.Choices,
  ):
    self.table, self.columns, self.kind = table, columns, kind
    self.converted = Converted()

  def rows(self, held_out: bytes | None = None) -> Iterator[
      tuple[str, dict[str, Any]]
  ]:
    """(split, row) of each row that is kept.

    Args:
      held_out: the digest of a text that is put in the test split, whatever
        its hash says.

    Raises:
      UserError: a cell is no text, or has no options.
    """
    done = self.converted = Converted()
    labels_of: dict[bytes, tuple[int, ...]] = {}
    lowest = None
    for number, cells in enumerate(self.table, 1):
      done.rows += 1
      made = self._row(number, cells)
      if isinstance(made, str):
        done.dropped[made] += 1
        continue
      texts = [made[field] for field in self.columns.fields.values()]
      label = made[instructions.LABEL]
      key = _digest('\0'.join([*texts, *made.get(instructions.OPTIONS, ())]))
      before = labels_of.get(key, ())
      if label in before:
        done.dropped[REPEATED] += 1
        continue
      labels_of[key] = (*before, label)
      if len(before) == 1:
        done.two_labels += 1
        done.shown += [' '.join(texts)] * (len(done.shown) < _SHOWN)
      digest = _digest(splits.words(texts[0]))
      split = 'test' if digest == held_out else splits.split_of(texts[0])
      if split == 'train' and (lowest is None or digest < lowest):
        lowest = done.lowest = digest
      done.kept[split][self._word(label)] += 1
      yield split, made

  def _row(
      self, number: int, cells: Mapping[str, Any]
  ) -> dict[str, Any] | str:
    """The dataset's row, or why there is none."""
    row = self.columns.row(cells, self.table.name, number)
    if not any(row[field] for field in self.columns.fields.values()):
      return NO_TEXT
    options = row.get(instructions.OPTIONS, [])
    if self.columns.options and len(set(options)) < max(2, len(options)):
      return FEW_OPTIONS
    value = labels.value_text(cells[self.columns.label])
    label = self.kind.number(value, options)
    if label is None or (options and not 0 <= label < len(options)):
      if row_labels.is_missing(value):
        return NO_LABEL
      return NO_OPTION if options else OTHER_LABEL
    return row | {instructions.LABEL: label}

  def _word(self, label: int) -> str:
    if isinstance(self.kind, labels.Words):
      return self.kind.words[label]
    return f'option {label + 1}'


def row_options(
    cells: Mapping[str, Any], columns: Columns, name: str, number: int
) -> list[str]:
  """The options of a row; empty if all rows have the same labels.

  Args:
    cells: the row of the table.
    columns: what its columns are.
    name: the table's name, for messages.
    number: the row's number, from 1.

  Raises:
    UserError: the one column of options has no list.
  """
  values = [cells[column] for column in columns.options]
  if len(values) == 1:
    values, = values
    if values is None:
      values = []
    if not isinstance(values, (list, tuple)):
      raise errors.UserError(
          f'{name}, row {number}: --options names one column, which must have'
          f' lists, and has {str(values)[:40]!r}; or name several columns, one'
          ' for each option'
      )
  return [text for text in map(labels.value_text, values) if text]


def label_values(table: reading.Table, column: str) -> dict[str, int]:
  """Value -> the number of rows that have it as their label."""
  return collections.Counter(
      labels.value_text(cells[column]) for cells in table
  )


def kind_of(
    table: reading.Table,
    columns: Columns,
    given: Mapping[str, str],
    first_option: int | None,
) -> labels.Words | labels.Choices:
  """Reads the column of the label, and says what it means.

  Args:
    table: the table.
    columns: what its columns are.
    given: value -> word, see `labels.words`; if it is empty, the table's own
      names of its labels are the words, if it has such.
    first_option: see `labels.choices`.

  Raises:
    UserError: see `labels.words` and `labels.choices`; or the table has no
      rows.
  """
  if columns.options:
    if given:
      raise errors.UserError(
          '--labels and --options cannot both be given: with --options, each'
          ' row has labels of its own'
      )
    return labels.choices(
        (
            (
                labels.value_text(cells[columns.label]),
                row_options(cells, columns, table.name, number),
            )
            for number, cells in enumerate(table, 1)
        ),
        columns.options, first_option, columns.label,
    )
  found = label_values(table, columns.label)
  if not found:
    raise errors.UserError(f'{table.name} has no rows below its header')
  own = labels.class_words(found, table.class_names.get(columns.label, ()))
  words = labels.words(found, given or own, columns.label)
  return dataclasses.replace(words, of_table=not given and bool(own))


def _digest(text: str) -> bytes:
  return hashlib.sha256(text.encode()).digest()
