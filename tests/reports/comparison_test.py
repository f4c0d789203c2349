"""Several runs side by side: what may be compared, and what is significant."""

import json
import math
import re

import evaluated_runs as runs
from flipped_t5x.cli import main
from flipped_t5x.reports import comparison
from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import report
import pytest
import report_page

BASE = {
    'same': runs.task({'A': 30, 'B': 20}),
    'far': runs.task({'A': 40}),
}
OTHER = {
    'same': runs.task({'A': 20, 'B': 30}),
    'far': runs.task({'A': 28}),
}


@pytest.fixture
def two(tmp_path):
  """Results of two runs: `first` and `second`."""
  return [
      runs.write(tmp_path / name, tasks)
      for name, tasks in (('first', BASE), ('second', OTHER))
  ]


def compare(paths, output, width=80):
  """Writes a comparison; returns the page and what was printed."""
  shown = report_page.show(paths, output, width)
  return report_page.read(output / 'report_comparison.html'), shown


def test_side_by_side(two, tmp_path):
  page, shown = compare(two, tmp_path / 'out')
  for path, name in zip(two, ('first', 'second'), strict=True):
    results = json.loads(path.read_text())
    for task, values in results['tasks'].items():
      for metric, title in (('accuracy', 'accuracy'), ('macro_f1', 'macro-F1')):
        row = page.rows(f'{title} by run')[task]
        assert float(row[name].rstrip('▲▼')) == pytest.approx(
            values[metric]['mean'], abs=0.0005
        )
  # 12 of 40 rows are wrong now and none right: 2 of 2 ** 12 sign flips.
  assert page.rows('accuracy by run')['far']['second'] == '0.700▼'
  assert page.rows('accuracy by run')['same']['second'] == '0.625'
  assert re.search(r'far +1.000 +0.700▼', shown)
  assert re.search(r'same +0.625 +0.625 *\n', shown)
  assert '1  first' in shown and '2  second' in shown
  text = (tmp_path / 'out' / 'report_comparison.md').read_text()
  assert '| far | 1.000 | 0.700▼ |' in text
  assert '(accuracy_comparison.png)' in text
  assert (tmp_path / 'out' / 'accuracy_comparison.png').is_file()


def test_p_values_of_known_cases(two, tmp_path):
  found = {t.task: t for t in comparison.tests(evaluated_run.read_all(two))}
  far, same = found['far'], found['same']
  assert far.difference == pytest.approx(-0.3)
  # 10,000 draws of p = 2 / 4,096, of which 5 are expected.
  assert 1 / 10_001 <= far.p < 0.003
  # About 0.3 ± 1.96 * (0.3 * 0.7 / 40) ** 0.5, in steps of 1 / 40.
  assert far.low == pytest.approx(-0.442, abs=0.04)
  assert far.high == pytest.approx(-0.158, abs=0.04)
  # In no row do the templates' means differ.
  assert (same.difference, same.p, same.low, same.high) == (0, 1, 0, 0)
  # Holm: the smaller of two p counts twice.
  assert far.adjusted == pytest.approx(2 * far.p) and same.adjusted == 1
  page, _ = compare(two, tmp_path / 'out')
  row = page.rows('Paired test')['far']
  assert row['difference'] == '−0.300' and row['run'] == 'second'
  assert row['p'] == f'{far.p:.4f}' and row['p (Holm)'] == f'{far.adjusted:.4f}'
  assert row['significant'] == 'yes'
  assert page.rows('Paired test')['same']['significant'] == 'no'


def test_small_p_alone_is_not_significant_among_many(tmp_path):
  # 6 of 40 rows: p = 2 / 64, and four tests.
  tasks = {f't{i}': runs.task({'A': 30}) for i in range(4)}
  less = tasks | {'t0': runs.task({'A': 24})}
  paths = [
      runs.write(tmp_path / 'a', tasks), runs.write(tmp_path / 'b', less)
  ]
  test = comparison.tests(evaluated_run.read_all(paths))[0]
  assert test.p == pytest.approx(2 / 64, abs=0.008)
  assert test.adjusted == pytest.approx(4 * test.p) and not test.significant
  page, _ = compare(paths, tmp_path / 'out')
  assert page.rows('accuracy by run')['t0']['b'] == '0.600'


@pytest.mark.parametrize('keys, value, message', (
    (('suite',), 'nlp', "suite: 'seen' in .*, 'nlp' in .*--suite"),
    (('mixture',), 'flipped_train', "mixture .*'demo' in .*'train' in .*--mix"),
    (('limit',), 10, 'limit: None in .*, 10 in .*--limit'),
    (('settings', 'MAX_FIELD_CHARS'), 2048, 'MAX_FIELD_CHARS: None .* 2048'),
    (('tasks', 'far', 'data', 'split'), 'train',
     "split of far: 'test' .* 'train' .*--split"),
    (('tasks', 'far', 'data', 'sha256'), 'ab12',
     "SHA-256 of the rows of far: .* 'ab12' .*the same source"),
    (('tasks', 'far', 'data'), {'split': 'test', 'source': 'hub'},
     "rows of far: .*'pypi'.*'hub'.*the same source"),
    (('tasks', 'far', 'templates'), {'B': {
        'examples': 40, 'accuracy': 1, 'macro_f1': 1, 'ties': 0, 'counts': None,
    }}, r"templates of far: \['A'\] in .*, \['B'\] in "),
))
def test_results_that_cannot_be_compared(keys, value, message, two, capsys):
  runs.change(two[1], *keys, value=value)
  with pytest.raises(ValueError, match=message) as e:
    report.write(two)
  for path in two:
    assert str(path) in str(e.value)
  assert 'cannot be compared; ' in str(e.value)
  assert main.main(['report', *map(str, two)]) == 1
  assert 'cannot be compared' in capsys.readouterr().err


def test_no_task_in_common(tmp_path):
  paths = [
      runs.write(tmp_path / name, {name: BASE['far']}) for name in ('a', 'b')
  ]
  with pytest.raises(ValueError, match=r"tasks: \['a'\] in .*, \['b'\] in "):
    report.write(paths)


@pytest.mark.parametrize('change, message', (
    ({'first': 1}, r'rows of far "A": .40 rows. in .*, .40 rows. in .*; 2 '
                   'are in only one of them, such as number 0'),
    ({'gold': [1] + [i % 2 for i in range(1, 40)]},
     'gold option of number 0: 0 in .*, 1 in '),
))
def test_other_rows_in_the_files_of_examples(change, message, tmp_path):
  fields = {**BASE['far'].__dict__, **change}
  paths = [
      runs.write(tmp_path / 'a', BASE),
      runs.write(tmp_path / 'b', {**BASE, 'far': runs.Task(**fields)}),
  ]
  with pytest.raises(ValueError, match=message):
    report.write(paths)


def test_examples_of_another_evaluation(two):
  path = two[1].parent / 'results' / 'far.parquet'
  path.write_bytes((two[0].parent / 'results' / 'far.parquet').read_bytes())
  with pytest.raises(ValueError, match=f'{path} is not the file .*SHA-256'):
    report.write(two)


@pytest.mark.parametrize('how', ('old', 'deleted'))
def test_without_examples_there_is_no_test(how, two, tmp_path):
  if how == 'old':
    runs.drop(two[1], 'scores')
  else:
    (two[1].parent / 'results' / 'far.parquet').unlink()
  page, shown = compare(two, tmp_path / 'out')
  assert page.rows('accuracy by run')['far']['second'] == '0.700'
  assert any(t.startswith('These tasks cannot be tested') for t in page.texts)
  reason, = (t for t in page.texts if t.startswith('far: '))
  assert str(two[1] if how == 'old' else two[1].parent / 'results') in reason
  tasks = {t.task for t in comparison.tests(evaluated_run.read_all(two))}
  assert tasks == (set() if how == 'old' else {'same'})
  assert f'{2 if how == "old" else 1} of 2 tasks cannot be tested' in shown


def test_what_differs_is_a_table(two, tmp_path):
  runs.change(two[1], 'settings', 'LAMBDA', value=0.0)
  runs.change(two[1], 'format', value='direct')
  runs.change(two[1], 'mixture', value='direct_demo')
  runs.change(two[1], 'input_length', value=96)
  runs.change(two[1], 'versions', 'jax', value='0.11.0')
  page, shown = compare(two, tmp_path / 'out')
  rows = page.rows('Settings that differ')
  assert {name: (r['first'], r['second']) for name, r in rows.items()} == {
      'format': ('flipped', 'direct'),
      'input_length': ('48', '96'),
      'checkpoint: sha256': ('first', 'second'),
      'LAMBDA': ('3.0', '0.0'),
      'version of jax': ('0.10.2', '0.11.0'),
  }
  for note in (
      'input_length differs: 48 in first, 96 in second.',
      'version of jax differs: 0.10.2 in first, 0.11.0 in second.',
  ):
    assert note in page.texts and note in shown.replace(' \n', ' ')


def test_a_run_that_records_no_settings(two, tmp_path):
  """Such as pretrained weights: their step is not known, either."""
  results = json.loads(two[0].read_text())
  two[0].write_text(json.dumps(
      results | {'settings': {}, 'step': None}
  ))
  page, _ = compare(two, tmp_path / 'out')
  rows = page.rows('Settings that differ')
  assert set(rows) == {'step', 'checkpoint: sha256'}
  assert rows['step']['first'] == 'not recorded'
  assert (
      'Settings of trainings are not compared: first records none.'
  ) in page.texts


def test_same_weights_twice_are_said_to_be_the_same(two, tmp_path):
  runs.change(two[1], 'checkpoint', 'sha256', value='first')
  page, _ = compare(two, tmp_path / 'out')
  assert 'first and second have the same weights.' in page.texts


def test_no_average_over_different_tasks(tmp_path):
  paths = [
      runs.write(tmp_path / 'a', BASE),
      runs.write(tmp_path / 'b', {'same': BASE['same']}, missing={
          'far': 'far: gone'
      }),
  ]
  page, shown = compare(paths, tmp_path / 'out')
  average = page.rows('Groups and averages by run')['average of 2']
  assert (average['a'], average['b']) == ('–', '–')
  assert average['tasks'] == 'differ'
  assert page.rows('accuracy by run')['far']['b'] == '–'
  assert 'far in b: gone' in page.texts
  assert 'not evaluated: far in b: gone' in shown
  assert any(t.startswith('There is no average where') for t in page.texts)


def test_averages_over_the_same_tasks(two, tmp_path):
  page, _ = compare(two, tmp_path / 'out')
  average = page.rows('Groups and averages by run')['average of 2']
  assert average['tasks'] == '2 tasks'
  assert average['first'] == f'{(0.625 + 1) / 2:.3f}'
  assert average['second'] == f'{(0.625 + 0.7) / 2:.3f}'


def test_many_runs_in_a_narrow_terminal(tmp_path):
  paths = [
      runs.write(tmp_path / f'run{i}', {'far': runs.task({'A': 40 - i})})
      for i in range(10)
  ]
  page, shown = compare(paths, tmp_path / 'out')
  assert all(len(line.rstrip()) <= 80 for line in shown.split('report:')[0]
             .splitlines())
  for i in range(10):
    assert f'{(40 - i) / 40:.3f}' in shown and f'{i + 1}  run{i}' in shown
  assert len(page.rows('accuracy by run')['far']) == 13
  # 9 tests, of which each is corrected for all.
  tests = comparison.tests(evaluated_run.read_all(paths))
  assert len(tests) == 9
  assert tests[-1].adjusted == pytest.approx(9 * min(t.p for t in tests), 0.5)
  assert not math.isclose(tests[-1].adjusted, tests[-1].p)


def test_command_writes_into_the_current_folder(
    two, tmp_path, monkeypatch, capsys
):
  here = tmp_path / 'here'
  here.mkdir()
  monkeypatch.chdir(here)
  assert main.main(['report', *(str(p.parent) for p in two)]) == 0
  assert 'report_comparison.html' in capsys.readouterr().out
  assert sorted(p.name for p in here.iterdir()) == [
      'accuracy_comparison.png', 'report_comparison.html',
      'report_comparison.md',
  ]
  for path in two:
    assert {p.name for p in path.parent.iterdir()} == {'results', path.name}


def test_same_runs_same_bytes(two, tmp_path):
  for name in ('one', 'two'):
    compare(two, tmp_path / name)
  for path in (tmp_path / 'one').iterdir():
    assert path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes()
