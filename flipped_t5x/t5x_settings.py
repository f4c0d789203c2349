"""The settings of T5X's runs, held to the rules of `flipped-t5x train`.

T5X itself takes any macro, and looks neither at the order of gin files nor at
what is in a folder already. `gin/runs/t5x_model.gin` imports this module, which
then checks the flags: T5X has read its gin files up to there, but no override.
"""

from absl import flags
from etils import epath
from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x.settings import rules
import gin

# Settings in which what is added to a folder may differ from what is there.
_FREE = frozenset((
    'BATCH_SIZE', 'CHECKPOINT_PERIOD', 'EVAL_OUTPUT_DIR', 'INFER_OUTPUT_DIR',
    'SHARD_ID',
))
_FREE_IN_TRAINING = frozenset((
    'CHECKPOINT_PERIOD', 'EVAL_DATASET', 'EVAL_MIXTURE', 'EVAL_PERIOD',
    'EVAL_STEPS', 'KEEP', 'LOG_PERIOD', 'MODEL_DIR', 'NUM_MICROBATCHES',
    'PRETRAINED_STEPS', 'TRAIN_STEPS',
))
# How the work is divided among devices.
_DIVISION = 'Partitioner.'


def check_flags() -> None:
  """Checks T5X's flags, and records what they set besides macros.

  Without flags, as in a program that parses gin files itself, nothing happens.

  Raises:
    UserError: see `rules.check`.
  """
  values = flags.FLAGS
  if not values.is_parsed() or 'gin_bindings' not in values:
    return
  others = rules.check(
      values.gin_file or (), values.gin_bindings, values.gin_search_paths
  )
  if others:
    gin.bind_parameter((gin_config.OVERRIDES, 'gin.macro', 'value'), others)


def check_folder(folder: epath.Path, training: bool) -> None:
  """Checks that what is in a folder has the settings of this run.

  Args:
    folder: the folder.
    training: whether this run trains.

  Raises:
    UserError: the folder has checkpoints or scores of other settings.
  """
  config = folder / gin_config.T5X_CONFIG
  if not config.is_file() or not is_begun(folder):
    return
  old, new = gin_config.macros_of(config.read_text()), gin_config.macros()
  # Other versions of the gin files have other macros.
  others = {name for name in old.keys() ^ new.keys() if not name.isupper()}
  differing = [
      f'{name}: {old.get(name)!r} there, {new.get(name)!r} now'
      for name in sorted(others | (old.keys() & new.keys()))
      if old.get(name) != new.get(name)
      and name not in (_FREE_IN_TRAINING if training else _FREE)
      and _DIVISION not in name
  ]
  if differing:
    raise errors.UserError(
        f'{folder} holds a run of other settings ({"; ".join(differing)});'
        ' choose another folder, or delete that one'
    )


def is_begun(folder: epath.Path) -> bool:
  """Whether T5X has written checkpoints or scores to a folder."""
  return any(
      path.name == 'inference_eval' or '-score.jsonl-' in path.name
      or path.name.startswith(('checkpoint_', 'tmp-'))
      for path in folder.iterdir()
  )


check_flags()
