"""The experiment's runs: their settings, and that each is done once."""

import json
import pathlib

from flipped_t5x.experiment import results as results_lib
from flipped_t5x.experiment import runs as runs_lib
from flipped_t5x.tasks import mixtures
import pytest

TINY = {
    'TRAIN_STEPS': 4, 'WARMUP_STEPS': 1, 'BATCH_SIZE': 4, 'VOCAB_SIZE': 160,
    'EMB_DIM': 8, 'NUM_ENCODER_LAYERS': 1, 'HEAD_DIM': 4, 'MLP_DIM': 8,
    'CHECKPOINT_PERIOD': 2, 'LOG_PERIOD': 1, 'INPUT_LENGTH': 80,
    'TARGET_LENGTH': 80,
}


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


@pytest.mark.slow
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


def test_a_run_is_trained_and_then_evaluated(tmp_path, monkeypatch):
  run, = runs_lib.runs(tmp_path, ['channel'], [3], TINY)
  commands, statuses = [], [0, 0]

  def command(arguments):
    commands.append(arguments)
    return statuses.pop(0)

  monkeypatch.setattr(runs_lib.cli, 'main', command)
  assert run.do() == 0
  train, evaluate = commands
  assert train == ['train', *run.arguments]
  assert '--gin_file=experiment/channel.gin' in train
  assert '--gin.SEED=3' in train and '--gin.TRAIN_STEPS=4' in train
  assert evaluate == [
      'eval', '--checkpoint', str(tmp_path / 'channel' / '3'), '--mixture',
      'channel_experiment_all',
  ]
  # After a failed training there is nothing to evaluate.
  statuses[:] = [2, 0]
  assert run.do() == 2 and len(commands) == 3
  # Complete with the same settings, and an error with others.
  settings = run.settings()
  path = run.results(settings)
  path.parent.mkdir(parents=True)
  path.write_text(json.dumps({'settings': settings, 'step': 4}))
  assert run.do() == 0 and len(commands) == 3
  path.write_text(json.dumps({'settings': {**settings, 'SEED': 4}, 'step': 4}))
  with pytest.raises(ValueError, match='SEED was 4, now 3'):
    run.do()
