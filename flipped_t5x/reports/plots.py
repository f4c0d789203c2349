"""The plots of reports, small enough for the screen of a phone.

Figures have the colours of light pages, which `html.py` replaces.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from flipped_t5x import colours
from flipped_t5x import terminal
from flipped_t5x.prompts import formats
import matplotlib
from matplotlib import figure
from matplotlib import lines as lines_lib
from matplotlib import text as text_lib
from matplotlib import ticker
import numpy as np

_INK, _FAINT, _LINE = (
    colours.COLOURS[name][0] for name in ('ink', 'faint', 'line')
)
_RUNS = colours.APART
_MARKERS = 'oDs^vPX*'
_BASELINES = {'random': ':', 'majority': (0, (4, 2))}  # Styles of lines.
_LONGEST = 58  # Characters that fit into a line.
_WIDTH = 4.5  # Inches; 432 pixels in the page.
_STYLE = {
    'axes.edgecolor': _FAINT,
    'axes.labelcolor': _INK,
    'axes.labelsize': 8.5,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'font.size': 8.5,
    'grid.color': _LINE,
    'grid.linewidth': 0.7,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'text.color': _INK,
    'xtick.color': _FAINT,
    'xtick.labelcolor': _INK,
    'xtick.labelsize': 8,
    'ytick.color': _FAINT,
    'ytick.labelcolor': _INK,
    'ytick.labelsize': 8,
}


def _figure(width: float, height: float):
  """A figure and its axes."""
  drawn = figure.Figure(
      figsize=(width, height), dpi=200, layout='constrained'
  )
  return drawn, drawn.add_subplot()


def _finish(drawn: figure.Figure) -> figure.Figure:
  for text in drawn.findobj(text_lib.Text):
    text.set_parse_math(False)  # A name may have dollar signs.
  return drawn


def accuracy(runs: Mapping[str, Mapping[str, Any]]) -> figure.Figure:
  """Accuracy by task: each template, the mean, its interval, and baselines.

  Args:
    runs: name -> results.
  """
  names = list(dict.fromkeys(n for r in runs.values() for n in r['tasks']))
  rows = {
      name: [_accuracies(r['tasks'].get(name)) for r in runs.values()]
      for name in names
  }
  first = {
      name: next(r['tasks'][name] for r in runs.values() if name in r['tasks'])
      for name in names
  }
  baselines = {
      name: {
          'random': first[name]['random_accuracy'],
          'majority': first[name]['majority_accuracy'],
      }
      for name in names
  }
  return _strips(list(runs), rows, baselines, 'accuracy', 'template')


def _accuracies(task) -> tuple[Mapping[str, float], list[float]] | None:
  if task is None:
    return None
  return task['accuracy'], [t['accuracy'] for t in task['templates'].values()]


def label_words(
    runs: Sequence[str],
    tasks: Mapping[str, Sequence[tuple[str, Mapping[str, float]] | None]],
    baselines: Mapping[str, Mapping[str, float]],
    metric: str,
) -> figure.Figure:
  """The score of each set of label words, by task.

  Args:
    runs: the names of the runs.
    tasks: task -> for each run what `tables.label_words` gives.
    baselines: task -> name -> score.
    metric: what the scores are.
  """
  rows = {}
  for name, found in tasks.items():
    rows[name] = []
    for one in found:
      if one is None:
        rows[name].append(None)
        continue
      own, scores = one
      others = [v for words, v in scores.items() if words != own]
      rows[name].append(({'mean': scores[own]}, others))
  return _strips(
      runs, rows, baselines, metric, 'set of other words', "the task's own",
      boxes=True,
  )


def _strips(
    runs, rows, baselines, xlabel, dots, marked='mean over templates',
    boxes=False,
) -> figure.Figure:
  """Draws a row of dots for each run below the name of each task.

  Args:
    runs: the names of the runs.
    rows: task -> for each run None, or the marked value (`mean`, and perhaps
      `low` and `high`) and the values of the dots.
    baselines: task -> name -> value.
    xlabel: the label of the axis.
    dots: what a dot is, for the legend.
    marked: what the marked value is, for the legend.
    boxes: whether to draw the quartiles of the dots.
  """
  step = 0.55 if len(runs) == 1 else 0.42
  height = sum(0.75 + step * len(strips) for strips in rows.values())
  legend = _legend_rows(runs)
  with matplotlib.rc_context(_STYLE):
    drawn, axes = _figure(_WIDTH, 0.55 + 0.17 * legend + 0.36 * height)
    y, low = 0.0, 0.0
    folder = terminal.common_folder(list(rows))
    for name, strips in rows.items():
      # A long name must not make the axes narrower.
      axes.text(0, y, _short(name.removeprefix(folder)), weight='bold',
                va='center', fontsize=8, in_layout=False,
                transform=axes.get_yaxis_transform())
      top = y + 0.36
      for number, found in enumerate(strips):
        y += step
        if found is None:
          axes.text(0, y, 'not evaluated', color=_FAINT, va='center',
                    fontsize=7.5, transform=axes.get_yaxis_transform())
          continue
        low = min(low, *found[1])
        _strip(axes, y, number, *found, boxes)
      for baseline, value in baselines[name].items():
        axes.plot([value] * 2, [top, y + 0.24], color=_INK, linewidth=1.2,
                  linestyle=_BASELINES[baseline], zorder=1)
      y += 0.75
    axes.set(xlim=(low, 1), ylim=(y - 0.35, -0.45), xlabel=xlabel)
    axes.yaxis.set_visible(False)
    axes.spines['left'].set_visible(False)
    axes.grid(axis='x')
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(ticker.MultipleLocator(0.2))
    _legend(drawn, runs, baselines, dots, marked)
  return _finish(drawn)


def _short(name: str) -> str:
  """The name, without its middle if it has over `_LONGEST` characters."""
  half = _LONGEST // 2
  return name if len(name) <= _LONGEST else f'{name[:half]}…{name[1 - half:]}'


def _strip(axes, y, number, marked, values, boxes) -> None:
  colour = _RUNS[number % len(_RUNS)]
  if boxes and len(values) > 1:
    axes.boxplot(
        [values], positions=[y], orientation='horizontal', widths=0.34,
        showfliers=False, manage_ticks=False, zorder=2,
        **{f'{part}props': {'color': colour, 'linewidth': 0.9}
           for part in ('box', 'whisker', 'cap', 'median')},
    )
  if marked.get('low') is not None:
    axes.plot([marked['low'], marked['high']], [y, y], color=colour,
              linewidth=2.4, solid_capstyle='butt', zorder=3)
  axes.plot(values, [y] * len(values), '.', color=colour, alpha=0.45,
            markersize=6, markeredgewidth=0, zorder=4)
  axes.plot([marked['mean']], [y], _MARKERS[number % len(_MARKERS)],
            color=colour, markersize=5.5, markeredgecolor=colour, zorder=5)


def _legend_rows(runs) -> int:
  return 2 + (math.ceil(len(runs) / 2) if len(runs) > 1 else 0)


def _legend(drawn, runs, baselines, dots, marked) -> None:
  colour = _RUNS[0] if len(runs) == 1 else _FAINT
  handles = [
      _line(marker=_MARKERS[0], color=colour, linestyle='none', markersize=5.5,
            label=marked),
      _line(marker='.', color=colour, linestyle='none', alpha=0.45,
            markersize=6, markeredgewidth=0, label=dots),
  ]
  handles += [
      _line(color=_INK, linestyle=style, linewidth=1.2, label=name)
      for name, style in _BASELINES.items()
      if any(name in values for values in baselines.values())
  ]
  if len(runs) > 1:
    if len(handles) % 2:
      handles.append(_line(linestyle='none', label=' '))
    handles += [
        _line(marker=_MARKERS[i % len(_MARKERS)], linestyle='none',
              color=_RUNS[i % len(_RUNS)], markersize=5.5, label=name)
        for i, name in enumerate(runs)
    ]
    # Legends are filled column by column, but read row by row.
    handles = handles[::2] + handles[1::2]
  drawn.legend(
      handles=handles, loc='outside upper left', ncols=2, columnspacing=1.2,
      handletextpad=0.5, borderaxespad=0.1, labelspacing=0.3,
  )


def _line(**style):
  return lines_lib.Line2D([], [], **style)


def losses(log: Sequence[Mapping[str, float]]) -> figure.Figure:
  """The losses L_LM and L_UL by step."""
  series = {
      'likelihood': 'L_LM, right label', 'unlikelihood': 'L_UL, wrong label'
  }
  return _lines(log, series, 'nats per token', yscale='log')


def probabilities(
    log: Sequence[Mapping[str, float]], form: str
) -> figure.Figure:
  """The mean probability of the target's tokens by step, right and wrong.

  Args:
    log: the lines of the training log.
    form: the format, which says what the target is.
  """
  given = (
      '' if form in formats.WRITES_LABEL
      else 'prompt | ' if form == 'channel' else 'instruction | '
  )
  series = {
      f'prob_{side}': f'P({given}{side} label)' for side in ('right', 'wrong')
  }
  return _lines(log, series, 'mean over tokens', ylim=(0, 1))


def _lines(log, series, ylabel, **axis) -> figure.Figure:
  with matplotlib.rc_context(_STYLE):
    drawn, axes = _figure(_WIDTH, 2.7)
    for number, (key, label) in enumerate(series.items()):
      found = [(line['step'], line[key]) for line in log if key in line]
      if found:  # Some runs have no wrong side.
        steps, values = zip(*found, strict=True)
        if axis.get('yscale') == 'log':  # With eps, L_UL may be below 0.
          values = [v if v > 0 else math.nan for v in values]
        axes.plot(steps, values, color=_RUNS[number], label=label,
                  linewidth=1.3)
    axes.set(xlabel='step', ylabel=ylabel, **axis)
    axes.grid()
    axes.set_axisbelow(True)
    if axis.get('yscale') == 'log':
      axes.yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
      axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    drawn.legend(loc='outside upper left', ncols=2, borderaxespad=0.1)
  return _finish(drawn)


def reliability(calibration: Mapping[str, Any]) -> figure.Figure:
  """The accuracy by confidence; on the diagonal they are equal."""
  bins = [b for b in calibration['bins'] if b['count']]
  counts = np.array([b['count'] for b in bins])
  confidence = [b['confidence'] for b in bins]
  right = [b['accuracy'] for b in bins]
  with matplotlib.rc_context(_STYLE):
    drawn, axes = _figure(2.1, 2.1)
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1)
    axes.plot(confidence, right, color=_RUNS[0], linewidth=1.1, alpha=0.6)
    axes.scatter(confidence, right, s=6 + 60 * counts / counts.max(),
                 color=_RUNS[0], linewidths=0, alpha=0.85, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel='confidence', ylabel='right',
             xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.grid()
    axes.set_axisbelow(True)
  return _finish(drawn)
