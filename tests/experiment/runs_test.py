"""The experiment: what is held out, what is equal, its runs and its tables."""

import json
import pathlib
import re

import demo_data
from flipped_t5x import ranking
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.experiment import report
from flipped_t5x.experiment import results as results_lib
from flipped_t5x.experiment import runs as runs_lib
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import numpy as np
import pyarrow as pa
import pytest

TRAINED = 'vader_kind'
NEW = ('vader_kind_new', 'vader_kind_invented')
ROW = {'text': 'Zzz.', 'label': 0}


def words(text):
  return set(re.findall(r"[\w']+", text.lower()))


def drawn(name, number=400):
  """All that the templates of a dataset render around a text."""
  for template in catalog.dataset(name).load_templates().values():
    for seed in range(number):
      yield template.render(ROW, seed)


def sets_of(name):
  return {r.options for r in drawn(name)}


# What is held out.


def test_held_out_words_are_in_nothing_that_is_trained_on():
  trained = set()
  for rendered in drawn(TRAINED):
    trained |= words(rendered.prompt) | words(' '.join(rendered.options))
    for make_text in formats.FORMATS.values():
      for option in rendered.options:
        text = make_text(rendered, option)
        trained |= words(text.inputs) | words(text.targets)
  assert {'film', 'night', 'kind', 'zzz'} <= trained
  for name in NEW:
    held_out = {w for options in sets_of(name) for w in options}
    assert len(held_out) >= 6
    assert not held_out & trained


def test_known_words_are_those_that_are_trained_on():
  assert len(sets_of(TRAINED)) == 16
  assert sets_of('vader_kind_reworded') == sets_of(TRAINED)
  assert sets_of('vader_kind_known') < sets_of(TRAINED)


def test_words_are_drawn_alike_for_all_wordings():
  loaded = catalog.dataset(TRAINED).load_templates().values()
  for seed in range(20):
    assert len({t.render(ROW, seed).options for t in loaded}) == 1


def wordings(name):
  templates = catalog.dataset(name).load_templates().values()
  return {t.jinja for t in templates}


def test_held_out_wordings_are_other_ones():
  trained, held_out = wordings(TRAINED), wordings('vader_kind_reworded')
  assert not trained & held_out and len(held_out) >= 2
  assert len(trained) == len(catalog.dataset(TRAINED).load_templates())
  for name in NEW:  # Nothing but the words is new.
    assert wordings(name) == wordings('vader_kind_known') < trained


def test_templates_of_words_are_called_by_them():
  for column in results_lib.OF_WORDS:
    dataset = catalog.dataset(results_lib.COLUMNS[column])
    for title, template in dataset.load_templates().items():
      rendered = template.render(ROW)
      assert title.removesuffix(' (named)') == '/'.join(rendered.options)
      named = all(o in rendered.prompt for o in rendered.options)
      assert named == title.endswith(' (named)')


# What is equal.


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Small rows in place of the archive's, and a vocabulary for them."""
  folder = tmp_path_factory.mktemp('data')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    patch.setenv('FLIPPED_T5X_DATA', str(folder))
    patch.setenv('FLIPPED_T5X_SOURCES', 'local')
    patch.delenv('FLIPPED_T5X_CATALOG', raising=False)
    for name in (TRAINED, 'vader_source'):
      for split, number in (('train', 60), ('validation', 2), ('test', 8)):
        path = folder / 'local' / name / f'{split}.jsonl'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(
            json.dumps({'text': f'row {i} of {split}', 'label': i % 4})
            + '\n'
            for i in range(number)
        ))
    yield folder


@pytest.fixture(scope='module')
def vocabulary(data):
  """One with each word of the templates."""
  texts = ['input: output: row of train test ' + ' '.join(map(str, range(60)))]
  for rendered in drawn(TRAINED, 60):
    texts += [rendered.prompt, ' '.join(rendered.options)]
  path = data / 'words.model'
  tokenization.train_vocabulary(dict.fromkeys(texts), 240, path)
  return tokenization.load_vocabulary(path)


def decode(vocabulary, batch, name):
  """The texts of the rows of one array of a batch."""
  return [
      vocabulary.decode([int(token) for token in row if token > 1]).strip()
      for row in batch[name]
  ]


def test_all_formats_have_the_same_rows_templates_words_and_order(vocabulary):
  found = {}
  for form, weight in (('flipped', 3.0), ('direct', 3.0), ('channel', 0.0)):
    stream = batches.TrainBatches(
        'flipped_experiment', vocabulary.path, batch_size=128, input_length=96,
        target_length=96, seed=5, pack=False, format=form,
        unlikelihood_weight=weight,
    )
    batch = next(stream)
    found[form] = [
        decode(vocabulary, batch, f'{side}_tokens')
        for side in ('encoder_input', 'decoder_target')
    ]
    if weight:
      side = 'encoder_input' if form == 'flipped' else 'decoder_target'
      found[f'{form} wrong'] = decode(
          vocabulary, batch, f'wrong_{side}_tokens'
      )
    assert not any(any(c.values()) for c in stream.counts.values())
  prompts, labels = found['direct']
  assert found['channel'] == [labels, prompts]
  wrong_labels = found['direct wrong']
  for i, (inputs, instruction) in enumerate(
      zip(*found['flipped'], strict=True)
  ):
    instance, _, label = inputs.partition('output: ')
    assert label == labels[i] != wrong_labels[i]
    assert found['flipped wrong'][i] == f'{instance}output: {wrong_labels[i]}'
    assert re.search(r'row \d+ of train', inputs)[0] in prompts[i]
    chunks = re.split(r'<extra_id_\d+>', instruction)
    assert all(chunk.strip() in prompts[i] for chunk in chunks)
  # Rows, words and wordings are not always the same ones.
  assert len(set(prompts)) > 60 and len(set(labels)) > 20
  # DIRECT without unlikelihood draws the same, too.
  plain = batches.TrainBatches(
      'flipped_experiment', vocabulary.path, batch_size=128, input_length=96,
      target_length=96, seed=5, pack=False, format='direct',
  )
  batch = next(plain)
  assert decode(vocabulary, batch, 'encoder_input_tokens') == prompts
  assert decode(vocabulary, batch, 'decoder_target_tokens') == labels


def test_files_of_the_methods():
  settings = {
      run.method: run.settings()
      for run in runs_lib.runs(
          pathlib.Path('out'), list(runs_lib.METHODS), [7]
      )
  }
  assert {m: (s['FORMAT'], s['LAMBDA']) for m, s in settings.items()} == {
      'flipped': ('flipped', 3.0), 'no_unlikelihood': ('flipped', 0.0),
      'direct': ('direct', 0.0), 'direct_unlikelihood': ('direct', 3.0),
      'channel': ('channel', 0.0), 'flipped_lambda_1': ('flipped', 1.0),
      'flipped_lambda_10': ('flipped', 10.0),
  }
  own = {'FORMAT', 'LAMBDA', 'INPUT_LENGTH', 'TARGET_LENGTH', 'MODEL_DIR'}
  for method, values in settings.items():
    assert values['SEED'] == 7 and values['PACK'] is False
    assert values['MODEL_DIR'] == f'out/{method}/7'
    common = {k: v for k, v in values.items() if k not in own}
    assert common == {
        k: v for k, v in settings['flipped'].items() if k not in own
    }


def test_order_of_runs_and_unknown_methods(tmp_path):
  made = runs_lib.runs(tmp_path, ['direct', 'flipped'], [0, 1])
  assert [str(r.folder.relative_to(tmp_path)) for r in made] == [
      'direct/0', 'flipped/0', 'direct/1', 'flipped/1'
  ]
  with pytest.raises(ValueError, match="unknown method 'flip'; .*flipped"):
    runs_lib.runs(tmp_path, ['flip'], [0])


# Runs.

TINY = {
    'TRAIN_STEPS': 4, 'WARMUP_STEPS': 1, 'BATCH_SIZE': 4, 'VOCAB_SIZE': 160,
    'EMB_DIM': 8, 'NUM_ENCODER_LAYERS': 1, 'HEAD_DIM': 4, 'MLP_DIM': 8,
    'CHECKPOINT_PERIOD': 2, 'LOG_PERIOD': 1, 'INPUT_LENGTH': 80,
    'TARGET_LENGTH': 80,
}


def test_runs_are_done_once_and_resumed(data, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(  # All of them would be a minute.
      mixtures._EXPLICIT, runs_lib.MIXTURE, ('vader_kind_reworded',)
  )
  run, = runs_lib.runs(tmp_path, ['direct'], [0], TINY)
  assert run.do() == 0
  settings = run.settings()
  path = run.results(settings)
  content, changed = path.read_bytes(), path.stat().st_mtime_ns
  assert run.complete(settings)
  assert results_lib.find(tmp_path, ['flipped', 'direct']) == {
      'direct': {0: path}
  }
  # What the tests are made of is there.
  monkeypatch.setattr(results_lib, 'TESTED', ('held-out templates',))
  found = results_lib.predictions(path, json.loads(content))
  assert found.keys() == {'held-out templates'}
  assert {len(r.prediction) for r in found['held-out templates'].values()} == {
      8  # Rows.
  }
  # Complete: nothing is done again.
  capsys.readouterr()
  assert run.do() == 0
  assert capsys.readouterr().out == f'{run.folder}: complete\n'
  assert path.stat().st_mtime_ns == changed
  # Stopped after training: it is evaluated, and the same comes out.
  path.unlink()
  assert not run.complete(settings)
  assert run.do() == 0
  assert f'{run.folder}: resuming from step 4' in capsys.readouterr().out
  assert path.read_bytes() == content
  # Of other settings.
  other, = runs_lib.runs(tmp_path, ['direct'], [0], TINY | {'BATCH_SIZE': 8})
  with pytest.raises(
      ValueError, match=r'BATCH_SIZE was 4, now 8\): remove .*direct/0, or'
  ):
    other.do()
  # A mistake is reported, and ends the run.
  bad, = runs_lib.runs(tmp_path, ['direct'], [1], TINY | {'WARMUP_STEPS': 9})
  assert bad.do() == 1
  assert 'warmup_steps 9' in capsys.readouterr().err


# Tables.


def results(accuracy, **changes):
  """Results of a run: task -> template -> accuracy of 10 examples."""
  return {
      'step': 4, 'network': {'emb_dim': 8}, 'versions': {},
      'checkpoint': {'sha256': 'f00'},
      'settings': {'TRAIN_STEPS': 4, 'BATCH_SIZE': 2, 'SEED': 0},
      'tasks': {
          task: {
              'accuracy': {'mean': float(np.mean(list(templates.values())))},
              'majority_accuracy': 0.6, 'random_accuracy': 0.5,
              'templates': {
                  name: {
                      'accuracy': value, 'examples': 10,
                      'majority_accuracy': 0.6,
                  }
                  for name, value in templates.items()
              },
          }
          for task, templates in accuracy.items()
      },
      **changes,
  }


def accuracies(base):
  """Every task in two templates; words with and without their names."""
  found = {
      task: {'a/b': base, 'a/b (named)': base + 0.2}
      for task in results_lib.COLUMNS.values()
  }
  found['vader_kind_new'] = {'c/d': base + 0.2, 'c/d (named)': base + 0.4}
  return found


def test_tables_by_hand():
  runs = {
      'flipped': {0: results(accuracies(0.4)), 1: results(accuracies(0.5))},
      'direct': {0: results(accuracies(0.2))},
      'no_unlikelihood': {0: results(accuracies(0.3))},
  }
  summary = results_lib.summarize(runs)
  flipped = summary['methods']['flipped']
  # In two templates 0.6 and 0.8 with seed 0, 0.7 and 0.9 with seed 1.
  assert flipped['runs']['0']['held-out words'] == pytest.approx(0.7)
  assert flipped['runs']['1']['held-out words'] == pytest.approx(0.8)
  assert flipped['columns']['held-out words']['mean'] == pytest.approx(0.75)
  # Sample standard deviation of 0.7 and 0.8.
  assert flipped['columns']['held-out words']['std'] == pytest.approx(
      0.1 / 2**0.5
  )
  assert flipped['columns']['held-out rows']['mean'] == pytest.approx(0.55)
  assert flipped['words']['held-out words']['c/d']['mean'] == pytest.approx(
      0.65
  )
  assert flipped['named']['held-out words']['c/d']['mean'] == pytest.approx(
      0.85
  )
  assert summary['settings'] == {
      'TRAIN_STEPS': 4, 'BATCH_SIZE': 2, 'SEED': 0
  }
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


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'step': 3}, 'step is 3 and 4'),
        ({'settings': {'TRAIN_STEPS': 9}}, r'.* is (9|None) and (4|2)'),
        ({'network': {'emb_dim': 9}}, 'network is .*9.* and .*8'),
        (
            {'tasks': results(accuracies(0.2) | {'vader_kind': {'e': 0.1}})[
                'tasks'
            ]},
            r'vader_kind "a/b \(named\)" is None and \(10, 0.6\)',
        ),
    ),
)
def test_runs_that_cannot_be_compared(changes, message):
  runs = {
      'flipped': {0: results(accuracies(0.4))},
      'direct': {2: results(accuracies(0.2), **changes)},
  }
  with pytest.raises(
      ValueError, match=f'^direct/2 and flipped/0 cannot be compared: {message}'
  ):
    results_lib.check_alike(runs)


def test_no_runs(tmp_path):
  with pytest.raises(FileNotFoundError, match='no run is complete'):
    report.write(tmp_path, tuple(runs_lib.METHODS))


def ranked(correct):
  correct = np.array(correct)
  return ranking.Predictions(
      np.arange(len(correct)), (~correct).astype(int),
      np.zeros(len(correct), int), np.full(len(correct), 2), correct & False,
  )


def test_files_that_are_written(tmp_path):
  for method, base in (('flipped', 0.75), ('direct', 0.25)):
    folder = tmp_path / method / '3'
    (folder / 'results').mkdir(parents=True)
    content = results(accuracies(base))
    for task, values in content['tasks'].items():
      values['scores'] = {'file': f'results/{task}.parquet'}
      write_scores(folder / 'results' / f'{task}.parquet', right=base > 0.5)
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


def write_scores(path, right):
  """Ten examples of two options, the first of them right, in one template."""
  scores = [[0.0, -1.0], [-1.0, 0.0]][0 if right else 1]
  scored_examples.write(
      pa.Table.from_pylist([
          {
              'template': 'a/b', 'example_id': i, 'options': ['a', 'b'],
              'scores': scores, 'prediction': int(not right), 'gold': 0,
              'tied': False,
          }
          for i in range(10)
      ], scored_examples.SCHEMA),
      path,
  )


def test_paired_tests():
  columns = results_lib.TESTED

  def run(correct):
    return {column: {'a': ranked(correct)} for column in columns}

  tests = results_lib.paired_tests({
      ('flipped', 0): run([True] * 40),
      ('direct', 0): run([False] * 40),
      ('channel', 0): run([True] * 40),
      ('direct', 1): run([False] * 40),  # Without a FLIPPED of its seed.
  })
  assert len(tests) == 2 * len(columns)
  for test in tests:
    assert test['seed'] == 0
    same = test['method'] == 'channel'
    assert test['difference'] == (0 if same else 1)
    assert test['p'] == 1 if same else test['p'] < 0.001
    assert test['p'] <= test['holm'] <= 1
