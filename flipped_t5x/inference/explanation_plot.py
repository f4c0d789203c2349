"""The heat map of an explanation: which tokens tell the options apart."""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

from flipped_t5x import files
from flipped_t5x import terminal
from matplotlib import axes as axes_lib
from matplotlib import figure
import numpy as np

# Two hues that colour-blind people can tell apart; white where options agree.
_COLOURS = 'PuOr'
_MOST_NUMBERS = 240
_OPTION_WIDTH, _TOKEN_WIDTH = 28, 24


def write(
    values: np.ndarray,
    options: Sequence[str],
    tokens: Sequence[str],
    path: str | os.PathLike[str],
) -> figure.Figure:
  """Writes the heat map to a file.

  Args:
    values: float32[options, tokens].
    options: the texts of the options.
    tokens: the texts of the tokens.
    path: the file; its extension selects the format. It is written whole or
      not at all.

  Returns:
    The figure.
  """
  drawn = figure.Figure(
      figsize=(3.2 + 0.46 * len(tokens), 2.1 + 0.36 * len(options)), dpi=150,
      layout='constrained',
  )
  draw(values, options, tokens, drawn.subplots())
  path = pathlib.Path(path)
  with files.replacing(path) as unfinished:
    drawn.savefig(unfinished, format=path.suffix[1:] or None)
  return drawn


def draw(
    values: np.ndarray,
    options: Sequence[str],
    tokens: Sequence[str],
    axes: axes_lib.Axes,
) -> figure.Figure | figure.SubFigure:
  """Draws the heat map, and prints the values in it where they fit.

  Args:
    values: float32[options, tokens].
    options: the texts of the options.
    tokens: the texts of the tokens.
    axes: the axes to draw in.

  Returns:
    The figure that the axes belong to.
  """
  most = max(float(np.abs(values).max()), 1e-6)
  image = axes.imshow(
      values, cmap=_COLOURS, vmin=-most, vmax=most, aspect='auto'
  )
  _ticks(axes.yaxis, [terminal.shortened(o, _OPTION_WIDTH) for o in options])
  _ticks(
      axes.xaxis, [terminal.shortened(t, _TOKEN_WIDTH) for t in tokens],
      rotation=60, ha='right', rotation_mode='anchor',
  )
  axes.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
  axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
  axes.grid(which='minor', color='white', linewidth=1.2)
  axes.tick_params(which='both', length=0)
  axes.spines[:].set_visible(False)
  if values.size <= _MOST_NUMBERS:
    for (row, column), value in np.ndenumerate(values):
      axes.text(
          column, row, f'{value:+.1f}'.replace('-', '−'), ha='center',
          va='center', fontsize=7,
          color='white' if abs(value) > 0.6 * most else '#222222',
      )
  axes.set_title(
      'log P(token | option) minus the mean over the options', fontsize=9,
      loc='left',
  )
  bar = axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05)
  bar.outline.set_visible(False)
  bar.ax.tick_params(labelsize=8, length=0)
  return axes.figure


def _ticks(axis: Any, labels, **style) -> None:
  labels = list(labels)
  axis.set_ticks(range(len(labels)), labels, fontsize=8, **style)
  for label in axis.get_ticklabels():
    label.set_parse_math(False)  # Shows dollar signs as they are.
