"""Settings for training on a task of one's own, chosen from its rows."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.inspection import measurement
from flipped_t5x.inspection import units
from flipped_t5x.tasks import mixtures
from flipped_t5x.weights import model_files
import jax

_BATCH = 16
_EVALUATIONS = 5  # Of the validation rows.
_WARMUP = 0.06
_LONGEST = {'inputs': 512, 'targets': 128}
# Bytes of float32 weights -> rate: that of the demo, of docs/experiment.md; the
# paper's for 3 and 11 billion parameters; between them, their geometric mean.
_RATES = ((1e9, 5e-4), (4e9, 1.6e-4), (math.inf, 5e-5))
_GIN = """\
# {method} on {mixture}, from {model}.
#
# Written by `flipped-t5x train` from {rows:,} training rows. Edit it before the
# first step; after that, a run keeps its settings.

from __gin__ import dynamic_registration

from flipped_t5x.engine import optimizers

include 'runs/train.gin'
include 'methods/{method}.gin'

{macros}

optimizers.adafactor.learning_rate = @optimizers.warmup_linear_decay()
optimizers.warmup_linear_decay:
  peak = %LEARNING_RATE
  warmup_steps = %WARMUP_STEPS
  total_steps = %TRAIN_STEPS
"""


@dataclasses.dataclass(frozen=True)
class Plan:
  """What to train, and for how long.

  Attributes:
    mixture: datasets, separated by commas.
    model: what to start from.
    rows: the number of training rows.
    macros: macro -> value, all that `gin_text` sets.
    method: one of the files of `gin/methods`, without its suffix.
  """

  mixture: str
  model: str
  rows: int
  macros: Mapping[str, Any]
  method: str

  def gin_text(self) -> str:
    """A gin file of the run."""
    return _GIN.format(
        method=self.method, mixture=self.mixture, model=self.model,
        rows=self.rows,
        macros='\n'.join(f'{k} = {v!r}' for k, v in self.macros.items()),
    )


def make(
    datasets: Sequence[str],
    folder: pathlib.Path,
    model: str,
    found: model_files.ModelFiles,
    vocabulary: pathlib.Path,
    method: str = 'flipped',
) -> Plan:
  """Chooses settings from the rows and from the model.

  Every row is seen about eight times; of few rows, 2,000 examples are seen, and
  of many at most 20,000 or each row once. Lengths are what 99 % of the examples
  have.

  Args:
    datasets: the names of the datasets.
    folder: the folder of the run.
    model: what the user calls the model.
    found: the model.
    vocabulary: its SentencePiece file.
    method: one of the files of `gin/methods`, without its suffix.

  Raises:
    UserError: no row can be used.
  """
  mixture = ','.join(datasets)
  inspected = inspect_mixture.inspect(
      mixtures.mixture(mixture),
      inspect_mixture.Settings(
          vocabulary, *(_LONGEST[side] for side in units.SIDES), split='train'
      ),
  )
  rows = sum(d.used for d in inspected.datasets)
  steps = num_steps(rows)
  network = found.network
  return Plan(mixture, model, rows, {
      'MODEL_DIR': str(folder.absolute()),
      'MIXTURE': mixture,
      'INITIAL_CHECKPOINT_PATH': model,
      'VOCABULARY': str(vocabulary),
      'TRAIN_STEPS': steps,
      'WARMUP_STEPS': max(1, round(_WARMUP * steps)),
      'CHECKPOINT_PERIOD': math.ceil(steps / _EVALUATIONS),
      'KEEP': None,
      'BATCH_SIZE': _BATCH,
      **_lengths([d.measured for d in inspected.datasets]),
      'LEARNING_RATE': next(
          rate for most, rate in _RATES if found.nbytes < most
      ),
      'DROPOUT_RATE': 0.1,
      'ACTIVATION_DTYPE': (
          'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
      ),
      'LOG_PERIOD': 10,
      'VOCAB_SIZE': network.vocab_size,
      'EMB_DIM': network.emb_dim,
      'NUM_HEADS': network.num_heads,
      'NUM_ENCODER_LAYERS': network.num_encoder_layers,
      'NUM_DECODER_LAYERS': network.num_decoder_layers,
      'HEAD_DIM': network.head_dim,
      'MLP_DIM': network.mlp_dim,
      'MLP_ACTIVATIONS': network.mlp_activations,
      'LOGITS_VIA_EMBEDDING': network.logits_via_embedding,
  }, method)


def num_steps(rows: int) -> int:
  """How many steps to train on so many rows; see `make`."""
  examples = min(max(8 * rows, 2_000), max(rows, 20_000))
  return math.ceil(examples / _BATCH)


def _lengths(measured: Sequence[measurement.Measured]) -> dict[str, int]:
  """INPUT_LENGTH and TARGET_LENGTH: multiples of 16."""
  found = {}
  for side, name in zip(
      units.SIDES, ('INPUT_LENGTH', 'TARGET_LENGTH'), strict=True
  ):
    lengths = [n for m in measured for n in m.lengths[side]]
    if not lengths:
      raise errors.UserError('no training row can be used; see inspect')
    needed = measurement.percentile(lengths, 99)
    found[name] = min(16 * math.ceil(needed / 16), _LONGEST[side])
  return found
