"""Damaged files: the same result as before, or one message that names them.

Each file is damaged by a seed, see `mutations.py`, and read by a command. It
ends within `_SECONDS`, and either with one message of a line or with a result.
If what the file says is as before, for a parser that is not ours, the result
has to be as before; and if the result is another one, what is recorded with
results (digests, settings) has to be another one, too.

Damaged results are in `structure_test.py`, which the gate runs.
"""

import faulthandler
import json
import pathlib
import random
import shutil
import time

import demo_data
from flipped_t5x.cli import main
from flipped_t5x.engine import train
from flipped_t5x.inference import model as model_lib
from flipped_t5x.weights import tensors
import mutations
import pytest
import yaml

_SECONDS = 10  # Of processors; a busy machine is no fault.
_HANGS = 120
QUERY = ('--input', 'The film is dull.', '--instruction', '{{input}} Is it?',
         '--option', 'no', '--option', 'yes', '--json')


@pytest.fixture
def number(request):
  return request.config.getoption('--mutations')


@pytest.fixture
def outcome(capfd, request):
  """(arguments, seed) -> standard output, or None after one message."""
  ended = {0: 0, 1: 0}
  longest = 0

  def run(arguments, seed):
    nonlocal longest
    faulthandler.dump_traceback_later(_HANGS, exit=True)
    begun = time.process_time()
    try:
      status = main.main(arguments)
    except Stopped:
      status = 0
    finally:
      faulthandler.cancel_dump_traceback_later()
    took = time.process_time() - begun
    output, error = capfd.readouterr()
    assert 'Traceback' not in error and 'a fault of' not in error, (seed, error)
    assert status in (0, 1), seed
    assert took < _SECONDS, (seed, took, error)
    ended[status] += 1
    longest = max(longest, took)
    if status:
      messages = [
          line for line in error.splitlines()
          if line.startswith('flipped-t5x: ')
      ]
      assert len(messages) == 1, (seed, error)
      return None
    return output

  yield run
  with capfd.disabled():
    print(f'\n{request.node.name}: {ended[1]} messages, {ended[0]} results,'
          f' at most {longest:.1f} s')


class Stopped(BaseException):
  """Everything is read, and training would begin."""


def read_yaml(path):
  try:
    return repr(yaml.safe_load(path.read_bytes()))  # True is not 1.
  except (yaml.YAMLError, ValueError, RecursionError) as e:
    return repr(e)


def read_lines(path):
  try:
    lines = path.read_bytes().decode().splitlines()
    return repr([json.loads(line) for line in lines])
  except (ValueError, RecursionError) as e:
    return repr(e)


def without_stats(text):
  """JSON without sizes and times of files."""
  return json.loads(text, object_hook=lambda holder: {
      k: v for k, v in holder.items() if k != 'stats'
  })


@pytest.mark.parametrize('name, says', (
    ('tiny_mood.yaml', read_yaml),
    ('local/tiny_kind/train.jsonl', read_lines),
))
def test_templates_and_rows(
    name, says, run, number, outcome, tmp_path, monkeypatch
):
  arguments = [
      'inspect', demo_data.MIXTURE, '--vocabulary', str(run), '--json',
  ]

  def inspect(seed):
    data = tmp_path / str(seed)
    data.mkdir()
    demo_data.install(data, monkeypatch)
    before = says(data / name)
    if seed is not None:
      mutations.mutate_file(data / name, random.Random(f'{name} {seed}'))
    found = outcome(arguments, seed)
    same = says(data / name) == before
    shutil.rmtree(data)
    return same, found and without_stats(found.replace(str(data), 'DATA'))

  _, expected = inspect(None)
  assert expected
  for seed in range(number):
    same, found = inspect(seed)
    if same and found is not None:
      assert found == expected, seed


def test_gin_files(data, number, outcome, tmp_path, monkeypatch):
  """Up to the first step, which is not trained."""

  def stop(*unused_args):
    raise Stopped

  monkeypatch.setattr(train, '_first_state', stop)
  monkeypatch.chdir(tmp_path)
  path, folder = tmp_path / 'run.gin', tmp_path / 'run'
  demo_data.write_gin(path, folder)
  # It is given below: a damaged one could be anywhere.
  text = ''.join(
      line for line in path.read_text().splitlines(keepends=True)
      if 'MODEL_DIR' not in line
  )
  arguments = [
      'train', f'--gin_file={path}', f"--gin.MODEL_DIR='{folder}'"
  ]

  def config():
    found = json.loads((folder / 'config.json').read_text())
    shutil.rmtree(folder)
    return found

  path.write_text(text)
  outcome(arguments, None)
  expected = config()
  for seed in range(number):
    path.write_text(text)
    mutations.mutate_file(path, random.Random(f'gin {seed}'))
    found = outcome(arguments, seed)
    if found is None:
      shutil.rmtree(folder, ignore_errors=True)
    elif (other := config())['settings'] == expected['settings']:
      assert other == expected, seed
    allowed = {path.name, folder.name}
    for left in set(tmp_path.iterdir()):
      assert left.name in allowed, (seed, left)


def make_bin(folder):
  """Puts the weights of a Hugging Face folder into a `.bin`."""
  torch = pytest.importorskip('torch')
  from safetensors import torch as safetensors_torch

  weights, = folder.glob('*.safetensors')
  torch.save(
      safetensors_torch.load_file(weights), folder / 'pytorch_model.bin'
  )
  weights.unlink()


@pytest.mark.parametrize('kind, pattern', (
    ('native', '**/*'), ('native', 'config.json'),
    ('native', 'checkpoints/**/*'), ('t5x', '**/*'), ('hf', '**/*'),
    ('hf', '*.safetensors'), ('bin', '*.bin'),
), ids=lambda x: x.replace('*', 'x').replace('/', '-'))
def test_runs_and_weights(
    kind, pattern, data, all_commands, number, outcome, tmp_path
):
  source = tmp_path / 'source'
  command = all_commands[f'convert to {"hf" if kind == "bin" else kind}']
  source.mkdir()
  assert outcome(command.arguments(source), None) is not None
  source /= 'converted'
  if kind == 'bin':
    make_bin(source)
  copy = tmp_path / 'copy'
  arguments = ['rank', '--checkpoint', str(copy), *QUERY]

  def recorded():
    """What results say of the weights, besides the settings."""
    model = model_lib.load(copy)
    return [
        tensors.digest(model.params), model.vocabulary.path.read_bytes(),
        str(model.config),
    ]

  shutil.copytree(source, copy)
  expected, before = outcome(arguments, None), recorded()
  assert json.loads(expected)
  names = sorted(
      p.relative_to(source) for p in source.glob(pattern) if p.is_file()
  )
  for seed in range(number):
    rng = random.Random(f'{kind} {pattern} {seed}')
    shutil.rmtree(copy)
    shutil.copytree(source, copy)
    name: pathlib.Path = rng.choice(names)
    mutations.mutate_file(copy / name, rng)
    found = outcome(arguments, (seed, str(name)))
    if found is not None and found != expected:
      assert recorded() != before, (seed, name)
