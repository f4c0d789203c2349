"""A run's results for people: a table, `report.md` and plots."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import os
from typing import Any

from etils import epath
from flipped_t5x import inspection_report
from flipped_t5x import t5x_results
import matplotlib
from matplotlib import figure
import rich.console
import rich.table

matplotlib.use('Agg')

# Columns of the terminal's table beside its names, and the least for those.
_NUMBERS, _LEAST_NAME = 65, 15
_RIGHT, _WRONG, _BASELINE = '#1b6ca8', '#d1495b', '#8a8a8a'


def write(
    run: str | os.PathLike[str], console: rich.console.Console | None = None
):
  """Prints the table, and writes `report.md` and PNG plots.

  What is made of `results_NAME.json` is called `report_NAME.md` and so on.

  Args:
    run: a run's folder with `metrics.jsonl` and `results.json`, or another file
      of results in it; or a folder of T5X, see `t5x_results.py`, where
      `results.json` is written, too.
    console: where to print; standard output if None.

  Raises:
    FileNotFoundError: the run has not been evaluated.
    ValueError: see `t5x_results.read`.
  """
  run = epath.Path(run).expanduser()
  path = run / 'results.json' if run.suffix != '.json' else run
  if t5x_results.found_in(run):
    results, log = t5x_results.read(run), None
    path.write_text(json.dumps(results, indent=2) + '\n')
  else:
    run = path.parent
    if not path.is_file():
      raise FileNotFoundError(
          f'{path}: there is none; evaluate the run first: flipped-t5x eval'
          f' --checkpoint {run}'
      )
    results = json.loads(path.read_text())
    log = [
        json.loads(line)
        for line in (run / 'metrics.jsonl').read_text().splitlines()
    ]
    _save(plot_losses(log), run / 'losses.png')
    _save(plot_probabilities(log), run / 'probabilities.png')
  suffix = path.stem.removeprefix('results')
  _save(plot_accuracy(results), run / f'accuracy{suffix}.png')
  (run / f'report{suffix}.md').write_text(
      markdown(run.name, results, log, f'accuracy{suffix}.png')
  )
  console = console or rich.console.Console()
  console.print()
  console.print(table(results, console.width))
  console.print()
  console.print(
      f'step {results["step"]}, {_splits(results)} split; numbers in {path}'
      f', report and plots beside it.', soft_wrap=True,
  )


def _save(plot: figure.Figure, path: epath.Path) -> None:
  with path.open('wb') as f:  # It may be in a bucket.
    plot.savefig(f)


def table(results: Mapping[str, Any], width: int = 80) -> rich.table.Table:
  """One row a task, for a terminal of `width` columns."""
  shown = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  header, rows = _rows(results)
  for i, name in enumerate(header):
    shown.add_column(
        name, justify='left' if i == 0 else 'right', no_wrap=True,
        overflow='fold',
    )
  room = max(width - _NUMBERS, _LEAST_NAME)
  for name, *cells in rows:
    shown.add_row(inspection_report.fold(name, room), *cells)
  return shown


def _rows(results) -> tuple[list[str], list[list[str]]]:
  header = ['task', 'examples', 'options', 'accuracy', 'macro-F1', 'majority',
            'random']
  rows = []
  for name, task in results['tasks'].items():
    accuracy, f1 = task['accuracy'], task['macro_f1']
    rows.append([
        name, f'{task["examples"]:,}', _options(task['options']),
        f'{accuracy["mean"]:.3f}±{accuracy["std"]:.3f}',
        f'{f1["mean"]:.3f}±{f1["std"]:.3f}',
        f'{task["majority_accuracy"]:.3f}', f'{task["random_accuracy"]:.3f}',
    ])
  return header, rows


def markdown(
    name: str,
    results: Mapping[str, Any],
    log: Sequence[Mapping[str, float]] | None,
    accuracy_plot: str = 'accuracy.png',
) -> str:
  """The report, with the plots beside it; without a log, not of training."""
  parts = [f'# {name}', '']
  parts += _markdown_table(*_rows(results))
  parts += [
      '',
      f'Step {results["step"]}, {_splits(results)} split. Accuracy and macro-F1'
      ' are mean ± standard deviation over templates; majority and random are'
      ' the accuracy of the most frequent label and of a uniform draw.',
      '',
  ]
  if log is not None:
    parts += [
        '![loss terms](losses.png)',
        '',
        '![probability of the instruction](probabilities.png)',
        '',
    ]
  parts += [
      f'![accuracy of each template]({accuracy_plot})',
      '',
      '## Templates',
  ]
  for task_name, task in results['tasks'].items():
    header = ['template', 'examples', 'accuracy', 'macro-F1', 'ties',
              'dropped or truncated']
    rows = [
        [
            template, f'{t["examples"]:,}', f'{t["accuracy"]:.3f}',
            f'{t["macro_f1"]:.3f}', str(t['ties']),
            _dropped(t['counts']),
        ]
        for template, t in task['templates'].items()
    ]
    parts += ['', f'### {task_name}', '', *_markdown_table(header, rows)]
  if log is not None:
    parts += ['', '## Training', '']
  if log:
    shown = {k: f'{v:.4g}' for k, v in log[-1].items()}
    parts += _markdown_table(list(shown), [list(shown.values())])
  parts += ['', '## Settings', '']
  settings = {
      **results['settings'],
      **{f'network: {k}': v for k, v in results['network'].items()},
      **{f'version of {k}': v for k, v in results['versions'].items()},
  }
  parts += _markdown_table(
      ['setting', 'value'], [[k, f'`{v}`'] for k, v in settings.items()]
  )
  return '\n'.join(parts) + '\n'


def _dropped(counts: Mapping[str, int] | None) -> str:
  if counts is None:
    return '-'  # T5X does not say.
  return ', '.join(f'{n} {reason}' for reason, n in counts.items()) or 'none'


def _splits(results) -> str:
  return ' or '.join(
      sorted({t['data']['split'] for t in results['tasks'].values()})
  )


def _markdown_table(header, rows) -> list[str]:
  lines = [header, ['---'] * len(header), *rows]
  return [
      f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |'
      for line in lines
  ]


def plot_losses(log: Sequence[Mapping[str, float]]) -> figure.Figure:
  """L_LM and L_UL over the steps."""
  return _lines(
      log,
      {
          'likelihood': ('$L_{LM}$, right label', _RIGHT),
          'unlikelihood': ('$L_{UL}$, wrong label', _WRONG),
      },
      'Loss terms', 'nats per token', yscale='log',
  )


def plot_probabilities(log: Sequence[Mapping[str, float]]) -> figure.Figure:
  """Mean probability of an instruction token given either label."""
  return _lines(
      log,
      {
          'prob_right': ('P(instruction | right label)', _RIGHT),
          'prob_wrong': ('P(instruction | wrong label)', _WRONG),
      },
      'Probability of the instruction', 'mean over tokens', ylim=(0, 1),
  )


def _lines(log, series, title, ylabel, **axis) -> figure.Figure:
  plot, axes = _figure(title, height=3.6)
  steps = [line['step'] for line in log]
  for key, (label, color) in series.items():
    if key in log[0]:  # DIRECT has no wrong side.
      axes.plot(steps, [line[key] for line in log], color=color, label=label)
  axes.set(xlabel='step', ylabel=ylabel, **axis)
  axes.legend(frameon=False)
  return plot


def plot_accuracy(results: Mapping[str, Any]) -> figure.Figure:
  """Accuracy of each template, with each task's two baselines."""
  number = sum(len(t['templates']) for t in results['tasks'].values())
  rows = number + 1.4 * len(results['tasks'])
  plot, axes = _figure('Accuracy of each template', height=1.2 + 0.26 * rows)
  y, ticks, labels = 0.0, [], []
  for name, task in results['tasks'].items():
    axes.text(0.005, y, name, weight='bold', va='center')
    start = y + 0.5
    for template, values in task['templates'].items():
      y += 1
      axes.barh(y, values['accuracy'], color=_RIGHT, height=0.7)
      axes.text(
          max(values['accuracy'], 0.06) - 0.008, y,
          f'{values["accuracy"]:.2f}', va='center', ha='right', fontsize=8,
          color='white', weight='bold',
      )
      ticks.append(y)
      labels.append(template)
    for key, style in (('random_accuracy', ':'), ('majority_accuracy', '--')):
      axes.plot(
          [task[key]] * 2, [start, y + 0.5], style, color=_BASELINE,
          label=key.split('_')[0] if not ticks[len(task['templates']):] else '',
      )
    y += 1.4
  axes.set_yticks(ticks, labels, fontsize=8)
  axes.set(xlim=(0, 1), ylim=(y - 0.4, -0.8), xlabel='accuracy')
  axes.legend(frameon=False, loc='lower right', bbox_to_anchor=(1, 1), ncols=2)
  return plot


def _figure(title: str, height: float):
  plot = figure.Figure(figsize=(7.5, height), dpi=150, layout='constrained')
  axes = plot.add_subplot()
  axes.set_title(title, loc='left')
  axes.spines[['top', 'right']].set_visible(False)
  return plot, axes


def _options(options: Sequence[int]) -> str:
  if len(options) == 1:
    return str(options[0])
  return f'{min(options)} to {max(options)}'
