"""TPU slices by name, and what their chips can do.

A name is libtpu's: `v4:4x4x4` is 64 chips of a v4. Google's names of the same
slices count cores for v2 to v4 and v5p (v4-128) and chips for others (v5e-256).

Sources of the peaks: [cloud] the pages of the generations in Google Cloud's
documentation (docs.cloud.google.com/tpu/docs); [dsa] Jouppi et al. 2020, A
Domain-Specific Supercomputer for Training Deep Neural Networks. What a program
may use of the memory is what the compiler of libtpu 0.0.42 says when it refuses
one.
"""

import dataclasses
import math
import re

from flipped_t5x import errors

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation of chips.

  Attributes:
    name: the name that libtpu gives the generation.
    peak_flops: the bfloat16 FLOP/s of a chip at its peak.
    usable_bytes: the bytes of memory that a program may use on one device.
    devices: the number of devices that a chip is to JAX.
    counted_cores: the number that a chip adds to Google's name of a slice.
    shapes: the shapes of the usual slices, small ones first; all have two axes
      or all have three.
  """

  name: str
  peak_flops: float
  usable_bytes: int
  devices: int
  counted_cores: int
  shapes: tuple[str, ...]


def _chip(
    name: str, teraflops: float, usable_gib: float, devices: int, cores: int,
    shapes: str,
) -> Chip:
  return Chip(
      name, teraflops * 1e12, int(usable_gib * _GIB), devices, cores,
      tuple(shapes.split()),
  )


_FLAT = '2x2 2x4 4x4 4x8 8x8 8x16 16x16'
_CUBES = '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16'
CHIPS = {
    chip.name: chip for chip in (
        _chip('v2', 46, 7.48, 2, 2, '2x2 4x4 8x8 8x16 16x16'),  # [dsa]
        # [cloud], as are the others.
        _chip('v3', 123, 15.48, 2, 2, '2x2 4x4 8x8 8x16 16x16 16x32 32x32'),
        _chip('v4', 275, 30.75, 1, 2, _CUBES),
        _chip('v5e', 197, 15.75, 1, 1, _FLAT),
        _chip('v5p', 459, 95.74, 1, 2, _CUBES),
        _chip('v6e', 918, 31.25, 1, 1, _FLAT),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice.

  Attributes:
    name: the name that libtpu gives it, such as 'v4:4x4x4'.
    chip: the generation of its chips.
    shape: the number of chips along each axis.
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
    """The name that Google Cloud gives it, such as 'v4-128'."""
    return f'{self.chip.name}-{self.num_chips * self.chip.counted_cores}'

  @property
  def peak_flops(self) -> float:
    """The bfloat16 FLOP/s of all chips together at their peak."""
    return self.num_chips * self.chip.peak_flops


def topology(name: str) -> Topology:
  """Looks up a slice by name.

  Args:
    name: GENERATION:SHAPE as libtpu writes it, such as 'v4:4x4x4' and
      'v5e:16x16'.

  Returns:
    The slice.

  Raises:
    UserError: there is no such generation, or its slices have another number of
      axes.
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
  """The names of the usual slices, with a line for each generation."""
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
