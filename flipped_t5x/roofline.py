"""How long a compiled step takes at least, and what bounds it.

Three times are estimated for a device: that of its matrix products at the
chip's peak, of its traffic with the main memory at full bandwidth, and of its
collectives at the links' bandwidth. If all overlap perfectly the step takes the
longest of them, if nothing does their sum: a real step lies between these two,
or above, for no kernel reaches the peak.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flipped_t5x import hlo
from flipped_t5x import hlo_collectives
from flipped_t5x import hlo_costs
from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import flops
from flipped_t5x.precompile import topologies
import numpy as np

ASSUMPTIONS = (
    "every matrix product at the chip's bfloat16 peak, float32 ones too (XLA's"
    ' default precision multiplies in bfloat16)',
    'main memory at its full bandwidth; what stays in on-chip memory costs'
    ' nothing',
    'collectives as rings of the best algorithm: both links of each axis that'
    ' is a ring and all theirs, one of each other axis',
    'all of these overlap (the lower number), or nothing does (the upper); no'
    ' time for the host, for reading data and for checkpoints',
)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Of one step; per device where not said otherwise.

  Attributes:
    model_flops: operations that the step needs, on all devices.
    recomputed_flops: what it does again to save memory, on all devices.
    device_flops: operations of matrix products in the compiled program.
    hbm_bytes: traffic with the main memory.
    collectives: as `hlo_collectives.totals`, with `seconds`.
    compute_seconds: of `device_flops`.
    hbm_seconds: of `hbm_bytes`.
    collective_seconds: of all collectives.
    chips: of the slice.
    peak_flops: of a chip.
  """

  model_flops: float
  recomputed_flops: float
  device_flops: float
  hbm_bytes: float
  collectives: Sequence[dict[str, Any]]
  compute_seconds: float
  hbm_seconds: float
  collective_seconds: float
  chips: int
  peak_flops: float

  @property
  def parts(self) -> dict[str, float]:
    return {
        'compute': self.compute_seconds,
        'memory': self.hbm_seconds,
        'collectives': self.collective_seconds,
    }

  @property
  def least_seconds(self) -> float:
    return max(self.parts.values())

  @property
  def most_seconds(self) -> float:
    return sum(self.parts.values())

  @property
  def bound(self) -> str:
    return max(self.parts, key=self.parts.get)

  def utilisation(self, seconds: float) -> float:
    """Share of the slice's peak that is of use to the model, 0 to 1."""
    return self.model_flops / (seconds * self.chips * self.peak_flops)

  def chip_hours(self, seconds: float, steps: int) -> float:
    return seconds * steps * self.chips / 3600


def estimate(
    topology: topologies.Topology,
    step: compile_step.Step,
    compiled: compile_step.Compiled,
) -> Estimate:
  """What a compiled step costs.

  Args:
    topology: the slice.
    step: what was compiled.
    compiled: the program, which the compiler did not refuse.

  Returns:
    The estimate.
  """
  chip = topology.chip
  program = hlo.parse(compiled.text)
  found = hlo_collectives.collectives(program, topology.num_devices)
  seconds = _seconds(topology, found, compiled.coordinates)
  collectives = hlo_collectives.totals(found)
  for total in collectives:
    total['seconds'] = sum(
        s for c, s in zip(found, seconds, strict=True)
        if (c.kind, c.group_size) == (total['kind'], total['group_size'])
    )
  sizes = (step.network, step.batch_size, step.input_length, step.target_length)
  if step.task == 'train':
    needed = flops.train_step(*sizes, sides=step.sides)
    again = flops.recomputed(
        *sizes, sides=step.sides, num_logit_chunks=step.num_logit_chunks
    )
  else:
    needed, again = flops.rank_step(*sizes), 0.0
  device_flops = hlo_costs.matmul_flops(program)
  hbm_bytes = hlo_costs.hbm_bytes(program)
  return Estimate(
      model_flops=needed,
      recomputed_flops=again,
      device_flops=device_flops,
      hbm_bytes=hbm_bytes,
      collectives=collectives,
      compute_seconds=device_flops / (chip.peak_flops / chip.devices),
      hbm_seconds=hbm_bytes / (chip.hbm_bandwidth / chip.devices),
      collective_seconds=sum(seconds),
      chips=topology.num_chips,
      peak_flops=chip.peak_flops,
  )


def _seconds(
    topology: topologies.Topology,
    found: Sequence[hlo_collectives.Collective],
    coordinates: np.ndarray,
) -> list[float]:
  """Of each collective: its bytes by the bandwidth of its slowest group."""
  known = {}
  seconds = []
  for collective in found:
    key = collective.kind == 'collective-permute', collective.groups.tobytes()
    if key not in known:
      at = coordinates[collective.groups]
      if key[0]:
        known[key] = topology.permutation_bandwidth(at[:, 0], at[:, 1])
      else:
        known[key] = min(map(topology.group_bandwidth, at))
    seconds.append(collective.bytes / known[key])
  return seconds
