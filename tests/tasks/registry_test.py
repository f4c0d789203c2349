"""SeqIO tasks and their preprocessors, on small data."""

import collections
import copy
import itertools
import json
import os
import re
import subprocess
import sys

import demo_data
from flipped_t5x import feature_converters
from flipped_t5x import vocabulary_files
from flipped_t5x.prompts import examples
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import preprocessors
from flipped_t5x.tasks import registry
from flipped_t5x.tasks import row_source
import numpy as np
import pytest
import seqio

LENGTHS = {'inputs': 56, 'wrong_inputs': 56, 'targets': 20}


@pytest.fixture(autouse=True, scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    yield


@pytest.fixture(scope='module')
def vocabulary():
  return tokenization.load_vocabulary(demo_data.vocabulary())


def train_task(name='tiny_mood'):
  return registry.train_task(name, demo_data.vocabulary())


def read(task, seed=0, lengths=LENGTHS, split='train', **kwargs):
  dataset = task.get_dataset(lengths, split, **{'shuffle': False, **kwargs},
                             seed=seed)
  return list(dataset.as_numpy_iterator())


def tokens(pair):
  return tuple(tuple(map(int, pair[k])) for k in LENGTHS)


def row_number(vocabulary, inputs):
  """The number that each text of `demo_data` holds."""
  text = vocabulary.decode(inputs).split('output:')[0]
  return int(re.search(r' of [a-z]+ (\d+) is', text)[1])


# Whichever is imported first. Prints how many were made before and after.
LAZY = """
import sys, time
first, second = sys.argv[1:]
__import__(first)
start = time.perf_counter()
__import__(second)
seconds = time.perf_counter() - start
import seqio
made = lambda r: len(r._REGISTRY.data)
before = made(seqio.TaskRegistry), made(seqio.MixtureRegistry)
mixture = seqio.get_mixture_or_task('flipped_train_4')
print(*before, made(seqio.TaskRegistry), made(seqio.MixtureRegistry), seconds)
"""


@pytest.mark.parametrize('swap', (1, -1))
def test_nothing_is_registered_on_import(swap):
  modules = ['seqio', 'flipped_t5x.tasks'][::swap]
  output = subprocess.run(
      [sys.executable, '-c', LAZY, *modules], capture_output=True, text=True,
      check=True,
  ).stdout
  *made, seconds = output.split()
  assert made == ['0', '0', '4', '1']
  if swap == 1:
    assert float(seconds) < 0.5


def test_registered_on_request():
  mixture = registry.register(demo_data.MIXTURE, demo_data.vocabulary())
  assert seqio.get_mixture_or_task(demo_data.MIXTURE) is mixture
  assert {t.name for t in mixture.tasks} == {
      'flipped_tiny_mood', 'flipped_tiny_kind'
  }
  task = seqio.get_mixture_or_task('flipped_tiny_kind')
  assert task.num_input_examples('train') == 120
  # Once more, with other settings, replaces them.
  again = registry.register(demo_data.MIXTURE, demo_data.vocabulary())
  assert seqio.get_mixture_or_task(demo_data.MIXTURE) is again
  listed = registry.register('tiny_kind,tiny_mood', demo_data.vocabulary())
  assert seqio.get_mixture_or_task('flipped_tiny_kind_tiny_mood') is listed


def test_made_when_looked_up():
  for form in ('flipped', 'flipped_plain', 'direct', 'channel'):
    name = f'{form}_tiny_mixture'
    assert name in seqio.MixtureRegistry.names()
    mixture = seqio.get_mixture_or_task(name)
    assert mixture is seqio.MixtureRegistry.get(name)
    assert {t.name for t in mixture.tasks} == {
        f'{form}_tiny_mood', f'{form}_tiny_kind'
    }
    side = 'wrong_targets' if form == 'direct' else 'wrong_inputs'
    assert set(mixture.output_features) == {'inputs', 'targets', side}
  task = seqio.get_mixture_or_task('direct_tiny_kind_score_Where')
  assert task.splits == ('train', 'validation', 'test', 'eval')
  assert task.num_input_examples('eval') == 12
  names = list(seqio.TaskRegistry.names())
  assert len(names) == len(set(names))
  assert {'channel_tiny_mood_score_Guess', 'flipped_glue_qqp'} <= set(names)
  with pytest.raises(ValueError, match='flipped_tiny_kin\\b'):
    seqio.get_mixture_or_task('flipped_tiny_kin')
  assert 'flipped_tiny_kind_score_Wher' not in seqio.TaskRegistry.names()


def test_default_vocabulary(monkeypatch, tmp_path, tiny_vocabulary_path):
  """T5's, fetched when it is used; else what the environment says."""
  monkeypatch.delenv('FLIPPED_T5X_VOCABULARY', raising=False)
  calls = []
  monkeypatch.setattr(
      vocabulary_files, 't5', lambda: calls.append(1) or tiny_vocabulary_path
  )
  for named in (None, 't5'):
    task = registry.train_task('tiny_kind', named)
    found = task.output_features['inputs'].vocabulary
    assert found == copy.deepcopy(found) == registry.vocabulary()
  assert not calls
  assert os.fspath(found.sentencepiece_model_file) == str(tiny_vocabulary_path)
  assert calls
  bucket = registry.vocabulary('gs://bucket/words.model')
  assert bucket.sentencepiece_model_file == 'gs://bucket/words.model'
  with pytest.raises(FileNotFoundError, match='none.model: no such vocabulary'):
    registry.vocabulary(tmp_path / 'none.model')
  monkeypatch.setenv('FLIPPED_T5X_VOCABULARY', str(demo_data.vocabulary()))
  task = registry.train_task('tiny_kind')
  assert task.output_features['inputs'].vocabulary.vocab_size == (
      demo_data.VOCAB_SIZE
  )


def test_dataset_by_name_with_t5s_vocabulary(monkeypatch):
  """As the documentation shows it, without any setting."""
  monkeypatch.delenv('FLIPPED_T5X_VOCABULARY', raising=False)
  monkeypatch.setattr(vocabulary_files, 't5', demo_data.vocabulary)
  registry.register(demo_data.MIXTURE)
  dataset = seqio.get_dataset(
      demo_data.MIXTURE, LENGTHS, dataset_split='train', shuffle=True, seed=42,
      feature_converter=feature_converters.FlippedFeatureConverter(pack=True),
  )
  row = next(dataset.as_numpy_iterator())
  text = tokenization.load_vocabulary(demo_data.vocabulary()).decode(
      row['encoder_input_tokens']
  )
  assert 'input:' in text and 'output:' in text


def test_names_that_seqio_allows():
  slugs = [registry._slug(name) for name in catalog.catalog()]
  assert len(slugs) == len(set(slugs))
  assert registry._slug('super_glue/wsc.fixed') == 'super_glue_wsc.fixed'
  for name in seqio.TaskRegistry.names():
    assert re.fullmatch(r'[\w.]+', name), name


def test_mixture_shares_and_seeds():
  mixture = registry.register(demo_data.MIXTURE, demo_data.vocabulary())

  def draw(seed, number):
    dataset = mixture.get_dataset(
        LENGTHS, 'train', shuffle=True, seed=seed,
        passthrough_features=['task'],
    )
    return list(dataset.take(number).as_numpy_iterator())

  pairs = draw(1, 2000)
  shares = collections.Counter(p['task'] for p in pairs)
  assert set(shares) == {b'tiny_mood', b'tiny_kind'}
  # 4.5 standard deviations of a share of 1/3.
  assert abs(shares[b'tiny_mood'] / 2000 - 1 / 3) < 4.5 * (2 / 9 / 2000) ** 0.5
  first = [tokens(p) for p in pairs[:100]]
  assert [tokens(p) for p in draw(1, 100)] == first
  assert [tokens(p) for p in draw(2, 100)] != first


def test_epochs_draw_anew(vocabulary):
  pairs = read(train_task('tiny_kind'), num_epochs=2)
  assert len(pairs) == 240
  epochs = [
      {row_number(vocabulary, p['inputs']): tokens(p) for p in half}
      for half in (pairs[:120], pairs[120:])
  ]
  assert epochs[0].keys() == epochs[1].keys() == set(range(120))
  # Template and wrong option are the same in 1 of 6 cases.
  same = sum(epochs[0][i] == epochs[1][i] for i in range(120))
  assert 5 < same < 45


@pytest.mark.parametrize('name', demo_data.ROWS)
def test_pairs_are_those_of_examples(name, vocabulary):
  draw = examples.DrawPair(
      name, catalog.dataset(name).load_templates(), vocabulary, LENGTHS
  )
  rows = demo_data.rows(name)['train']
  possible = [
      {
          tokens(pair)
          for seed in range(70)
          if (pair := draw(json.dumps(row), seed))
      }
      for row in rows
  ]
  pairs = read(train_task(name))
  numbers = [row_number(vocabulary, p['inputs']) for p in pairs]
  assert numbers == [i for i, row in enumerate(rows) if row['label'] >= 0]
  for number, pair in zip(numbers, pairs, strict=True):
    assert tokens(pair) in possible[number]
    right, wrong = (
        vocabulary.decode(pair[k]).split('output:')
        for k in ('inputs', 'wrong_inputs')
    )
    assert right[0] == wrong[0] and right[1] != wrong[1]
    options = [o.decode() for o in pair['options']]
    assert right[1].strip() == options[pair['option_index']]
    assert wrong[1].strip() in options
    assert pair['task'].decode() == name


def test_direct_has_a_wrong_label_where_a_length_asks_for_it(vocabulary):
  task = registry.train_task('tiny_kind', demo_data.vocabulary(), 'direct')
  with_it, without = (
      read(task, seed=4, lengths=registry.feature_lengths(56, 20, weight))
      for weight in (3.0, 0.0)
  )
  assert len(with_it) == len(without) == 120
  for pair, plain in zip(with_it, without, strict=True):
    wrong = vocabulary.decode(pair.pop('wrong_targets'))
    right = vocabulary.decode(pair['targets'])
    options = [o.decode() for o in pair['options']]
    assert right == options[pair['option_index']]
    assert wrong in options and wrong != right
    # All draws but that one are the same.
    assert pair.keys() == plain.keys()
    for name, value in plain.items():
      np.testing.assert_array_equal(pair[name], value)


def test_lengths_and_mixtures_for_training():
  lengths = {'inputs': 9, 'wrong_inputs': 9, 'targets': 5}
  assert registry.feature_lengths(9, 5, 0.0) == lengths
  assert registry.feature_lengths(9, 5, 0.5) == lengths | {'wrong_targets': 5}
  for form in ('flipped', 'direct', 'channel'):
    name = f'{form}_tiny_mixture'
    assert registry.training_mixture(name, 3.0, form) == name
  for own, other in (('direct', 'flipped'), ('flipped_plain', 'flipped')):
    with pytest.raises(
        ValueError, match=f"'{own}'.* is '{other}': take {other}_tiny_mixture,"
    ):
      registry.training_mixture(f'{own}_tiny_mixture', 3.0, other)
  # A task of the user's own, without a wrong side.
  task = registry.train_task('tiny_kind')
  lone = seqio.TaskRegistry.add(
      'lone', task.source,
      output_features={
          k: v for k, v in task.output_features.items() if k != 'wrong_inputs'
      },
  ).name
  assert registry.training_mixture(lone, 0.0, 'flipped') == lone
  with pytest.raises(ValueError, match='lone.* has no .*LAMBDA is 3.0'):
    registry.training_mixture(lone, 3.0, 'flipped')


def test_caches_that_are_missing():
  with pytest.raises(ValueError, match='flipped_tiny_.* has no cache in .*'):
    registry.training_mixture(
        'flipped_tiny_mixture', 3.0, 'flipped', use_cached=True
    )


SCORE = 'direct_tiny_kind_score_Where'


@pytest.mark.parametrize(
    'name', (SCORE, 'direct_demo_eval', 'flipped_demo_eval')
)
@pytest.mark.parametrize('unlikelihood_weight', (0.0, 3.0))
def test_wrong_options_are_no_targets_to_train_on(name, unlikelihood_weight):
  with pytest.raises(ValueError, match=f'{name}.* is for evaluation'):
    registry.training_mixture(name, unlikelihood_weight, name.split('_')[0])


def test_mixtures_for_evaluation():
  assert registry.evaluation_mixture(SCORE, 'direct') == SCORE
  assert registry.evaluation_mixture('direct_demo_eval', 'direct') == (
      'direct_demo_eval'
  )
  with pytest.raises(
      ValueError, match="'flipped_nlp_eval' is of .* take direct_nlp_eval,"
  ):
    registry.evaluation_mixture('flipped_nlp_eval', 'direct')
  with pytest.raises(ValueError, match='flipped_tiny_mixture.* no options'):
    registry.evaluation_mixture('flipped_tiny_mixture', 'flipped')


@pytest.mark.parametrize('form', ('flipped', 'direct'))
def test_names_of_the_catalog(form):
  name = registry.training_mixture('tiny_kind,tiny_mood', 3.0, form)
  mixture = seqio.get_mixture_or_task(name)
  assert {t.name: mixture.get_rate(t) for t in mixture.tasks} == {
      f'{form}_tiny_kind': 120, f'{form}_tiny_mood': 60
  }
  name = registry.evaluation_mixture('tiny_kind', form)
  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  assert {t.name for t in tasks} == {
      f'{form}_tiny_kind_score_Kind', f'{form}_tiny_kind_score_Where'
  }
  with pytest.raises(ValueError, match="'tiny_kid'; nearest: .*'tiny_kind'"):
    registry.evaluation_mixture('tiny_kid', form)
  with pytest.raises(ValueError, match='flipped_train,tiny_kind.* the format'):
    registry.training_mixture('flipped_train,tiny_kind', 3.0, 'channel')


def test_drops_are_counted():
  data = catalog.dataset('tiny_mood')
  step = preprocessors.PairPreprocessor('tiny_mood', data.load_templates)
  task = seqio.Task(
      'counted', row_source.RowSource(data, {'train': 'train'}),
      train_task().output_features, [step],
  )
  pairs = read(task, lengths={**LENGTHS, 'inputs': 14})
  assert len(pairs) == 59
  assert step.counts['no label'] == 1
  assert 0 < step.counts['truncated'] <= 59


def test_shards_are_disjoint_and_complete(vocabulary):
  shards = [
      [
          row_number(vocabulary, p['inputs'])
          for p in read(
              train_task('tiny_kind'), shuffle=True,
              shard_info=seqio.ShardInfo(i, 7),
          )
      ]
      for i in range(7)
  ]
  assert sorted(itertools.chain(*shards)) == list(range(120))
  assert all(len(shard) >= 17 for shard in shards)


@pytest.mark.parametrize('name, number', (('tiny_mood', 2), ('tiny_kind', 4)))
def test_score_tasks(name, number, vocabulary):
  tasks = registry.score_tasks(name, demo_data.vocabulary())
  templates = catalog.dataset(name).load_templates()
  assert tasks.keys() == templates.keys()
  rows = demo_data.rows(name)['test']
  lengths = {k: LENGTHS[k] for k in ('inputs', 'targets')}
  for title, task in tasks.items():
    assert task.name == f'flipped_{name}_score_{title}'
    expand = examples.ExpandOptions(
        name, templates[title], vocabulary, lengths
    )
    expected = [
        c for i, row in enumerate(rows) for c in expand(json.dumps(row), i)
    ]
    candidates = read(task, lengths=lengths, split='test')
    assert len(candidates) == len(expected) == number * len(rows)
    for ours, theirs in zip(candidates, expected, strict=True):
      for key, value in theirs.items():
        value = value.encode() if isinstance(value, str) else value
        assert np.array_equal(ours[key], value), key


def test_rows_come_in_another_order_in_each_epoch(vocabulary):
  # Far less than the 10,000 rows that SeqIO would keep in memory.
  pairs = read(train_task('tiny_kind'), shuffle=True, num_epochs=3)
  numbers = [row_number(vocabulary, p['inputs']) for p in pairs]
  epochs = [numbers[i : i + 120] for i in (0, 120, 240)]
  assert all(sorted(epoch) == list(range(120)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_origins(tmp_path, monkeypatch):
  """The digests are those of the embedded engine, and tell what has changed."""
  demo_data.install(tmp_path, monkeypatch)
  train = batches.TrainBatches(
      demo_data.MIXTURE, demo_data.vocabulary(), 4, 48, 32, seed=0
  )
  assert registry.origins(demo_data.MIXTURE) == train.origins
  assert registry.origins(demo_data.MIXTURE, use_cached=True) == {}
  name = registry.evaluation_mixture('tiny_mood', 'flipped')
  found = registry.origins(name, 'eval')
  assert found.keys() == {'tiny_mood'} and 'rate' not in found['tiny_mood']
  assert found['tiny_mood']['rows'] == 10
  assert registry.origins(name, 'nowhere') == {}
  path = demo_data.local_file(tmp_path, 'tiny_mood', 'test')
  path.write_text(path.read_text().replace('film', 'book'))
  catalog._open.cache_clear()  # As in another process.
  assert registry.origins(name, 'eval') != found


@pytest.mark.parametrize('missing', (['', 1, None, -1], ['', None, -1]))
def test_rows_without_a_label(missing, tmp_path, monkeypatch):
  demo_data.install(tmp_path, monkeypatch)
  path = demo_data.local_file(tmp_path, 'tiny_mood', 'test')
  path.write_text(''.join(
      json.dumps({'text': 'a film', 'label': label}) + '\n'
      for label in missing
  ))
  task = registry.score_tasks('tiny_mood', demo_data.vocabulary())['Mood']
  if 1 not in missing:
    with pytest.raises(catalog.NoLabels, match='tiny_mood: no row of the spli'):
      read(task, split='test')
    return
  candidates = read(task, split='test')
  assert [(c['example_id'], c['is_correct']) for c in candidates] == [
      (1, False), (1, True)
  ]


@pytest.mark.parametrize('sign, accuracy', ((1, 100.0), (-1, 0.0)))
def test_score_tasks_are_judged(sign, accuracy):
  task = registry.score_tasks('tiny_kind', demo_data.vocabulary())['Kind']
  lengths = {k: LENGTHS[k] for k in ('inputs', 'targets')}
  evaluator = seqio.Evaluator(
      task.name, seqio.EncDecFeatureConverter(pack=False), 'test',
      use_cached=False, sequence_length=lengths,
  )
  right = [c['is_correct'] for c in read(task, lengths=lengths, split='test')]

  def score(dataset, unused_lengths=None):
    indices = [int(i) for i, _ in dataset.enumerate().as_numpy_iterator()]
    return [(i, sign * float(right[i])) for i in indices]

  results, _ = evaluator.evaluate(
      compute_metrics=True, score_fn=score
  )
  metrics = results.result()[task.name]
  assert metrics['accuracy'] == metrics['macro_f1'] == accuracy
  assert metrics['examples'] == 12
