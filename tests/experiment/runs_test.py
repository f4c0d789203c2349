"""The experiment's runs: their settings, and that each is done once."""

import json
import pathlib

import experiment_runs
from flipped_t5x.experiment import results as results_lib
from flipped_t5x.experiment import runs as runs_lib
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import pytest

TINY = {
    'TRAIN_STEPS': 4, 'WARMUP_STEPS': 1, 'BATCH_SIZE': 4, 'LOG_PERIOD': 1,
    'CHECKPOINT_PERIOD': 2, 'INPUT_LENGTH': 80, 'TARGET_LENGTH': 80,
}


def results_with(settings):
  found = experiment_runs.results(experiment_runs.accuracies(0.5))
  return found | {'settings': settings}


def test_files_of_the_methods():
  settings = {
      run.method: run.settings()
      for run in runs_lib.runs(pathlib.Path('out'), runs_lib.METHODS, [7])
  }
  assert {m: (s['FORMAT'], s['LAMBDA']) for m, s in settings.items()} == {
      'flipped': ('flipped', 3.0), 'no_unlikelihood': ('flipped', 0.0),
      'direct': ('direct', 0.0), 'channel': ('channel', 0.0),
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
  # Earlier steps are evaluated with the first seed.
  assert [len(r.evaluations(r.settings())) for r in made] == [2, 2, 1, 1]
  with pytest.raises(ValueError, match="unknown method 'flip'; .*flipped"):
    runs_lib.runs(tmp_path, ['flip'], [0])


@pytest.fixture
def commands(monkeypatch):
  """The commands that were run; each writes the file that it is asked for."""
  given = []

  def command(arguments):
    given.append(arguments)
    if '--output' in arguments:
      path = pathlib.Path(arguments[arguments.index('--output') + 1])
      path.write_text(json.dumps(results_with({})))
    return 0

  monkeypatch.setattr(runs_lib.cli, 'main', command)
  return given


def outputs(commands):
  return [c[c.index('--output') + 1] for c in commands if '--output' in c]


def test_a_run_is_trained_and_evaluated_once(tmp_path, commands, capsys):
  run, = runs_lib.runs(tmp_path, ['channel'], [3], TINY)
  folder = tmp_path / 'channel' / '3'
  assert run.do() == 0
  train = commands[0]
  assert train == ['train', *run.arguments]
  assert '--gin_file=experiment/channel.gin' in train
  assert '--gin.SEED=3' in train and '--gin.TRAIN_STEPS=4' in train
  asked = ['--mixture', 'channel_experiment_eval', '--limit', '60']
  assert [c[:-2] for c in commands[1:]] == [
      ['eval', str(folder), *asked],
      ['eval', str(folder / 'checkpoints' / '2'), *asked],
  ]
  settings = run.settings()
  assert outputs(commands)[0] == str(run.results(settings))
  # What is missing is done again; here, the evaluation of an earlier step.
  run.results(settings).write_text(json.dumps(results_with(settings)))
  (folder / 'steps' / '2.json').unlink()
  del commands[:]
  assert run.do() == 0
  assert outputs(commands) == [str(folder / 'steps' / '2.json')]
  del commands[:]
  assert run.do() == 0 and not commands
  assert capsys.readouterr().out.endswith(f'{folder}: complete\n')
  # Of other settings.
  run.results(settings).write_text(
      json.dumps(results_with({**settings, 'SEED': 4}))
  )
  with pytest.raises(
      ValueError, match=f'SEED was 4, now 3\\): remove {folder}, or'
  ):
    run.do()


def test_after_a_failure_nothing_more_is_done(tmp_path, commands, monkeypatch):
  monkeypatch.setattr(
      runs_lib.cli, 'main', lambda c: commands.append(c) or 2
  )
  run, = runs_lib.runs(tmp_path, ['direct'], [0], TINY)
  assert run.do() == 2 and len(commands) == 1


def test_the_starting_point_is_asked_in_each_format(tmp_path, commands):
  made = runs_lib.runs(
      tmp_path, ['flipped', 'no_unlikelihood', 'direct'], [0, 1]
  )
  (tmp_path / 'start').mkdir()
  start = made[0].settings()['INITIAL_CHECKPOINT_PATH']
  assert runs_lib.evaluate_start(tmp_path, made) == 0
  assert [
      (c[1], c[c.index('--method') + 1], c[3]) for c in commands
  ] == [
      (start, form, f'{form}_experiment_eval')
      for form in ('flipped', 'direct')
  ]
  del commands[:]
  assert runs_lib.evaluate_start(tmp_path, made) == 0 and not commands


@pytest.mark.slow
def test_a_run_from_random_weights_is_evaluated(data, tmp_path, monkeypatch):
  monkeypatch.setitem(  # All of them would be a minute.
      mixtures._EXPLICIT, 'experiment_eval', ('vader_sentiment_reworded',)
  )
  vocabulary = data / 'tiny.model'
  texts = [
      template.jinja
      for name in mixtures.mixture('flipped_demo').datasets
      for template in catalog.dataset(name).load_templates().values()
  ]
  tokenization.train_vocabulary(texts, 180, vocabulary)
  run, = runs_lib.runs(tmp_path, ['direct'], [0], TINY | {
      'INITIAL_CHECKPOINT_PATH': None, 'VOCABULARY': str(vocabulary),
      'VOCAB_SIZE': 180, 'EMB_DIM': 8, 'NUM_ENCODER_LAYERS': 1, 'MLP_DIM': 8,
      'NUM_DECODER_LAYERS': 1, 'NUM_HEADS': 2, 'HEAD_DIM': 4,
  })
  assert run.do() == 0
  path = run.results(run.settings())
  first = path.read_bytes()
  curve = results_lib.curves
  monkeypatch.setattr(results_lib, 'COLUMNS', {
      'sentiment: new wordings': 'vader_sentiment_reworded'
  })
  found = results_lib.find(tmp_path, runs_lib.METHODS)
  assert found == {'direct': {0: path}}
  assert list(curve(found)['direct']) == ['2', '4']
  examples = results_lib.read_examples(path, json.loads(first))
  assert {
      len(e.scores) for e in examples['sentiment: new wordings'].values()
  } == {8}  # Rows.
  path.unlink()
  assert run.do() == 0  # Resumes; nothing is trained again.
  assert path.read_bytes() == first
