"""The experiment's report: its tables and files."""

import json

import experiment_runs
from flipped_t5x.experiment import report
from flipped_t5x.experiment import runs as runs_lib
import pytest


def test_no_runs(tmp_path):
  with pytest.raises(FileNotFoundError, match='no run is complete'):
    report.write(tmp_path, runs_lib.METHODS)


def test_files_that_are_written(tmp_path):
  right, wrong = [(1, 0, 0), (0, 1, 1)] * 5, [(0, 1, 0), (1, 0, 1)] * 5
  for method, base, rows in (('flipped', 0.6, right), ('direct', 0.2, wrong)):
    for folder, name in (
        (tmp_path / method / '3', f'results_{method}_experiment_eval.json'),
        (tmp_path / method / '3' / 'steps', '4.json'),
        (tmp_path / 'start', f'results_{method}_experiment_eval.json'),
    ):
      experiment_runs.write(
          folder, name,
          experiment_runs.results(
              experiment_runs.accuracies(base), format=method
          ), rows,
      )
  (tmp_path / 'flipped' / 'notes').mkdir()  # No seed.
  report.write(tmp_path, runs_lib.METHODS)
  summary = json.loads((tmp_path / 'results.json').read_text())
  assert summary['methods']['direct']['runs']['3'][
      'sentiment: new rows'
  ] == pytest.approx(0.3)
  assert {
      (t['method'], t['difference']) for t in summary['tests']
      if 'minus' not in t['column']
  } == {('direct', 1.0)}
  tables = (tmp_path / 'tables.md').read_text()
  assert 'Seeds: FLIPPED 3; DIRECT 3.' in tables
  row = '0.700 | 0.700 | 0.900 | 0.700 | 0.700 | 0.700 |'
  for line in (
      f'| FLIPPED | {row}',
      f'| before training, as FLIPPED | {row}',
      '| majority | 0.600 | 0.600 | 0.600 | 0.600 | 0.600 | 0.600 |',
      '| random | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 |',
      '| sentiment: new words | c/d | 0.900 | 0.500 |',
      f'| FLIPPED | 0 | {row}',
      f'| FLIPPED | 4 | {row}',
      '| sentiment: new words | DIRECT | 0.500 | 0.500 | 0.000 | 0.000 |',
      '| sentiment: new words, minus known | DIRECT | 3 | +0.000 | +0.000 to'
      ' +0.000 | 1 |',
  ):
    assert line in tables.splitlines()
  for name in ('accuracy.png', 'curves.png'):
    png = (tmp_path / name).read_bytes()
    assert png.startswith(b'\x89PNG') and len(png) > 10_000
