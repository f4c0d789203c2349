"""The experiment's report: its tables and files."""

import json

import experiment_runs
from flipped_t5x.experiment import report
from flipped_t5x.experiment import results as results_lib
from flipped_t5x.experiment import runs as runs_lib
import pytest


def test_tables_by_hand():
  summary = results_lib.summarize(experiment_runs.three_methods())
  summary['tests'] = [{
      'column': 'held-out words', 'method': 'direct', 'seed': 0,
      'difference': 0.2, 'low': 0.05, 'high': 0.35, 'p': 0.01,
      'holm': 0.012,
  }]
  text = report.tables(summary)
  lines = text.splitlines()
  cells = '0.550 ± 0.071 | 0.550 ± 0.071 | 0.550 ± 0.071'
  assert (
      f'| FLIPPED | {cells} | 0.750 ± 0.071 | 0.550 ± 0.071 |' in lines
  )
  assert '| DIRECT | 0.300 | 0.300 | 0.300 | 0.500 | 0.300 |' in lines
  assert '| majority | 0.600 | 0.600 | 0.600 | 0.600 | 0.600 |' in lines
  assert '| random | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 |' in lines
  assert f'| 3 | {cells} | 0.750 ± 0.071 | 0.550 ± 0.071 |' in lines
  assert '| 0 | 0.400 | 0.400 | 0.400 | 0.600 | 0.400 |' in lines
  assert lines.index('| 0 | 0.400 | 0.400 | 0.400 | 0.600 | 0.400 |') < (
      lines.index(f'| 3 | {cells} | 0.750 ± 0.071 | 0.550 ± 0.071 |')
  )
  assert (
      '| held-out words | DIRECT | 0 | +0.200 | +0.050 to +0.350 | 0.012 |'
  ) in lines


def test_no_runs(tmp_path):
  with pytest.raises(FileNotFoundError, match='no run is complete'):
    report.write(tmp_path, tuple(runs_lib.METHODS))


def test_files_that_are_written(tmp_path):
  for method, base in (('flipped', 0.75), ('direct', 0.25)):
    folder = tmp_path / method / '3'
    (folder / 'results').mkdir(parents=True)
    content = experiment_runs.results(experiment_runs.accuracies(base))
    for task, values in content['tasks'].items():
      values['scores'] = {'file': f'results/{task}.parquet'}
      experiment_runs.write_scores(
          folder / 'results' / f'{task}.parquet', right=base > 0.5
      )
    name = f'results_{method}_experiment_all.json'
    (folder / name).write_text(json.dumps(content))
  (tmp_path / 'flipped' / 'notes').mkdir()  # No seed.
  report.write(tmp_path, tuple(runs_lib.METHODS))
  summary = json.loads((tmp_path / 'results.json').read_text())
  assert summary['methods']['direct']['runs']['3']['held-out rows'] == (
      pytest.approx(0.35)
  )
  assert {(t['method'], t['difference']) for t in summary['tests']} == {
      ('direct', 1.0)
  }
  tables = (tmp_path / 'tables.md').read_text()
  assert 'Seeds: FLIPPED 3; DIRECT 3.' in tables
  assert '| FLIPPED | 0.850 | 0.850 | 0.850 | 1.050 | 0.850 |' in tables
  png = (tmp_path / 'accuracy.png').read_bytes()
  assert png.startswith(b'\x89PNG') and len(png) > 10_000
