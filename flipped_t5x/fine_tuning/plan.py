"""Settings for training on a task of one's own, chosen from its rows."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import os
import pathlib
import textwrap
from typing import Any

from flipped_t5x import errors
from flipped_t5x.engine import train
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
# Number of weights -> rate: that of the demo, of docs/experiment.md; the
# paper's for 3 and 11 billion; between them, their geometric mean.
_RATES = ((250e6, 5e-4), (1e9, 1.6e-4), (math.inf, 5e-5))
_ADAPTERS_RATE = 10  # Times that of all weights; see `make`.
_BYTES = 12  # Of a trained weight, its gradient and its update, in float32.
# Linux's limit of a container's memory, in its versions 2 and 1; without a
# limit it is `max`, or a number beyond any machine.
_CGROUP_LIMITS = tuple(map(pathlib.Path, (
    '/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes',
)))
_GIN = """\
# {method} on {mixture}, from {model}.
#
# Written by `flipped-t5x train` from {rows:,} training rows. Edit it before the
# first step; after that, a run keeps its settings.
#
{trained}

from __gin__ import dynamic_registration

from flipped_t5x.engine import optimizers

include 'runs/train.gin'
include 'methods/{method}.gin'
{adapters}
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
    lora: whether adapters are trained in place of all weights.
    why: why they are, or are not.
  """

  mixture: str
  model: str
  rows: int
  macros: Mapping[str, Any]
  method: str
  lora: bool
  why: str

  def gin_text(self) -> str:
    """A gin file of the run."""
    return _GIN.format(
        method=self.method, mixture=self.mixture, model=self.model,
        rows=self.rows,
        trained=textwrap.fill(
            f'{self.trained}.', 80, initial_indent='# ', subsequent_indent='# '
        ),
        adapters="include 'adapters/lora.gin'\n" if self.lora else '',
        macros='\n'.join(f'{k} = {v!r}' for k, v in self.macros.items()),
    )

  @property
  def trained(self) -> str:
    """What is trained, and why, as a sentence without its full stop."""
    what = 'Adapters (LoRA) alone' if self.lora else 'All weights'
    return f'{what} are trained: {self.why}'


def make(
    datasets: Sequence[str],
    folder: pathlib.Path,
    model: str,
    found: model_files.ModelFiles,
    vocabulary: pathlib.Path,
    method: str = 'flipped',
    lora: bool | None = None,
) -> Plan:
  """Chooses settings from the rows and from the model.

  Every row is seen about eight times; of few rows, 2,000 examples are seen, and
  of many at most 20,000 or each row once. Lengths are what 99 % of the examples
  have.

  Adapters are trained in place of all weights where these, their gradients and
  their updates, in float32, would take more than half of the memory of a
  device, or on CPUs of the machine or its container; the other half is for
  activations. They take ten times the rate of all weights, as Schulman et al.
  2025 ("LoRA Without Regret") found for models of many sizes; it was not
  measured here.

  Args:
    datasets: the names of the datasets.
    folder: the folder of the run.
    model: what the user calls the model.
    found: the model.
    vocabulary: its SentencePiece file.
    method: one of the files of `gin/methods`, without its suffix.
    lora: whether to train adapters in place of all weights; None for what is
      said above.

  Raises:
    UserError: no row can be used, or no such training starts from the model.
  """
  number = sum(math.prod(t.shape) for t in found.tensors.values())
  lora, why = _adapters(number, found.network.int8_weights, lora)
  train.check_start(model, found, lora)
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
  rate = next(rate for most, rate in _RATES if number < most)
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
      'LEARNING_RATE': rate * (_ADAPTERS_RATE if lora else 1),
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
  }, method, lora, why)


def num_steps(rows: int) -> int:
  """How many steps to train on so many rows; see `make`."""
  examples = min(max(8 * rows, 2_000), max(rows, 20_000))
  return math.ceil(examples / _BATCH)


def _adapters(
    number: int, in_int8: bool, asked: bool | None
) -> tuple[bool, str]:
  """Whether to train adapters, and why; see `make`.

  Args:
    number: how many weights there are.
    in_int8: whether they are in int8.
    asked: what the user wants, if anything.
  """
  if asked is not None:
    return asked, f'--{"" if asked else "no-"}lora was given'
  if in_int8:
    return True, 'weights in int8 cannot be trained'
  needed, memory = _BYTES * number, _memory()
  lora = needed > memory / 2
  return lora, (
      f'with gradients and updates {number:,} weights {"would " * lora}take'
      f' {needed / 1e9:.1f} GB, {"more than" if lora else "at most"} half of'
      f' the {memory / 1e9:.1f} GB of memory'
  )


def _memory() -> int:
  """Bytes of a device; on CPUs, of the machine, or of a container's limit."""
  found = [device.memory_stats() for device in jax.local_devices()]
  limits = [stats['bytes_limit'] for stats in found if stats]
  if limits:
    return min(limits)
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  texts = map(_text, _CGROUP_LIMITS)
  return min([machine, *(int(text) for text in texts if text.isdecimal())])


def _text(path: pathlib.Path) -> str:
  return path.read_text().strip() if path.is_file() else ''


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
