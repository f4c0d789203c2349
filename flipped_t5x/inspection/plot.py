"""Plots what `inspect_mixture.py` found: shares and lengths."""

from collections.abc import Sequence

from flipped_t5x import terminal
from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.inspection import units
import matplotlib
from matplotlib import axes as axes_lib
from matplotlib import figure
from matplotlib import lines
from matplotlib import patches
from matplotlib import ticker
import numpy as np

matplotlib.use('Agg')

_FITS, _CUT, _LINE, _BARS = '#1b6ca8', '#d1495b', '#222222', '#8fb3d1'
_NAME_CHARS = 28
_BINS = 48
_TALLEST = 0.86  # Of the distance between two datasets.


def plot(inspected: inspect_mixture.Inspection) -> figure.Figure:
  """One row a dataset: its share of the draws, input and target lengths.

  Args:
    inspected: what was found. In evaluation the bars are the rows to evaluate.

  Returns:
    The figure; a row's height says how many units have about such a length,
    relative to the row's most frequent one.
  """
  names = [*(d.name for d in inspected.datasets), *inspected.left_out]
  folder = terminal.common_folder(names)
  names = [
      terminal.folded(n.removeprefix(folder), _NAME_CHARS) for n in names
  ]
  # A name in three lines needs the room of three.
  heights = [max(1.0, 0.62 * (1 + n.count('\n'))) for n in names]
  bases = np.cumsum(heights)
  plot_of = figure.Figure(
      figsize=(11, 1.9 + 0.36 * bases[-1]), dpi=150, layout='constrained'
  )
  panels = plot_of.subplots(
      1, 3, sharey=True, width_ratios=(1.1, 1.6, 1.2)
  )
  middles = bases - np.array(heights) / 2
  _bars(panels[0], inspected, middles)
  settings = inspected.settings
  limits = settings.input_length, settings.target_length
  for axes, side, limit in zip(panels[1:], units.SIDES, limits, strict=True):
    _lengths(axes, inspected.datasets, side, limit, bases)
  panels[0].set_yticks(middles, names, fontsize=8, linespacing=1.0)
  panels[0].set_ylim(bases[-1] + 0.15, -0.15)
  for axes in panels:
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=8)
    axes.hlines(
        [0, *bases], 0, 1, transform=axes.get_yaxis_transform(),
        color='#e4e4e4', linewidth=0.6, zorder=0,
    )
  plot_of.suptitle(
      f'{inspected.mixture} ({settings.format})'
      + (f', datasets of {folder}' if folder else ''),
      x=0.01, ha='left', weight='bold', fontsize=11,
  )
  plot_of.legend(
      handles=[
          patches.Patch(color=_FITS, label='fits'),
          patches.Patch(color=_CUT, label='is cut'),
          lines.Line2D([], [], color=_LINE, linestyle='', marker='^',
                       markersize=5, label='median'),
          lines.Line2D([], [], color=_LINE, linestyle='--', linewidth=1,
                       label='the length that is set'),
      ],
      loc='outside lower right', ncols=4, frameon=False, fontsize=8,
  )
  return plot_of


def _bars(
    axes: axes_lib.Axes,
    inspected: inspect_mixture.Inspection,
    middles: np.ndarray,
) -> None:
  left_out = inspected.left_out
  if inspected.evaluation:
    title = 'Rows to evaluate'
    values = [*(d.used for d in inspected.datasets), *[0] * len(left_out)]
    texts = [f'{v:,}' if v else 'no rows' for v in values]
  else:
    title = 'Expected share of the draws'
    shares = [d.draws for d in inspected.datasets]
    shares += [inspected.draws[name] for name in left_out]
    values = [100 * draws.share for draws in shares]
    texts = [f'{v:.1f} %' if v >= 1 else f'{v:.2f} %' for v in values]
    for i in range(len(inspected.datasets), len(values)):
      texts[i] += ' (no rows)'
  axes.barh(middles, values, height=0.62, color=_BARS)
  for y, value, text in zip(middles, values, texts, strict=True):
    axes.annotate(
        text, (value, y), xytext=(3, 0), textcoords='offset points',
        va='center', fontsize=8,
    )
  axes.set_xlim(0, 1.4 * max(values))
  axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
  axes.xaxis.set_major_formatter(
      ticker.StrMethodFormatter('{x:,.0f}') if inspected.evaluation
      else ticker.StrMethodFormatter('{x:g} %')
  )
  axes.set_title(title, loc='left', fontsize=10)


def _lengths(
    axes: axes_lib.Axes,
    datasets: Sequence[inspect_mixture.Inspected],
    side: str,
    limit: int,
    bases: np.ndarray,
) -> None:
  """Histograms over the logarithm of the lengths, one above the other."""
  everything = [n for d in datasets for n in d.measured.lengths[side]] or [1]
  least, most = min(*everything, limit), max(*everything, limit)
  # An edge at the limit: no bar holds both what fits and what is cut.
  ratio = (most + 1) / least
  step = np.log(ratio) / _BINS
  below = int(np.ceil(np.log((limit + 0.5) / least) / step)) + 1
  above = int(np.ceil(np.log((most + 1) / (limit + 0.5)) / step)) + 1
  edges = (limit + 0.5) * np.exp(step * np.arange(-below, above + 1))
  # The bases of the datasets that were left out come last.
  for data, base in zip(datasets, bases[: len(datasets)], strict=True):
    lengths = data.measured.lengths[side]
    if not lengths:
      continue
    counts, _ = np.histogram(lengths, edges)
    bars = _TALLEST * counts / counts.max()
    for part, color in (
        (slice(None, below), _FITS), (slice(below, None), _CUT)
    ):
      axes.bar(
          edges[:-1][part], -bars[part], np.diff(edges)[part], bottom=base,
          align='edge', color=color, linewidth=0,
      )
    axes.plot(
        data.measured.percentiles(side)['50'], base, '^', color=_LINE,
        markersize=4, clip_on=False,
    )
    share = data.measured.cut_share(side)
    text = 'none kept' if share is None else f'{100 * share:.1f} % cut'
    axes.annotate(
        '' if share == 0 else text, (1, base),
        xycoords=axes.get_yaxis_transform(), xytext=(-1, 3),
        textcoords='offset points', ha='left', va='bottom', fontsize=8,
        color=_CUT,
    )
  axes.axvline(limit, color=_LINE, linestyle='--', linewidth=1)
  axes.set_xscale('log')
  axes.set_xlim(edges[0], edges[-1])
  ticks = [2**k for k in range(20) if edges[0] <= 2**k <= edges[-1]]
  kept = [t for t in ticks if not 0.6 < t / limit < 1.7]
  axes.set_xticks([*kept, limit], [*map(str, kept), str(limit)])
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.set_title(f'Tokens of {side}, before cutting', loc='left', fontsize=10)
