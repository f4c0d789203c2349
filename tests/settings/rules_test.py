"""What overrides and gin files may set, and in which order."""

from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x.settings import rules
import pytest

GIN = gin_config.gin_folder()
BASE = ['runs/train.gin', 'models/t5_1_1_base.gin', 'methods/channel.gin']


def check(files, overrides=(), folder=''):
  return rules.check(files, overrides, [str(folder), str(GIN)])


@pytest.mark.parametrize('override, message', (
    ('train_steps = 2', r"train_steps: .*no such macro.*'TRAIN_STEPS'"),
    ('lambda = 0', r"lambda: .*no such macro.*'LAMBDA'"),
    ('LAMDA = 0.0', r"LAMDA: .*no such macro.*'LAMBDA'"),
    # models/ set it for T5X alone.
    ('PRETRAINED_STEPS = 5', 'PRETRAINED_STEPS: .*(nothing|no such)'),
    ('train.train.eps = 0.5', r'train.train.eps would take .* --gin.EPS'),
    ('train.eps = 0.5', r'train.eps would take .* --gin.EPS'),
    # The seed of the batches would still be SEED.
    ('train.train.seed = 7', 'train.train.seed would take .* --gin.SEED'),
    ('train.train.batches = @mine()', 'train.batches .*--gin.BATCH_SIZE'),
    ('train.train.vocabulary = "x"', '--gin.VOCABULARY'),
    ('train.train.partitioner = None', '--gin.MODEL_PARALLEL'),
    ('FORMAT = flipped', "a text needs quotes .*FORMAT=\"'...'\""),
    ('LAMBDA = ', 'gin cannot read this value'),
))
def test_overrides_without_effect_or_trace(override, message):
  with pytest.raises(errors.UserError, match=message):
    check(BASE, [override])


def test_other_overrides_are_recorded():
  overrides = [
      'optimizers.adafactor.decay_rate = 0.9', 'LAMBDA = 1',
      'INITIAL_CHECKPOINT_PATH = None',
  ]
  assert check(BASE, overrides) == {'optimizers.adafactor.decay_rate': 0.9}
  settings = gin_config.parse(
      BASE, ["MODEL_DIR = 'x'", "VOCABULARY = 'v'", *overrides]
  )
  assert settings['optimizers.adafactor.decay_rate'] == 0.9
  assert settings['LAMBDA'] == 1
  # What a macro refers to may change: the macro says to what.
  assert check(['runs/demo.gin'], ["VOCABULARY = 'x.model'"]) == {}
  assert check(['runs/train.gin'], ['EMB_DIM = 8']) == {}


def test_files_of_ones_own(tmp_path):
  own = tmp_path / 'own.gin'
  own.write_text(
      "rate = 0.1\nnetwork.T5Config.dropout_rate = %rate\n"
      'optimizers.adafactor:\n  decay_rate = 0.9\n'
      '  learning_rate = @optimizers.warmup_linear_decay()\n'
      'optimizers.warmup_linear_decay.peak = %LEARNING_RATE\n'
      'PRETRAINED_STEPS = 5\n'
  )
  assert check([*BASE, str(own)]) == {
      'rate': 0.1, 'optimizers.adafactor.decay_rate': 0.9,
      'optimizers.adafactor.learning_rate': '@optimizers.warmup_linear_decay()',
  }
  own.write_text('LAMDA = 0.0\n')
  with pytest.raises(errors.UserError, match="LAMDA is set.*'LAMBDA'"):
    check([*BASE, 'own.gin'], folder=tmp_path)


@pytest.mark.parametrize('files, message', (
    (['models/t5_1_1_base.gin', 'methods/channel.gin', 'runs/train.gin'],
     'runs/train.gin: it would replace INPUT_LENGTH, LEARNING_RATE,'
     ' TARGET_LENGTH of methods/channel.gin; give it before methods/channel'),
    (['methods/direct.gin', 'runs/demo.gin'],
     'runs/demo.gin: it would replace FORMAT, LAMBDA, LEARNING_RATE of'),
    (['runs/train.gin', 'methods/channel.gin', 'methods/direct.gin'],
     'methods/direct.gin: it would replace FORMAT of .* give only one of'),
    (['runs/train.gin', 'models/t5_1_1_xl.gin', 'models/t5_1_1_xxl.gin'],
     'give only one of them'),
    (['runs/train.gin', 'own.gin', 'methods/channel.gin'],
     'methods/channel.gin: it would replace INPUT_LENGTH of own.gin; give it'
     ' before own.gin'),
    (['methods/channel.gin', 'run.gin'],
     'run.gin: it would replace .*LEARNING_RATE.* of methods/channel.gin'),
))
def test_order_that_undoes_a_file(files, message, tmp_path):
  (tmp_path / 'own.gin').write_text('INPUT_LENGTH = 100\n')
  (tmp_path / 'run.gin').write_text(
      "include 'runs/train.gin'\nINPUT_LENGTH = 100\n"
  )
  with pytest.raises(errors.UserError, match=message):
    check(files, folder=tmp_path)


@pytest.mark.parametrize('files', (
    ['runs/train.gin', 'models/t5_1_1_xl.gin', 'methods/channel.gin'],
    ['runs/train.gin', 'methods/channel.gin', 'models/t5_1_1_xl.gin'],
    ['models/t5_1_1_xl.gin', 'runs/train.gin', 'methods/channel.gin'],
    ['runs/demo.gin', 'methods/channel.gin', 'own.gin'],
    ['run.gin', 'methods/channel.gin'],
    *(['experiment/' + path.name]
      for path in sorted((GIN / 'experiment').glob('[!c]*.gin'))),
))
def test_order_that_undoes_nothing(files, tmp_path):
  (tmp_path / 'own.gin').write_text('INPUT_LENGTH = 100\n')
  (tmp_path / 'run.gin').write_text(
      "include 'runs/train.gin'\nINPUT_LENGTH = 100\n"
  )
  assert check(files, folder=tmp_path) == {}


@pytest.mark.parametrize('override, message', (
    ('NUM_MICROBATCHES = 0', 'NUM_MICROBATCHES is 0; .* whole .* at least 1'),
    ('CHECKPOINT_PERIOD = 0', 'CHECKPOINT_PERIOD is 0'),
    ('TRAIN_STEPS = 10.0', 'TRAIN_STEPS is 10.0; .*whole number'),
    ('TRAIN_STEPS = 1e1', 'TRAIN_STEPS is 10.0'),
    ('TRAIN_STEPS = -1', 'TRAIN_STEPS is -1'),
    ("BATCH_SIZE = '4'", "BATCH_SIZE is '4'"),
    ('BATCH_SIZE = True', 'BATCH_SIZE is True'),
    ("LAMBDA = '3'", "LAMBDA is '3'; it must be a number of at least 0"),
    ('LAMBDA = 1e999', 'LAMBDA is inf'),
    ('EPS = -0.5', 'EPS is -0.5'),
    ('DROPOUT_RATE = 1', 'DROPOUT_RATE is 1; .* below 1'),
    ('PACK = 1', 'PACK is 1; it must be True or False'),
    ('FORMAT = 3', 'FORMAT is 3; it must be a text'),
    ("MODEL_DIR = ''", "MODEL_DIR is ''"),
    ("KEEP = '2'", "KEEP is '2'; .* at least 1, or None"),
    ("MLP_ACTIVATIONS = 'gelu'", "MLP_ACTIVATIONS is 'gelu'"),
))
def test_types_of_macros(override, message):
  with pytest.raises(errors.UserError, match=message):
    check(BASE, [override])


def test_every_macro_has_a_type():
  from flipped_t5x.settings import macro_types
  from flipped_t5x.settings import statements

  for path in sorted(GIN.glob('*/*.gin')):
    if path.name.startswith('t5x_'):
      continue  # They include files of T5X.
    names = {
        b.name for b, _ in statements.read(str(path), [str(GIN)]).bindings
        if b.is_macro
    }
    assert names <= macro_types.NAMES, path
