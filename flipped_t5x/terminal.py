"""Text for a terminal: columns, shortened and folded names, progress bars."""

from collections.abc import Sequence
import posixpath
import re
import sys
from typing import Any

from rich import cells
import tqdm

# Control characters but tab and line feed, such as ESC, which steers a
# terminal; what changes the direction of text, or is not seen; and lone
# surrogates, which are no text.
_HIDDEN = re.compile(
    '[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f'
    '\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff'
    '\U000e0000-\U000e007f]'
)


def visible(value: Any) -> Any:
  """Text from files as it is safe to show: what is hidden is spelled out.

  Args:
    value: a text, or JSON whose texts and keys are all treated.

  Returns:
    The same with `\\x1b` for ESC, `\\u202e` for the mark that reverses text,
    and so on.
  """
  if isinstance(value, str):
    return _HIDDEN.sub(lambda m: ascii(m[0])[1:-1], value)
  if isinstance(value, dict):
    return {visible(k): visible(v) for k, v in value.items()}
  if isinstance(value, list):
    return [visible(v) for v in value]
  return value


def shortened(text: str, width: int) -> str:
  """The text in one line of at most `width` characters."""
  text = ' '.join(text.split())
  return text if len(text) <= width else f'{text[: width - 1]}…'


def aligned(rows: Sequence[Sequence[str]]) -> str:
  """Rows as lines of columns: the first to the left, the others to the right.

  Args:
    rows: cells, as many in each row.

  Returns:
    The lines, without a line break at the end.
  """
  columns = zip(*rows, strict=True)
  widths = [max(map(cells.cell_len, column)) for column in columns]
  lines = []
  for row in rows:
    padded = []
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
      padding = ' ' * (width - cells.cell_len(cell))
      padded.append(padding + cell if i else cell + padding)
    lines.append('  '.join(padded))
  return '\n'.join(lines)


def common_folder(names: Sequence[str]) -> str:
  """The folder that all names are in, with a `/` at its end, else ''."""
  if len(names) < 2:
    return ''
  folder = posixpath.commonpath([posixpath.dirname(name) for name in names])
  return f'{folder}/' if folder else ''


def folded(name: str, width: int) -> str:
  """A dataset's name in lines of about `width`, broken after `/`, else `_`."""
  lines = ['']
  for part in re.findall(r'[^/]*/|[^/]+', name):
    fits = len(part) < width
    for piece in [part] if fits else re.findall(r'[^_]*_|[^_]+', part):
      if len(lines[-1]) + len(piece) > width and lines[-1].strip():
        lines.append(' ')  # The next name is not indented.
      lines[-1] += piece
  return '\n'.join(lines)


def progress_bar(
    total: int, unit: str, shown: bool = True, **options
) -> tqdm.tqdm:
  """A bar on standard error, with the speed and the time left.

  Where standard error is a file, a line is written every 30 seconds.

  Args:
    total: how many units there are.
    unit: the singular of what is counted.
    shown: whether to show it at all.
    **options: more arguments of `tqdm.tqdm`.

  Returns:
    The bar, which is also a context manager.
  """
  return tqdm.tqdm(
      total=total, unit=unit, disable=not shown, dynamic_ncols=True,
      mininterval=0.1 if sys.stderr.isatty() else 30, **options
  )
