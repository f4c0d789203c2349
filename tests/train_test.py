"""Training runs: going on, being stopped, and failing."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import demo_data
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flipped_t5x.cli import main
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import optimizers
from flipped_t5x.engine import train
from flipped_t5x.tasks import batches

# argv: data folder, what to do after step 20 ('', 'slow', 'full'), arguments.
SCRIPT = """
import pathlib, resource, sys, time
import pytest
import demo_data
from flipped_t5x.cli import main
from flipped_t5x.engine import train

demo_data.install(pathlib.Path(sys.argv[1]), pytest.MonkeyPatch())
num_examples, steps = train.num_examples, []

def after_step(batch):
  steps.append(1)
  if len(steps) > 20:
    if sys.argv[2] == 'slow':
      time.sleep(0.1)
    if sys.argv[2] == 'full':
      resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, 2_500))
  return num_examples(batch)

train.num_examples = after_step
sys.exit(main.main(sys.argv[3:]))
"""


@pytest.fixture(scope='module')
def patch():
  with pytest.MonkeyPatch.context() as context:
    yield context


@pytest.fixture(scope='module')
def data(patch, tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  demo_data.cache_compilations(tmp_path_factory.mktemp('cache'), patch)
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


def start(data, folder, mode):
  environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parent))
  return subprocess.Popen(
      [sys.executable, '-c', SCRIPT, str(data), mode, *command(folder)],
      env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True,
  )


def wait_for(process, happened):
  deadline = time.monotonic() + 90
  while not happened():
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def state(folder, step):
  """Name -> array of all that a checkpoint holds: weights, optimizer, step."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder / 'checkpoints' / str(step) / 'state')
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


def log(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [
      {k: v for k, v in json.loads(line).items() if 'per_second' not in k}
      for line in lines
  ]


def assert_same_run(folder, whole):
  ours, theirs = state(folder, 40), state(whole, 40)
  assert ours.keys() == theirs.keys()
  assert sum(a.size for a in ours.values()) > 10_000
  for name, values in theirs.items():
    np.testing.assert_array_equal(ours[name], values, name)
  assert log(folder) == log(whole)
  assert [line['step'] for line in log(whole)] == list(range(5, 41, 5))


def test_two_halves_are_the_whole(whole, tmp_path):
  folder = tmp_path / 'run'
  assert main.main(command(folder, '--gin.TRAIN_STEPS=20')) == 0
  before = state(folder, 20)
  assert main.main(command(folder)) == 0
  assert_same_run(folder, whole)
  # 20 more steps have changed every weight.
  for name, values in state(folder, 40).items():
    if 'params' in name:
      assert np.any(values != before[name]), name


def test_killed_run_goes_on(whole, data, tmp_path):
  folder = tmp_path / 'run'
  process = start(data, folder, 'slow')
  wait_for(process, (folder / 'checkpoints' / '20').exists)
  wait_for(process, lambda: log(folder)[-1]['step'] >= 25)
  process.kill()
  process.communicate()
  assert not (folder / 'checkpoints' / '40').exists()
  process = start(data, folder, '')
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 0, output
  assert 'going on from step 20' in output
  assert_same_run(folder, whole)


def test_interrupted_run_saves_and_goes_on(whole, data, tmp_path, capsys):
  folder = tmp_path / 'run'
  process = start(data, folder, 'slow')
  wait_for(process, (folder / 'checkpoints' / '20').exists)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 130
  assert 'Traceback' not in output
  message = re.search(
      r'flipped-t5x: stopped at step (\d+) of 40; the same command goes on',
      output,
  )
  step = int(message[1])
  assert 20 <= step < 40
  assert (folder / 'checkpoints' / str(step)).exists()
  assert main.main(command(folder)) == 0
  assert f'going on from step {step}' in capsys.readouterr().out
  # The log's means are over other steps where the run was stopped.
  ours = state(folder, 40)
  for name, values in state(whole, 40).items():
    np.testing.assert_array_equal(ours[name], values, name)


def test_no_space_keeps_the_last_checkpoint(whole, data, tmp_path):
  folder = tmp_path / 'run'
  process = start(data, folder, 'full')
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 1, output
  last = output.strip().splitlines()[-1]
  assert last.startswith('flipped-t5x: OSError: '), output
  assert 'File too large' in last and str(folder) in last
  assert checkpoints.Checkpoints(folder).latest == 20
  assert main.main(command(folder)) == 0
  assert_same_run(folder, whole)
