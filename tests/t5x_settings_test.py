"""T5X's gin files are held to the rules of the embedded engine's."""

import importlib.util
import pathlib

from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x.settings import rules
import pytest

pytestmark = pytest.mark.t5x
FILES = ['models/t5_1_1_xl.gin', 'methods/channel.gin']
DIVIDED = 'partitioning.PjitPartitioner.num_partitions'


def check(run, *overrides, files=None):
  t5x = importlib.util.find_spec('t5x').origin
  return rules.check(
      files or [f'runs/t5x_{run}.gin', *FILES], overrides,
      [str(gin_config.gin_folder()), str(pathlib.Path(t5x).parents[1])],
  )


@pytest.mark.parametrize('run, override, message', (
    ('finetune', 'LAMDA = 0.0', "LAMDA: .* no such macro; .*'LAMBDA'"),
    ('finetune', 'train_steps = 2', "no such macro; .*'TRAIN_STEPS'"),
    # Of the embedded engine alone.
    ('finetune', 'MAX_FIELD_CHARS = 2048', 'no such macro'),
    ('finetune', 'TRAIN_STEPS_RELATIVE = 7', 'nothing in this run reads it'),
    ('finetune', 'RANDOM_SEED = 7', 'the place of SEED,'),
    ('finetune', 'trainer.Trainer.num_microbatches = 2', 'NUM_MICROBATCHES'),
    ('finetune', 'train_script.train.total_steps = 7', 'TRAIN_STEPS'),
    ('finetune', "MIXTURE_OR_TASK_NAME = 'c4'", '--gin.MIXTURE'),
    ('infer', "MIXTURE_OR_TASK_NAME = 'c4'", '--gin.MIXTURE'),
    ('eval', 'TRAIN_STEPS = 7', 'TRAIN_STEPS: .* no such macro'),
    # It is read where EVAL_DATASET is set.
    ('finetune', "EVAL_MIXTURE = 'x'", 'nothing in this run reads it'),
    ('finetune', 'MIXTURE = flipped_train', 'a text needs quotes of its own'),
    ('finetune', 'NUM_MICROBATCHES = 0', 'NUM_MICROBATCHES is 0; it must be'),
    ('finetune', 'CHECKPOINT_PERIOD = 0', 'CHECKPOINT_PERIOD is 0'),
    ('infer', 'NUM_SHARDS = 0', 'NUM_SHARDS is 0'),
))
def test_overrides(run, override, message):
  with pytest.raises(errors.UserError, match=message):
    check(run, override)


@pytest.mark.parametrize('run', ('finetune', 'eval', 'infer'))
def test_what_is_set_besides_macros_is_recorded(run):
  assert check(run) == {}
  assert check(run, f'{DIVIDED} = 2') == {DIVIDED: 2}


def test_more_that_may_be_set():
  assert check(
      'finetune', 'NUM_MICROBATCHES = None', 'PRETRAINED_STEPS = 5',
      'EVAL_DATASET = @infer_eval/utils.DatasetConfig()', "EVAL_MIXTURE = 'x'",
  ) == {}


@pytest.mark.parametrize('run', ('finetune', 'eval', 'infer'))
def test_order(run):
  run = f'runs/t5x_{run}.gin'
  with pytest.raises(
      errors.UserError, match=f'{run}: it would replace INPUT_LENGTH.* of'
      ' methods/channel.gin; give it before methods/channel.gin',
  ):
    check('', files=[FILES[1], run, FILES[0]])
  assert check('', files=[run, FILES[1], FILES[0]]) == {}
