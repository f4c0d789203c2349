"""A report as Markdown, with plots in files beside it."""

from collections.abc import Iterator
import re

from flipped_t5x.reports import parts

# Emphasis, code, links and images. An underscore inside a word is no emphasis.
_ACTIVE = re.compile(r'[\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_])')
_BEGINNING = re.compile(r'^(\d*)([-#+=|:.)])')


def render(report: parts.Report, suffix: str = '') -> str:
  """The text of the file.

  Args:
    report: the report.
    suffix: the end of the names of the plots' files, see `file_name`.
  """
  lines = [f'# {_escape(report.title)}', '', _block(report.facts), '']
  for section in report.sections:
    if section.title:
      lines += [f'## {_escape(section.title)}', '']
    for part in section.parts:
      lines += [*_part(part, suffix)]
  return '\n'.join(lines).rstrip() + '\n'


def file_name(plot: parts.Plot, suffix: str) -> str:
  """The name of a plot's PNG: the plot's own name and `suffix`."""
  return f'{plot.name}{suffix if plot.of_results else ""}.png'


def _part(part, suffix: str) -> Iterator[str]:
  if part.kind == 'text':
    text = _block(part.text)
    yield from (f'**{text}**' if part.warns else text, '')
  elif part.kind == 'items':
    for i, item in enumerate(part.items, 1):
      bullet = f'{i}.' if part.ordered else '-'
      yield f'{bullet} {_block(item)}'
    yield ''
  elif part.kind == 'table':
    if part.heading:
      yield from (f'### {_escape(part.heading)}', '')
    yield from (*table(part), '')
  elif part.kind == 'plot':
    if part.file:
      yield from (f'![{_escape(part.title)}]({file_name(part, suffix)})', '')
  else:
    for one in part.parts:
      yield from _part(one, suffix)


def table(part: parts.Table) -> list[str]:
  """The lines of a table, without its title and heading."""
  rows = [[_cell(name) for name in part.header]]
  rows.append([
      '---' if i in part.left else '---:' for i in range(len(part.header))
  ])
  for row in part.rows:
    rows.append([
        _code(cell) if i in part.code else _cell(cell)
        for i, cell in enumerate(row)
    ])
  return [f'| {" | ".join(row)} |' for row in rows]


def _cell(text: str) -> str:
  return _escape(text).replace('|', '\\|')


def _code(text: str) -> str:
  """A code span, with more backticks around it than the text has in a row."""
  fence = '`'
  while fence in text:
    fence += '`'
  room = ' ' if len(fence) > 1 else ''
  text = ' '.join(text.split()).replace('|', '\\|')
  return f'{fence}{room}{text}{room}{fence}'


def _block(text: str) -> str:
  """A text at the start of a line, where it might begin a list or a heading."""
  return _BEGINNING.sub(r'\1\\\2', _escape(text))


def _escape(text: str) -> str:
  """The text in one line, with what is Markdown or HTML escaped."""
  text = _ACTIVE.sub(r'\\\g<0>', ' '.join(text.split()))
  return text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
