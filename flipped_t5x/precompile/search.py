"""Settings with which a step fits a slice: the smallest change, or all of them.

Whether something fits is always compiled; memory is estimated only to leave out
what cannot.
"""

from collections.abc import Iterator
import dataclasses
import itertools
from typing import Any

from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import topologies

POLICIES = ('none', 'minimal', 'full')


@dataclasses.dataclass(frozen=True)
class Change:
  """Other settings than those that were asked for.

  Attributes:
    topology: the slice.
    step: the step.
    text: what is different, as flags of the command.
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
    step: the batch and the network.

  Returns:
    The values, ascending; perhaps none.
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
  """More microbatches, from the fewest that may be enough; see `_share`."""
  share = _share(refused, sums=1)
  return [
      n for n in microbatches(topology, step)
      if n > step.num_microbatches and step.num_microbatches / n <= share
  ]


def smaller_batches(
    topology: topologies.Topology,
    step: compile_step.Step,
    refused: compile_step.Compiled,
) -> list[int]:
  """Halves of a batch of candidates, from the largest that may be enough."""
  shards = topology.num_devices // step.model_parallel
  share = _share(refused, sums=0)
  sizes, size = [], step.batch_size // 2 // shards * shards
  while size:
    if size / step.batch_size <= share:
      sizes.append(size)
    size = size // 2 // shards * shards
  return sizes


def _share(refused: compile_step.Compiled, sums: int) -> float:
  """How much of the rows at once may fit, 0 to 1: an estimate.

  What is no argument is taken to shrink with the rows, but for gradients and
  their sums, which take as much as the arguments each.
  """
  if refused.total is None:
    return 1.0
  rest = refused.total - (1 + sums) * refused.arguments
  free = refused.usable - (1 + 2 * sums) * refused.arguments
  return max(0.0, free / rest) if rest > 0 else 0.0


def changes(
    topology: topologies.Topology,
    step: compile_step.Step,
    refused: compile_step.Compiled,
) -> Iterator[Change]:
  """Settings that need less memory, small changes first.

  First microbatches, then computing more again, then both, then weights that
  are divided further, then a larger slice.

  Args:
    topology: the slice.
    step: what does not fit.
    refused: what the compiler said of it.
  """
  policy = step.network.remat_policy
  policies = POLICIES[POLICIES.index(policy) + 1:]
  if step.task == 'train':
    counts = enough_microbatches(topology, step, refused)
    for n in counts[:2]:
      yield change(topology, step, num_microbatches=n)
    for policy in policies:
      yield change(topology, step, remat_policy=policy)
    if counts and policies:
      yield change(
          topology, step, num_microbatches=counts[-1], remat_policy='full'
      )
  else:
    for size in smaller_batches(topology, step, refused)[:2]:
      yield change(topology, step, batch_size=size)
  if not step.shard_params_over_data:
    yield change(topology, step, shard_params_over_data=True)
  slices = [topology]
  while len(slices) < 4 and (larger := topologies.larger(slices[-1])):
    slices.append(larger)
  for slice_ in slices:
    for n in meshes(slice_, step):
      if slice_ is not topology or n > step.model_parallel:
        values: dict[str, Any] = {'shard_params_over_data': True}
        if step.task == 'train':
          wider = dataclasses.replace(step, model_parallel=n)
          values['num_microbatches'] = microbatches(slice_, wider)[-1]
          values['remat_policy'] = 'full'
        yield change(
            slice_, step, slice_ is not topology, model_parallel=n, **values
        )


def change(
    topology: topologies.Topology,
    step: compile_step.Step,
    is_other: bool = False,
    **values,
) -> Change:
  """A step with other values of its own or of its network's fields.

  Args:
    topology: the slice.
    step: the step.
    is_other: whether the slice is another one, too.
    **values: field -> value.
  """
  of_network = {
      name: value for name, value in values.items()
      if name in {f.name for f in dataclasses.fields(step.network)}
  }
  of_step = {n: v for n, v in values.items() if n not in of_network}
  changed = dataclasses.replace(
      step, network=dataclasses.replace(step.network, **of_network), **of_step
  )
  flags = [
      f'--{name}' if value is True else f'--{name} {value}'
      for name, value in values.items()
  ]
  if is_other:
    flags.insert(0, f'--topology {topology.name}')
  return Change(topology, changed, ' '.join(flags))


def candidates(
    topology: topologies.Topology, step: compile_step.Step
) -> Iterator[tuple[Change, ...]]:
  """For a search: each mesh and policy, and the microbatches to try in turn.

  Args:
    topology: the slice.
    step: the batch and the network.

  Yields:
    Changes, each needing less memory than the one before: of each such row the
    first that fits is the best.
  """
  policies = POLICIES if step.task == 'train' else ('none',)
  for n, policy in itertools.product(meshes(topology, step), policies):
    wider = dataclasses.replace(step, model_parallel=n)
    of_training = {'remat_policy': policy} if step.task == 'train' else {}
    yield tuple(
        change(
            topology, step, model_parallel=n, **of_training,
            **({'num_microbatches': count} if of_training else {}),
        )
        for count in microbatches(topology, wider)
    )
