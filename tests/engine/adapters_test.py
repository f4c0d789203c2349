"""Training adapters: what is trained, kept, resumed, and loaded again."""

import shutil

import demo_data
from flax import traverse_util
from flipped_t5x.cli import main
from flipped_t5x.inference import model as model_lib
from flipped_t5x.network import adapters
from flipped_t5x.weights import model_files
from flipped_t5x.weights import t5x_checkpoints
import numpy as np
import pytest

ASK = {
    'input': 'A warm film.', 'instruction': 'Did the reviewer enjoy it?',
    'options': ['yes', 'no'],
}


@pytest.fixture(name='data', scope='module')
def fixture_data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    demo_data.install(folder, patch)
    yield folder


def train(folder, *overrides):
  gin_file = demo_data.write_gin(folder.with_suffix('.gin'), folder)
  return main.main(['train', f'--gin_file={gin_file}', *overrides])


@pytest.fixture(name='base', scope='module')
def fixture_base(data, tmp_path_factory):
  """A run that trained all weights."""
  folder = tmp_path_factory.mktemp('base') / 'run'
  assert train(folder, '--gin.TRAIN_STEPS=10') == 0
  return folder


def lora(base, *overrides):
  return (
      '--gin_file=adapters/lora.gin', '--gin.LORA_RANK=2',
      f'--gin.INITIAL_CHECKPOINT_PATH={str(base)!r}', *overrides,
  )


@pytest.fixture(name='run', scope='module')
def fixture_run(base, tmp_path_factory):
  """A run of adapters of `base`, of 40 steps."""
  folder = tmp_path_factory.mktemp('lora') / 'run'
  assert train(folder, *lora(base)) == 0
  return folder


def weights(path):
  return {n: t.read() for n, t in model_files.open(path).tensors.items()}


def test_a_run_keeps_its_adapters_alone(base, run):
  saved = t5x_checkpoints.shapes(run / 'checkpoints' / '40')
  kept = {n for n in saved if n.startswith('params/')}
  assert kept and all(adapters.is_adapter(n) for n in kept)
  # 7 matrices of the encoder's layer and 11 of the decoder's, rank 2.
  sizes = sum(int(np.prod(saved[n])) for n in kept)
  assert sizes == 2 * (12 * (16 + 16) + 6 * (16 + 32))
  ours, theirs = weights(run), weights(base)
  for name, values in theirs.items():
    np.testing.assert_array_equal(ours[name], values)
  for name in ours.keys() - theirs.keys():
    assert np.any(ours[name]), name  # B began as zero.


def test_two_halves_are_the_whole(base, run, tmp_path):
  folder = tmp_path / 'run'
  assert train(folder, *lora(base, '--gin.TRAIN_STEPS=20')) == 0
  assert train(folder, *lora(base)) == 0
  ours, theirs = weights(folder), weights(run)
  for name, values in theirs.items():
    np.testing.assert_array_equal(ours[name], values, name)


@pytest.mark.slow
@pytest.mark.parametrize('to', ('hf', 'native', 'peft'))
def test_converted_models_rank_alike(to, run, tmp_path):
  made = tmp_path / 'made'
  assert main.main(['convert', str(run), str(made), '--to', to]) == 0
  expected = model_lib.load(run).rank(**ASK)
  model = model_lib.load(made)
  found = model.rank(**ASK)
  assert [r.option for r in found] == [r.option for r in expected]
  assert [r.log_prob for r in found] == pytest.approx(
      [r.log_prob for r in expected], abs=1e-4
  )
  assert bool(model.config.network.lora_rank) == (to == 'peft')


def test_scanned_layers_have_stacked_adapters(base, tmp_path):
  folder = tmp_path / 'run'
  scanned = ('--gin.SCAN_LAYERS=True', '--gin.DROPOUT_RATE=0.0')
  assert train(folder, *lora(base, *scanned)) == 0
  params = model_lib.load(folder).params
  names = traverse_util.flatten_dict(params, sep='/')
  assert params['encoder']['encoder']['mlp']['wo']['lora_a'].shape == (32, 1, 2)
  assert names.keys() > {'encoder/encoder/mlp/wo/kernel'}


def test_what_is_refused(base, run, tmp_path, capsys):
  def fails(*overrides):
    assert train(tmp_path / 'new', *overrides) == 1
    assert not (tmp_path / 'new' / 'checkpoints').exists()
    return capsys.readouterr().err

  assert 'adapters need weights to adapt' in fails(
      '--gin_file=adapters/lora.gin'
  )
  assert "lora_targets ('q',) must be some of" in fails(
      *lora(base, "--gin.LORA_TARGETS=('q',)")
  )
  # T5 1.0 has other names of layers.
  assert "'out', 'wi', 'wo')" in fails(
      *lora(base, "--gin.MLP_ACTIVATIONS=('relu',)")
  )
  assert 'LORA_ALPHA' in fails(
      *lora(base, '--gin.LORA_ALPHA=0.0')
  )
  # Without its base, and with another base.
  moved = tmp_path / 'base'
  shutil.copytree(base, moved)
  folder = tmp_path / 'adapted'
  assert train(folder, *lora(moved, '--gin.TRAIN_STEPS=2')) == 0
  shutil.rmtree(moved)
  with pytest.raises(ValueError, match='of no use without it'):
    model_lib.load(folder)
  assert train(moved, '--gin.TRAIN_STEPS=12') == 0
  with pytest.raises(ValueError, match='has adapters of other weights'):
    model_lib.load(folder)


@pytest.mark.slow
def test_an_int8_base(base, tmp_path, capsys):
  rounded = tmp_path / 'int8'
  assert main.main([
      'convert', str(base), str(rounded), '--to', 'native', '--dtype', 'int8'
  ]) == 0
  folder = tmp_path / 'run'
  assert train(folder, *lora(rounded, '--gin.TRAIN_STEPS=10')) == 0
  model = model_lib.load(folder)
  assert model.config.network.int8_weights
  made = tmp_path / 'made'
  assert main.main(['convert', str(folder), str(made), '--to', 'hf']) == 0
  expected = {r.option: r.log_prob for r in model.rank(**ASK)}
  found = {r.option: r.log_prob for r in model_lib.load(made).rank(**ASK)}
  assert found == pytest.approx(expected, abs=1e-3)
