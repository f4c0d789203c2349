"""What values a macro may have."""

from collections.abc import Callable, Mapping
import math
from typing import Any

from flipped_t5x import errors
from flipped_t5x.settings import statements


def _whole(least: int) -> tuple[str, Callable[[Any], bool]]:
  return f'a whole number of at least {least}', lambda value: (
      isinstance(value, int) and not isinstance(value, bool) and value >= least
  )


def _is_number(value: Any) -> bool:
  return (
      isinstance(value, (int, float)) and not isinstance(value, bool)
      and math.isfinite(value)
  )


_TEXT = ('a text', lambda value: isinstance(value, str) and value != '')
_FLAG = ('True or False', lambda value: isinstance(value, bool))
_NOT_NEGATIVE = (
    'a number of at least 0', lambda value: _is_number(value) and value >= 0
)
_POSITIVE = (
    'a number above 0', lambda value: _is_number(value) and value > 0
)
_RATE = (
    'a number of at least 0 and below 1',
    lambda value: _is_number(value) and 0 <= value < 1,
)
_TEXTS = ('texts in brackets', lambda value: (
    isinstance(value, (list, tuple)) and bool(value)
    and all(isinstance(v, str) for v in value)
))
_TYPES = {
    _whole(0): (
        'PRETRAINED_STEPS', 'SEED', 'SHARD_ID', 'TRAIN_STEPS', 'WARMUP_STEPS',
    ),
    _whole(1): (
        'BATCH_SIZE', 'CHECKPOINT_PERIOD', 'DATA_SHARDS', 'EMB_DIM',
        'EVAL_PERIOD', 'HEAD_DIM', 'INPUT_LENGTH', 'KEEP', 'LOG_PERIOD',
        'LORA_RANK',
        'MAX_FIELD_CHARS', 'MLP_DIM', 'MODEL_PARALLEL', 'NUM_DECODER_LAYERS',
        'NUM_ENCODER_LAYERS', 'NUM_HEADS', 'NUM_LOGIT_CHUNKS',
        'NUM_MICROBATCHES', 'NUM_SHARDS', 'OPEN_ROWS', 'PACKED_INPUT_LENGTH',
        'PACKED_TARGET_LENGTH', 'TARGET_LENGTH', 'VOCAB_SIZE',
    ),
    _NOT_NEGATIVE: ('EPS', 'LAMBDA', 'LEARNING_RATE'),
    _POSITIVE: ('LORA_ALPHA', 'MAX_GRADIENT_NORM'),
    _RATE: ('DROPOUT_RATE',),
    _FLAG: (
        'COMPILATION_CACHE', 'LOGITS_VIA_EMBEDDING', 'PACK', 'SCAN_LAYERS',
        'SHARD_PARAMS_OVER_DATA', 'USE_CACHED_TASKS',
    ),
    _TEXT: (
        'ACTIVATION_DTYPE', 'AVERAGING', 'CHECKPOINT_PATH', 'EVAL_MIXTURE',
        'EVAL_OUTPUT_DIR', 'FORMAT', 'INFER_OUTPUT_DIR',
        'INITIAL_CHECKPOINT_PATH', 'MIXTURE', 'MODEL_DIR', 'REMAT_POLICY',
        'SPLIT', 'VOCABULARY',
    ),
    _TEXTS: ('LORA_TARGETS', 'MLP_ACTIVATIONS'),
}
_OPTIONAL = (
    'INITIAL_CHECKPOINT_PATH', 'KEEP', 'MAX_FIELD_CHARS', 'MAX_GRADIENT_NORM',
    'NUM_MICROBATCHES', 'OPEN_ROWS', 'PACKED_INPUT_LENGTH',
    'PACKED_TARGET_LENGTH', 'PRETRAINED_STEPS', 'VOCABULARY',
)
_BY_MACRO = {name: kind for kind, names in _TYPES.items() for name in names}
NAMES = frozenset(_BY_MACRO)


def check(macros: Mapping[str, Any], where: str) -> None:
  """Checks the types and bounds of the macros that are known.

  Args:
    macros: macro -> value. A `statements.Source` is not checked.
    where: what has set them, for the error.

  Raises:
    UserError: a value is of another type, or out of bounds.
  """
  for name, value in macros.items():
    if name not in _BY_MACRO or isinstance(value, statements.Source):
      continue
    if value is None and name in _OPTIONAL:
      continue
    text, fits = _BY_MACRO[name]
    if not fits(value):
      optional = ', or None' if name in _OPTIONAL else ''
      raise errors.UserError(
          f'{where}: {name} is {value!r}; it must be {text}{optional}'
      )
