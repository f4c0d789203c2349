"""What a report is made of: sections of text, tables, lists and plots.

Markdown, HTML and the terminal show the same parts, and so the same numbers.
All texts are plain: whoever shows them escapes them.
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
    text: what it says.
    warns: whether the reader must not miss it.
  """

  text: str
  warns: bool = False
  kind = 'text'


@dataclasses.dataclass(frozen=True)
class Items:
  """A list.

  Attributes:
    items: what it lists.
    ordered: whether they are numbered, from 1.
  """

  items: Sequence[str]
  ordered: bool = False
  kind = 'items'


@dataclasses.dataclass(frozen=True)
class Table:
  """A table whose first column names its rows.

  Attributes:
    title: what it shows, for those who do not see the text around it.
    header: names of the columns.
    rows: the texts of each row, as many as there are columns.
    left: which columns are texts, the others being numbers.
    code: which columns hold values of settings.
    shares: how strongly each cell is coloured, 0 to 1, row by row, without the
      first column. None for a table without colours.
    heading: shown above a table that is one of several, or ''.
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
    alt: what there is to see, for those who cannot.
    draw: makes the figure.
    file: whether Markdown shows it too, as a PNG beside the report.
    of_results: whether another file of results would give another plot.
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
    folded: whether HTML shows them on demand; each table has a heading then.
  """

  parts: Sequence[Table | Plot]
  folded: bool = False
  kind = 'group'


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report under a heading.

  Attributes:
    title: the heading; '' for what is above all headings.
    parts: its content.
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
    facts: one line below it.
    sections: the content.
  """

  title: str
  facts: str
  sections: Sequence[Section]

  @property
  def plots(self) -> Iterator[Plot]:
    for section in self.sections:
      for part in section.parts:
        for one in part.parts if part.kind == 'group' else (part,):
          if one.kind == 'plot':
            yield one


def number(value: float | None) -> str:
  """0 to 1, with three digits."""
  return MISSING if value is None else f'{value:.3f}'


def spread(values: Mapping[str, float]) -> str:
  """Mean ± standard deviation over templates."""
  return f'{values["mean"]:.3f}±{values["std"]:.3f}'


def interval(values: Mapping[str, float | None], scale: float = 1) -> str:
  """The 95 % interval, if there is one; times 100 with two digits."""
  low, high = values.get('low'), values.get('high')
  if low is None or high is None:
    return MISSING
  digits = 3 if scale == 1 else 2
  return f'{scale * low:.{digits}f} to {scale * high:.{digits}f}'.replace(
      '-', '−'
  )


def signed(value: float, digits: int = 3) -> str:
  """With a sign, a real minus, and no -0."""
  text = f'{value:+.{digits}f}'
  return text.replace('-', '−') if float(text) else text[1:]


def span(values: Sequence[int]) -> str:
  """Of numbers of options: `2`, or `2 to 4`."""
  if len(values) == 1:
    return str(values[0])
  return f'{min(values)} to {max(values)}'


def listed(names: Sequence[str]) -> str:
  """`a`, `a and b`, `a, b and c`."""
  *most, last = names
  return f'{", ".join(most)} and {last}' if most else last
