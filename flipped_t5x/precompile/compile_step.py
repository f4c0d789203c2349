"""Compiles a training or ranking step for a TPU slice, without the slice.

The step is the engine's own function, lowered for arrays of which only shapes
and types exist; libtpu compiles it as it would on the slice.
"""

import collections
from collections.abc import Mapping
import dataclasses
import re
import time
from typing import Any

from flipped_t5x import network as network_lib
from flipped_t5x import partitioning
from flipped_t5x.engine import train_step
from flipped_t5x.inference import scoring
from flipped_t5x.precompile import flops
from flipped_t5x.precompile import topologies
from flipped_t5x.precompile import tpu_compiler
from flipped_t5x.prompts import arrays
import jax
import jax.numpy as jnp
import numpy as np
import optax

_QUICK = {'exec_time_optimization_effort': -1.0}
_NEEDED = re.compile(r'\(([\d.]+)([KMGT])\) exceeds available HBM')
_USED = re.compile(r'Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_COLLECTIVE = re.compile(
    r' (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)'
    r'(?:-start)?\('
)
# What a TPU's compiler calls a fusion of an all-reduce and a slice of its sum.
_FUSED_REDUCE_SCATTER = re.compile(r'^%all-reduce-scatter\S* \(', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Step:
  """A training or ranking step, with all that decides about its program.

  Attributes:
    task: 'train' or 'rank'.
    network: the sizes of the T5.
    batch_size: the number of rows of a training step, or of candidates of a
      ranking step.
    input_length: the number of encoder tokens of a row.
    target_length: the number of decoder tokens of a row.
    model_parallel: the number of devices that share one copy of the weights and
      activations.
    shard_params_over_data: whether weights are divided over the data axis of
      the mesh as well.
    num_microbatches: the number of parts of a training batch that are in memory
      one after another; ranking ignores it.
    num_logit_chunks: the number of pieces in which training makes the logits;
      ranking ignores it.
    unlikelihood_weight: the weight lambda of the unlikelihood loss.
    eps: what `objectives.log_one_minus_probs` adds to 1 - P.
    wrong_side: the token feature that a wrong label changes, as
      `formats.wrong_side` returns it; None if there are no wrong labels.
    packed: whether a row holds several examples.
    weights_dtype: the type of the weights of a ranking step, as `load` has it.
      A training step keeps float32, but for int8 weights that adapters adapt.
      int8 is also a field of the network.
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
  weights_dtype: str = 'float32'

  @property
  def model_flops(self) -> float:
    """The operations that the step needs, on all devices together."""
    if self.task == 'rank':
      return flops.rank_step(*self._sizes)
    return flops.train_step(*self._sizes, sides=self._sides)

  @property
  def recomputed_flops(self) -> float:
    """The operations that it repeats to save memory, on all devices."""
    if self.task == 'rank':
      return 0.0
    return flops.recomputed(
        *self._sizes, sides=self._sides, num_logit_chunks=self.num_logit_chunks
    )

  @property
  def _sizes(self) -> tuple[network_lib.T5Config, int, int, int]:
    return (
        self.network, self.batch_size, self.input_length, self.target_length
    )

  @property
  def _sides(self) -> int:
    return 2 if self.wrong_side else 1


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler made of a step. All bytes are those of one device.

  Where the compiler refused the step there is no program: `output`,
  `temporaries`, `code` and `text` are None.

  Attributes:
    arguments: the bytes of the weights, the optimizer state and the batch.
    usable: the bytes that a program may use.
    parameters: the number of the network's weights.
    seconds: the time that lowering and compiling took.
    cpu_seconds: the CPU time of this process meanwhile, in all of its threads.
    output: the bytes of the results that replace no argument.
    temporaries: the bytes of what exists within the step alone.
    code: the bytes of the program.
    total: the bytes that are needed together; None if the compiler refused the
      step and did not say.
    text: the text of the compiled program.
  """

  arguments: int
  usable: int
  parameters: int
  seconds: float
  cpu_seconds: float
  output: int | None = None
  temporaries: int | None = None
  code: int | None = None
  total: int | None = None
  text: str | None = None

  @property
  def fits(self) -> bool:
    """Whether the compiler took the step and all of it can be allocated."""
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
    topology: the slice to compile for.
    step: the step to compile.
    optimizer: the optimizer of a training step.
    quick: whether to optimize less, which takes half of the time or less.
      Memory and collectives are nearly the same, but it is not the program that
      will run.

  Returns:
    The program and what it needs.

  Raises:
    UserError: the step cannot be divided over the slice; the message says what
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
  known = {
      'usable': topology.chip.usable_bytes,
      'parameters': sum(a.size for a in jax.tree.leaves(params)),
  }
  try:
    with partitioner.active():
      compiled = function.lower(*arguments).compile(_QUICK if quick else None)
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e) or 'hbm' not in str(e).lower():
      raise RuntimeError(f'the compiler failed: {e}') from e
    return Compiled(
        arguments=sum(map(_shard_bytes, jax.tree.leaves(arguments[-2:]))),
        total=needed_bytes(str(e)), **_since(*began), **known,
    )
  known |= _since(*began)
  return Compiled(**_memory(compiled), text=compiled.as_text(), **known)


def _memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """The compiler's own account of a program's memory, in bytes."""
  analysis = compiled.memory_analysis()
  parts = {
      'arguments': analysis.argument_size_in_bytes,
      'output': analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
      'temporaries': analysis.temp_size_in_bytes,
      'code': analysis.generated_code_size_in_bytes,
  }
  return parts | {'total': sum(parts.values())}


def _since(began: float, cpu_began: float) -> dict[str, float]:
  """The seconds and the CPU seconds that have passed since two readings."""
  return {
      'seconds': time.monotonic() - began,
      'cpu_seconds': time.process_time() - cpu_began,
  }


def count_collectives(text: str) -> dict[str, int]:
  """The number of collective instructions in a compiled program, by kind.

  An instruction in the body of a loop counts once, however often the loop runs.
  A pair of `all-reduce-start` and `all-reduce-done` counts once.

  Args:
    text: the text of the program.

  Returns:
    Kind, such as 'all-reduce' -> number, the most frequent kind first.
  """
  counts = collections.Counter(_COLLECTIVE.findall(text))
  fused = len(_FUSED_REDUCE_SCATTER.findall(text))
  counts['all-reduce'] -= fused  # Each of these holds one.
  counts['reduce-scatter'] += fused
  return {kind: count for kind, count in counts.most_common() if count > 0}


def needed_bytes(message: str) -> int | None:
  """The bytes of main memory that the compiler's refusal says are needed."""
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
    params = partitioner.abstract_params(model)
    if step.weights_dtype == 'bfloat16':
      params = jax.tree.map(
          lambda a: jax.ShapeDtypeStruct(
              a.shape, jnp.bfloat16, sharding=a.sharding
          ),
          params,
      )
    return log_probs, (step.network, params, batch)
  function = train_step.make_train_step(
      model, optimizer, unlikelihood_weight=step.unlikelihood_weight,
      eps=step.eps, seed=0, num_microbatches=step.num_microbatches,
      num_logit_chunks=step.num_logit_chunks, partitioner=partitioner,
  )
  return function, (
      train_step.abstract_state(partitioner, model, optimizer), batch
  )


def one_row(step: Step) -> Mapping[str, np.ndarray]:
  """A batch of one row, as the engine makes it."""
  inputs = np.ones((1, step.input_length), np.int32)
  targets = np.ones((1, step.target_length), np.int32)
  if step.task == 'rank':
    # Ranking pads its rows, so that lengths in between are never compiled.
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
  """The bytes of an array on one device."""
  shape = array.sharding.shard_shape(array.shape)
  return int(np.prod(shape, dtype=np.int64)) * array.dtype.itemsize
