"""TPU slices by name, and what their chips can do.

A name is libtpu's: `v4:4x4x4` is 64 chips of a v4. Google's names of the same
slices count cores for v2 to v4 and v5p (v4-128) and chips for others (v5e-256).

Sources: [cloud] the pages of the generations in Google Cloud's documentation
(docs.cloud.google.com/tpu/docs), which give numbers for a chip; [dsa] Jouppi et
al. 2020, A Domain-Specific Supercomputer for Training Deep Neural Networks.
A link's bandwidth is in one direction: [cloud]'s all-reduce bandwidth of a pod
over its chips and their links (v3, v4), its bandwidth of a chip in both
directions over twice its links (v5e, v5p, v6e), or [dsa] (v2). An axis is a
ring if it is as long as the pod's (two axes), or if all three are multiples of
4. What a program may use of the memory is what the compiler of libtpu 0.0.42
says when it refuses one.
"""

import dataclasses
import math
import re

from flipped_t5x import errors
import numpy as np

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation.

  Attributes:
    name: libtpu's.
    peak_flops: bfloat16 FLOP/s of a chip.
    hbm_bytes: memory of a chip.
    usable_bytes: what a program may use of a device's memory.
    hbm_bandwidth: byte/s of a chip.
    link_bandwidth: byte/s in one direction of one link to a neighbour.
    devices: as how many devices JAX has a chip.
    counted_cores: what Google's names count of a chip.
    ring: chips along an axis whose ends are linked, too; for three axes all of
      them must be multiples of it.
    shapes: of the usual slices; of two axes or three, with two links each.
    source: of peak, memory and its bandwidth, see above.
  """

  name: str
  peak_flops: float
  hbm_bytes: int
  usable_bytes: int
  hbm_bandwidth: float
  link_bandwidth: float
  devices: int
  counted_cores: int
  ring: int
  shapes: tuple[str, ...]
  source: str


def _chip(
    name, teraflops, gib, usable_gib, bandwidth, link, devices, cores, ring,
    shapes, source,
) -> Chip:
  return Chip(
      name, teraflops * 1e12, int(gib * _GIB), int(usable_gib * _GIB),
      bandwidth * 1e9, link * 1e9, devices, cores, ring, tuple(shapes.split()),
      source,
  )


_FLAT = '2x2 2x4 4x4 4x8 8x8 8x16 16x16'
_CUBES = '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16'
CHIPS = {
    chip.name: chip for chip in (
        _chip('v2', 46, 16, 7.48, 700, 62, 2, 2, 16, '2x2 4x4 8x8 8x16 16x16',
              '[dsa]'),
        _chip('v3', 123, 32, 15.48, 900, 83, 2, 2, 32,
              '2x2 4x4 8x8 8x16 16x16 16x32 32x32', '[cloud]'),
        _chip('v4', 275, 32, 30.75, 1200, 45, 1, 2, 4, _CUBES, '[cloud]'),
        _chip('v5e', 197, 16, 15.75, 819, 50, 1, 1, 16, _FLAT, '[cloud]'),
        _chip('v5p', 459, 95, 95.74, 2765, 100, 1, 2, 4, _CUBES, '[cloud]'),
        _chip('v6e', 918, 32, 31.25, 1638, 100, 1, 1, 16, _FLAT, '[cloud]'),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice.

  Attributes:
    name: such as 'v4:4x4x4'.
    chip: its generation.
    shape: chips along each axis.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def num_chips(self) -> int:
    return math.prod(self.shape)

  @property
  def num_devices(self) -> int:
    return self.num_chips * self.chip.devices

  @property
  def google_name(self) -> str:
    """As Google Cloud calls it: 'v4-128'."""
    return f'{self.chip.name}-{self.num_chips * self.chip.counted_cores}'

  def is_ring(self, axis: int) -> bool:
    """Whether the ends of an axis are linked."""
    ring = self.chip.ring
    if len(self.shape) == 3:
      return not any(size % ring for size in self.shape)
    return self.shape[axis] == ring

  def group_bandwidth(self, coordinates: np.ndarray) -> float:
    """What each of a group of devices can send to the rest at once.

    Along a ring that the group has all of, a chip sends both ways; else there
    is no way around, and the link in the middle carries as much as one link
    can. All axes are used at once.

    Args:
      coordinates: int[devices, axes], the chips of the group's members.

    Returns:
      byte/s of a device; infinite where all are on one chip.
    """
    links = 0
    for axis, size in enumerate(self.shape):
      extent = len(np.unique(coordinates[:, axis]))
      if extent > 1:
        links += 2 if extent == size and self.is_ring(axis) else 1
    # The cores of a chip share its links.
    share = len(coordinates) / len(np.unique(coordinates, axis=0))
    return self.chip.link_bandwidth * links / share if links else math.inf

  def permutation_bandwidth(
      self, sources: np.ndarray, targets: np.ndarray
  ) -> float:
    """What each device can send to another one while all others do.

    Two permutations, there and back, share the two directions of the links:
    each is taken to have half of the time, as if it had both.

    Args:
      sources: int[pairs, axes], chips.
      targets: int[pairs, axes], the chip that each sends to.

    Returns:
      byte/s of a device, less the more links are on the way; infinite where
      nothing leaves a chip.
    """
    axes = range(len(self.shape))
    steps = np.abs(sources - targets)[:, axes]
    around = np.where([self.is_ring(a) for a in axes], self.shape, 2 * steps)
    hops = np.minimum(steps, around - steps).sum(axis=1).mean()
    if not hops:
      return math.inf
    return 2 * self.chip.link_bandwidth / (hops * self.chip.devices)


def topology(name: str) -> Topology:
  """A slice by name.

  Args:
    name: GENERATION:SHAPE as libtpu writes it: 'v4:4x4x4', 'v5e:16x16'.

  Returns:
    The slice.

  Raises:
    UserError: no such generation, or no such shape of it.
  """
  match = re.fullmatch(r'(\w+):([1-9]\d*(?:x[1-9]\d*)*)', name)
  if not match or match[1] not in CHIPS:
    raise errors.UserError(f'--topology {name!r} is not known; {known()}')
  chip = CHIPS[match[1]]
  shape = tuple(int(n) for n in match[2].split('x'))
  axes = chip.shapes[0].count('x') + 1
  if len(shape) != axes:
    raise errors.UserError(
        f'--topology {name}: the slices of a {chip.name} have {axes} axes:'
        f' {", ".join(chip.shapes)}'
    )
  return Topology(name, chip, shape)


def known() -> str:
  """The usual names, one line a generation."""
  return 'known are\n' + '\n'.join(
      ' '.join(f'{chip.name}:{shape}' for shape in chip.shapes)
      for chip in CHIPS.values()
  )


def larger(current: Topology) -> Topology | None:
  """The next usual slice of the same generation, if there is one."""
  slices = [
      topology(f'{current.chip.name}:{shape}') for shape in current.chip.shapes
  ]
  return next((t for t in slices if t.num_chips > current.num_chips), None)
