"""Training on several hosts: real processes that meet on this machine."""

import collections
import itertools
import json
import os
import pathlib
import re
import shutil
import signal

import demo_data
from flipped_t5x.cli import main
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import hosts
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.weights import run_config
import jax
import local_hosts
import numpy as np
import orbax.checkpoint as ocp
import pytest

_FOLDER = pathlib.Path(__file__).parent
# An epoch of tiny_kind is 15 steps.
_GIN = """
from __gin__ import dynamic_registration
from flipped_t5x.tasks import batches
include '{base}'
MIXTURE = 'tiny_kind'
VOCABULARY = '{vocabulary}'
VOCAB_SIZE = 208
BATCH_SIZE = 8
PACK = False
DROPOUT_RATE = 0.0
TRAIN_STEPS = 15
CHECKPOINT_PERIOD = 5
LOG_PERIOD = 1
batches.TrainBatches.num_shards = 4
"""
_SCRIPT = """
import sys
import hosts_test
from flipped_t5x.cli import main
hosts_test.record(*sys.argv[1:3])
sys.exit(main.main(sys.argv[3:]))
"""
_MEET = """
import jax
from flipped_t5x.engine import agreement
from flipped_t5x.engine import hosts
with hosts.joined():
  print(agreement.gather(b'%d' % jax.process_index()))
"""
_LONELY = """
from flipped_t5x.engine import hosts
hosts._JOIN_SECONDS = 4
with hosts.joined('localhost:{port}', 2, 1):
  print('joined')
"""


def record(folder, action='', set_next=setattr):
  """Keeps the numbers of the rows of each batch, and does something to a host.

  Args:
    folder: gets a file of this host with a line for each batch.
    action: 'kill 1 7' kills host 1 when it has read its 7th batch, 'term 1 7'
      asks it to stop, 'nan 1 7' makes that batch's weights NaN.
    set_next: sets the method of TrainBatches.
  """
  read = batches.TrainBatches.__next__
  vocabulary = tokenization.load_vocabulary(demo_data.vocabulary())
  what, who, when = (action or 'nothing 0 0').split()
  number = 0

  def read_and_record(self):
    nonlocal number
    batch, number = read(self), number + 1
    host = jax.process_index()
    numbers = [
        int(re.search(r' of train (\d+) is', vocabulary.decode(row))[1])
        for row in batch['encoder_input_tokens']
    ]
    with open(f'{folder}/{host}.jsonl', 'a') as f:
      f.write(f'{json.dumps(numbers)}\n')
    if host == int(who) and number == int(when):
      if what == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
      if what == 'term':
        os.kill(os.getpid(), signal.SIGTERM)
      if what == 'nan':
        name = 'decoder_loss_weights'
        return batch | {name: batch[name] * np.nan}
    return batch

  set_next(batches.TrainBatches, '__next__', read_and_record)


@pytest.fixture(autouse=True, scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    yield


def command(folder, *overrides):
  base = demo_data.write_gin(folder.with_suffix('.base.gin'), folder)
  gin_file = folder.with_suffix('.gin')
  gin_file.write_text(
      _GIN.format(base=base, vocabulary=demo_data.vocabulary())
  )
  return ['train', f'--gin_file={gin_file}', *overrides]


def start(*words, devices=1, **more):
  return local_hosts.start(*words, devices=devices, paths=[_FOLDER], **more)


def run_hosts(count, folder, *overrides, action='', devices=1, own=()):
  """Runs the command on several hosts, as many devices each.

  Args:
    count: how many hosts.
    folder: the run's; what each host reads is recorded in FOLDER.reads.
    *overrides: of the gin file.
    action: see `record`.
    devices: of each host.
    own: overrides of the last host alone.

  Returns:
    Exit status and output of each host; the seconds from the end of the first
    host to that of the last.
  """
  reads = folder.with_suffix('.reads')
  reads.mkdir()
  shared = command(folder, *overrides)
  return local_hosts.wait([
      start(
          _SCRIPT, str(reads), action, *shared, *meeting,
          *(own if i == count - 1 else ()), devices=devices,
      )
      for i, meeting in enumerate(local_hosts.flags_of(count))
  ])


def run_alone(folder, *overrides):
  """Runs the command in this process."""
  reads = folder.with_suffix('.reads')
  reads.mkdir()
  with pytest.MonkeyPatch.context() as patch:
    record(reads, set_next=patch.setattr)
    assert main.main(command(folder, *overrides)) == 0


def reads(folder):
  """Host -> the rows of each of its batches."""
  return {
      int(path.stem): [json.loads(line) for line in path.open()]
      for path in folder.with_suffix('.reads').glob('*.jsonl')
  }


def metrics(folder):
  return {
      line.pop('step'): {
          k: v for k, v in line.items() if 'per_second' not in k
      }
      for line in map(json.loads, (folder / 'metrics.jsonl').open())
  }


def weights(folder, step):
  path = folder / 'checkpoints' / str(step) / 'state'
  with ocp.PyTreeCheckpointer() as checkpointer:
    names = checkpointer.metadata(path).item_metadata.tree
    tree = checkpointer.restore(
        path, restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names
        )
    )
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree['params'])
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


def assert_like_log(folder, other, steps):
  """The same metrics at each step."""
  ours, theirs = metrics(folder), metrics(other)
  assert list(ours) == list(range(1, len(ours) + 1)) and steps[-1] in ours
  for step in steps:
    assert ours[step].keys() == theirs[step].keys()
    assert ours[step] == pytest.approx(theirs[step], rel=0, abs=1e-5)


def assert_like(folder, other, steps):
  """The same metrics at each step, and the same weights after the last."""
  assert_like_log(folder, other, steps)
  ours, theirs = weights(folder, steps[-1]), weights(other, steps[-1])
  assert ours.keys() == theirs.keys()
  for name, values in theirs.items():
    np.testing.assert_allclose(ours[name], values, atol=1e-5, err_msg=name)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The folder of a run of one host, in one go."""
  folder = tmp_path_factory.mktemp('alone') / 'run'
  run_alone(folder)
  return folder


@pytest.fixture(scope='module')
def broken(tmp_path_factory):
  """Folder, results and seconds of a run in which host 1 was killed."""
  folder = tmp_path_factory.mktemp('broken') / 'run'
  return folder, *run_hosts(2, folder, action='kill 1 7', devices=2)


@pytest.mark.slow
@pytest.mark.process
def test_killed_host(broken, alone):
  folder, results, seconds = broken
  (status, output), (killed, _) = results
  assert killed == -signal.SIGKILL
  assert status not in (0, -signal.SIGKILL), output
  assert seconds < 60
  said = re.findall('^flipped-t5x: .*', output, re.MULTILINE)[-1]
  assert 'host 0 of 2' in said and 'another' in said
  assert 'Start the same command on all hosts again' in said
  assert 'Traceback' not in output
  assert_like(folder, alone, range(1, 6))
  assert not (folder / 'checkpoints' / '10').exists()
  # Each read two of the four shards: half of each batch.
  first, second = reads(folder)[0][:5], reads(folder)[1][:5]
  for ours, theirs, both in zip(first, second, reads(alone)[0], strict=False):
    assert ours + theirs == both and len(ours) == len(theirs) == 4


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('count, overrides', (
    (1, ()),
    # Two hosts share the rows of a batch.
    (4, ('--gin.MODEL_PARALLEL=2',)),
))
def test_broken_run_goes_on_with_other_hosts(
    broken, alone, tmp_path, count, overrides
):
  folder = tmp_path / 'run'
  shutil.copytree(broken[0], folder)
  if count == 1:
    position = folder / 'checkpoints' / '5' / 'data' / 'metadata'
    first, second = json.loads(position.read_text())['positions']
    assert first != second
    run_alone(folder)
  else:
    results, _ = run_hosts(count, folder, *overrides)
    assert [status for status, _ in results] == [0] * count, results
    assert 'resuming from step 5' in results[0][1]
    assert not [o for _, o in results[1:] if str(folder) in o]
  assert_like(folder, alone, range(6, 16))
  before = [reads(broken[0])[host][:5] for host in range(2)]
  after = reads(folder)
  if count == 4:
    assert after[0] == after[1] and after[2] == after[3]
    after = {0: after[0], 2: after[2]}
  read = itertools.chain(*before, *after.values())
  # No row twice, and none left out.
  assert collections.Counter(itertools.chain(*read)) == dict.fromkeys(
      range(120), 1
  )


@pytest.mark.slow
@pytest.mark.process
def test_checkpoints_of_before_there_were_shards(alone, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(alone, folder)
  shutil.rmtree(folder / 'checkpoints' / '15')
  data = folder / 'checkpoints' / '10' / 'data' / 'metadata'
  position, = json.loads(data.read_text())['positions']
  data.write_text(json.dumps({'position': position}))
  run_alone(folder)
  assert_like(folder, alone, range(11, 16))


@pytest.mark.slow
@pytest.mark.process
def test_runs_of_before_there_were_shards(
    tmp_path, tiny_network, tiny_vocabulary_path
):
  def prepare(settings):
    checkpoints.prepare(
        tmp_path, run_config.RunConfig(
            tiny_network, 'flipped', 48, 32, settings
        ), tiny_vocabulary_path,
    )

  prepare({})
  with pytest.raises(ValueError, match='DATA_SHARDS: 1 there, 4 now'):
    prepare({'DATA_SHARDS': 4})
  prepare({'DATA_SHARDS': 1})


@pytest.mark.slow
@pytest.mark.process
def test_signal_to_one_stops_all(alone, tmp_path):
  folder = tmp_path / 'run'
  results, _ = run_hosts(2, folder, action='term 1 3', devices=2)
  steps = set()
  for status, output in results:
    assert status == 130, output
    steps.add(int(re.search(r'stopped at step (\d+) of 15', output)[1]))
  step, = steps
  assert 3 <= step < 15
  assert_like_log(folder, alone, range(1, step + 1))
  assert weights(folder, step)


@pytest.mark.slow
@pytest.mark.process
def test_nan_on_one_ends_all(tmp_path):
  folder = tmp_path / 'run'
  results, _ = run_hosts(
      2, folder, '--gin.batches.TrainBatches.num_shards=1', action='nan 1 7',
      devices=2,
  )
  # One shard is nothing that they could share out.
  assert 'reads 8 rows of a batch and uses 4' in results[0][1]
  assert 'DATA_SHARDS a multiple of 2' in results[0][1]
  for status, output in results:
    assert status == 1, output
    assert 'step 7: the loss' in output
    assert 'the last good checkpoint is step 5' in output
  assert list(metrics(folder)) == list(range(1, 7))


@pytest.mark.slow
@pytest.mark.process
def test_hosts_that_are_not_alike(tmp_path):
  folder = tmp_path / 'run'
  other = tmp_path / 'other.model'
  shutil.copyfile(demo_data.vocabulary(), other)
  other.open('ab').write(b'\x82\x7d\0')  # A field that it does not know.
  results, _ = run_hosts(
      2, folder, own=('--gin.LAMBDA=1.0', f"--gin.VOCABULARY='{other}'")
  )
  for status, output in results:
    assert status == 1, output
    error, = re.findall('^flipped-t5x: .*', output, re.MULTILINE)
    assert 'the hosts are not alike' in error
    assert 'LAMBDA is 3.0 on host 0, 1.0 on host 1' in error
    assert 'vocabulary is' in error and str(other) in error
    assert 'BATCH_SIZE' not in error and 'jax' not in error
  assert not folder.exists()


@pytest.mark.slow
@pytest.mark.process
def test_error_of_one_host_is_heard_by_all(tmp_path):
  results, _ = run_hosts(
      2, tmp_path / 'run', own=("--gin.MIXTURE='tiny_kin'",)
  )
  (status, output), (own_status, own_output) = results
  error = "no mixture or dataset 'tiny_kin'; nearest: ['tiny_kind'"
  assert (status, own_status) == (1, 1), results
  assert f'flipped-t5x: host 1: {error}' in output
  assert f'flipped-t5x: {error}' in own_output


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('tasks', (2, 1))
def test_slurm(tasks):
  port = str(local_hosts.free_port())
  processes = [
      start(
          _MEET, JAX_COORDINATOR_PORT=port, SLURM_JOB_ID='7',
          SLURM_STEP_NODELIST='localhost', SLURM_NTASKS='2',
          SLURM_STEP_NUM_TASKS=str(tasks), SLURM_PROCID=str(i),
          SLURM_LOCALID=str(i),
      )
      for i in range(tasks)
  ]
  for process in processes:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.splitlines()[-1] == str([b'0', b'1'][:tasks])


@pytest.mark.slow
@pytest.mark.process
def test_host_that_is_left_alone():
  process = start(_LONELY.format(port=local_hosts.free_port()))
  output, _ = process.communicate(timeout=120)
  assert process.returncode not in (0, None)
  assert output.splitlines()[-1].startswith(
      'flipped-t5x: the hosts have not found each other'
  )


@pytest.mark.parametrize('flags, message', (
    (['--num_processes=2'], 'go together'),
    (['--coordinator_address=a', '--num_processes=2', '--process_id=0'],
     'is not HOST:PORT'),
    (['--coordinator_address=a:1', '--num_processes=2', '--process_id=2'],
     '--process_id=2 is not one of 0 to 1'),
))
def test_flags_that_do_not_fit(tmp_path, capsys, flags, message):
  assert main.main(command(tmp_path / 'run', *flags)) == 1
  assert message in capsys.readouterr().err


def test_one_host_asks_nobody():
  with hosts.joined():
    assert not jax.distributed.is_initialized()
  with hosts.joined('localhost:1', 1, 0):
    assert not jax.distributed.is_initialized()
