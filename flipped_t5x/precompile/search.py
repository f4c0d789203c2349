"""Settings with which a step fits a slice: the smallest change, or all of them.

Only compiling a step tells whether it fits. Memory is estimated merely to skip
what has no chance.
"""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import topologies

POLICIES = ('none', 'minimal', 'full')
_LARGER_SLICES = 3


@dataclasses.dataclass(frozen=True)
class Change:
  """Other settings than those that were asked for.

  Attributes:
    topology: the slice to compile for.
    step: the step to compile.
    text: the differences, as flags of the command.
  """

  topology: topologies.Topology
  step: compile_step.Step
  text: str


def meshes(
    topology: topologies.Topology, step: compile_step.Step
) -> list[int]:
  """Values of `model_parallel` that divide the slice, the heads and the batch.

  Args:
    topology: the slice.
    step: the step, of which the batch and the network matter.

  Returns:
    The values in ascending order; perhaps none.
  """
  number = topology.num_devices
  return [
      n for n in range(1, number + 1)
      if not number % n and not step.network.num_heads % n
      and not step.batch_size % (number // n)
  ]


def microbatches(
    topology: topologies.Topology, step: compile_step.Step
) -> list[int]:
  """Values of `num_microbatches` that divide each device's rows, ascending."""
  if step.task != 'train':
    return [1]
  rows = step.batch_size // (topology.num_devices // step.model_parallel)
  return [n for n in range(1, rows + 1) if not rows % n]


def enough_microbatches(
    topology: topologies.Topology,
    step: compile_step.Step,
    refused: compile_step.Compiled,
) -> list[int]:
  """Larger values of `num_microbatches` that may be enough, ascending.

  Args:
    topology: the slice.
    step: the step that does not fit.
    refused: what the compiler said of it.

  Returns:
    Values with which no device has more rows at once than may fit.
  """
  # Gradients take as much memory as the arguments, and with microbatches the
  # sums of gradients do so again; those of adapters take next to none.
  gradients = 0 if step.network.lora.rank else refused.arguments
  share = _share_that_fits(
      refused, fixed=refused.arguments + gradients,
      fixed_then=refused.arguments + 2 * gradients,
  )
  return [
      n for n in microbatches(topology, step)
      if n > step.num_microbatches and step.num_microbatches / n <= share
  ]


def smaller_batches(
    topology: topologies.Topology,
    step: compile_step.Step,
    refused: compile_step.Compiled,
) -> list[int]:
  """Smaller batches of candidates that may be enough, each half of the last.

  Args:
    topology: the slice.
    step: the ranking step that does not fit.
    refused: what the compiler said of it.

  Returns:
    Batch sizes that the devices can share, in descending order.
  """
  shards = topology.num_devices // step.model_parallel
  share = _share_that_fits(
      refused, fixed=refused.arguments, fixed_then=refused.arguments
  )
  sizes, size = [], step.batch_size // 2 // shards * shards
  while size:
    if size / step.batch_size <= share:
      sizes.append(size)
    size = size // 2 // shards * shards
  return sizes


def _share_that_fits(
    refused: compile_step.Compiled, fixed: int, fixed_then: int
) -> float:
  """Estimates how many of its rows a step that does not fit may have at once.

  Memory is taken to be a fixed part and a part in proportion to the rows.

  Args:
    refused: what the compiler said of the step.
    fixed: the bytes of the fixed part as the step is.
    fixed_then: the bytes of the fixed part once there are fewer rows at once.

  Returns:
    The share of the rows, 0 to 1; 1 if the compiler did not say what it needs.
  """
  if refused.total is None:
    return 1.0
  of_rows = refused.total - fixed
  free = refused.usable - fixed_then
  return max(0.0, free / of_rows) if of_rows > 0 else 0.0


def changes(
    topology: topologies.Topology,
    step: compile_step.Step,
    refused: compile_step.Compiled,
) -> Iterator[Change]:
  """Settings that need less memory, small changes first.

  The order is: fewer rows at once, more recomputation, both, weights divided
  over the data axis as well, more devices for one copy, larger slices.

  Args:
    topology: the slice.
    step: the step that does not fit.
    refused: what the compiler said of it.

  Yields:
    Changes of the step as it was asked for.
  """
  if step.task == 'train':
    yield from _training_changes(topology, step, refused)
  else:
    for size in smaller_batches(topology, step, refused)[:2]:
      yield change(topology, step, batch_size=size)
  if not step.shard_params_over_data:
    yield change(topology, step, shard_params_over_data=True)
  for n in meshes(topology, step):
    if n > step.model_parallel:
      yield change(topology, step, **_least_memory(topology, step, n))
  larger = topology
  for _ in range(_LARGER_SLICES):
    if not (larger := topologies.larger(larger)):
      return
    for n in meshes(larger, step):
      yield change(
          larger, step, with_topology=True, **_least_memory(larger, step, n)
      )


def _training_changes(
    topology: topologies.Topology,
    step: compile_step.Step,
    refused: compile_step.Compiled,
) -> Iterator[Change]:
  """More microbatches, then more recomputation, then both."""
  counts = enough_microbatches(topology, step, refused)
  policies = POLICIES[POLICIES.index(step.network.remat_policy) + 1:]
  for n in counts[:2]:
    yield change(topology, step, num_microbatches=n)
  for policy in policies:
    yield change(topology, step, remat_policy=policy)
  if counts and policies:
    yield change(
        topology, step, num_microbatches=counts[-1], remat_policy='full'
    )


def _least_memory(
    topology: topologies.Topology, step: compile_step.Step, model_parallel: int
) -> dict[str, Any]:
  """The values with which a step needs the least memory on a mesh."""
  values = {'model_parallel': model_parallel, 'shard_params_over_data': True}
  if step.task == 'train':
    on_mesh = dataclasses.replace(step, model_parallel=model_parallel)
    values['num_microbatches'] = microbatches(topology, on_mesh)[-1]
    values['remat_policy'] = 'full'
  return values


def change(
    topology: topologies.Topology,
    step: compile_step.Step,
    with_topology: bool = False,
    **values: Any,
) -> Change:
  """A step with other values of its own fields or of its network's.

  Args:
    topology: the slice to compile for.
    step: the step to change.
    with_topology: whether the text names the slice, because it is another one.
    **values: field -> value.

  Returns:
    The changed step.
  """
  network_fields = {f.name for f in dataclasses.fields(step.network)}
  network_values = {n: v for n, v in values.items() if n in network_fields}
  step_values = {n: v for n, v in values.items() if n not in network_fields}
  network = dataclasses.replace(step.network, **network_values)
  flags = [
      f'--{name}' if value is True else f'--{name} {value}'
      for name, value in values.items()
  ]
  if with_topology:
    flags.insert(0, f'--topology {topology.name}')
  return Change(
      topology, dataclasses.replace(step, network=network, **step_values),
      ' '.join(flags),
  )


def candidates(
    topology: topologies.Topology, step: compile_step.Step
) -> Iterator[list[Change]]:
  """What a search compiles: each mesh and policy with all microbatches.

  Args:
    topology: the slice.
    step: the step, of which the batch and the network matter.

  Yields:
    Lists of changes, each needing less memory than the one before it: the first
    one of a list that fits is its best.
  """
  for n in meshes(topology, step):
    if step.task == 'rank':
      yield [change(topology, step, model_parallel=n)]
      continue
    counts = microbatches(
        topology, dataclasses.replace(step, model_parallel=n)
    )
    for policy in POLICIES:
      yield [
          change(
              topology, step, model_parallel=n, remat_policy=policy,
              num_microbatches=count,
          )
          for count in counts
      ]


def preference(facts: Mapping[str, Any]) -> tuple[float, int, int]:
  """The key by which a search sorts what fits, the best first.

  Fewer FLOPs come first: all settings of a search need the same, but each
  rematerialization policy repeats another part of them. Next come fewer
  microbatches, in which smaller products and more collectives are run one after
  another, and then fewer collective instructions.

  Args:
    facts: what `report.facts` returns of a step that fits.

  Returns:
    The lower bound of the step's time, and the two numbers.
  """
  return (
      facts['step_seconds_at_least'], facts['num_microbatches'],
      sum(facts['collectives'].values()),
  )
