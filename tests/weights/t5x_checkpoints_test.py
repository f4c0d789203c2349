"""Weights of T5X checkpoints: made by hand, by T5X, by the embedded engine."""

import dataclasses
import json
import pathlib
import shutil
import weakref

import demo_data
from flax import serialization
from flax import traverse_util
from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.cli import main
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import optimizers
from flipped_t5x.engine import train_step
from flipped_t5x.tasks import batches
from flipped_t5x.weights import model_files
from flipped_t5x.weights import run_config
from flipped_t5x.weights import stored_arrays
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import tensors
import forward
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorstore as ts

SCALE = 'decoder/decoder_norm/scale'
EMBEDDING = 'token_embedder/embedding'

# How T5X has written the place of an array: on disk, at Google, in a bucket,
# and with the TensorStore of 2021.
PLACES = {
    'file': lambda path: {'kvstore': {'driver': 'file', 'path': path}},
    'gfile': lambda path: {'kvstore': {'driver': 'gfile', 'path': f'{path}/'}},
    'gcs': lambda path: {'kvstore': {
        'driver': 'gcs', 'bucket': 't5x-dummy-bucket', 'path': f'{path}/',
    }},
    'old': lambda path: {'kvstore': {'driver': 'file'}, 'path': path},
}


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def read(path):
  """The tree of weights of a checkpoint, and its step."""
  opened, step = t5x_checkpoints.open(path)
  return tensors.tree({n: t.read() for n, t in opened.items()}), step


def assert_same(params, expected, dtype=None):
  """Names, types and every bit."""
  params, expected = flat(params), flat(expected)
  assert params.keys() == expected.keys()
  for name, values in expected.items():
    assert params[name].dtype == (dtype or values.dtype), name
    np.testing.assert_array_equal(params[name], values, name)


def make(folder, params, step=7, place='file', **changed):
  """Writes a checkpoint as T5X did; returns its path.

  Args:
    folder: the run's.
    params: the weights.
    step: the step.
    place: see `PLACES`.
    **changed: entries of the msgpack file to change.
  """
  path = folder / f'checkpoint_{step}'
  target, states = {}, {}
  for name, values in flat(params).items():
    name = tuple(name.split('/'))
    target[name] = np.asarray(values)
    states[(*name, 'v')] = {  # There is no such file: it is not to be read.
        'driver': 'zarr', 'dtype': 'float32', **PLACES[place]('state.nowhere'),
        'metadata': {'shape': list(values.shape)},
    }
    if name[-1] == 'scale':  # Small arrays are in the file itself.
      continue
    directory = '.'.join(('target', *name))
    metadata = {
        'shape': list(values.shape), 'compressor': {'id': 'gzip', 'level': 1},
        'chunks': [-(-values.shape[0] // 2), values.shape[1]],
    }
    ts.open({
        'driver': 'zarr', 'metadata': metadata,
        'dtype': np.dtype(values.dtype).name,
        'kvstore': {'driver': 'file', 'path': f'{path}/{directory}/'},
    }, create=True).result().write(np.asarray(values)).result()
    target[name] = {
        'driver': 'zarr', 'dtype': np.dtype(values.dtype).name,
        'metadata': metadata, **PLACES[place](directory),
    }
  (path / 'checkpoint').write_bytes(serialization.msgpack_serialize({
      'version': 3,
      'optimizer': {
          'target': traverse_util.unflatten_dict(target),
          'state': {
              'step': np.int32(step),
              'param_states': traverse_util.unflatten_dict(states),
          },
      },
      **changed,
  }))
  return path


@pytest.fixture(scope='module')
def params(tiny_params):
  return tiny_params


@pytest.fixture
def checkpoint(params, tmp_path):
  """A checkpoint of step 7 in T5X's first layout, to be damaged."""
  return make(tmp_path, params)


@pytest.mark.parametrize('place', PLACES)
def test_first_layout(params, tmp_path, place):
  path = make(tmp_path, params, place=place)
  # Where it lies now counts, not where it was written.
  moved = (tmp_path / 'elsewhere').resolve()
  moved.mkdir()
  path = path.rename(moved / 'any name')
  found, step = read(path)
  assert_same(found, params)
  assert step == 7


def test_bfloat16(params, tmp_path):
  rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
  path = make(tmp_path, rounded)
  assert_same(read(path)[0], rounded, jnp.bfloat16)


def test_checkpoints_of_the_embedded_engine(
    tiny_run, tiny_network, make_params
):
  for path, step in (
      (tiny_run, 2), (tiny_run / 'checkpoints', 2), (f'{tiny_run}/', 2),
      (tiny_run / 'checkpoints' / '1', 1), (tiny_run / 'checkpoints' / '2', 2),
  ):
    found, found_step = read(path)
    assert_same(found, make_params(tiny_network, step), jnp.float32)
    assert found_step == step
  assert list(t5x_checkpoints.steps(tiny_run)) == [1, 2]


def test_an_optimizer_is_not_opened(params, tmp_path, monkeypatch):
  """It has three times as many arrays as the network."""
  state = {'params': params, 'opt_state': params, 'step': np.int32(1)}
  saver = checkpoints.Checkpoints(tmp_path)
  saver.save(1, state, b'')
  saver.close()
  step = t5x_checkpoints.find(tmp_path)
  assert len(t5x_checkpoints.shapes(step)) == len(jax.tree.leaves(state))
  opened, ts_open = [], ts.open

  def record(spec, **options):
    opened.append(spec['kvstore']['path'].split('.')[0])
    return ts_open(spec, **options)

  monkeypatch.setattr(ts, 'open', record)
  t5x_checkpoints.open(step)
  assert set(opened) == {'params', 'step/'}


def test_newest_of_a_run(params, make_params, tiny_network, tmp_path):
  newest = make_params(tiny_network, 5)
  make(tmp_path, newest, step=100)
  old = make(tmp_path, params, step=20)
  shutil.copytree(old, tmp_path / 'checkpoint_300.tmp-1')
  (tmp_path / 'checkpoint_50').mkdir()  # Nothing in it.
  assert list(t5x_checkpoints.steps(tmp_path)) == [20, 100]
  found, step = read(tmp_path)
  assert_same(found, newest)
  assert step == 100
  assert read(old)[1] == 20


@pytest.mark.parametrize('inside', ('', 'checkpoints'))
def test_a_newest_checkpoint_that_was_copied_in_part(
    params, tmp_path, tiny_run, inside
):
  """The older one is not taken in its place, unless it is asked for."""
  if inside:
    shutil.copytree(tiny_run, tmp_path / 'run')
    newest = tmp_path / 'run' / inside / '2'
    shutil.rmtree(newest / 'state')
    old = newest.with_name('1')
  else:
    old = make(tmp_path / 'run', params, step=1)
    newest = make(tmp_path / 'run', params, step=2)
    (newest / 'checkpoint').unlink()
  message = f'^{newest} is incomplete: .*complete steps: 1'
  with pytest.raises(errors.UserError, match=message):
    read(tmp_path / 'run')
  with pytest.raises(errors.UserError, match=message):
    model_files.open(tmp_path / 'run')
  assert read(old)[1] == 1
  assert model_files.open(tmp_path / 'run', step=1).step == 1
  shutil.rmtree(newest)
  assert read(tmp_path / 'run')[1] == 1


def test_numbers_are_names_of_anything(params, tmp_path):
  (tmp_path / '3').mkdir()  # Such as the run of a seed.
  make(tmp_path, params, step=2)
  assert read(tmp_path)[1] == 2


def test_relative_path(checkpoint, params, monkeypatch):
  monkeypatch.chdir(checkpoint.parent)
  assert_same(read('checkpoint_7')[0], params)
  t5x_checkpoints.write(params, 8, '.')
  assert_same(read('.')[0], params)


def test_no_checkpoint(checkpoint, tiny_run, tmp_path):
  make(tmp_path, {'a': np.ones((2, 2), np.float32)}, step=12)
  (tmp_path / 'checkpoint_9').mkdir()
  for name, reason in (('8', 'no such folder'), ('9', 'the folder has none')):
    with pytest.raises(
        FileNotFoundError, match=rf'checkpoint_{name}: no checkpoint found'
        rf' \({reason}; steps in {tmp_path}: 7, 12\)'
    ):
      read(tmp_path / f'checkpoint_{name}')
  with pytest.raises(FileNotFoundError, match='steps in .*checkpoints: 1, 2'):
    read(tiny_run / 'checkpoints' / '3')
  with pytest.raises(FileNotFoundError, match='nowhere: none'):
    read(tmp_path / 'nowhere' / 'run')


def test_what_is_no_weight(tmp_path):
  path = make(tmp_path, {'a': np.ones((2, 2), np.uint16)})
  with pytest.raises(ValueError, match='a is uint16, not a weight'):
    read(path)


def kernel(path):
  """The files of one array: its two halves and `.zarray`."""
  folder = path / 'target.decoder.layers_0.mlp.wo.kernel'
  assert sorted(f.name for f in folder.iterdir()) == ['.zarray', '0.0', '1.0']
  return folder


def cut(path):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 255
  path.write_bytes(content)


@pytest.mark.parametrize('damage', (
    lambda path: cut(kernel(path) / '1.0'),
    lambda path: flip(kernel(path) / '0.0'),
    lambda path: (kernel(path) / '1.0').write_bytes(b''),
    lambda path: (kernel(path) / '1.0').unlink(),
    lambda path: (kernel(path) / '.zarray').unlink(),
    lambda path: cut(kernel(path) / '.zarray'),
    lambda path: shutil.rmtree(kernel(path)),
))
def test_damaged_array(checkpoint, damage):
  damage(checkpoint)
  with pytest.raises(
      ValueError,
      match='checkpoint_7: decoder/layers_0/mlp/wo/kernel is damaged: ',
  ):
    read(checkpoint)


def test_damaged_file(checkpoint):
  cut(checkpoint / 'checkpoint')
  with pytest.raises(ValueError, match='checkpoint_7/checkpoint is damaged: '):
    read(checkpoint)


def test_damaged_checkpoint_of_orbax(tiny_run, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(tiny_run, run)
  state = run / 'checkpoints' / '2' / 'state'
  for data in (state / 'ocdbt.process_0' / 'd').iterdir():
    data.write_bytes(b'')  # Arrays stand in it in no fixed order.
  with pytest.raises(
      ValueError, match='checkpoints/2: [a-z_0-9/]+ is damaged: '
  ):
    read(run)
  (state / '_METADATA').unlink()
  with pytest.raises(ValueError, match='checkpoints/2 is damaged: .*_METADATA'):
    read(run)


def test_other_files_of_that_name(checkpoint, tmp_path, params):
  path = make(tmp_path / 'version', params, version=1)
  with pytest.raises(ValueError, match='has version 1 of the layout'):
    read(path)
  (checkpoint / 'checkpoint').write_text('model_checkpoint_path: "model-5"\n')
  with pytest.raises(ValueError, match='checkpoint_7 is a TensorFlow checkp'):
    read(checkpoint)


@pytest.mark.parametrize('dtype', (jnp.float32, jnp.bfloat16))
def test_write(params, tmp_path, dtype):
  weights = jax.tree.map(lambda a: a.astype(dtype), params)
  path = t5x_checkpoints.write(weights, 12, tmp_path / 'new' / 'run')
  assert str(path) == f'{tmp_path}/new/run/checkpoint_12'
  found, step = read(path)
  assert_same(found, weights, dtype)
  assert step == 12
  assert {f.name for f in (tmp_path / 'new' / 'run').iterdir()} == {path.name}
  assert {f.name for f in path.iterdir()} == {'checkpoint', *(
      f'target.{n.replace("/", ".")}' for n in flat(params)
  )}


def test_write_never_replaces(checkpoint, params, tmp_path):
  before = {f: f.read_bytes() for f in checkpoint.rglob('*') if f.is_file()}
  with pytest.raises(FileExistsError, match='checkpoint_7 exists already'):
    t5x_checkpoints.write(params, 7, tmp_path)
  assert len(before) > 10
  assert before == {f: f.read_bytes() for f in before}


def test_write_leaves_nothing_unfinished(params, tmp_path):
  last = dict(flat(params))
  last['zzz'] = np.array(['no', 'weight'], object)
  with pytest.raises(Exception, match='object'):
    t5x_checkpoints.write(traverse_util.unflatten_dict(last, sep='/'), 1,
                          tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('dtype', (jnp.float32, jnp.bfloat16))
def test_one_tensor_at_a_time(params, tmp_path, dtype):
  """Opening reads no values; writing reads each once, and keeps none."""
  weights = jax.tree.map(lambda a: np.asarray(a.astype(dtype)), params)
  alive = []

  def tensor(name, values):

    def read():
      assert all(other() is None for other in alive), name
      values_read = values.copy()
      alive.append(weakref.ref(values_read))
      return values_read

    return tensors.Tensor(values.shape, values.dtype, read)

  path = t5x_checkpoints.write(
      {n: tensor(n, a) for n, a in flat(weights).items()}, 3, tmp_path
  )
  assert len(alive) == len(flat(params))
  opened, step = t5x_checkpoints.open(path)
  assert step == 3
  assert_same(
      tensors.tree({n: t.read() for n, t in opened.items()}), weights, dtype
  )
  # What is damaged is found when it is read.
  (path / f'target.{EMBEDDING.replace("/", ".")}' / '0.0').unlink()
  opened, _ = t5x_checkpoints.open(path)
  assert opened[EMBEDDING].shape == (208, 16)
  assert opened[SCALE].read().shape == (16,)
  with pytest.raises(ValueError, match=f'{EMBEDDING} is damaged'):
    opened[EMBEDDING].read()


def test_stacked_layers(params, tmp_path):
  stacks = tensors.stacked(tensors.from_arrays(params))
  path = t5x_checkpoints.write(stacks, 3, tmp_path)
  assert_same(
      read(path)[0], tensors.tree({n: t.read() for n, t in stacks.items()})
  )


def test_large_arrays_lie_in_pieces(tmp_path, monkeypatch):
  """Of whole rows: of 17 rows of 4,000 bytes, 8, 8 and 1."""
  monkeypatch.setattr(stored_arrays, '_CHUNK_BYTES', 32 * 2**10)
  values = np.zeros((17, 1000), np.float32)
  values[:, 0] = np.arange(17)
  path = t5x_checkpoints.write({'a': values}, 0, tmp_path)
  assert {f.name for f in (path / 'target.a').iterdir()} == {
      '.zarray', '0.0', '1.0', '2.0'
  }
  assert_same(read(path)[0], {'a': values})


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    yield


def run(folder, *overrides):
  gin_file = demo_data.write_gin(folder.with_suffix('.gin'), folder)
  return main.main([
      'train', f'--gin_file={gin_file}', '--gin.TRAIN_STEPS=1',
      '--gin.DROPOUT_RATE=0.0', '--gin.LOG_PERIOD=1', *overrides,
  ])


def logged(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['loss'] for line in lines]


def first_loss(folder, params):
  """The loss of these weights on the first batch of the run in `folder`."""
  batch = next(batches.TrainBatches(
      demo_data.MIXTURE, folder / 'sentencepiece.model', 4, 32, 16, seed=42
  ))
  right, wrong = forward.pair_logits(
      network_lib.Transformer(demo_data.NETWORK), params, batch
  )
  loss, _ = objectives.flipped_loss(
      right, wrong, batch['decoder_target_tokens'],
      batch['decoder_loss_weights'], unlikelihood_weight=3.0, eps=0.01,
  )
  return float(loss)


@pytest.mark.slow
def test_training_starts_from_a_checkpoint(
    data, tmp_path, make_params, capsys
):
  params = make_params(demo_data.NETWORK, 11)
  path = t5x_checkpoints.write(params, 1000, tmp_path / 'weights')
  initial = f"--gin.INITIAL_CHECKPOINT_PATH='{path}'"
  folder = tmp_path / 'run'
  assert run(folder, initial) == 0
  loss, = logged(folder)
  assert loss == pytest.approx(first_loss(folder, params), rel=1e-5)
  assert f'{path}: starting from the weights of step 1000' in (
      capsys.readouterr().out
  )
  config = run_config.RunConfig.read(folder)
  assert config.settings['INITIAL_CHECKPOINT_PATH'] == str(path)
  # From random weights it is another loss.
  assert run(tmp_path / 'scratch') == 0
  assert abs(logged(tmp_path / 'scratch')[0] - loss) > 0.01
  # What the run has saved itself comes first; these weights are not read.
  shutil.rmtree(path)
  assert run(folder, initial, '--gin.TRAIN_STEPS=2') == 0
  assert 'resuming from step 1' in capsys.readouterr().out
  assert logged(folder)[0] == loss and len(logged(folder)) == 2


@pytest.mark.slow
def test_training_starts_from_a_run_or_its_conversion(data, tmp_path):
  """The first loss of a second run is that of what the first one saved."""
  first, converted = tmp_path / 'first', tmp_path / 'converted'
  assert run(first, '--gin.TRAIN_STEPS=3') == 0
  assert main.main([
      'convert', f'{first}', f'{converted}', '--to', 'native', '--scan_layers'
  ]) == 0
  saved, step = read(first)
  assert step == 3
  for name, path in (('a', first / 'checkpoints' / '3'), ('b', converted)):
    second = tmp_path / name
    assert run(second, f"--gin.INITIAL_CHECKPOINT_PATH='{path}'") == 0
    loss, = logged(second)
    assert loss == pytest.approx(first_loss(second, saved), rel=1e-5)
    # The optimizer and the step start anew.
    assert read(second)[1] == 1


@pytest.mark.slow
def test_evaluation_of_a_converted_run(data, tmp_path):
  folders = tmp_path / 'run', tmp_path / 'converted'
  assert run(folders[0]) == 0
  assert main.main(
      ['convert', *map(str, folders), '--to', 'native', '--no-scan_layers']
  ) == 0
  results = []
  for folder in folders:
    assert main.main(['eval', f'{folder}', '--limit', '5']) == 0
    results.append(json.loads((folder / 'results.json').read_text()))
  one, other = ({
      name: (task['examples'], task['accuracy'], task['macro_f1'])
      for name, task in found['tasks'].items()
  } for found in results)
  assert one == other and len(one) == 2
  assert {found['step'] for found in results} == {1}


@pytest.mark.slow
def test_training_needs_the_checkpoint_first(data, tmp_path, params, capsys):
  """The error comes before there is a run folder that says otherwise."""
  t5x_checkpoints.write(params, 5, tmp_path / 'weights')
  folder = tmp_path / 'run'
  for path, message in (
      (tmp_path / 'weights' / 'checkpoint_6', 'no checkpoint found (no such'
       f' folder; steps in {tmp_path}/weights: 5)'),
      (tmp_path / 'weights', 'is of another model or size: '),
  ):
    assert run(folder, f"--gin.INITIAL_CHECKPOINT_PATH='{path}'") == 1
    error = capsys.readouterr().err
    assert 'INITIAL_CHECKPOINT_PATH: ' in error and message in error
    assert not folder.exists()


@pytest.mark.slow
def test_fresh_optimizer(make_params):
  """State from given weights is that of the same weights drawn."""
  model = network_lib.Transformer(demo_data.NETWORK)
  optimizer = optimizers.adafactor(1e-2)
  drawn = train_step.init_state(model, optimizer, 3)
  given = train_step.init_state(model, optimizer, 4, drawn['params'])
  jax.tree.map(np.testing.assert_array_equal, given, drawn)


# T5X itself. Some axes are long enough for Adafactor's rows and columns.
LONG = network_lib.T5Config(
    vocab_size=208, emb_dim=128, num_heads=2, num_encoder_layers=2,
    num_decoder_layers=2, head_dim=64, mlp_dim=130,
)
SCANNED = dataclasses.replace(LONG, scan_layers=True)


class T5X:
  """T5X with Adafactor and its way to checkpoints.

  Attributes:
    training: makes states with an optimizer.
    inference: makes states without.
  """

  def __init__(self, config):
    """T5X's own network; where layers are scanned, ours."""
    # T5X registers with gin on import; the commands, tested above, lock it.
    with gin.unlock_config():
      from t5x import adafactor
      from t5x import models
      from t5x import partitioning
      from t5x import utils
      from t5x.examples.t5 import network as t5x_network

    module = network_lib.Transformer(config)
    if not config.scan_layers:
      module = t5x_network.Transformer(t5x_network.T5Config(
          **{name: getattr(config, name) for name in (
              'vocab_size', 'emb_dim', 'num_heads', 'num_encoder_layers',
              'num_decoder_layers', 'head_dim', 'mlp_dim', 'mlp_activations',
              'logits_via_embedding',
          )}, dtype='float32',
      ))
    vocabulary = seqio.PassThroughVocabulary(config.vocab_size)
    optimizer = adafactor.Adafactor(
        decay_rate=0.8, multiply_by_parameter_scale=False,
        logical_factor_rules=adafactor.standard_logical_factor_rules(),
    )
    model = models.EncoderDecoderModel(
        module, vocabulary, vocabulary, optimizer
    )
    self._utils = utils
    self._partitioner = partitioning.PjitPartitioner(
        num_partitions=1,
        logical_axis_rules=partitioning.standard_logical_axis_rules(),
    )
    names = [f'{name}_tokens' for name in (
        'encoder_input', 'decoder_input', 'decoder_target'
    )]
    self.training, self.inference = (
        utils.TrainStateInitializer(
            definition, model.get_initial_variables,
            dict.fromkeys(names, (1, 4)), self._partitioner,
            input_types=dict.fromkeys(names, jnp.int32),
        ) for definition in (optimizer, None)
    )

  def state(self, params, step):
    """What training has after `step` updates, but for the second moments."""
    state = self.training.from_scratch(jax.random.key(0))
    return state.replace_params(params).replace_step(jnp.int32(step))

  def save(self, folder, state, use_orbax, dtype):
    """Writes a checkpoint as `t5x.train` does; returns its path."""
    folder.mkdir()
    _, manager = self._utils.create_checkpoint_manager_and_restore(
        self.training, self._partitioner, None, None, None,
        save_checkpoint_cfg=self._utils.SaveCheckpointConfig(dtype=dtype),
        model_dir=str(folder), use_orbax=use_orbax,
    )
    manager.save(state, [])
    manager.wait_until_finished()
    manager.close()
    return folder / f'checkpoint_{int(state.step)}'

  def restore(self, initializer, path, use_orbax, dtype, model_dir):
    """Reads a checkpoint as `t5x.train`, `t5x.eval` and `t5x.infer` do."""
    state, manager = self._utils.create_checkpoint_manager_and_restore(
        initializer, self._partitioner,
        self._utils.RestoreCheckpointConfig(
            path=str(path), mode='specific', dtype=dtype
        ),
        str(path), None, model_dir=model_dir, use_orbax=use_orbax,
    )
    manager.close()
    return state


@pytest.fixture(scope='module')
def t5x():
  return T5X(LONG)


@pytest.fixture(scope='module')
def t5x_scanned():
  return T5X(SCANNED)


@pytest.fixture(scope='module')
def long_params(make_params):
  return make_params(LONG, 9)


def unfrozen(tree):
  return serialization.to_state_dict(tree)


@pytest.mark.t5x
@pytest.mark.parametrize('use_orbax', (False, True))
@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_what_t5x_wrote(t5x, long_params, tmp_path, use_orbax, dtype):
  stored = jax.tree.map(lambda a: a.astype(dtype), long_params)
  # With Orbax, T5X stores weights in the type they have, whatever it is asked.
  path = t5x.save(
      tmp_path / 'run', t5x.state(stored if use_orbax else long_params, 7),
      use_orbax, dtype,
  )
  assert (path / 'state').is_dir() == use_orbax
  for place in (path, tmp_path / 'run'):
    found, step = read(place)
    assert_same(found, stored, dtype)
    assert step == 7
  # The names and shapes are those of our network.
  assert not tensors.differences(flat(found), tensors.shapes(LONG))


@pytest.mark.t5x
@pytest.mark.parametrize('use_orbax', (True, False))
@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_t5x_reads_what_we_wrote(t5x, long_params, tmp_path, use_orbax, dtype):
  weights = jax.tree.map(lambda a: a.astype(dtype), long_params)
  path = t5x_checkpoints.write(weights, 7, tmp_path / 'weights')
  before = set(pathlib.Path(path).rglob('*'))
  for initializer, model_dir in (
      (t5x.training, str(tmp_path)), (t5x.inference, None)
  ):
    for restored, expected in (('float32', jnp.float32), (None, dtype)):
      state = t5x.restore(initializer, path, use_orbax, restored, model_dir)
      assert_same(unfrozen(state.params), jax.tree.map(
          lambda a, t=expected: a.astype(t), weights), expected)
      assert int(state.step) == 7
  assert len(before) > 50 and set(pathlib.Path(path).rglob('*')) == before


def trained_on(t5x, params, tmp_path):
  """A step of training from a checkpoint of ours, and without one.

  Args:
    t5x: T5X.
    params: the weights.
    tmp_path: an empty folder.

  Returns:
    Shapes of the slots `v_col` before the step.
  """
  path = t5x_checkpoints.write(params, 0, tmp_path)
  restored = t5x.restore(t5x.training, path, True, 'float32', str(tmp_path))
  fresh = t5x.state(params, 0)
  flat_fresh = flat(unfrozen(fresh.state_dict()))
  assert_same(restored.state_dict(), fresh.state_dict())
  gradients = jax.tree.map(jnp.sin, fresh.params)
  restored, fresh = (
      state.apply_gradient(gradients, learning_rate=1e-3)
      for state in (restored, fresh)
  )
  assert_same(restored.state_dict(), fresh.state_dict())
  assert np.all(flat(unfrozen(fresh.params))[EMBEDDING]
                != flat(params)[EMBEDDING])
  return {a.shape for n, a in flat_fresh.items() if n.endswith('v_col')}


@pytest.mark.t5x
def test_t5x_trains_on_from_what_we_wrote(t5x, long_params, tmp_path):
  """As from the same weights with an optimizer that has seen nothing."""
  assert trained_on(t5x, long_params, tmp_path) == {
      (1,), (128,), (130,), (208,)
  }


@pytest.mark.t5x
def test_t5x_trains_on_from_stacked_layers(t5x_scanned, make_params, tmp_path):
  """There the rows are the axis 'embed', here 16, whatever the others are."""
  assert trained_on(t5x_scanned, make_params(SCANNED, 9), tmp_path) == {
      (1,), (2, 128), (2, 130), (128, 2), (130, 2), (208,)
  }


@pytest.mark.t5x
@pytest.mark.parametrize('use_orbax', (False, True))
def test_stacked_layers_that_t5x_wrote(
    t5x_scanned, make_params, tmp_path, use_orbax
):
  params = make_params(SCANNED, 9)
  path = t5x_scanned.save(
      tmp_path / 'run', t5x_scanned.state(params, 7), use_orbax, 'float32'
  )
  assert_same(read(path)[0], params)
