"""Folders and checkpoints of T5X's runs, before T5X is asked to use them."""

import json
import shutil
import subprocess
import sys

from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x import t5x_paths
from flipped_t5x.tasks import registry
from flipped_t5x.weights import convert
from flipped_t5x.weights import t5x_checkpoints
import pytest

SETTINGS = {
    'BATCH_SIZE': 5, 'CHECKPOINT_PATH': '/c/checkpoint_30', 'FORMAT': 'flipped',
    'INPUT_LENGTH': 48, 'LAMBDA': 3.0, 'SHARD_ID': 0, 'TRAIN_STEPS': 20,
    'NUM_MICROBATCHES': None,
}


def config(**changes):
  """A `config.gin` with these settings, as gin writes it."""
  lines = [f'{k} = {v!r}' for k, v in (SETTINGS | changes).items()]
  return '# Macros:\n' + '\n'.join(lines) + '\n\n# Parameters for a.b:\n'


@pytest.fixture
def now(monkeypatch):
  """Sets the settings of the run that is starting."""

  def set_settings(**changes):
    found = gin_config.macros_of(config(**changes))
    monkeypatch.setattr(gin_config, 'macros', lambda: found)

  set_settings()
  return set_settings


@pytest.fixture
def vocabulary(tiny_vocabulary_path):
  return registry.vocabulary(tiny_vocabulary_path)


@pytest.fixture
def run(tmp_path, tiny_params):
  """A run of T5X."""
  t5x_checkpoints.write(tiny_params, 30, tmp_path / 'run')
  (tmp_path / 'run/config.gin').write_text(config())
  return tmp_path / 'run'


def test_folders(tmp_path, now):
  folder = str(tmp_path / 'new')
  assert t5x_paths.run_folder(folder) == folder
  assert [p.name for p in (tmp_path / 'new').iterdir()] == ['.lock']
  # Rows, which may have to be fetched, are not asked for before.
  with pytest.raises(errors.UserError, match="'new' is relative"):
    t5x_paths.run_folder('new', origins=lambda: pytest.fail('asked'))
  (tmp_path / 'file').touch()
  with pytest.raises(errors.UserError, match='file/x: cannot be written to'):
    t5x_paths.run_folder(f'{tmp_path}/file/x')


def test_home_folder(run, now, vocabulary, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert t5x_paths.run_folder('~/new') == f'{tmp_path}/new'
  assert t5x_paths.model_dir('~/trained', vocabulary) == f'{tmp_path}/trained'
  assert t5x_paths.checkpoint('~/run/checkpoint_30') == (
      f'{tmp_path}/run/checkpoint_30'
  )


# argv: the folder. `run_folder` is called twice, as T5X does.
_OTHER = """
import sys
from flipped_t5x import gin_config, t5x_paths
gin_config.macros = dict
t5x_paths.run_folder(sys.argv[1])
t5x_paths.run_folder(sys.argv[1])
print('held', flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('training', (True, False))
def test_one_job_in_a_folder(training, tmp_path, now):
  process = subprocess.Popen(
      [sys.executable, '-c', _OTHER, str(tmp_path)],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  )
  assert process.stdout.readline() == 'held\n'
  message = (
      f'^{tmp_path} is being written by process {process.pid} on .*; wait until'
      ' it is done, or choose another folder$'
  )
  with pytest.raises(errors.UserError, match=message):
    t5x_paths.run_folder(str(tmp_path), training)
  assert t5x_paths.run_folder(str(tmp_path), alone=False)
  process.communicate('')
  assert not list(tmp_path.iterdir())
  assert t5x_paths.run_folder(str(tmp_path), training)


# What T5X writes: chunks, scores, those of t5x.eval.
@pytest.mark.parametrize('name', (
    'tmp-flipped_a_score_B-00000-of-00002',
    'flipped_a_score_B-score.jsonl-00000-of-00002', 'inference_eval',
))
@pytest.mark.parametrize('changes, message', (
    ({'CHECKPOINT_PATH': '/c/checkpoint_31'}, 'CHECKPOINT_PATH: .*_30. there'),
    ({'INPUT_LENGTH': 40}, r'\(INPUT_LENGTH: 48 there, 40 now\)'),
    ({'OVERRIDES': {'a.B.c': 1}}, 'a.B.c: None there, 1 now'),
))
def test_scores_of_other_settings(name, changes, message, tmp_path, now):
  (tmp_path / 'config.gin').write_text(config())
  now(**changes)
  assert t5x_paths.run_folder(str(tmp_path))  # Nothing has been scored yet.
  (tmp_path / name).mkdir()
  with pytest.raises(errors.UserError, match=message):
    t5x_paths.run_folder(str(tmp_path))
  assert (tmp_path / 'config.gin').read_text() == config()
  # What changes no score, and the same once more.
  for free in ({}, {'BATCH_SIZE': 9}, {'SHARD_ID': 1},
               {'OVERRIDES': {'PjitPartitioner.num_partitions': 2}},
               {'A_MACRO_OF_LATER_VERSIONS': 1}):
    now(**free)
    assert t5x_paths.run_folder(str(tmp_path))


def test_a_training_goes_on_with_its_settings(run, now, vocabulary):
  now(LAMBDA=0.0)
  with pytest.raises(errors.UserError, match='LAMBDA: 3.0 there, 0.0 now'):
    t5x_paths.model_dir(str(run), vocabulary)
  now(BATCH_SIZE=6)
  with pytest.raises(errors.UserError, match='BATCH_SIZE: 5 there, 6 now'):
    t5x_paths.model_dir(str(run), vocabulary)
  now(TRAIN_STEPS=40, NUM_MICROBATCHES=2)
  assert t5x_paths.model_dir(str(run), vocabulary) == str(run)


@pytest.mark.parametrize('begun', (False, True))
@pytest.mark.parametrize('training', (False, True))
def test_rows_and_templates_are_those_of_the_folder(
    training, begun, tmp_path, now
):
  origins = {'a': {
      'file': '/a.jsonl', 'sha256': '1', 'templates': 'file:a.yaml',
      'sha256_of_templates': '2', 'rate': 5.0,
  }}
  folder = tmp_path / 'run'
  assert t5x_paths.run_folder(str(folder), training, origins=lambda: origins)
  kept = (folder / 'data.json').read_text()
  assert json.loads(kept) == origins
  if begun:
    (folder / ('checkpoint_5' if training else 'inference_eval')).mkdir()
  for changes, message in (
      ({}, None),
      ({'file': '/b.jsonl'}, None),  # The same rows in another file.
      ({'sha256': 'x'}, r'a has other rows \(/a.jsonl, file:a.yaml\)'),
      ({'sha256_of_templates': 'x'}, 'a has other templates'),
      ({'rate': 6.0}, 'a has other share of the mixture'),
  ):
    given = {'a': origins['a'] | changes}
    if begun and message:
      with pytest.raises(errors.UserError, match=(
          f'^{folder} holds a run of other contents: {message}'
      )):
        t5x_paths.run_folder(str(folder), training, origins=lambda x=given: x)
    else:
      t5x_paths.run_folder(str(folder), training, origins=lambda x=given: x)
    if begun:
      assert (folder / 'data.json').read_text() == kept
  # A run of an earlier version, which has kept nothing, goes on.
  if begun:
    (folder / 'data.json').unlink()
    t5x_paths.run_folder(str(folder), training, origins=lambda x=given: x)
    assert not (folder / 'data.json').exists()


def test_a_training_keeps_its_vocabulary(
    run, tmp_path, now, vocabulary, tiny_vocabulary_path
):
  new = tmp_path / 'new'
  for folder in (run, new):
    t5x_paths.model_dir(str(folder), vocabulary)
    kept = (folder / 'sentencepiece.model').read_bytes()
    assert kept == tiny_vocabulary_path.read_bytes()
    (folder / 'sentencepiece.model').write_bytes(b'another one')
  t5x_paths.model_dir(str(new), vocabulary)  # It has no checkpoint yet.
  message = 'run/sentencepiece.model, the vocabulary .* FLIPPED_T5X_VOCABULARY'
  with pytest.raises(errors.UserError, match=message):
    t5x_paths.model_dir(str(run), vocabulary)
  with pytest.raises(errors.UserError, match=message):
    t5x_paths.checkpoint(f'{run}/checkpoint_30', vocabulary=vocabulary)


def test_checkpoints(run, vocabulary):
  path = f'{run}/checkpoint_30'
  assert t5x_paths.checkpoint(path) == path
  assert t5x_paths.checkpoint(
      path, required=True, format='flipped', vocabulary=vocabulary
  ) == path
  # Another method may start from it, but not be evaluated with it.
  with pytest.raises(
      errors.UserError, match="trained in the format 'flipped'.*'direct'"
  ):
    t5x_paths.checkpoint(path, format='direct')
  assert t5x_paths.checkpoint(None) == () == t5x_paths.checkpoint('')
  with pytest.raises(errors.UserError, match='CHECKPOINT_PATH is empty'):
    t5x_paths.checkpoint('', required=True)


def test_format_of_converted_weights(tiny_run, tmp_path):
  convert.convert(tiny_run, tmp_path / 'new', to='t5x', progress=False)
  path = f'{tmp_path}/new/checkpoint_2'
  assert t5x_paths.checkpoint(path, format='flipped') == path
  with pytest.raises(errors.UserError, match="format 'flipped'"):
    t5x_paths.checkpoint(path, format='channel')


def test_what_is_no_checkpoint_of_t5x(run, tiny_run, tmp_path):
  hf = tmp_path / 'hf'
  convert.convert(tiny_run, hf, to='hf', progress=False)
  shutil.copytree(run / 'checkpoint_30', run / 'checkpoint_40')
  for path, message in (
      (run, r"one of its checkpoints \['checkpoint_30', 'checkpoint_40'\]"),
      (run / 'checkpoint_7', r"no such checkpoint.*\['checkpoint_30', "),
      (tmp_path / 'nowhere/checkpoint_7', 'no such checkpoint.* has none'),
      (hf, f'convert {hf} NEW_FOLDER --to t5x'),
      (tiny_run, f'convert {tiny_run} NEW_FOLDER --to t5x'),
      (tiny_run / 'checkpoints/2', 'not a checkpoint of T5X'),
      ('google/flan-t5-small', 'convert google/flan-t5-small NEW_FOLDER'),
      ('pypi:flipped', 'convert pypi:flipped NEW_FOLDER'),
  ):
    with pytest.raises(errors.UserError, match=message) as e:
      t5x_paths.checkpoint(str(path))
    assert str(e.value).startswith(str(path)), e.value


