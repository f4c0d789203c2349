"""Writes reports: a table in the terminal, Markdown, an HTML page and plots."""

from collections.abc import Mapping, Sequence
import contextlib
import io
import json
import os
import pathlib
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import locks
from flipped_t5x import terminal
from flipped_t5x.reports import comparison_report
from flipped_t5x.reports import comparison_table
from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import html
from flipped_t5x.reports import markdown
from flipped_t5x.reports import parts
from flipped_t5x.reports import sections
from flipped_t5x.reports import tables
import rich.console
import rich.table
import rich.text

_NUMBERS = 65  # Width of the table's columns without the names of tasks.
_LEAST_NAME = 15  # The least width for the names.
_PAGES = ('.html', '.md')


def write(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    console: rich.console.Console | None = None,
) -> None:
  """Prints a table, and writes an HTML page, Markdown and PNG plots.

  The files for `results_NAME.json` are `report_NAME.html`, `report_NAME.md` and
  `accuracy_NAME.png` in the same folder, and `losses.png` and so on if there is
  a training log. Those for several runs are `report_comparison.html` and so on
  in the current folder.

  Args:
    runs: one run or several. A run is a folder with `results.json`, another
      file of results, or a folder of T5X, see `evaluation/t5x_results.py`. For
      a single folder of T5X, `results.json` is written, too.
    output: another folder for the files; or a file ending in .html or .md, from
      whose name those of the other files are derived.
    console: where to print; None for standard output.

  Raises:
    FileNotFoundError: a run has not been evaluated.
    UserError: results are damaged, see `evaluated_run.read_all`; they cannot be
      compared, see `comparison.check`; or `output` has another ending.
  """
  if isinstance(runs, (str, os.PathLike)):
    runs = [runs]
  console = console or rich.console.Console()
  if len(runs) == 1:
    _write_one(evaluated_run.read(runs[0]), output, console)
    return
  found = evaluated_run.read_all(runs)
  report, tests = comparison_report.report(found)
  shown = comparison_table.tables(found, tests, console.width)
  lines = comparison_table.notes(found, tests)
  folder, stem, suffix = _target(output, epath.Path(), '_comparison')
  page = _write_files(report, folder, stem, suffix)
  for one in shown:
    console.print()
    console.print(one)
  console.print()
  for line in lines:
    console.print(rich.text.Text(line))
  _say_where(console, page, stem)


def _write_one(run, output, console) -> None:
  report = sections.report(run)
  shown, lines = table(run.results, console.width), notes(run.results)
  folder, stem, suffix = _target(output, run.path.parent, run.suffix)
  page = _write_files(report, folder, stem, suffix, run if run.of_t5x else None)
  console.print()
  console.print(shown)
  console.print()
  for line in lines:
    console.print(rich.text.Text(line))
  console.print(rich.text.Text(
      f'step {run.results["step"]}, {evaluated_run.splits(run.results)} split'
  ))
  _say_where(console, page, stem, run.path)


def _say_where(console, page, stem, numbers=None) -> None:
  """Prints the paths of the files, each in one line, so it can be copied."""
  lines = [f'report:  {page}', f'         {stem}.md and plots beside it']
  if numbers is not None:
    lines.insert(0, f'numbers: {numbers}')
  for line in lines:
    console.print(rich.text.Text(terminal.visible(line)), soft_wrap=True)


def _target(output, folder, suffix) -> tuple[epath.Path, str, str]:
  """Where the files go.

  Args:
    output: see `write`.
    folder: the folder, if `output` is None.
    suffix: of the names of files, unless `output` names the page.

  Returns:
    The folder, the name of the page without its ending, and the suffix of the
    plots' names.

  Raises:
    UserError: `output` has another ending.
  """
  stem = f'report{suffix}'
  if output is None:
    return folder, stem, suffix
  output = files.any_path(output)
  if output.suffix in _PAGES:
    folder, stem = output.parent, output.stem
  elif output.suffix[1:].isalpha() and not output.is_dir():
    raise errors.UserError(
        f'--output {output}: give a folder, or a file ending in'
        f' {" or ".join(_PAGES)}'
    )
  else:
    folder = output
  suffix = stem.removeprefix('report')
  if suffix and not suffix.startswith('_'):
    suffix = f'_{stem}'
  return folder, stem, suffix


def _alone(
    folder: epath.Path, stem: str
) -> contextlib.AbstractContextManager[None]:
  """Keeps other reports away from the same files; a bucket has no locks."""
  if files.is_remote(folder):
    return contextlib.nullcontext()
  return locks.held(
      pathlib.Path(folder, f'.{stem}.lock'), str(folder / f'{stem}.html'),
      'give another --output',
  )


def _write_files(report, folder, stem, suffix, of_t5x=None) -> epath.Path:
  """Writes the page, Markdown and its plots; returns the path of the page.

  Everything is made before anything is written.

  Args:
    report: the report.
    folder: where to write; it is made if need be.
    stem: the name of the page without its ending.
    suffix: of the plots' names.
    of_t5x: a run of T5X, whose results are written, too; else None.
  """
  contents: dict[epath.Path, str | bytes] = {}
  if of_t5x is not None:
    contents[of_t5x.path] = json.dumps(of_t5x.results, indent=2) + '\n'
  for plot in report.plots:
    if plot.file:
      drawn = io.BytesIO()
      plot.draw().savefig(drawn)
      name = markdown.file_name(plot, suffix)
      contents[folder / name] = drawn.getvalue()
  contents[folder / f'{stem}.md'] = markdown.render(report, suffix)
  page = folder / f'{stem}.html'
  contents[page] = html.render(report)
  folder.mkdir(parents=True, exist_ok=True)
  with _alone(folder, stem):
    for path, content in contents.items():
      files.write(path, content)
  return page


def table(results: Mapping[str, Any], width: int = 80) -> rich.table.Table:
  """A table with a row for each task, for a terminal of `width` columns."""
  shown = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  header, rows = tables.brief(results)
  folder = terminal.common_folder([name for name, *_ in rows])
  room = max(width - _NUMBERS, _LEAST_NAME)
  header[0] += f'\n{terminal.folded(folder, room)}' if folder else ''
  for i, name in enumerate(header):
    shown.add_column(
        name, justify='left' if i == 0 else 'right', no_wrap=True,
        overflow='fold',
    )
  for name, *cells in rows:
    shown.add_row(
        rich.text.Text(
            terminal.folded(name.removeprefix(folder), room)
        ), *map(rich.text.Text, cells)
    )
  return shown


def notes(results: Mapping[str, Any]) -> list[str]:
  """The lines below the table: the average, and the missing tasks."""
  lines = []
  if results.get('groups'):
    average = results['groups'][-1]
    lines.append(
        f'{average["name"]}: accuracy {parts.number(average["accuracy"])},'
        f' macro-F1 {parts.number(average["macro_f1"])}'
        f' ({tables.coverage(average)})'
    )
  for name, why in evaluated_run.missing(results).items():
    reason = f': {why}' if why else ''
    lines.append(f'not evaluated: {name}{reason}')
  return lines
