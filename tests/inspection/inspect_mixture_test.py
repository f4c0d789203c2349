"""`flipped-t5x inspect`: numbers by hand, in a vocabulary of whole words."""

import collections
import dataclasses
import json
import pathlib
import random
import subprocess
import sys

from flipped_t5x import terminal
from flipped_t5x import vocabulary_files
from flipped_t5x.cli import main
from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.inspection import measurement
from flipped_t5x.inspection import plot
from flipped_t5x.inspection import report
from flipped_t5x.inspection import units
from flipped_t5x.prompts import examples
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import numpy as np
import pytest
import rich.console
from sentencepiece import sentencepiece_model_pb2

# One token each, wherever they stand; so is a sentinel, and so is EOS.
WORDS = 'input: output: Say and End Is this x y no yes yes! maybe'.split()

# name -> templates: (name, options, jinja left of |||); rows by split.
DATA = {
    'one/words': (
        [('Say', 'no ||| yes yes', 'Say {{text}}')],
        {'train': [{'text': 'x ' * k, 'label': k % 2} for k in range(1, 11)],
         'test': [{'text': 'y ' * k, 'label': 1} for k in range(1, 9)]},
    ),
    'one/odd': (
        [('This', '{{a}} ||| {{b}}', 'Is this {{text}} End'),
         ('Other', '{{a}} ||| {{b}} ||| maybe', 'Say {{text}} and {{a}}')],
        {'train': [
            {'text': 'x y', 'a': 'no', 'b': 'no' if i == 3 else 'yes',
             'label': -1 if i in (0, 7) else i % 2}
            for i in range(10)
        ]},
    ),
    'one/unknown': (
        [('Say', 'zz ||| qq', 'Say {{text}}')],
        {'train': [{'text': 'x', 'label': i % 2} for i in range(4)]},
    ),
}
# What the catalog says; one/odd and one/words have fewer training rows here.
OFFICIAL = {'one/words': 30, 'one/odd': 90, 'one/unknown': 4, 'no/rows': 60}


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
  """Installs the data; the folder holds `words.model` too."""
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path))
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'local')
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(tmp_path / 'own.csv'))
  monkeypatch.delenv('FLIPPED_T5X_VOCABULARY', raising=False)
  lines = ['name,templates,train,test,eval_split,limit']
  for name, (templates, splits) in DATA.items():
    path = tmp_path / f'{name.replace("/", "_")}.yaml'
    path.write_text(yaml_of(name, templates))
    tests = len(splits.get('test', ())) or ''
    lines.append(f'{name},file:{path.name},{OFFICIAL[name]},{tests},test,5')
    for split, rows in splits.items():
      file = tmp_path / 'local' / name / f'{split}.jsonl'
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_text(''.join(json.dumps(r) + '\n' for r in rows))
  lines.append(f'no/rows,file:one_words.yaml,{OFFICIAL["no/rows"]},,test,')
  (tmp_path / 'own.csv').write_text('\n'.join(lines) + '\n')
  write_vocabulary(tmp_path / 'words.model')
  return tmp_path


def yaml_of(name, templates):
  """Promptsource's form; JSON is YAML."""
  entries = ''.join(
      f'  {i}: !Template\n'
      f'    answer_choices: {json.dumps(options)}\n'
      f'    jinja: {json.dumps(jinja + "|||{{answer_choices[label]}}")}\n'
      '    metadata: !TemplateMetadata {metrics: [Accuracy]}\n'
      f'    name: {title}\n'
      for i, (title, options, jinja) in enumerate(templates)
  )
  return f'dataset: {name}\ntemplates:\n{entries}'


def write_vocabulary(path):
  model = sentencepiece_model_pb2.ModelProto()
  kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
  for piece, kind in (
      ('<pad>', kinds.CONTROL), ('</s>', kinds.CONTROL),
      ('<unk>', kinds.UNKNOWN),
  ):
    model.pieces.add(piece=piece, type=kind)
  for word in WORDS:
    model.pieces.add(piece=f'▁{word}', score=-1.0)
  model.trainer_spec.pad_id, model.trainer_spec.eos_id = 0, 1
  model.trainer_spec.unk_id, model.trainer_spec.bos_id = 2, -1
  path.write_bytes(model.SerializeToString())


def look(data, names, num_examples=0, skip_missing=False, **settings):
  """Inspects datasets in lengths that cut nothing, if they are not given."""
  lengths = {'input_length': 99, 'target_length': 99}
  return inspect_mixture.inspect(
      mixtures.mixture(names),
      inspect_mixture.Settings(data / 'words.model', **lengths | settings),
      num_examples, skip_missing,
  )


def by_name(inspected):
  return {d.name: d for d in inspected.datasets}


def fails(capsys, *argv):
  """Runs a command that must fail by itself; returns its message."""
  assert main.main(['inspect', *map(str, argv)]) == 1
  captured = capsys.readouterr()
  assert not captured.out and captured.err.startswith('flipped-t5x: ')
  return captured.err


@pytest.mark.parametrize('values, expected', (
    (range(1, 11), (5, 9, 10, 10)),
    ((7,), (7, 7, 7, 7)),
    ((3, 1, 2), (2, 3, 3, 3)),
    (range(1, 101), (50, 90, 99, 100)),
    (range(1, 201), (100, 180, 198, 200)),
    (range(700, 0, -1), (350, 630, 693, 700)),
    ((5,) * 98 + (9, 11), (5, 5, 9, 11)),
    ((), (None, None, None, None)),
))
def test_percentiles_by_hand(values, expected):
  measured = measurement.Measured()
  measured.lengths['inputs'].extend(values)
  found = measured.percentiles('inputs')
  assert found == dict(zip(('50', '90', '99', 'max'), expected, strict=True))


def test_percentile_is_numpys():
  values = random.Random(0).choices(range(1000), k=457)
  for p in (1, 50, 90, 99, 100):
    expected = np.percentile(values, p, method='inverted_cdf')
    assert measurement.percentile(values, p) == expected


def test_rates_by_hand(data):
  inspected = look(data, 'one/words,one/odd')
  words, odd = inspected.datasets
  assert (words.official, words.rows, words.used) == (30, 10, 10)
  assert (odd.official, odd.rows, odd.used) == (90, 10, 10)
  assert (words.draws.rate, odd.draws.rate) == (30, 90)
  assert (words.draws.share, odd.draws.share) == (0.25, 0.75)
  assert (words.templates, odd.templates) == (1, 2)
  assert (words.uses_per_template, odd.uses_per_template) == (30, 45)
  assert words.origin['source'] == 'local'
  assert inspected.cap == 500_000 and not inspected.evaluation


def test_rates_are_capped(data, monkeypatch):
  monkeypatch.setitem(mixtures._EXPLICIT, 'two', ('one/words', 'one/odd'))
  monkeypatch.setitem(mixtures._CAPS, 'two', 45)
  inspected = look(data, 'flipped_two')
  words, odd = inspected.datasets
  assert (words.draws.rate, odd.draws.rate) == (30, 45)
  assert (words.draws.share, odd.draws.share) == (0.4, 0.6)
  assert (words.uses_per_template, odd.uses_per_template) == (30, 22.5)
  assert inspected.cap == 45


def test_lengths_by_hand(data):
  # input: <extra_id_0> x... output: yes yes EOS: the longer of the two sides.
  inspected = look(data, 'one/words', input_length=13, target_length=9)
  measured = inspected.datasets[0].measured
  assert sorted(measured.lengths['inputs']) == [k + 6 for k in range(1, 11)]
  assert measured.percentiles('inputs') == {
      '50': 11, '90': 15, '99': 16, 'max': 16
  }
  assert measured.lengths['targets'] == [3] * 10  # <extra_id_0> Say EOS
  # 14, 15 and 16 tokens are over 13.
  assert measured.cut_share('inputs') == measured.cut_share() == 0.3
  assert measured.cut_share('targets') == 0
  assert measured.units == 10 and not measured.dropped
  assert measured.options == {2: 10}


@pytest.mark.parametrize('form, inputs, targets', (
    ('direct', lambda k: k + 2, {0: 2, 1: 3}),  # Say x... EOS, label EOS
    ('channel', lambda k: 3, None),  # yes yes EOS, or no EOS: the longer
    ('flipped_plain', lambda k: k + 5, {0: 2, 1: 2}),
))
def test_lengths_of_other_formats(form, inputs, targets, data):
  measured = look(data, 'one/words', format=form).datasets[0].measured
  numbers = range(1, 11)
  assert sorted(measured.lengths['inputs']) == sorted(map(inputs, numbers))
  expected = [targets[k % 2] if targets else k + 2 for k in numbers]
  assert sorted(measured.lengths['targets']) == sorted(expected)


def test_targets_are_cut(data):
  # <extra_id_0> Is this <extra_id_1> End EOS; or <extra_id_0> Say
  # <extra_id_1> and EOS, of which 4 keep all but "and".
  inspected = look(data, 'one/odd', target_length=4)
  measured = inspected.datasets[0].measured
  assert set(measured.lengths['targets']) <= {5, 6}
  assert measured.cut_share('targets') == measured.cut_share() == 1
  assert measured.cut_share('inputs') == 0


def test_lengths_that_leave_nothing(data):
  measured = look(data, 'one/words', target_length=2).datasets[0].measured
  assert measured.dropped == {'target cut to nothing': 10}
  assert measured.dropped_share() == 1
  assert measured.units == 0 and measured.cut_share() is None
  # What the lengths would have to be is there all the same.
  assert measured.percentiles('targets')['max'] == 3


def test_drops_by_hand(data):
  measured = look(data, 'one/odd').datasets[0].measured
  assert measured.dropped == {'no label': 2, 'equal options': 1}
  assert measured.dropped_share() == 0.3
  assert measured.rows == 10 and measured.units == 7
  assert sum(measured.options.values()) == 7
  assert measured.options.keys() <= {2, 3}


def test_options_of_the_same_tokens(data):
  inspected = by_name(look(data, 'one/unknown,one/words'))
  assert inspected['one/unknown'].measured.dropped == {
      examples.SAME_TOKENS: 4
  }
  assert not inspected['one/words'].measured.dropped
  split = look(data, 'one/unknown,one/words', split='train', format='direct')
  assert [d.measured.alike for d in split.datasets] == [4, 0]


def test_evaluation_by_hand(data):
  inspected = look(
      data, 'one/words', split='test', input_length=99, sample=100
  )
  words, = inspected.datasets
  assert inspected.evaluation and words.draws is None
  assert (words.split, words.official, words.rows) == ('test', 8, 8)
  assert words.used == 5  # The catalog's limit.
  assert words.measured.rows == 5 and words.measured.units == 10
  assert words.candidates == 10  # 5 rows, 1 template, 2 options.
  used = [n + 1 for n in catalog.dataset('one/words').sample('test')]
  expected = [k + more for k in used for more in (5, 6)]  # no; yes yes
  assert sorted(words.measured.lengths['inputs']) == sorted(expected)
  summary = words.summary()
  assert 'rate' not in summary and 'share' not in summary
  assert summary['options'] == {'2': 5}


def test_candidates_are_of_all_rows_in_all_templates(data):
  # In one template 7 rows have 2 options, in the other 3: 35 candidates.
  odd, = look(data, 'one/odd', split='train', sample=100).datasets
  number = sum(n * rows for n, rows in odd.measured.options.items())
  assert odd.measured.units == number
  assert odd.candidates == 10 * 2 * number / 10


@pytest.mark.parametrize('form', formats.FORMATS)
@pytest.mark.parametrize('lengths', ((9, 99), (10, 3), (99, 99)))
def test_evaluation_measures_what_the_engine_reads(form, lengths, data):
  name, template = 'one/words', 'Say'
  path = data / 'words.model'
  engine = batches.open_candidates(
      name, path, *lengths, form, split='train'
  ).read(template)
  whole = batches.open_candidates(
      name, path, 999, 999, form, split='train'
  ).read(template)
  measured = look(
      data, name, split='train', format=form, input_length=lengths[0],
      target_length=lengths[1],
  ).datasets[0].measured
  assert measured.units == len(engine.inputs)
  assert measured.cut.total() >= measured.cut[measurement.EITHER]
  drops = collections.Counter(engine.counts)
  assert drops.pop('truncated', 0) == measured.cut[measurement.EITHER]
  assert +drops == measured.dropped
  for side in units.SIDES:
    assert sorted(measured.lengths[side]) == sorted(
        map(len, getattr(whole, side))
    )


@pytest.mark.parametrize(
    'form, unlikelihood', [*((f, False) for f in formats.FORMATS),
                           ('direct', True)]
)
@pytest.mark.parametrize('lengths', ((9, 99), (10, 4), (10, 2), (99, 99)))
def test_training_measures_what_training_draws(
    form, unlikelihood, lengths, data
):
  for name in ('one/words', 'one/odd'):
    dataset = catalog.dataset(name)
    rows, seeds = dataset.open('train'), list(range(40))
    numbers = [s % len(rows) for s in seeds]
    arguments = (
        name, dataset.load_templates(),
        tokenization.load_vocabulary(data / 'words.model'),
        dict(zip(
            ('inputs', 'wrong_inputs', 'targets', 'wrong_targets'),
            (lengths[0], *lengths, lengths[1]), strict=True,
        )), form, collections.Counter(), unlikelihood,
    )
    draw = examples.DrawPair(*arguments)
    pairs = [draw(rows[n], s) for n, s in zip(numbers, seeds, strict=True)]
    measured = measurement.measure(
        units.PairUnits(
            dataclasses.replace(draw, counts=collections.Counter())
        ),
        rows, numbers, seeds, num_examples=99,
    )
    assert measured.units == sum(p is not None for p in pairs)
    assert unlikelihood == any('wrong_targets' in e for e in measured.examples)
    if unlikelihood and lengths == (99, 99):
      assert measured.lengths['targets'] == [
          max(len(p['targets']), len(p['wrong_targets'])) for p in pairs if p
      ]
    drops = collections.Counter(draw.counts)
    assert drops.pop('truncated', 0) == measured.cut[measurement.EITHER]
    assert +drops == measured.dropped
    # Nothing of the sample is lost.
    assert measured.units + measured.dropped.total() == measured.rows == 40


@pytest.mark.parametrize('form', formats.FORMATS)
@pytest.mark.parametrize('split', (None, 'train'))
def test_examples_are_what_the_formats_write(form, split, data):
  inspected = look(data, 'one/words,one/odd', 20, split=split, format=form)
  for d in inspected.datasets:
    dataset = catalog.dataset(d.name)
    rows, templates = dataset.open('train'), dataset.load_templates()
    assert len(d.measured.examples) == len({
        e['row'] for e in d.measured.examples
    }) == d.measured.rows - d.measured.dropped.total()
    for e in d.measured.examples:
      rendered = templates[e['template']].render(json.loads(rows[e['row'] - 1]))
      assert tuple(e['options']) == rendered.options
      assert e['gold'] == rendered.gold
      right, *wrong = (
          formats.get(form)(rendered, o)
          for o in sorted(
              rendered.options, key=lambda o: o != e['options'][e['gold']]
          )
      )
      assert e['inputs'].split() == right.inputs.split()
      assert e['targets'].split() == right.targets.split()
      if form == 'direct':
        assert 'wrong_inputs' not in e
        assert ('wrong_targets' in e) == (split is not None)
      else:
        assert 'wrong_targets' not in e
        assert e['wrong_inputs'].split() in [w.inputs.split() for w in wrong]


def test_examples_show_what_is_left(data):
  inspected = look(data, 'one/words', 10, input_length=8)
  for e in inspected.datasets[0].measured.examples:
    assert e['tokens'] == {'inputs': e['row'] + 6, 'targets': 3}
    assert len(e['inputs'].split()) <= 7  # And EOS.
    assert e['inputs'].split()[-2:] in (['output:', 'no'], ['yes', 'yes'])


def test_seeds(data):
  def summary(names, **settings):
    return look(data, names, 1, sample=3, **settings).summary()['datasets']

  both = summary('one/words,one/odd')
  assert both == summary('one/words,one/odd')
  rows = {
      summary('one/words', seed=s)['one/words']['examples'][0]['row']
      for s in range(10)
  }
  assert len(rows) > 1
  alone = summary('one/odd')['one/odd']
  part = {'share': both['one/odd']['share']}
  assert alone | part == both['one/odd']
  assert both['one/odd']['sampled'] == 3


def test_missing_datasets(data, capsys):
  with pytest.raises(FileNotFoundError) as e:
    look(data, 'one/words,no/rows,imdb')
  assert 'no/rows: no source' in str(e.value)
  assert 'imdb: no source' in str(e.value)
  assert '--skip_missing' in str(e.value)
  with pytest.raises(FileNotFoundError, match='no/rows'):
    look(data, 'no/rows', skip_missing=True)
  inspected = look(data, 'one/words,no/rows', skip_missing=True)
  assert list(inspected.left_out) == ['no/rows']
  # The shares are of the mixture that training would draw from.
  assert inspected.datasets[0].draws.share == pytest.approx(1 / 3)
  left_out = inspected.summary()['left_out']['no/rows']
  assert (left_out['rate'], left_out['share']) == (60, pytest.approx(2 / 3))
  assert 'no source' in left_out['reason']


@pytest.fixture
def inspect(data, capsys):
  """Runs the command; returns standard output and error."""
  def run(*argv):
    model = data / 'words.model'
    argv = ('inspect', *map(str, argv), '--vocabulary', str(model))
    assert main.main(list(argv)) == 0
    return capsys.readouterr()

  return run


def test_json_is_all_that_is_printed(data, inspect):
  printed = inspect(
      'one/words,one/odd', '--json', '--input_length=13', '--sample=8',
      '--seed=3', '--max_field_chars=5',
  ).out
  found = json.loads(printed)
  expected = look(
      data, 'one/words,one/odd', 1, input_length=13, target_length=64,
      sample=8, seed=3, max_field_chars=5,
  ).summary()
  assert found == json.loads(json.dumps(expected))
  assert found['settings'] == {
      'vocabulary': str(data / 'words.model'), 'input_length': 13,
      'target_length': 64, 'format': 'flipped', 'max_field_chars': 5,
      'split': None, 'sample': 8, 'seed': 3,
  }
  words = found['datasets']['one/words']
  assert words['uses_per_template'] == 30 and words['share'] == 0.25
  assert words['inputs']['percentiles'].keys() == {'50', '90', '99', 'max'}
  assert len(words['examples']) == 1


def test_default_lengths(inspect):
  for form, lengths in (('flipped', (384, 64)), ('channel', (64, 384))):
    printed = inspect('one/words', '--format', form, '--json').out
    settings = json.loads(printed)['settings']
    assert (settings['input_length'], settings['target_length']) == lengths


def table(printed, title):
  """Dataset -> cells, of the table below a title."""
  lines = printed.split(f'{title}\n')[1].split('\n\n')[0].splitlines()
  return {line.split()[0]: line.split()[1:] for line in lines}


def test_tables(inspect, monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  printed = inspect(
      'one/words,one/odd,no/rows', '--input_length=13', '--target_length=5',
      '--skip_missing', '--examples=0',
  ).out
  rows = table(printed, '\nRows')
  assert rows['one/words'] == ['30', '10', 'local', '30', '16.67']
  assert rows['one/odd'] == ['90', '10', 'local', '90', '50.00']
  assert rows['no/rows'] == ['none', '60', '33.33']
  assert rows['all'] == ['180', '100.00']
  title = 'Tokens of inputs (cut to 13) and targets (cut to 5)'
  cells = table(printed, title)['one/words']
  assert cells == ['11', '15', '16', '16', '30.0', '3', '3', '3', '3', '0']
  dropped = table(printed, 'Templates, options, dropped rows')
  assert dropped['one/words'] == ['1', '30', '2', '10', '0']
  assert dropped['one/odd'][:2] == ['2', '45']
  assert ' '.join(dropped['one/odd'][-7:]) == '30.0 2 no label, 1 equal options'
  assert 'Left out, no source has it: no/rows.' in printed


def test_tables_of_evaluation(inspect):
  printed = inspect('one/words', '--split=test', '--examples=0').out
  rows = table(printed, '\nRows')
  assert rows['one/words'] == ['test', '8', '8', 'local', '5', '10']
  assert 'one/' not in rows
  assert 'share' not in printed and 'uses' not in printed
  assert 'Candidates are all options' in printed


@pytest.mark.parametrize('columns', (80, 100, 120))
@pytest.mark.parametrize('more', ((), ('--split=train', '--format=direct')))
def test_nothing_is_wider_than_the_terminal(
    columns, more, inspect, monkeypatch
):
  monkeypatch.setenv('COLUMNS', str(columns))
  printed = inspect('one/words,one/odd,one/unknown', *more).out
  assert {'one/', 'words', 'odd'} <= table(printed, '\nRows').keys()
  assert max(map(len, printed.splitlines())) <= columns
  assert 'same tokens' in printed
  assert ('one/unknown, row' in printed) == bool(more)
  beside = 'encoder, right option' in printed and any(
      'right option' in line and 'wrong option' in line
      for line in printed.splitlines()
  )
  assert beside == (columns >= 100 and not more)


def test_text_of_the_data_is_no_markup(inspect, data):
  file = data / 'local' / 'one/words' / 'train.jsonl'
  file.write_text(json.dumps({'text': 'x', 'label': 0}) + '\n')
  path = data / 'one_words.yaml'
  path.write_text(yaml_of(
      'one/words', [('"[red]Say[/] :smile:"', 'no ||| [b]', 'Say {{text}}')]
  ))
  printed = inspect('one/words').out
  assert '[red]Say[/] :smile:' in printed and 'no | [b]' in printed


@pytest.mark.parametrize('name, width, expected', (
    ('imdb', 10, 'imdb'),
    ('bigbench/logical_deduction/five_objects', 20,
     'bigbench/\n logical_deduction/\n five_objects'),
    ('yelp_review_full', 12, 'yelp_review_\n full'),
    ('unbreakablename', 5, 'unbreakablename'),
    ('a/b/c', 9, 'a/b/c'),
))
def test_fold(name, width, expected):
  folded = terminal.folded(name, width)
  assert folded == expected
  assert folded.replace('\n ', '') == name


@pytest.mark.parametrize('names, folder', (
    (('big/a', 'big/b/c'), 'big/'), (('big/a/x', 'big/a/y'), 'big/a/'),
    (('big/a', 'imdb'), ''), (('big/a',), ''), (('imdb', 'imda'), ''), ((), ''),
))
def test_common_folder(names, folder):
  assert terminal.common_folder(names) == folder


def test_plot(data, inspect):
  inspected = look(
      data, 'one/words,one/odd,no/rows', skip_missing=True, input_length=13
  )
  shares, inputs, targets = plot.plot(inspected).axes
  widths = [bar.get_width() for bar in shares.patches]
  assert widths == pytest.approx([100 / 6, 50, 100 / 3])
  labels = [label.get_text() for label in shares.get_yticklabels()]
  assert labels == ['one/words', 'one/odd', 'no/rows']
  for axes, limit in ((inputs, 13), (targets, 99)):
    assert limit in [line.get_xdata()[0] for line in axes.lines]
  texts = [text.get_text() for text in inputs.texts]
  assert texts == ['30.0 % cut', '']
  # No bar holds both lengths that fit and lengths that are cut.
  assert not [
      bar for bar in inputs.patches
      if bar.get_x() < 13.4 and bar.get_x() + bar.get_width() > 13.6
  ]
  path = data / 'plot.png'
  printed = inspect('one/words', '--split=test', '--json', '--plot', path)
  json.loads(printed.out)
  assert 'plot.png written' in printed.err
  assert path.read_bytes().startswith(b'\x89PNG')


def test_plot_when_all_is_dropped(data):
  inspected = look(data, 'one/words', target_length=2)
  _, inputs, _ = plot.plot(inspected).axes
  assert [text.get_text() for text in inputs.texts] == ['none kept']
  console = rich.console.Console(width=80, record=True, file=sys.stderr)
  report.write(inspected, console)
  assert '10 target cut to' in console.export_text()


def test_vocabulary_of_a_run_and_of_the_environment(
    data, monkeypatch, capsys
):
  run = data / 'run'
  run.mkdir()
  (data / 'words.model').rename(run / 'sentencepiece.model')
  argv = ['inspect', 'one/words', '--json']
  assert main.main([*argv, '--vocabulary', str(run)]) == 0
  first = capsys.readouterr().out
  monkeypatch.setenv('FLIPPED_T5X_VOCABULARY', str(run))
  assert main.main(argv) == 0
  assert capsys.readouterr().out == first


def test_vocabulary_is_t5s_own_by_default(data, monkeypatch, capsys):
  monkeypatch.setattr(vocabulary_files, 't5', lambda: data / 'words.model')
  assert main.main(['inspect', 'one/words', '--json']) == 0
  settings = json.loads(capsys.readouterr().out)['settings']
  assert settings['vocabulary'] == str(data / 'words.model')


def test_vocabulary_is_missing(data, capsys):
  for path in (data / 'nowhere.model', data):
    error = fails(capsys, 'one/words', '--vocabulary', path)
    assert str(path) in error and 'no such vocabulary; give a' in error
  path = data / 'own.csv'
  error = fails(capsys, 'one/words', '--vocabulary', path)
  assert 'not a SentencePiece model' in error


@pytest.mark.parametrize('argv, message', (
    (['flipped_trian'], "'flipped_train'"),
    (['one/wrods'], "'one/words'"),
    (['one/odd', '--split=test'], "no split 'test'; it has ['train']"),
    (['bigbench/hindu_knowledge'], 'no training split; --split'),
    (['direct_train', '--format=flipped'], 'not of the format'),
    (['one/words', '--sample=0'], 'sample 0'),
    (['one/words', '--input_length=-1'], 'input_length -1'),
    (['one/words', '--target_length=0'], 'target_length 0'),
    (['one/words,no/rows'], '--skip_missing'),
))
def test_bad_input(argv, message, data, capsys):
  error = fails(capsys, *argv, '--vocabulary', data / 'words.model')
  assert message in error


def test_row_that_does_not_fit_is_named(data, capsys):
  file = data / 'local' / 'one/words' / 'train.jsonl'
  file.write_text('{"text": "x", "label": 0}\n{"text": "x", "label": 7}\n')
  error = fails(capsys, 'one/words', '--vocabulary', data / 'words.model')
  assert 'one/words: train row 2: ' in error and '"Say"' in error


def test_importing_is_light():
  script = (
      'import sys; import flipped_t5x.cli.inspect;'
      'print(sorted({"jax", "tensorflow", "seqio", "grain", "flax"}'
      ' & set(sys.modules)))'
  )
  result = subprocess.run(
      [sys.executable, '-c', script], capture_output=True, text=True,
      check=True, cwd=pathlib.Path(__file__).parent,
  )
  assert result.stdout.strip() == '[]'
