"""A run resumes with the files that it was started with, or not at all."""

import json
import shutil

import demo_data
from flipped_t5x import errors
from flipped_t5x.cli import main
from flipped_t5x.engine import run_contents
from flipped_t5x.prompts import templates
from flipped_t5x.tasks import catalog
from flipped_t5x.weights import initial_weights
from flipped_t5x.weights import model_files
import numpy as np
import pytest
import tiny_run


@pytest.fixture
def command(tmp_path, monkeypatch):
  """The folder of a run of two steps, and the command that resumes it."""
  data, folder = tmp_path / 'data', tmp_path / 'run'
  data.mkdir()
  demo_data.install(data, monkeypatch)
  demo_data.cache_compilations(tmp_path.parent / 'compiled', monkeypatch)
  gin_file = demo_data.write_gin(tmp_path / 'run.gin', folder)
  vocabulary = tmp_path / 'vocabulary.model'
  shutil.copyfile(demo_data.vocabulary(), vocabulary)

  def run(*overrides, steps=2):
    catalog._open.cache_clear()  # As in another process.
    templates.load_file.cache_clear()
    return main.main([
        'train', f'--gin_file={gin_file}', f'--gin.TRAIN_STEPS={steps}',
        f"--gin.VOCABULARY='{vocabulary}'", *overrides,
    ])

  run.data, run.folder, run.vocabulary = data, folder, vocabulary
  assert run() == 0
  return run


def refused(command, capsys, *named):
  """Asserts that it does not resume, and that nothing is overwritten."""
  capsys.readouterr()
  before = {
      p: p.read_bytes() for p in command.folder.rglob('*') if p.is_file()
  }
  assert command(steps=4) == 1
  error = capsys.readouterr().err
  assert error.startswith(
      f'flipped-t5x: {command.folder} holds a run that was started with other'
      ' contents: '
  )
  assert error.count('\n') == 1
  for text in named:
    assert text in error
  assert before == {
      p: p.read_bytes() for p in command.folder.rglob('*') if p.is_file()
  }


def test_other_rows(command, capsys):
  path = demo_data.local_file(command.data, 'tiny_kind', 'train')
  text = path.read_text()
  path.write_text(text.replace('is', 'was', 1))
  refused(command, capsys, f'tiny_kind has other rows ({path}, file:')
  # The same rows in another file may go on, and the record stays.
  kept = (command.folder / 'data.json').read_bytes()
  path.write_text(text)
  assert command(steps=3) == 0
  assert (command.folder / 'data.json').read_bytes() == kept


def test_other_templates(command, capsys):
  path = command.data / 'tiny_mood.yaml'
  path.write_text(path.read_text().replace('Did the', 'Has the'))
  refused(
      command, capsys, 'tiny_mood has other templates (', 'file:tiny_mood.yaml'
  )


def test_another_vocabulary(command, capsys):
  # Protobuf's field 100 with the text 'x', which SentencePiece does not know.
  command.vocabulary.write_bytes(
      command.vocabulary.read_bytes() + b'\xa2\x06\x01x'
  )
  refused(
      command, capsys, f'VOCABULARY: {command.vocabulary} is not'
      f' {command.folder}/sentencepiece.model'
  )


def test_a_run_from_before_templates_were_recorded(command):
  path = command.folder / 'data.json'
  origins = json.loads(path.read_text())
  for origin in origins.values():
    for key in ('templates', 'sha256_of_templates', 'rate'):
      del origin[key]
  path.write_text(json.dumps(origins))
  assert command(steps=3) == 0


def test_other_first_weights(tmp_path, make_params, monkeypatch):
  demo_data.install(tmp_path, monkeypatch)
  first, second = (
      tiny_run.write(tmp_path / str(seed), make_params(demo_data.NETWORK, seed))
      for seed in (1, 2)
  )
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text('{}')
  weights = read(first)
  assert weights.path == first / 'checkpoints' / '7'
  run_contents.record(folder, {}, weights.record())

  def check():
    run_contents.check(folder, {}, demo_data.vocabulary())

  check()
  # Saved again, in other files: the weights are compared.
  shutil.rmtree(first)
  tiny_run.write(first, make_params(demo_data.NETWORK, 1))
  check()
  shutil.rmtree(first)
  second.rename(first)
  with pytest.raises(errors.UserError, match=(
      f'INITIAL_CHECKPOINT_PATH: the weights of {first}/checkpoints/7 have'
      ' changed'
  )):
    check()
  with pytest.raises(errors.UserError, match='started from other weights than'):
    run_contents.record(folder, {}, read(first).record())
  # They are not needed to resume.
  shutil.rmtree(first)
  check()


def read(path):
  weights = initial_weights.Digested.of(model_files.open(path))
  for tensor in weights.tensors.values():
    assert np.all(np.isfinite(tensor.read()))
  return weights
