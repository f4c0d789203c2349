"""Compiles a training or ranking step for a TPU slice, without the slice.

The step is the engine's own function, lowered for arrays that exist by name
only; libtpu compiles it as it would on the slice.
"""

from collections.abc import Mapping
import dataclasses
import re
import time
from typing import Any

from flipped_t5x import network as network_lib
from flipped_t5x.engine import partitioning
from flipped_t5x.engine import train_step
from flipped_t5x.inference import scoring
from flipped_t5x.precompile import topologies
from flipped_t5x.precompile import tpu_compiler
from flipped_t5x.prompts import arrays
import jax
import numpy as np
import optax

_QUICK = {'exec_time_optimization_effort': -1.0}
_NEEDED = re.compile(r'\(([\d.]+)([KMGT])\) exceeds available HBM')
_USED = re.compile(r'Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Step:
  """What is compiled.

  Attributes:
    task: 'train' or 'rank'.
    network: sizes of the T5.
    batch_size: rows of training, candidates of ranking.
    input_length: encoder tokens.
    target_length: decoder tokens.
    model_parallel: see `partitioning.Partitioner`.
    shard_params_over_data: see there.
    num_microbatches: see `train_step.make_train_step`; of training alone.
    num_logit_chunks: the same.
    unlikelihood_weight: lambda.
    eps: see `objectives.log_one_minus_probs`.
    wrong_side: what a wrong label changes, see `formats.wrong_side`.
    packed: whether rows hold several examples.
  """

  task: str
  network: network_lib.T5Config
  batch_size: int
  input_length: int
  target_length: int
  model_parallel: int = 1
  shard_params_over_data: bool = False
  num_microbatches: int = 1
  num_logit_chunks: int = 1
  unlikelihood_weight: float = 3.0
  eps: float = 0.01
  wrong_side: str | None = 'wrong_inputs'
  packed: bool = False

  @property
  def sides(self) -> int:
    return 2 if self.wrong_side and self.task == 'train' else 1


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What came of it; bytes are of one device.

  Attributes:
    arguments: bytes of weights, optimizer state and batch.
    output: bytes of what is returned beyond the arguments it replaces; None,
      with all that follow but `total`, where the compiler refused.
    temporaries: bytes of what exists within the step alone.
    code: bytes of the program.
    total: bytes that are needed together; None if the compiler does not say.
    usable: bytes that a program may use.
    seconds: that lowering and compiling took.
    cpu_seconds: of this process, in all of its threads.
    text: the compiled program.
    coordinates: int[devices, axes], where in the slice each is.
    parameters: the network's number of weights.
  """

  arguments: int
  output: int | None
  temporaries: int | None
  code: int | None
  total: int | None
  usable: int
  seconds: float
  cpu_seconds: float
  text: str | None
  coordinates: np.ndarray
  parameters: int

  @property
  def fits(self) -> bool:
    # The compiler looks at what is needed at once; what is then allocated can
    # be more, and it does not look at it again.
    return self.text is not None and self.total <= self.usable


def compile_step(
    topology: topologies.Topology,
    step: Step,
    optimizer: optax.GradientTransformation,
    quick: bool = False,
) -> Compiled:
  """Compiles a step for a slice.

  Args:
    topology: the slice.
    step: what to compile.
    optimizer: of training.
    quick: with less optimization, in half of the time or less: memory and
      collectives are nearly the same, but it is not the program that will run.

  Returns:
    The program and what it needs.

  Raises:
    ValueError: the step cannot be divided over the slice; the message says what
      could. Nothing is compiled then.
    RuntimeError: the compiler failed for another reason than memory.
  """
  partitioner = partitioning.Partitioner(
      step.model_parallel, step.shard_params_over_data,
      devices=tpu_compiler.devices(topology),
  )
  partitioner.check(
      step.network, step.batch_size,
      step.num_microbatches if step.task == 'train' else 1,
  )
  began = time.monotonic(), time.process_time()
  function, arguments = _function(partitioner, step, optimizer)
  params = partitioner.abstract_params(network_lib.Transformer(step.network))
  facts = {
      'arguments': sum(map(_shard_bytes, jax.tree.leaves(arguments[-2:]))),
      'usable': topology.chip.usable_bytes,
      'coordinates': np.array(
          [device.coords for device in partitioner.mesh.devices.flat]
      ),
      'parameters': sum(a.size for a in jax.tree.leaves(params)),
  }
  try:
    with partitioner.active():
      compiled = function.lower(*arguments).compile(_QUICK if quick else None)
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e) or 'hbm' not in str(e).lower():
      raise RuntimeError(f'the compiler failed: {e}') from e
    return Compiled(
        output=None, temporaries=None, code=None, text=None,
        total=needed_bytes(str(e)), **_since(*began), **facts
    )
  facts |= _since(*began)
  memory = compiled.memory_analysis()
  facts['arguments'] = memory.argument_size_in_bytes
  output = memory.output_size_in_bytes - memory.alias_size_in_bytes
  parts = (
      memory.argument_size_in_bytes, output, memory.temp_size_in_bytes,
      memory.generated_code_size_in_bytes,
  )
  return Compiled(
      output=output,
      temporaries=memory.temp_size_in_bytes,
      code=memory.generated_code_size_in_bytes,
      total=sum(parts),
      text=compiled.as_text(),
      **facts,
  )


def _since(began: float, cpu_began: float) -> dict[str, float]:
  return {
      'seconds': time.monotonic() - began,
      'cpu_seconds': time.process_time() - cpu_began,
  }


def needed_bytes(message: str) -> int | None:
  """What a program needs of the main memory, from the compiler's refusal."""
  match = _NEEDED.search(message) or _USED.search(message)
  return int(float(match[1]) * _UNITS[match[2]]) if match else None


def _function(
    partitioner: partitioning.Partitioner,
    step: Step,
    optimizer: optax.GradientTransformation,
) -> tuple[Any, tuple[Any, ...]]:
  """The engine's jitted function, and abstract arrays for its arguments."""
  model = network_lib.Transformer(step.network)
  batch = {
      name: jax.ShapeDtypeStruct(
          (step.batch_size, *rows.shape[1:]), rows.dtype,
          sharding=partitioner.batch_sharding,
      )
      for name, rows in one_row(step).items()
  }
  if step.task == 'rank':
    log_probs = jax.jit(scoring.log_probs, static_argnums=0)
    return log_probs, (step.network, partitioner.abstract_params(model), batch)
  function = train_step.make_train_step(
      model, optimizer, unlikelihood_weight=step.unlikelihood_weight,
      eps=step.eps, seed=0, num_microbatches=step.num_microbatches,
      num_logit_chunks=step.num_logit_chunks, partitioner=partitioner,
  )
  return function, (partitioner.abstract_state(model, optimizer), batch)


def one_row(step: Step) -> Mapping[str, np.ndarray]:
  """A batch of one row, as the engine makes it."""
  inputs = np.ones((1, step.input_length), np.int32)
  targets = np.ones((1, step.target_length), np.int32)
  if step.task == 'rank':
    # Lengths in between are not compiled: rows are padded to multiples.
    (_, batch), = arrays.score_batches(inputs, targets, 1)
    return batch
  features = {'inputs': inputs, 'targets': targets}
  if step.wrong_side:
    features[step.wrong_side] = features[step.wrong_side.removeprefix('wrong_')]
  if step.packed:
    features |= {
        f'{name}_{kind}': tokens for name, tokens in features.items()
        for kind in ('segment_ids', 'positions')
    }
  return arrays.training_batch(features, 'example')


def _shard_bytes(array: jax.ShapeDtypeStruct) -> int:
  shape = array.sharding.shard_shape(array.shape)
  return int(np.prod(shape, dtype=np.int64)) * array.dtype.itemsize
