"""A report as one HTML page without scripts or files beside it."""

import io
import pathlib
import re

from flipped_t5x import colours
from flipped_t5x.reports import parts
import jinja2
import markupsafe
import matplotlib
from matplotlib import figure

_PAGE = pathlib.Path(__file__).parent / 'page.html.jinja'
_LONG = 4  # Sections; pages with so many have a table of contents.
_PIXELS_PER_POINT = 96 / 72
_IDS = re.compile(r'(?<=[ "(])(id="|url\(#|(?:xlink:)?href="#)')
_SIZE = re.compile(r'<svg [^>]*?width="([\d.]+)pt"')
_NO_METADATA = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))


def render(report: parts.Report) -> str:
  """The text of the page; the same report gives the same bytes.

  Names of tasks, templates and runs may be any text, so Jinja escapes them.
  """
  environment = jinja2.Environment(
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True, keep_trailing_newline=True,
  )
  environment.filters |= {'breakable': _breakable, 'svg': _svg}
  template = environment.from_string(_PAGE.read_text(encoding='utf-8'))
  titled = [s for s in report.sections if s.title]
  return template.render(
      report=report,
      contents=titled if len(titled) >= _LONG else (),
      light={n: c[0] for n, c in colours.COLOURS.items()},
      dark={n: c[1] for n, c in colours.COLOURS.items()},
  )


def _breakable(text: str) -> markupsafe.Markup:
  """A text that may be broken into lines after `/` and `_`."""
  pieces = re.split(r'(?<=[/_])(?=\w)', text)
  return markupsafe.Markup('<wbr>').join(pieces)


def _svg(plot: parts.Plot) -> markupsafe.Markup:
  return markupsafe.Markup(svg(plot.draw(), plot.name, plot.alt))


def svg(drawn: figure.Figure, name: str, alt: str) -> str:
  """A figure as an SVG element for both a light and a dark page.

  Args:
    drawn: the figure; its colours are those of `colours.COLOURS`.
    name: a prefix for its ids, unique in the page.
    alt: a description of what it shows.
  """
  # Text stays text, in the page's font; `hashsalt` makes ids reproducible.
  with matplotlib.rc_context(
      {'svg.fonttype': 'none', 'svg.hashsalt': 'flipped_t5x'}
  ):
    text = io.StringIO()
    drawn.savefig(text, format='svg', transparent=True, metadata=_NO_METADATA)
  text = text.getvalue()
  text = text[text.index('<svg '):]
  width = float(_SIZE.match(text)[1]) * _PIXELS_PER_POINT
  opening, rest = text.split('>', 1)
  view = re.search(r'viewBox="[^"]*"', opening)[0]
  label = markupsafe.escape(alt)
  rest = _IDS.sub(lambda match: f'{match[1]}{name}-', rest)
  for key, (light, _) in colours.COLOURS.items():
    rest = rest.replace(light, f'var(--{key})')
  return (
      f'<svg {view} role="img" aria-label="{label}"'
      f' style="width: {width:.0f}px" xmlns="http://www.w3.org/2000/svg"'
      f' xmlns:xlink="http://www.w3.org/1999/xlink">{rest.strip()}'
  )
