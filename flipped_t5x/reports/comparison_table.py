"""Several runs side by side in a terminal, numbered from 1."""

from collections.abc import Sequence

from flipped_t5x import terminal
from flipped_t5x.reports import comparison
from flipped_t5x.reports import comparison_report
from flipped_t5x.reports import evaluated_run
import rich.table
import rich.text

_CELL = 8  # Columns of a number, with a mark and a gap.
_LEAST_NAME, _MOST_NAME = 18, 30
_MARKS = (comparison_report.BETTER, comparison_report.WORSE)

Runs = Sequence[evaluated_run.EvaluatedRun]
Tests = Sequence[comparison.Test]


def tables(
    runs: Runs, tests: Tests, width: int = 80
) -> list[rich.table.Table]:
  """Accuracy by task, in tables of as many runs as fit into the width."""
  names = comparison_report.task_names(runs)
  longest = max(map(len, names))
  name_width = min(max(longest, _LEAST_NAME), _MOST_NAME) + 2
  fits = max((width - name_width) // _CELL, 1)
  by_task = {
      name: comparison_report.cells(runs, name, 'accuracy', tests)
      for name in names
  }
  found = []
  for start in range(0, len(runs), fits):
    shown = rich.table.Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column('accuracy', no_wrap=True)
    for i in range(start, min(start + fits, len(runs))):
      shown.add_column(f'{i + 1} ', justify='right', no_wrap=True)
    for name in names:
      shown.add_row(
          rich.text.Text(terminal.folded(name, name_width - 2)),
          *(rich.text.Text(c if c[-1] in _MARKS else f'{c} ')
            for c in by_task[name][start:start + fits]),
      )
    found.append(shown)
  return found


def notes(runs: Runs, tests: Tests) -> list[str]:
  """The lines below the tables."""
  lines = [f'{i}  {run.name}' for i, run in enumerate(runs, 1)]
  if tests:
    lines.append(
        f'{" ".join(_MARKS)} significantly better or worse than 1 (paired test,'
        " Holm's correction)"
    )
  lines += [part.text for part in comparison_report.warnings(runs)]
  without = comparison.untested(runs)
  if without:
    number = len(runs[0].results['tasks'])
    lines.append(
        f'{len(without)} of {number} tasks cannot be tested:'
        f' {next(iter(without.values()))}'
    )
  lines += [
      f'not evaluated: {item}' for part in comparison_report.missing(runs)
      if part.kind == 'items' for item in part.items
  ]
  return lines
