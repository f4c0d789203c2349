"""The plots: their colours, and what they draw."""

import json

import evaluated_runs as runs
from flipped_t5x import colours
from flipped_t5x.reports import plots as plots_lib
import numpy as np
import pytest


def luminance(colour):
  """Relative luminance, WCAG 2.2."""
  channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [
      c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
      for c in channels
  ]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize('which, page', ((0, '#ffffff'), (1, '#14171a')))
def test_colours_stand_out_from_the_page(which, page):
  for name, pair in colours.COLOURS.items():
    dark, light = sorted((luminance(pair[which]), luminance(page)))
    contrast = (light + 0.05) / (dark + 0.05)
    least = {'line': 1, 'ink': 7}.get(name, 4.5)
    assert contrast >= least, (name, contrast)


def test_unlikelihood_below_zero_is_not_drawn_on_a_log_scale():
  drawn = plots_lib.losses(runs.LOG)
  likelihood, unlikelihood = drawn.axes[0].lines
  assert likelihood.get_ydata() == pytest.approx([2, 1, 2 / 3])
  assert np.isnan(unlikelihood.get_ydata()).tolist() == [True, False, False]


@pytest.mark.parametrize('form, right', (
    ('flipped_plain', 'P(instruction | right label)'),
    ('direct', 'P(right label)'), ('channel', 'P(prompt | right label)'),
))
def test_probabilities_of_what_the_format_writes(form, right):
  axes, = plots_lib.probabilities(runs.LOG, form).axes
  assert [line.get_label() for line in axes.lines] == [
      right, right.replace('right', 'wrong')
  ]


def test_accuracy_plot(tmp_path):
  path = runs.write(tmp_path / 'x', runs.TASKS)
  drawn = plots_lib.accuracy({'': json.loads(path.read_text())})
  axes, = drawn.axes
  dots = [
      sorted(line.get_xdata()) for line in axes.lines
      if line.get_marker() == '.'
  ]
  assert dots == [[0.5, 0.75], [0.25]]
  means = [
      line.get_xdata()[0] for line in axes.lines if line.get_marker() == 'o'
  ]
  assert means == [0.625, 0.25]
  names = [text.get_text() for text in axes.texts]
  assert names == ['super_glue/rte', 'hellaswag']
