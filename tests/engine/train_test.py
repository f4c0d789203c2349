"""Training runs: going on, being stopped, and failing."""

import dataclasses
import json
import re
import signal
import time

import commands
import demo_data
from flipped_t5x import locks
from flipped_t5x.cli import main
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import optimizers
from flipped_t5x.engine import run_log
from flipped_t5x.engine import train
from flipped_t5x.engine import train_step
from flipped_t5x.tasks import batches
import numpy as np
import pytest


@pytest.fixture(scope='module')
def patch():
  with pytest.MonkeyPatch.context() as context:
    yield context


@pytest.fixture(scope='module')
def data(patch, tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  demo_data.cache_compilations(
      tmp_path_factory.getbasetemp() / 'compiled', patch
  )
  demo_data.install(folder, patch)
  return folder


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
  """The folder of a run of 40 steps in one go."""
  folder = tmp_path_factory.mktemp('whole')
  assert main.main(command(folder)) == 0
  return folder


def command(folder, *overrides):
  gin_file = demo_data.write_gin(folder.with_suffix('.gin'), folder)
  return ['train', f'--gin_file={gin_file}', *overrides]


def wait_for(process, happened):
  deadline = time.monotonic() + 90
  while not happened():
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def assert_same_run(folder, whole):
  ours, theirs = commands.state(folder, 40), commands.state(whole, 40)
  assert ours.keys() == theirs.keys()
  assert sum(a.size for a in ours.values()) > 10_000
  for name, values in theirs.items():
    np.testing.assert_array_equal(ours[name], values, name)
  assert commands.log(folder) == commands.log(whole)
  assert [line['step'] for line in commands.log(whole)] == list(range(5, 41, 5))


def test_two_halves_are_the_whole(whole, tmp_path):
  folder = tmp_path / 'run'
  assert main.main(command(folder, '--gin.TRAIN_STEPS=20')) == 0
  before = commands.state(folder, 20)
  assert main.main(command(folder)) == 0
  assert_same_run(folder, whole)
  # 20 more steps have changed every weight.
  for name, values in commands.state(folder, 40).items():
    if 'params' in name:
      assert np.any(values != before[name]), name


@pytest.mark.slow
@pytest.mark.process
def test_killed_run_goes_on(whole, data, tmp_path):
  folder = tmp_path / 'run'
  process = demo_data.start(data, command(folder), 'slow')
  wait_for(process, (folder / 'checkpoints' / '20').exists)
  wait_for(process, lambda: commands.log(folder)[-1]['step'] >= 25)
  process.kill()
  process.communicate()
  assert not (folder / 'checkpoints' / '40').exists()
  process = demo_data.start(data, command(folder))
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 0, output
  assert 'resuming from step 20' in output
  assert_same_run(folder, whole)


@pytest.mark.slow
@pytest.mark.process
def test_interrupted_run_saves_and_goes_on(whole, data, tmp_path, capsys):
  folder = tmp_path / 'run'
  process = demo_data.start(data, command(folder), 'slow')
  wait_for(process, (folder / 'checkpoints' / '20').exists)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 130
  assert 'Traceback' not in output
  message = re.search(
      r'flipped-t5x: stopped at step (\d+) of 40; run the same command again',
      output,
  )
  step = int(message[1])
  assert 20 <= step < 40
  assert (folder / 'checkpoints' / str(step)).exists()
  assert main.main(command(folder)) == 0
  assert f'resuming from step {step}' in capsys.readouterr().out
  # The log's means are over other steps where the run was stopped.
  ours = commands.state(folder, 40)
  for name, values in commands.state(whole, 40).items():
    np.testing.assert_array_equal(ours[name], values, name)


def test_a_signal_while_logging_still_saves(data, tmp_path, patch, capsys):
  """Where the loop spends its time, between two looks for a signal."""
  folder = tmp_path / 'run'
  write, calls = run_log.RunLog.write, []

  def write_and_signal(log, saver):
    write(log, saver)
    calls.append(saver)
    if len(calls) == 1:
      signal.raise_signal(signal.SIGINT)

  with patch.context() as context:
    context.setattr(run_log.RunLog, 'write', write_and_signal)
    assert main.main(command(folder)) == 130
  assert 'stopped at step 6 of 40' in capsys.readouterr().err
  assert (folder / 'checkpoints' / '6').exists()


@pytest.mark.slow
@pytest.mark.process
def test_no_space_keeps_the_last_checkpoint(whole, data, tmp_path):
  folder = tmp_path / 'run'
  process = demo_data.start(data, command(folder), 'full')
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 1, output
  error, = re.findall(r'^flipped-t5x: .*', output, re.MULTILINE)
  assert f'{folder}/checkpoints: step 40 could not be saved' in error
  assert 'File too large' in error
  assert 'the last good checkpoint is step 20. Make room' in error
  assert 'Traceback' not in output and 'ERROR' not in output
  assert main.main(command(folder)) == 0
  assert_same_run(folder, whole)


def test_run_of_other_settings(whole, capsys):
  assert main.main(command(whole, '--gin.LAMBDA=1.0')) == 1
  errors = capsys.readouterr().err
  assert str(whole) in errors
  assert 'LAMBDA: 3.0 there, 1.0 now' in errors
  assert commands.state(whole, 40)


def test_one_training_in_a_folder(data, tmp_path, capsys):
  folder = tmp_path / 'a' / 'run'
  folder.mkdir(parents=True)
  with locks.held(folder / '.lock', str(folder)):
    assert main.main(command(folder)) == 1
  error = capsys.readouterr().err
  assert error.startswith(f'flipped-t5x: {folder} is being written by process')
  assert error.endswith('or choose another MODEL_DIR\n')
  assert list(folder.iterdir()) == []


def test_model_dir_is_on_this_machine(data, tmp_path, monkeypatch, capsys):
  """`~` is the home folder; a bucket is not filled under its name here."""
  here, folder = tmp_path / 'here', tmp_path / 'runs' / 'a'
  here.mkdir()
  folder.mkdir(parents=True)
  monkeypatch.chdir(here)
  monkeypatch.setenv('HOME', str(tmp_path))
  with locks.held(folder / '.lock', 'it'):  # So that it ends at once.
    for path, message in (
        ('~/runs/a', f'{folder} is being written by process'),
        ('gs://bucket/a', 'MODEL_DIR: gs://bucket/a is not on this machine'),
        ('s3://bucket/a', 'MODEL_DIR: s3://bucket/a is not on this machine'),
    ):
      assert main.main(command(
          tmp_path / 'run', f"--gin.MODEL_DIR='{path}'"
      )) == 1
      assert capsys.readouterr().err.startswith(f'flipped-t5x: {message}')
  assert not list(here.iterdir()) and not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.process
def test_two_trainings_in_a_folder(whole, data, tmp_path, capsys):
  folder = tmp_path / 'run'
  process = demo_data.start(data, command(folder), 'slow')
  wait_for(process, (folder / 'checkpoints' / '20').exists)
  assert main.main(command(folder)) == 1
  assert f'{folder} is being written by process {process.pid} on' in (
      capsys.readouterr().err
  )
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 0, output
  assert_same_run(folder, whole)
  assert not (folder / '.lock').exists()


class Repeated:
  """The first batch of the mixture again and again, or what `change` makes."""

  def __init__(self, change=lambda batch, step: batch):
    self._batch = next(batches.TrainBatches(
        demo_data.MIXTURE, demo_data.vocabulary(), 4, 32, 16, seed=0
    ))
    self._change, self._step = change, 0
    self.counts, self.origins, self.batch_size = {}, {}, 4

  def __next__(self):
    self._step += 1
    return self._change(self._batch, self._step)

  def get_state(self):
    return b'%d' % self._step

  def set_state(self, state):
    self._step = int(state)


def run(folder, data_iterator, network=demo_data.NETWORK, **kwargs):
  return train.train(**{
      'model_dir': str(folder), 'network': network, 'batches': data_iterator,
      'optimizer': optimizers.adafactor(1e-2),
      'vocabulary': str(demo_data.vocabulary()), 'steps': 100,
      'unlikelihood_weight': 3.0, 'eps': 0.01, 'seed': 42, 'input_length': 32,
      'target_length': 16, 'checkpoint_period': 20, 'log_period': 10, **kwargs,
  })


def test_nan_names_the_step_and_keeps_the_last_checkpoint(data, tmp_path):
  def poison(batch, step):
    weights = batch['decoder_loss_weights'] * (np.nan if step == 23 else 1)
    return batch | {'decoder_loss_weights': weights}

  with pytest.raises(
      FloatingPointError, match=r'^step 23: .*last good checkpoint is step 20'
  ):
    run(tmp_path, Repeated(poison))
  assert checkpoints.Checkpoints(tmp_path).latest == 20
  for values in commands.state(tmp_path, 20).values():
    assert np.all(np.isfinite(values))
  # What was logged is finite too.
  assert [line['step'] for line in commands.log(tmp_path)] == [10, 20]


def test_gradient_that_is_not_finite_is_not_saved(data, tmp_path):
  def make(*unused_args, **unused_kwargs):
    return lambda state, batch: (
        state, {'loss': np.float32(1), 'gradient_norm': np.float32(np.inf)}
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_step, 'make_train_step', make)
    with pytest.raises(FloatingPointError, match='^step 1: '):
      run(tmp_path, Repeated())
  assert checkpoints.Checkpoints(tmp_path).latest is None


def test_loss_goes_down(data, tmp_path):
  last = run(tmp_path, Repeated(), checkpoint_period=100)
  first = commands.log(tmp_path)[0]
  assert first['loss'] > 3
  assert last['loss'] < first['loss'] / 2
  assert last['likelihood'] < first['likelihood'] / 2
  assert last['prob_right'] > last['prob_wrong'] + 0.05


@pytest.mark.slow
def test_direct_learns_by_likelihood_alone(data, tmp_path):
  direct = ('--gin_file=methods/direct.gin', '--gin.TRAIN_STEPS=5')
  assert main.main(command(tmp_path / 'direct', *direct)) == 0
  line, = commands.log(tmp_path / 'direct')
  assert line['loss'] == line['likelihood'] > 0
  assert not {'unlikelihood', 'prob_wrong'} & line.keys()
  origins = json.loads((tmp_path / 'direct' / 'data.json').read_text())
  assert {n: o['rows'] for n, o in origins.items()} == {
      n: splits['train'] for n, splits in demo_data.ROWS.items()
  }


@pytest.mark.slow
def test_direct_with_unlikelihood(data, tmp_path):
  """From the files that are shipped; it learns what to write, and what not."""
  folder = tmp_path / 'run'
  method = (
      '--gin_file=methods/direct_unlikelihood.gin', '--gin.TARGET_LENGTH=8',
  )
  assert main.main(command(folder, *method)) == 0
  lines = commands.log(folder)
  for line in lines:
    assert line['loss'] == pytest.approx(
        line['likelihood'] + 3 * line['unlikelihood'], rel=1e-4
    )
  assert lines[-1]['likelihood'] < lines[0]['likelihood'] - 0.5
  # Evaluation sees DIRECT, and all settings.
  kept = json.loads((folder / 'config.json').read_text())
  assert kept['format'] == 'direct' and kept['settings']['LAMBDA'] == 3.0


def test_unlikelihood_without_a_wrong_side(data, tmp_path):
  def without_wrong(batch, step):
    return {k: a for k, a in batch.items() if not k.startswith('wrong_')}

  with pytest.raises(ValueError, match='LAMBDA is 3.0, but the batch has no'):
    run(tmp_path, Repeated(without_wrong))


def test_folder_without_room_for_the_vocabulary(data, tmp_path):
  small = dataclasses.replace(demo_data.NETWORK, vocab_size=204)
  with pytest.raises(ValueError, match='205 ids .* vocab_size of 204'):
    run(tmp_path, Repeated(), small)
  assert not (tmp_path / 'config.json').exists()


def test_half_a_line_of_the_log_is_left_out(data, tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2, "lo')
  run_log.RunLog(tmp_path, 5, 10).close()
  assert commands.log(tmp_path) == [{'step': 1}]
