"""A section of a report that compares our results with published numbers."""

from collections.abc import Iterator, Mapping
import re
from typing import Any

from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import parts
from flipped_t5x.reports import published

_NAMES = {'accuracy': 'accuracy', 'macro_f1': 'macro-F1'}
_BILLIONS = re.compile(r'-(\d+(?:\.\d+)?)B\b')


def section(results: Mapping[str, Any]) -> parts.Section | None:
  """The section; None if no numbers are published for these tasks."""
  benchmark = results.get('suite')
  figures = {
      key: published.lookup(benchmark, *key) for key in _asked(results)
  }
  figures = {key: found for key, found in figures.items() if found}
  claims = published.claims(benchmark)
  if not figures and not claims:
    return None
  content = []
  if figures:
    columns = [
        c for c in published.columns(benchmark)
        if any(c in found for found in figures.values())
    ]
    sources = list(dict.fromkeys(
        f.source for c in columns for found in figures.values()
        if (f := found.get(c))
    ))
    content += [
        parts.Text(_sizes(results, columns), warns=True),
        _table(results, figures, columns, sources),
        parts.Text(
            'In percent. In parentheses: ours − published. Ours is the mean'
            ' over templates, with the 95 % interval over rows; the published'
            ' figures have no interval.' + _rows_differ(results)
        ),
        parts.Text('Sources:'),
        parts.Items(sources, ordered=True),
    ]
  if claims:
    content += [
        parts.Text(
            'Published only as differences between two models, in points:'
        ),
        parts.Items([
            f'{c.column}: {parts.signed(100 * c.value, 2)} in {c.measured},'
            f' {c.task} ({c.source})'
            for c in claims
        ]),
    ]
  return parts.Section('Beside published numbers', content)


def _asked(results) -> Iterator[tuple[str, str]]:
  """Yields (task or group, metric) for which there may be published numbers."""
  groups = [g['name'] for g in results.get('groups', ())]
  names = [
      n for n in (*results['tasks'], *evaluated_run.missing(results))
      if n.removeprefix('bigbench/') not in groups
  ] + groups
  for name in dict.fromkeys(names):
    for metric in _NAMES:
      yield name, metric


def _table(results, figures, columns, sources) -> parts.Table:
  header = ['task', 'metric', 'ours', '95 % interval']
  for column in columns:
    marks = sorted({
        sources.index(f.source) + 1
        for found in figures.values() if (f := found.get(column))
    })
    header.append(f'{column} [{", ".join(map(str, marks))}]')
  rows, whole = [], []
  for (name, metric), found in figures.items():
    value, interval, note, lacking = _ours(results, name, metric)
    theirs = [found[c].value if c in found else None for c in columns]
    rows.append(_row(name, _NAMES[metric], value, interval, note, theirs))
    if None not in (value, *theirs) and not lacking:
      whole.append([value, *theirs])
  if len(whole) > 1 and len({metric for _, metric in figures}) == 1:
    value, *theirs = (sum(v) / len(v) for v in zip(*whole, strict=True))
    name = f'mean of {len(whole)} of these {len(rows)}'
    rows.append(
        _row(name, rows[0][1], value, parts.MISSING, '', theirs)
    )
  return parts.Table('Beside published numbers', header, rows, left=(0, 1))


def _row(name, metric, ours, interval, note, theirs) -> list[str]:
  row = [
      name, metric, note if ours is None else f'{100 * ours:.2f}{note}',
      interval,
  ]
  for value in theirs:
    cell = parts.MISSING if value is None else f'{100 * value:.2f}'
    if None not in (value, ours):
      cell += f' ({parts.signed(100 * (ours - value), 2)})'
    row.append(cell)
  return row


def _ours(results, name, metric) -> tuple[float | None, str, str, bool]:
  """Our value for a task or group.

  Args:
    results: the results.
    name: the task or group.
    metric: 'accuracy' or 'macro_f1'.

  Returns:
    The value, its interval, a note on it, and whether subtasks are missing.
  """
  task = results['tasks'].get(name)
  if task is None:
    group = next(
        (g for g in results.get('groups', ()) if g['name'] == name), None
    )
    if group is None or group[metric] is None:
      return None, parts.MISSING, 'not evaluated', True
    missing = set(group['missing'])
    evaluated = [n for n in group['tasks'] if n not in missing]
    number = len(evaluated) + len(missing)
    if missing:
      note = f' ({len(evaluated)} of {number})'
      return group[metric], parts.MISSING, note, True
    if number != 1:
      return group[metric], parts.MISSING, f' (mean of {number})', False
    task = results['tasks'][evaluated[0]]
  return task[metric]['mean'], parts.interval(task[metric], 100), '', False


def _sizes(results, columns) -> str:
  """A warning about the sizes of the models that are compared."""
  theirs = sorted({
      float(match[1]) for c in columns if (match := _BILLIONS.search(c))
  })
  text = 'The published numbers are of models'
  if theirs:
    least, most = theirs[0], theirs[-1]
    sizes = f'{least:g}' if least == most else f'{least:g} to {most:g}'
    text += f' of {sizes} billion parameters'
  ours = evaluated_run.num_parameters(results['network'])
  if ours is None:
    return text + '; the size of this one is not in its results.'
  text += f'; this one has {evaluated_run.million(ours)}'
  if theirs and not 0.8 <= ours / (1e9 * theirs[0]) <= 1.25:
    return text + (
        '. Differences between models of different sizes and training say'
        ' nothing about the method.'
    )
  return text + '.'


def _rows_differ(results) -> str:
  limit = evaluated_run.limit(results)
  if limit is None:
    return ''
  return (
      f' Ours is over at most {limit:,} rows of each dataset, and theirs over'
      ' all rows, which alone makes a difference.'
  )
