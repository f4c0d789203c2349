"""An evaluation on several hosts: real processes that meet on this machine."""

import itertools
import json
import pathlib
import re
import shutil
import signal

import commands
import demo_data
from flipped_t5x.cli import main
from flipped_t5x.evaluation import evaluate
import jax
import local_hosts
import numpy as np
import pytest
import tiny_run
import xla_flags

NAME = 'results_tiny.json'
BATCH_SIZE = 16
# The chunks of the two tasks, of 10 and of 12 rows, in the order of scoring.
CHUNKS = [('tiny_mood', n) for n in (0, 1)] + [
    ('tiny_kind', n) for n in (0, 1, 2)
]
_SECONDS = 600  # At most, for all hosts of a command.
_SCRIPT = """
import pathlib, sys
import pytest
import demo_data, several_hosts_test
from flipped_t5x.cli import main
demo_data.install(pathlib.Path(sys.argv[1]), pytest.MonkeyPatch())
several_hosts_test.record(*sys.argv[2:4])
sys.exit(main.main(sys.argv[4:]))
"""


def record(folder, action):
  """Keeps which chunks this host scores, and whether it has read weights.

  Args:
    folder: gets a file of this host.
    action: 'kill 1 2' kills host 1 when it has scored its second chunk, before
      that is written; '' does nothing.
  """
  import os

  from flipped_t5x.evaluation import chunks
  from flipped_t5x.inference import model

  evaluate.CHUNK_ROWS = commands.CHUNK_ROWS
  add, placed, number = chunks.Chunks.add, model._placed, 0
  who, when = map(int, action.split()[1:] or (-1, -1))

  def note(*words):
    with open(f'{folder}/{jax.process_index()}.jsonl', 'a') as f:
      f.write(f'{json.dumps(words)}\n')

  def add_and_record(self, *args):
    nonlocal number
    number += 1
    if (jax.process_index(), number) == (who, when):
      os.kill(os.getpid(), signal.SIGKILL)
    add(self, *args)
    note(self._folder.name, args[0])

  def place_and_record(*args):
    note('weights', 0)
    return placed(*args)

  chunks.Chunks.add = add_and_record
  model._placed = place_and_record


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    demo_data.install(folder, patch)
    patch.setattr(evaluate, 'CHUNK_ROWS', commands.CHUNK_ROWS)
    yield folder


@pytest.fixture(scope='module')
def run(folder, make_params):
  return tiny_run.write(folder / 'run', make_params(demo_data.NETWORK, 3))


def command(run, output):
  output.mkdir(exist_ok=True)
  return [
      'eval', str(run), f'--batch_size={BATCH_SIZE}',
      f'--output={output / NAME}',
  ]


@pytest.fixture(scope='module')
def alone(run, tmp_path_factory):
  """The files of a single host's evaluation."""
  output = tmp_path_factory.mktemp('alone') / 'run'
  assert main.main(command(run, output)) == 0
  return commands.contents(output)


def on_hosts(count, data, run, output, *flags, action='', devices=1, own=()):
  """Runs the command on several hosts; `own` are flags of the last one.

  Args:
    count: how many hosts.
    data: the data folder; of the last host if it is a pair.
    run: the model.
    output: the folder of results; OUTPUT.noted is what `record` writes.
    *flags: of the command.
    action: see `record`.
    devices: of each host.
    own: flags of the last host alone.

  Returns:
    Exit status and output of each host.
  """
  noted = output.with_suffix('.noted')
  shutil.rmtree(noted, ignore_errors=True)
  noted.mkdir()
  folders = data if isinstance(data, tuple) else (data, data)
  results, _ = local_hosts.wait([
      local_hosts.start(
          _SCRIPT, str(folders[i == count - 1]), str(noted), action,
          *command(run, output), *flags, *meeting,
          *(own if i == count - 1 else ()),
          devices=devices, flags=xla_flags.QUICK,
          paths=[pathlib.Path(__file__).parent],
      )
      for i, meeting in enumerate(
          local_hosts.flags_of(count) if count > 1 else [()]
      )
  ], _SECONDS)
  return results


def scored(output):
  """Host -> the chunks that it has written."""
  return {
      int(path.stem): [
          (task, number) for task, number in map(json.loads, path.open())
          if task != 'weights'
      ]
      for path in output.with_suffix('.noted').glob('*.jsonl')
  }


@pytest.mark.slow
@pytest.mark.process
def test_two_hosts_of_two_devices(folder, run, alone, tmp_path):
  """The bytes are those of one host with such a mesh."""
  one, two = tmp_path / 'one', tmp_path / 'two'
  results = on_hosts(1, folder, run, one, '--model_parallel=1', devices=2)
  assert [status for status, _ in results] == [0], results
  results = on_hosts(2, folder, run, two, '--model_parallel=1', devices=2)
  assert [status for status, _ in results] == [0, 0], results
  assert commands.contents(two) == commands.contents(one)
  assert scored(two) == {0: CHUNKS[::2], 1: CHUNKS[1::2]}
  (_, first), (_, second) = results
  assert f'{two / NAME} written' in first and '0 encoder passes' not in first
  assert 'written' not in second and 'prompt' not in second
  # Another mesh may differ in the last bits.
  ours, theirs = (
      json.loads(files[NAME])['tasks']
      for files in (commands.contents(two), alone)
  )
  for task, expected in theirs.items():
    assert ours[task]['accuracy'] == expected['accuracy']


@pytest.mark.slow
@pytest.mark.process
def test_killed_and_finished_by_others(folder, run, alone, tmp_path, capsys):
  output = tmp_path / 'run'
  results = on_hosts(2, folder, run, output, action='kill 1 2')
  (status, said), (killed, _) = results
  assert killed == -signal.SIGKILL, results
  assert status not in (0, -signal.SIGKILL), said
  message = re.findall('^flipped-t5x: .*', said, re.MULTILINE)[-1]
  assert 'host 0 of 2' in message and 'another' in message
  assert 'Start the same command on all hosts again' in message
  assert 'Traceback' not in said
  assert not (output / NAME).exists()
  before = scored(output)
  assert before[1] == [CHUNKS[1]]
  assert before[0] == CHUNKS[::2][: len(before[0])]
  left = [c for c in CHUNKS if c not in before[0] + before[1]]
  by_one = tmp_path / 'by_one'
  shutil.copytree(output, by_one)

  results = on_hosts(4, folder, run, output)
  assert [status for status, _ in results] == [0] * 4, results
  assert 'discarded' not in str(results)
  assert commands.contents(output) == alone
  assert sorted(itertools.chain(*scored(output).values())) == sorted(left)

  assert main.main(command(run, by_one)) == 0
  assert 'discarded' not in capsys.readouterr().err
  assert commands.contents(by_one) == alone


@pytest.mark.slow
@pytest.mark.process
def test_hosts_that_are_not_alike(folder, run, tmp_path):
  """No weight is read."""
  other = tmp_path / 'data'
  shutil.copytree(folder, other)
  rows = demo_data.local_file(other, 'tiny_mood', 'test')
  rows.write_text(rows.read_text().replace('film', 'book'))
  output = tmp_path / 'run'
  results = on_hosts(2, (folder, other), run, output, own=('--batch_size=8',))
  for status, said in results:
    assert status == 1, said
    error, = re.findall('^flipped-t5x: .*', said, re.MULTILINE)
    assert 'the hosts are not alike' in error
    assert "--batch_size is \"16\" on host 0, \"8\" on host 1" in error
    assert 'tiny_mood data sha256 is' in error
    assert '--output' not in error and 'network' not in error
  assert not any(output.with_suffix('.noted').iterdir())
  assert not any(output.iterdir())


@pytest.mark.slow
@pytest.mark.process
def test_weights_that_are_not_alike(folder, run, tmp_path, make_params):
  """Other values of the same shapes are found before anything is scored."""
  shutil.copytree(run, tmp_path / 'a' / 'run')
  tiny_run.write(tmp_path / 'b' / 'run', make_params(demo_data.NETWORK, 4))
  output = tmp_path / 'out'
  noted = output.with_suffix('.noted')
  noted.mkdir()
  results, _ = local_hosts.wait([
      local_hosts.start(
          f'import os; os.chdir({str(tmp_path / name)!r}){_SCRIPT}',
          str(folder), str(noted), '', *command('run', output), *meeting,
          flags=xla_flags.QUICK, paths=[pathlib.Path(__file__).parent],
      )
      for name, meeting in zip('ab', local_hosts.flags_of(2), strict=True)
  ], _SECONDS)
  for status, said in results:
    assert status == 1, said
    error, = re.findall('^flipped-t5x: .*', said, re.MULTILINE)
    assert 'the hosts are not alike: checkpoint is "' in error
  assert scored(output) == {0: [], 1: []}
  assert not any(output.iterdir())


def test_flags_that_do_not_fit(run, tmp_path, capsys):
  argv = command(run, tmp_path / 'run')
  assert main.main([*argv, '--num_processes=2']) == 1
  assert 'go together' in capsys.readouterr().err


def test_one_host_of_one(run, tmp_path, capsys, monkeypatch):
  """It asks nobody."""
  monkeypatch.setattr(jax.distributed, 'initialize', None)
  argv = command(run, tmp_path / 'run')
  assert main.main([
      *argv, '--limit=1', '--coordinator_address=localhost:1',
      '--num_processes=1', '--process_id=0',
  ]) == 0
  assert np.isfinite(
      json.loads((tmp_path / 'run' / NAME).read_text())['step']
  )
