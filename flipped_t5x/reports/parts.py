"""The parts of a report: sections of text, tables, lists and plots.

Markdown and HTML are made from the same parts, and so show the same numbers.
All texts are plain; `markdown.py` and `html.py` escape them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses

from matplotlib import figure

MISSING = '–'
Row = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph.

  Attributes:
    text: the text.
    warns: whether it is shown as a warning.
  """

  text: str
  warns: bool = False
  kind = 'text'


@dataclasses.dataclass(frozen=True)
class Items:
  """A list.

  Attributes:
    items: the texts of the items.
    ordered: whether they are numbered, from 1.
  """

  items: Sequence[str]
  ordered: bool = False
  kind = 'items'


@dataclasses.dataclass(frozen=True)
class Table:
  """A table whose first column names its rows.

  Attributes:
    title: what it shows; read by screen readers.
    header: names of the columns.
    rows: the texts of each row, one for each column.
    left: the numbers of the columns with text, which is aligned to the left.
    code: the numbers of the columns with values of settings, shown as code.
    shares: how strongly each cell is coloured, 0 to 1, row by row, without the
      first column; None for a table without colours.
    heading: a heading above the table, if it is one of several; else ''.
  """

  title: str
  header: Sequence[str]
  rows: Sequence[Row]
  left: Sequence[int] = (0,)
  code: Sequence[int] = ()
  shares: Sequence[Sequence[float]] | None = None
  heading: str = ''
  kind = 'table'

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.header):
        raise ValueError(f'{self.title}: {row} under {self.header}')


@dataclasses.dataclass(frozen=True)
class Plot:
  """A plot.

  Attributes:
    name: the name of its file, without the ending; unique in a report.
    title: what it shows.
    alt: a description for screen readers.
    draw: a function that draws the figure.
    file: whether Markdown shows it, too, as a PNG beside the report.
    of_results: whether it depends on the file of results, and not only on the
      training log.
  """

  name: str
  title: str
  alt: str
  draw: Callable[[], figure.Figure]
  file: bool = True
  of_results: bool = True
  kind = 'plot'


@dataclasses.dataclass(frozen=True)
class Group:
  """Parts that are shown side by side where there is room.

  Attributes:
    parts: tables or plots.
    folded: whether HTML shows each only on demand, under its heading.
  """

  parts: Sequence[Table | Plot]
  folded: bool = False
  kind = 'group'


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report under a heading.

  Attributes:
    title: the heading; '' for the section above all headings.
    parts: the content.
  """

  title: str
  parts: Sequence[Text | Items | Table | Plot | Group]

  @property
  def anchor(self) -> str:
    """The title as an id."""
    return ''.join(c if c.isalnum() else '-' for c in self.title.lower())


@dataclasses.dataclass(frozen=True)
class Report:
  """A whole report.

  Attributes:
    title: the heading of the page.
    facts: the line below the heading.
    sections: the content.
  """

  title: str
  facts: str
  sections: Sequence[Section]

  @property
  def plots(self) -> Iterator[Plot]:
    """All plots, including those in groups."""
    for section in self.sections:
      for part in section.parts:
        for one in part.parts if part.kind == 'group' else (part,):
          if one.kind == 'plot':
            yield one


def number(value: float | None) -> str:
  """A share with three digits; a dash for None."""
  return MISSING if value is None else f'{value:.3f}'


def spread(values: Mapping[str, float]) -> str:
  """A mean ± its standard deviation over templates."""
  return f'{values["mean"]:.3f}±{values["std"]:.3f}'


def interval(values: Mapping[str, float | None], scale: float = 1) -> str:
  """A 95 % interval, or a dash if there is none.

  Args:
    values: has `low` and `high` if there is an interval.
    scale: 1 for shares, which have three digits; 100 for percent, which have
      two.
  """
  low, high = values.get('low'), values.get('high')
  if low is None or high is None:
    return MISSING
  digits = 3 if scale == 1 else 2
  return f'{scale * low:.{digits}f} to {scale * high:.{digits}f}'.replace(
      '-', '−'
  )


def signed(value: float, digits: int = 3) -> str:
  """A number with a sign, a typographic minus, and no -0."""
  text = f'{value:+.{digits}f}'
  return text.replace('-', '−') if float(text) else text[1:]


def span(values: Sequence[int]) -> str:
  """The range of some numbers, such as `2` or `2 to 4`."""
  if len(values) == 1:
    return str(values[0])
  return f'{min(values)} to {max(values)}'


def listed(names: Sequence[str]) -> str:
  """A list in words, such as `a`, `a and b` or `a, b and c`."""
  *most, last = names
  return f'{", ".join(most)} and {last}' if most else last
