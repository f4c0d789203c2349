"""Sections of a report: training, calibration and baselines."""

import json

import evaluated_runs as runs
from flipped_t5x.reports import plots as plots_lib
from flipped_t5x.reports import sections
import numpy as np
import pytest
import report_page


def test_calibration(shown):
  folder, _ = shown
  results = json.loads((folder / 'results_nlp.json').read_text())
  page = report_page.read(folder / 'report_nlp.html')
  row = page.rows('Calibration by task')['hellaswag']
  # One option scores 0, three -1: 1 / (1 + 3 / e) in each of 40 rankings.
  confidence = 1 / (1 + 3 / np.e)
  assert float(row['mean confidence']) == pytest.approx(confidence, abs=0.0005)
  assert row['share right'] == '0.250' and row['rankings'] == '40'
  assert float(row['ECE']) == pytest.approx(confidence - 0.25, abs=0.0005)
  drawn = plots_lib.reliability(
      results['tasks']['hellaswag']['calibration']
  )
  dots, = drawn.axes[0].collections
  assert dots.get_offsets().tolist() == [pytest.approx([confidence, 0.25])]


def test_macro_f1_of_a_uniform_draw():
  # 30 of class 0 and 10 of class 1, half of each predicted as either:
  # 2 * 15 / (30 + 20) and 2 * 5 / (10 + 20).
  assert sections.random_macro_f1([[30, 0], [4, 6]]) == pytest.approx(
      (0.6 + 1 / 3) / 2
  )
  # A class without gold examples is in no mean.
  assert sections.random_macro_f1([[9, 0], [0, 0]]) == pytest.approx(
      2 * 4.5 / (9 + 4.5)
  )


@pytest.mark.parametrize('log, files', (
    ('', set()),
    ('{"step": 1, "loss": 2.0, "likelihood": 2.0}\n', {'losses.png'}),
))
def test_logs_without_a_wrong_side_or_without_lines(log, files, tmp_path):
  path = runs.write(tmp_path / 'x', runs.TASKS)
  (tmp_path / 'x' / 'metrics.jsonl').write_text(log)
  report_page.show(path)
  found = {p.name for p in (tmp_path / 'x').glob('*.png')}
  assert found == {'accuracy.png'} | files
