"""The T5X model, its gin files, and a run of the real T5X."""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import demo_data
from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x import network as network_lib
from flipped_t5x.cli import main
from flipped_t5x.engine import train_step
from flipped_t5x.prompts import arrays
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import registry
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import model_files
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import tensors
import forward
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

pytestmark = pytest.mark.t5x
GIN = gin_config.gin_folder()
SIZES = sorted(p.name for p in (GIN / 'models').glob('t5_1_1_*.gin'))
METHODS = sorted(p.name for p in (GIN / 'methods').glob('*.gin'))

# What `python -m t5x.train` does with its flags, short of training: argv holds
# gin files, then bindings. Prints macros and the number of parameters.
BUILD = """
import json, sys
import t5x.train
from t5x.train import train
from t5x import gin_utils
import gin, jax

files, bindings = map(json.loads, sys.argv[1:])
gin_utils.parse_gin_flags(files.pop(0), files, bindings)
model = gin.query_parameter('MODEL/macro.value').scoped_configurable_fn()
tokens = {f'{side}_input_tokens': (1, 8) for side in ('encoder', 'decoder')}
shapes = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), tokens)
)['params']
print(json.dumps({
    'parameters': sum(x.size for x in jax.tree.leaves(shapes)),
    'lambda': model._unlikelihood_weight,
    'optimizer': repr(model.optimizer_def.hyper_params),
    'macros': gin.config_str(),
}))
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp('data')
    demo_data.install(folder, patch)
    patch.setenv('FLIPPED_T5X_VOCABULARY', str(demo_data.vocabulary()))
    yield folder


def build(*files, bindings=()):
  roots = [str(GIN), str(pathlib.Path(
      importlib.util.find_spec('t5x').origin
  ).parents[1])]
  output = subprocess.run(
      [sys.executable, '-c', BUILD, json.dumps([roots, *files]),
       json.dumps(bindings)],
      # In a folder without any that gin could take for packages.
      capture_output=True, text=True, check=False, cwd='/',
  )
  assert output.returncode == 0, output.stderr[-3000:]
  return json.loads(output.stdout.splitlines()[-1])


@pytest.mark.parametrize('size, method', [
    *((size, 'flipped.gin') for size in SIZES),
    *((SIZES[0], method) for method in METHODS),
])
def test_gin_files_build(size, method, data, tmp_path):
  built = build(
      'runs/t5x_finetune.gin', f'models/{size}', f'methods/{method}',
      bindings=[
          f'MODEL_DIR = "{tmp_path}"', 'INITIAL_CHECKPOINT_PATH = None'
      ],
  )
  # Raffel et al. 2020, table of T5 1.1's sizes, in millions.
  millions = {'small': 77, 'base': 248, 'large': 783, 'xl': 2850, 'xxl': 11135}
  name = size.removesuffix('.gin').split('_')[-1]
  assert built['parameters'] / 1e6 == pytest.approx(millions[name], rel=0.01)
  weight = 3.0 if method in ('flipped.gin', 'direct_unlikelihood.gin') else 0.0
  assert built['lambda'] == weight
  steps = 1_100_000 if 'lm100k' in size else 1_000_000
  assert f'/checkpoint_{steps}' in (GIN / 'models' / size).read_text()
  assert 'step_offset=0' in built['optimizer']
  assert 'multiply_by_parameter_scale=False' in built['optimizer']
  assert 'global_norm_clip_threshold=0.5' in built['optimizer']


@pytest.fixture
def make_model():
  """network -> FlippedModel in float32, with settings of the tests."""
  from flipped_t5x import models

  def make(network, **kwargs):
    return models.FlippedModel(
        module=network, input_vocabulary=None, output_vocabulary=None,
        optimizer_def=None, **kwargs,
    )

  return make


@pytest.fixture
def t5x_network():
  from t5x.examples.t5 import network

  names = {field.name for field in dataclasses.fields(network.T5Config)}
  return network.Transformer(network.T5Config(
      **{k: v for k, v in vars(demo_data.NETWORK).items() if k in names}
  ))


@pytest.fixture
def batch(data):
  return next(batches.TrainBatches(
      demo_data.MIXTURE, demo_data.vocabulary(), 6, 48, 32, seed=3
  ))


def test_networks_give_the_same_logits(make_params, t5x_network, batch):
  params = make_params(demo_data.NETWORK, seed=4)
  ours = forward.logits(
      network_lib.Transformer(demo_data.NETWORK), params, batch
  )
  theirs = t5x_network.apply(
      {'params': params},
      *(batch[f'{n}_tokens']
        for n in ('encoder_input', 'decoder_input', 'decoder_target')),
      encoder_segment_ids=batch['encoder_segment_ids'],
      decoder_segment_ids=batch['decoder_segment_ids'],
      enable_dropout=False,
  )
  real = batch['decoder_target_tokens'] > 0
  np.testing.assert_allclose(ours[real], theirs[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('eps', (0.0, 0.01))
@pytest.mark.parametrize('which', ('ours', 'theirs'))
def test_loss_is_the_embedded_engines(
    which, eps, make_model, make_params, t5x_network, batch
):
  params = make_params(demo_data.NETWORK, seed=4)
  network = network_lib.Transformer(demo_data.NETWORK)
  model = make_model(network if which == 'ours' else t5x_network, eps=eps)
  loss, metrics = model.loss_fn(params, batch, None)
  right, wrong = forward.pair_logits(network, params, batch)
  expected, parts = train_step.objectives.flipped_loss(
      right, wrong, batch['decoder_target_tokens'],
      batch['decoder_loss_weights'], unlikelihood_weight=3.0, eps=eps,
  )
  assert loss == pytest.approx(float(expected), rel=1e-5)
  for name, value in parts.items():
    assert metrics[name].total == pytest.approx(
        float(value), rel=1e-5, abs=1e-6
    ), name


@pytest.mark.parametrize('number', (None, 2, 3))
def test_microbatches_log_what_the_batch_does(
    number, make_model, make_params, batch
):
  from t5x import train_state
  from t5x import trainer

  network = network_lib.Transformer(
      dataclasses.replace(demo_data.NETWORK, dropout_rate=0.0)
  )
  model = make_model(network, num_microbatches=number)
  params = make_params(demo_data.NETWORK, seed=4)
  gradients, found, _ = trainer.accumulate_grads_microbatched(
      model, train_state.InferenceState.create({'params': params}), batch,
      jax.random.key(0), number,
  )
  (_, expected), whole = jax.value_and_grad(
      make_model(network).loss_fn, has_aux=True
  )(params, batch, None)
  for name in ('loss', 'likelihood', 'unlikelihood', 'prob_right', 'prob_wrong',
               'loss_per_nonpadding_target_token'):
    assert found[name].total == pytest.approx(
        float(expected[name].total), rel=1e-4
    ), name
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
      gradients, whole,
  )
  # T5X does not divide the batches that it evaluates on.
  loss, evaluated = model.eval_fn(params, batch)
  for name in ('loss', 'likelihood', 'unlikelihood'):
    assert evaluated[name].total == pytest.approx(
        float(expected[name].total), rel=1e-5
    ), name
  assert loss == pytest.approx(float(expected['loss'].total), rel=1e-5)


def test_steps_are_counted_from_the_checkpoint(make_params, tmp_path):
  from flipped_t5x import models

  params = make_params(demo_data.NETWORK, seed=4)
  for step in (0, 30):
    path = str(t5x_checkpoints.write(params, step, tmp_path))
    for pretrained_steps in (None, step):
      assert models.initial_step(path, pretrained_steps) == step
  assert models.initial_step((), None) == 0
  for where, steps in ((path, 0), ((), 1_000_000)):
    with pytest.raises(ValueError, match=f'PRETRAINED_STEPS is {steps}, but'):
      models.initial_step(where, steps)
  assert models.total_steps(30, 5000) == 5030


def test_vocabulary_with_more_ids_than_the_network(data, t5x_network):
  from flipped_t5x import models

  for size, fits in ((demo_data.VOCAB_SIZE, True), (204, False)):
    config = dataclasses.replace(t5x_network.config, vocab_size=size)
    arguments = dict(
        module=t5x_network.clone(config=config), optimizer_def=None,
        input_vocabulary=registry.vocabulary(),
        output_vocabulary=registry.vocabulary(),
    )
    if fits:
      models.FlippedModel(**arguments)
      continue
    with pytest.raises(ValueError, match='VOCAB_SIZE is 204, .* 205 ids'):
      models.FlippedModel(**arguments)


@pytest.mark.parametrize('fields, message', (
    ({'int8_weights': True}, 'int8_weights'),
    ({'lora_rank': 4, 'lora_alpha': 8.0, 'lora_targets': ('query',)},
     'LORA_RANK'),
))
def test_networks_that_t5x_cannot_train(fields, message, make_model):
  config = dataclasses.replace(demo_data.NETWORK, **fields)
  with pytest.raises(errors.UserError, match=message):
    make_model(network_lib.Transformer(config))


@pytest.mark.parametrize('pack', (True, False))
@pytest.mark.parametrize('which', ('ours', 'theirs'))
def test_direct_with_unlikelihood_is_the_embedded_engines(
    which, pack, make_model, make_params, t5x_network, data
):
  params = make_params(demo_data.NETWORK, seed=4)
  network = network_lib.Transformer(demo_data.NETWORK)
  model = make_model(network if which == 'ours' else t5x_network)
  task = registry.train_task('tiny_kind', demo_data.vocabulary(), 'direct')
  lengths = registry.feature_lengths(48, 16, 3.0)
  dataset = model.FEATURE_CONVERTER_CLS(pack=pack)(
      task.get_dataset(lengths, 'train', seed=1), lengths
  )
  batch = next(dataset.batch(6).as_numpy_iterator())
  loss, metrics = model.loss_fn(params, batch, None)
  right, wrong = forward.pair_logits(network, params, batch)
  expected, parts = train_step.objectives.flipped_loss(
      right, wrong, batch['decoder_target_tokens'],
      batch['decoder_loss_weights'], batch['wrong_decoder_target_tokens'],
      batch['wrong_decoder_loss_weights'], unlikelihood_weight=3.0, eps=0.01,
  )
  assert loss == pytest.approx(float(expected), rel=1e-5)
  for name, value in parts.items():
    assert metrics[name].total == pytest.approx(
        float(value), rel=1e-5, abs=1e-6
    ), name


@pytest.mark.parametrize('which', ('ours', 'theirs'))
def test_scores_are_the_embedded_engines(
    which, make_model, make_params, t5x_network, data
):
  params = make_params(demo_data.NETWORK, seed=4)
  network = network_lib.Transformer(demo_data.NETWORK)
  model = make_model(network if which == 'ours' else t5x_network)
  found = batches.open_candidates(
      'tiny_kind', demo_data.vocabulary(), 48, 32
  ).read('Kind')
  for chosen, batch in arrays.score_batches(
      found.inputs, found.targets, 8
  ):
    scores = model.score_batch(params, batch)[: len(chosen)]
    expected = train_step.objectives.sequence_scores(
        forward.logits(network, params, batch),
        batch['decoder_target_tokens'], batch['decoder_loss_weights'],
    )[: len(chosen)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    # Whatever the weights of the objective are.
    halves = dict(
        batch, decoder_loss_weights=batch['decoder_loss_weights'] / 2
    )
    again = model.score_batch(params, halves)[: len(chosen)]
    np.testing.assert_array_equal(scores, again)


def test_no_wrong_side(make_model, make_params, batch):
  params = make_params(demo_data.NETWORK, seed=4)
  network = network_lib.Transformer(demo_data.NETWORK)
  without = {k: v for k, v in batch.items() if not k.startswith('wrong_')}
  with pytest.raises(ValueError, match='LAMBDA is 3.0, .* set LAMBDA = 0'):
    make_model(network).loss_fn(params, without, None)
  loss, metrics = make_model(network, unlikelihood_weight=0.0).loss_fn(
      params, without, None
  )
  assert loss == metrics['likelihood'].total and 'unlikelihood' not in metrics
  with pytest.raises(ValueError, match="'tokens' is not one of"):
    make_model(network, averaging='tokens')


def command(model_dir, steps, *bindings, method='flipped'):
  return [
      sys.executable, '-m', 't5x.train', f'--gin_search_paths={GIN}',
      '--gin_file=runs/t5x_finetune.gin', '--gin_file=models/demo.gin',
      f'--gin_file=methods/{method}.gin', f'--gin.MODEL_DIR="{model_dir}"',
      f'--gin.MIXTURE="{demo_data.MIXTURE}"', '--gin.VOCAB_SIZE=256',
      '--gin.INITIAL_CHECKPOINT_PATH=None',
      '--gin.EMB_DIM=16', '--gin.HEAD_DIM=8', '--gin.MLP_DIM=32',
      '--gin.NUM_ENCODER_LAYERS=1', '--gin.NUM_DECODER_LAYERS=1',
      f'--gin.TRAIN_STEPS={steps}', '--gin.BATCH_SIZE=8',
      '--gin.INPUT_LENGTH=48', '--gin.TARGET_LENGTH=32',
      '--gin.CHECKPOINT_PERIOD=10', '--gin.EVAL_PERIOD=10',
      *(f'--gin.{b}' for b in bindings),
  ]


# The catalog is installed in this process; its `t5x.train` is another.
SITE = """
import pathlib, sys
import pytest
import demo_data

demo_data.install(pathlib.Path(sys.argv[1]), pytest.MonkeyPatch())
import runpy
sys.argv = ['t5x.train', *sys.argv[5:]]
runpy.run_module('t5x.train', run_name='__main__', alter_sys=True)
"""


def run_t5x(data, model_dir, steps, *bindings, **kwargs):
  return subprocess.run(
      [sys.executable, '-c', SITE, str(data),
       *command(model_dir, steps, *bindings, **kwargs)],
      env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (
          str(pathlib.Path(__file__).parent / 'helpers'),
          os.environ.get('PYTHONPATH'),
      )))),
      capture_output=True, text=True, check=False, timeout=300, cwd='/',
  )


def read_state(folder):
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder / 'state')
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


def test_trains_stops_and_goes_on(data, tmp_path):
  whole, halves = tmp_path / 'whole', tmp_path / 'halves'
  for folder, steps in ((whole, 20), (halves, 10), (halves, 20)):
    finished = run_t5x(
        data, folder, steps, 'trainer.Trainer.weight_metrics_computer=None'
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
  ours, theirs = (
      read_state(f / 'checkpoint_20') for f in (halves, whole)
  )
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, name)
  assert 'LAMBDA = 3.0' in (whole / 'config.gin').read_text()
  # From random weights, steps are counted from 0.
  assert not (whole / 'checkpoint_30').exists()
  # What the run is, and its vocabulary, can be read from its folder.
  opened = model_files.open(whole)
  assert (opened.format, opened.input_length, opened.step) == (
      'flipped', 48, 20
  )
  assert opened.settings['trainer.Trainer.weight_metrics_computer'] is None
  assert opened.vocabulary.read_bytes() == demo_data.vocabulary().read_bytes()
  finished = run_t5x(data, halves, 20, 'LAMBDA=0.5')
  assert 'LAMBDA: 3.0 there, 0.5 now' in finished.stderr
  # Nor with other rows.
  path = demo_data.local_file(data, 'tiny_kind', 'train')
  text = path.read_text()
  path.write_text(text.replace('is', 'was', 1))
  finished = run_t5x(data, halves, 30)
  path.write_text(text)
  assert f'tiny_kind has other rows ({path}, ' in finished.stderr
  assert not (halves / 'checkpoint_30').exists()


@pytest.fixture(scope='module')
def converted(data, make_params, tmp_path_factory):
  """Weights, and the T5X checkpoint that `convert` makes of them."""
  network = dataclasses.replace(demo_data.NETWORK, vocab_size=256)
  params = make_params(network, seed=4)
  folder = tmp_path_factory.mktemp('converted')
  hf = folder / 'hf'
  hf.mkdir()
  hf_checkpoints.write(hf, network, tensors.from_arrays(params), None)
  (hf / 'spiece.model').write_bytes(demo_data.vocabulary().read_bytes())
  assert main.main(['convert', str(hf), str(folder / 't5x'), '--to=t5x']) == 0
  return params, folder / 't5x/checkpoint_0'


def test_trains_from_what_convert_writes(data, converted, tmp_path):
  params, checkpoint = converted
  params = tensors.from_arrays(params)
  logged = []
  for number in (1, 2, 4):
    folder = tmp_path / str(number)
    finished = run_t5x(
        data, folder, 10, f'INITIAL_CHECKPOINT_PATH="{checkpoint}"',
        f'NUM_MICROBATCHES={number}', 'DROPOUT_RATE=0.0', 'LOG_PERIOD=5',
        'ACTIVATION_DTYPE="float32"',
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    # TRAIN_STEPS steps, counted from the 0 of the checkpoint.
    assert {p.name for p in folder.glob('checkpoint_*')} == {
        'checkpoint_0', 'checkpoint_10'
    }
    # Ten steps of at most 5e-5 away from where they began, and no further.
    for name, tensor in model_files.open(folder).tensors.items():
      change = np.abs(tensor.read() - params[name].read())
      assert np.sqrt(np.mean(change**2)) < 1e-3, name
      assert change.max() > 0, name
    lines = re.findall(r'\[5\].*prob_right=.*', finished.stderr)
    assert len(lines) == 1, finished.stderr[-3000:]
    logged.append(dict(re.findall(r'(\w+)=([-\d.e]+)', lines[0])))
  # The terms are means over the batch, into however many parts it is divided.
  for name in (
      'loss', 'likelihood', 'unlikelihood', 'prob_right', 'prob_wrong'
  ):
    whole, *parts = (float(terms[name]) for terms in logged)
    assert parts == pytest.approx([whole] * 2, rel=1e-3), name
  assert float(logged[0]['likelihood']) > 0


def test_trains_direct_with_unlikelihood(data, tmp_path):
  finished = run_t5x(
      data, tmp_path, 10, 'MIXTURE="direct_tiny_mixture"', 'PACK=True',
      method='direct_unlikelihood',
  )
  assert finished.returncode == 0, finished.stderr[-3000:]
  written = (tmp_path / 'config.gin').read_text()
  assert 'LAMBDA = 3.0' in written and "FORMAT = 'direct'" in written
  # What T5X logs of a step.
  assert 'prob_wrong' in finished.stdout + finished.stderr


@pytest.mark.parametrize('bindings, message', (
    (['MODEL_DIR="relative"'], 'relative.*MODEL_DIR'),
    (['INITIAL_CHECKPOINT_PATH="/nowhere/checkpoint_7"'],
     '/nowhere/checkpoint_7: no such checkpoint'),
    (['MIXTURE="direct_tiny_mixture"'],
     "direct_tiny_mixture.*FORMAT is 'flipped': take flipped_tiny_mixture"),
    (['MIXTURE="flipped_tiny_kind_score_Kind"'],
     'flipped_tiny_kind_score_Kind.* is for evaluation'),
    (['MIXTURE="flipped_tiny_mixtur"'], 'flipped_tiny_mixture'),
    (['AVERAGING="tokens"'], "'tokens' is not one of"),
    (['LAMDA=0.0'], r"--gin.LAMDA: .* has no such macro; nearest: \['LAMBDA'"),
    (['MIXTURE=flipped_tiny_mixture'], 'a text needs quotes of its own'),
    (['VOCAB_SIZE=204'], 'VOCAB_SIZE is 204, but .*tiny.model has 205 ids'),
    (['MIXTURE="tiny_kid"'], "no mixture or dataset 'tiny_kid'; nearest: .*ki"),
))
def test_bad_input_is_named(bindings, message, data, tmp_path):
  finished = run_t5x(data, tmp_path / 'run', 20, *bindings)
  assert finished.returncode
  assert re.search(message, finished.stderr), finished.stderr[-3000:]
  assert 'Available' not in finished.stderr  # Not all tasks that there are.
  assert not list(tmp_path.glob('run/checkpoint_*'))
