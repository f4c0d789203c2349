"""Prints what `inspect_mixture.py` found: examples and tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from flipped_t5x import terminal
from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.inspection import shown_examples
from flipped_t5x.inspection import units
from flipped_t5x.prompts import formats
import rich.console
import rich.table
import rich.text

_WIDE = 100  # From this many columns on, gaps are wider.
_LEAST_NAME = 14
_ALL = 'all'
_TEXTS = ('from', 'why', 'split')  # Columns to the left.

Cells = Sequence[str]


def write(
    inspected: inspect_mixture.Inspection,
    console: rich.console.Console | None = None,
) -> None:
  """Prints the examples, and then the tables, which stay on the screen.

  Args:
    inspected: what was found.
    console: where to print; standard output if None.
  """
  console = console or rich.console.Console()
  for data in inspected.datasets:
    for example in data.measured.examples:
      shown_examples.write(
          data.name, example, inspected.settings, console
      )
  console.print()
  console.print(rich.text.Text(_headline(inspected), style='bold'))
  folder = terminal.common_folder(
      [*(d.name for d in inspected.datasets), *inspected.left_out]
  )
  for title, header, rows in (
      ('Rows', *(_evaluated if inspected.evaluation else _drawn)(inspected)),
      (_tokens_title(inspected), *_tokens(inspected)),
      ('Templates, options, dropped rows', *_templates(inspected)),
  ):
    console.print()
    console.print(rich.text.Text(title, style='italic'))
    console.print(_table(header, rows, folder, console.width))
  console.print()
  for note in _notes(inspected):
    console.print(rich.text.Text(note))


def _headline(inspected: inspect_mixture.Inspection) -> str:
  settings = inspected.settings
  splits = {d.split for d in inspected.datasets}
  number = len(inspected.datasets)
  missing = len(inspected.left_out)
  of_all = f' of {number + missing}' if missing else ''
  templates = sum(d.templates for d in inspected.datasets)
  parts = [
      f'{inspected.mixture}: {number}{of_all} datasets',
      f'{templates:,} templates',
      f'format {settings.format}',
      f'{" or ".join(sorted(splits))} split',
  ]
  if not inspected.evaluation:
    parts.append(f'cap {inspected.cap:,}')
  return ', '.join(parts)


def _drawn(inspected) -> tuple[Cells, list[Cells]]:
  header = ('dataset', 'official', 'rows', 'from', 'rate', 'share %')
  rows = [
      (
          d.name, f'{d.official:,}', f'{d.rows:,}', d.origin['source'],
          f'{d.draws.rate:,.0f}', f'{d.draws.share:.2%}'[:-1],
      )
      for d in inspected.datasets
  ]
  for name in inspected.left_out:
    draws = inspected.draws[name]
    rows.append((
        name, '', 'none', '', f'{draws.rate:,.0f}', f'{draws.share:.2%}'[:-1]
    ))
  if len(rows) > 1:
    rates = sum(d.rate for d in inspected.draws.values())
    rows.append((_ALL, '', '', '', f'{rates:,.0f}', '100.00'))
  return header, rows


def _evaluated(inspected) -> tuple[Cells, list[Cells]]:
  header = (
      'dataset', 'split', 'official', 'rows', 'from', 'evaluated', 'candidates'
  )
  rows = [
      (
          d.name, d.split, f'{d.official:,}', f'{d.rows:,}', d.origin['source'],
          f'{d.used:,}', f'{d.candidates:,.0f}',
      )
      for d in inspected.datasets
  ]
  rows += [(name, '', '', 'none', '', '', '') for name in inspected.left_out]
  if len(inspected.datasets) > 1:
    used, candidates = (
        sum(getattr(d, n) for d in inspected.datasets)
        for n in ('used', 'candidates')
    )
    rows.append((_ALL, '', '', '', '', f'{used:,}', f'{candidates:,.0f}'))
  return header, rows


def _tokens_title(inspected) -> str:
  settings = inspected.settings
  return (
      f'Tokens of inputs (cut to {settings.input_length}) and targets (cut to'
      f' {settings.target_length})'
  )


def _tokens(inspected) -> tuple[Cells, list[Cells]]:
  header = ['dataset']
  for side in units.SIDES:
    header += [f'{side}\n50 %', '90 %', '99 %', 'max', 'cut %']
  rows = []
  for d in inspected.datasets:
    row = [d.name]
    for side in units.SIDES:
      lengths = d.measured.percentiles(side).values()
      row += ['-' if n is None else str(n) for n in lengths]
      row.append(_percent(d.measured.cut_share(side)))
    rows.append(row)
  return header, rows


def _templates(inspected) -> tuple[Cells, list[Cells]]:
  header = [
      'dataset', 'templates', 'options', 'rows\nsampled', 'dropped\n%', 'why'
  ]
  if not inspected.evaluation:
    header.insert(2, 'uses of\neach')
  rows = []
  for d in inspected.datasets:
    dropped = d.measured.dropped.most_common()
    row = [
        d.name, str(d.templates), _span(d.measured.options),
        f'{d.measured.rows:,}', _percent(d.measured.dropped_share()),
        ', '.join(f'{n:,} {reason}' for reason, n in dropped),
    ]
    if d.draws:
      row.insert(2, f'{d.uses_per_template:,.0f}')
    rows.append(row)
  return header, rows


def _notes(inspected) -> Iterator[str]:
  """Sentences below the tables."""
  settings = inspected.settings
  for d in inspected.datasets:
    kept = d.measured.rows - d.measured.dropped.total()
    if d.measured.alike:
      yield (
          f'{d.name}: in {d.measured.alike:,} of {kept:,} rows two options are'
          ' the same tokens: nothing can tell them apart.'
      )
  more = ''
  if inspected.evaluation:
    more = ' Candidates are all options of all rows in all templates.'
  elif settings.format not in formats.WRITES_LABEL:
    more = ' Inputs are the longer of the right and the wrong side.'
  yield (
      f'Measured on at most {settings.sample:,} rows of each dataset, each in'
      f' one drawn template (seed {settings.seed}). Lengths are before cutting,'
      f' with EOS.{more}'
  )
  if inspected.left_out:
    yield 'Left out, no source has it: ' + ', '.join(inspected.left_out) + '.'


def _table(
    header: Cells, rows: Iterable[Cells], folder: str, width: int
) -> rich.table.Table:
  """A table without lines; names are shown below the folder of them all."""
  gap = 2 if width >= _WIDE else 1
  header = (f'{header[0]}\n{folder}'.strip(), *header[1:])
  shown = rich.table.Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
  left = {0, *(i for i, n in enumerate(header) if n in _TEXTS)}
  for i, name in enumerate(header):
    shown.add_column(
        rich.text.Text(name), justify='left' if i in left else 'right',
        no_wrap=name != 'why', overflow='fold',
    )
  taken = sum(
      gap + max(len(line) for cell in column for line in cell.split('\n'))
      for column in list(zip(header, *rows, strict=True))[1:]
      if column[0] != 'why'
  )
  why = 20 if header[-1] == 'why' else 0
  room = max(width - taken - why, _LEAST_NAME)
  for name, *cells in rows:
    shown.add_row(*(
        rich.text.Text(cell, style='bold' if name == _ALL else '')
        for cell in (terminal.folded(name.removeprefix(folder), room), *cells)
    ))
  return shown


def _percent(share: float | None) -> str:
  if not share:
    return '-' if share is None else '0'
  return '<0.1' if share < 0.0005 else f'{share:.1%}'[:-1]


def _span(options: Mapping[int, int]) -> str:
  if not options:
    return '-'
  least, most = min(options), max(options)
  return str(least) if least == most else f'{least} to {most}'
