"""Writes reports, and reads their pages with Python's parser."""

import html.parser
import io
import os
import pathlib
from typing import Any

from flipped_t5x.reports import report
import rich.console

_TEXTS = ('p', 'li', 'title', 'h1', 'h2', 'h3', 'summary', 'figcaption', 'text')
_ALONE = {'meta', 'br', 'wbr', 'link', 'img', 'input', 'hr'}


def show(
    runs: Any, output: str | os.PathLike[str] | None = None, width: int = 80
) -> str:
  """Writes a report; returns what is printed on a terminal of some width."""
  console = rich.console.Console(width=width, record=True, file=io.StringIO())
  report.write(runs, output, console)
  return console.export_text()


def read(path: pathlib.Path) -> 'Page':
  """Reads a page."""
  return Page(path.read_text())


class Page(html.parser.HTMLParser):
  """The content of a page.

  Attributes:
    tables: caption -> rows of cells, the header first.
    texts: the title, and the texts of paragraphs, items, headings and plots.
    tags: (name, attributes) of every element.
    ids: the ids of elements.
  """

  def __init__(self, text: str):
    super().__init__()
    self.tables, self.texts, self.tags, self.ids = {}, [], [], []
    self._open, self._rows, self._caption, self._text = [], None, '', ''
    self.feed(text)
    self.close()
    if self._open:
      raise ValueError(f'never closed: {self._open}')

  def handle_starttag(self, tag, attrs):
    self._start(tag, attrs)
    if tag not in _ALONE:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self._start(tag, attrs)

  def _start(self, tag, attrs):
    attributes = dict(attrs)
    self.tags.append((tag, attributes))
    if 'id' in attributes:
      self.ids.append(attributes['id'])
    if tag == 'table':
      self._rows = []
    elif tag == 'tr':
      self._rows.append([])
    if tag in ('th', 'td', 'caption', *_TEXTS):
      self._text = ''

  def handle_data(self, data):
    self._text += data

  def handle_endtag(self, tag):
    if tag in _ALONE:
      return
    if not self._open or self._open[-1] != tag:
      raise ValueError(f'</{tag}> closes {self._open[-3:]}')
    self._open.pop()
    text = ' '.join(self._text.split())
    if tag in ('th', 'td'):
      self._rows[-1].append(text)
    elif tag == 'caption':
      self._caption = text
    elif tag == 'table':
      self.tables[self._caption] = self._rows
    elif tag in _TEXTS:
      self.texts.append(text)

  def rows(self, caption: str) -> dict[str, dict[str, str]]:
    """First cell of each row -> column -> cell."""
    header, *rows = self.tables[caption]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def markdown_tables(text: str) -> list[list[list[str]]]:
  """The tables of a Markdown file, the header first."""
  tables, inside = [], False
  for line in text.splitlines():
    if line.startswith('| '):
      cells = line.replace('\\|', '\0')[2:-2].split(' | ')
      cells = [cell.replace('\0', '|') for cell in cells]
      if not inside:
        tables.append([])
      if set(''.join(cells)) - set('-:'):
        tables[-1].append(cells)
    inside = line.startswith('| ')
  return tables
