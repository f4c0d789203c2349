"""What the flags do not say is guessed from the columns, and asked for."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools

from flipped_t5x import errors
from flipped_t5x import terminal
from flipped_t5x.new_task import conversion
from flipped_t5x.new_task import instructions
from flipped_t5x.new_task import labels
from flipped_t5x.tables import reading
import rich.console
import rich.prompt
import rich.text

_PROFILED = 1000  # Rows that columns are judged by.
_LABEL_NAMES = (
    'label', 'labels', 'class', 'category', 'sentiment', 'stars', 'rating',
    'answer', 'target', 'gold', 'intent', 'topic',
)
_PAIRS = (
    ('premise', 'hypothesis'), ('sentence1', 'sentence2'),
    ('question', 'passage'), ('question1', 'question2'),
)
_MOST_ASKED = 10  # Labels that words are asked for.


@dataclasses.dataclass(frozen=True)
class Answers:
  """What is known of a new task; what is not is empty.

  Attributes:
    texts: the columns of the texts.
    label: the column of the label.
    options: the columns of the options of multiple choice.
    words: value of the label -> word.
    instructions: the instructions.
  """

  texts: Sequence[str] = ()
  label: str | None = None
  options: Sequence[str] = ()
  words: Mapping[str, str] = dataclasses.field(default_factory=dict)
  instructions: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Profile:
  """A column in the first rows.

  Attributes:
    values: its different values, in the order of their first rows.
    length: the mean number of characters.
  """

  values: Sequence[str]
  length: float

  def __str__(self) -> str:
    shown = ', '.join(terminal.shortened(v, 30) for v in self.values[:3])
    return f'{len(self.values):,} values: {shown}'


def profiles(table: reading.Table) -> dict[str, Profile]:
  """Column -> what its first rows look like."""
  rows = list(itertools.islice(table, _PROFILED))
  found = {}
  for column in table.columns:
    cells = [labels.value_text(row[column]) for row in rows]
    found[column] = Profile(
        tuple(dict.fromkeys(filter(None, cells))),
        sum(map(len, cells)) / max(len(cells), 1),
    )
  return found


def guess(found: Mapping[str, Profile]) -> tuple[Sequence[str], str | None]:
  """The columns that are likely to be the texts and the label.

  Args:
    found: column -> its profile.
  """
  few = [
      c for c, profile in found.items()
      if 2 <= len(profile.values) <= labels.MOST_WORDS
  ]
  named = [c for c in few if c.lower() in _LABEL_NAMES]
  label = min(named or few, key=lambda c: len(found[c].values), default=None)
  rest = {c: profile for c, profile in found.items() if c != label}
  for pair in _PAIRS:
    if rest.keys() >= set(pair):
      return pair, label
  longest = max(rest, key=lambda c: rest[c].length, default=None)
  return [longest] if longest is not None else [], label


def ask(table: reading.Table, known: Answers, interactive: bool) -> Answers:
  """Completes what is known by questions in the terminal.

  Args:
    table: the table.
    known: what the flags say.
    interactive: whether there is anyone to ask.

  Raises:
    UserError: nobody can be asked; says what could be given. Or the input has
      ended.
  """
  found = profiles(table)
  texts, label = guess(found)
  if not interactive:
    listed = '; '.join(f'{c!r} ({profile})' for c, profile in found.items())
    likely = ''.join(f' --text {c!r}' for c in texts)
    raise errors.UserError(
        f'give --text COLUMN and --label COLUMN. {table.name} has the columns'
        f' {listed}. Likely:{likely} --label {label!r}'
    )
  console = rich.console.Console(stderr=True)
  for column, profile in found.items():
    console.print(rich.text.Text(terminal.visible(f'{column}: {profile}')))
  try:
    return _asked(table, known, found, texts, label, console)
  except EOFError as e:
    raise errors.UserError(
        'the input has ended before all questions were answered'
    ) from e


def _asked(table, known, found, texts, label, console) -> Answers:
  asked_texts = known.texts or columns_of(
      [_ask(console, 'Column of the text (several: with commas)',
            ','.join(texts))], table, '--text',
  )
  asked_label = known.label or _ask(console, 'Column of the label', label or '')
  columns = conversion.Columns(asked_texts, asked_label, known.options)
  columns.check(table)
  words, values = known.words, []
  if not (words or known.options):
    # Of all rows: the first ones need not have every label.
    values = labels.known_values(conversion.label_values(table, asked_label))
    own = labels.class_words(values, table.class_names.get(asked_label, ()))
    if 2 <= len(values) <= _MOST_ASKED:
      words = {
          v: _ask(console, f'Word for the label {v}', own.get(v, v))
          for v in values
      }
  given = list(known.instructions)
  if not given:
    shown = instructions.general(
        columns.fields, asked_label,
        None if known.options else list(words.values()) or values,
    )
    console.print('An instruction in your words, or nothing for these three:')
    for wording in shown:
      console.print(rich.text.Text(terminal.visible(f'  {wording}')))
    own = _ask(console, 'Instruction', '')
    given = [own] if own.strip() else []
  return Answers(asked_texts, asked_label, known.options, words, given)


def _ask(console: rich.console.Console, question: str, default: str) -> str:
  return rich.prompt.Prompt.ask(
      rich.text.Text(terminal.visible(question)), console=console,
      default=default, show_default=bool(default),
  ).strip()


def columns_of(
    given: Sequence[str] | None, table: reading.Table, flag: str
) -> list[str]:
  """The columns that a flag names, once or several times, or with commas.

  Args:
    given: the values of the flag.
    table: the table, of which a column may have commas in its name.
    flag: the flag, for messages.

  Raises:
    UserError: there is no such column.
  """
  columns: list[str] = []
  for value in given or ():
    if value in table.columns:
      columns.append(value)
    else:
      columns += [part.strip() for part in value.split(',')]
  for column in columns:
    table.check_column(column, flag)
  return columns
