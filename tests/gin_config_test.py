"""Tests of gin_config.py: the shipped files, overrides, and macros as text."""

from flipped_t5x import gin_config
from flipped_t5x import network as network_lib
from flipped_t5x import partitioning
import gin
import pytest

GIN = gin_config.gin_folder()
MODELS = sorted(p.name for p in (GIN / 'models').glob('t5_1_1_*.gin'))
METHODS = sorted(p.name for p in (GIN / 'methods').glob('*.gin'))


@pytest.mark.parametrize('files', (
    ['runs/demo.gin'],
    *(['runs/demo.gin', f'methods/{name}'] for name in METHODS),
    *(['runs/train.gin', f'models/{name}', 'methods/flipped.gin']
      for name in MODELS),
))
def test_shipped_gin_files_parse(files):
  overrides = ["MODEL_DIR = 'run'"] if files[1:] else []
  macros = gin_config.parse(files, overrides)
  assert {'MODEL_DIR', 'MIXTURE', 'LAMBDA', 'EPS', 'AVERAGING'} <= macros.keys()
  assert 'gin.REQUIRED' not in str(macros)
  # No macro is used without a value, nothing is spelled wrong.
  assert gin.config_is_locked()
  network = gin.get_configurable(network_lib.T5Config)()
  assert network.emb_dim == macros['EMB_DIM']


def test_files_that_know_the_mesh_by_its_older_name(tmp_path):
  own = tmp_path / 'own.gin'
  own.write_text(
      'from __gin__ import dynamic_registration\n'
      'from flipped_t5x.engine import partitioning\n'
      "include 'runs/scratch.gin'\n"
      'partitioning.Partitioner.rules = [("batch", "data")]\n'
  )
  gin_config.parse([own], [])
  made = gin.get_configurable(partitioning.Partitioner)()
  assert made.rules == (('batch', 'data'),)


def test_defaults_are_the_model_cards():
  macros = gin_config.parse(
      ['runs/train.gin', 'models/t5_1_1_xl.gin', 'methods/flipped.gin'],
      ["MODEL_DIR = 'run'"],
  )
  assert {
      'TRAIN_STEPS': 5000, 'BATCH_SIZE': 240, 'INPUT_LENGTH': 384,
      'TARGET_LENGTH': 64, 'LEARNING_RATE': 5e-5, 'DROPOUT_RATE': 0.1,
      'LAMBDA': 3.0, 'MAX_GRADIENT_NORM': 0.5, 'SEED': 42, 'PACK': False,
      'ACTIVATION_DTYPE': 'bfloat16', 'EMB_DIM': 2048, 'VOCABULARY': None,
  }.items() <= macros.items()


def test_overrides_are_in_the_macros():
  macros = gin_config.parse(
      ['runs/scratch.gin', 'methods/direct.gin'],
      ['LAMBDA = 0.5', "AVERAGING = 'token'"],
  )
  # The later file over the earlier, and overrides over both.
  assert (macros['FORMAT'], macros['AVERAGING']) == ('direct', 'token')
  assert (macros['LAMBDA'], macros['EPS']) == (0.5, 0.01)
  assert macros['SEED'] == 42 and macros['MAX_FIELD_CHARS'] is None
  assert macros['VOCABULARY'] == '@vocabularies.trained()'
  assert gin.query_parameter('%LAMBDA') == 0.5


def test_macros_of_a_text():
  assert gin_config.macros_of(
      '# Macros:\nLAMBDA = 3.0\nNAME = \\\n    \'a long text\'\n'
      'VOCABULARY = @vocabularies.trained()\n\ntrain.train.steps = 5\n'
  ) == {
      'LAMBDA': 3.0, 'NAME': 'a long text',
      'VOCABULARY': '@vocabularies.trained()',
  }
