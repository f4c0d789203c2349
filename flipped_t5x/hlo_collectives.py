"""The collectives of a compiled program: how many, how many bytes, among whom.

Bytes are what one participant sends over the network in one run of the program,
by the algorithms that are optimal in bandwidth on a ring of n participants of
arrays of S bytes each: all-gather S (n - 1), reduce-scatter and all-to-all
S (n - 1) / n, all-reduce twice that, permutation S.
"""

import collections
from collections.abc import Sequence
import dataclasses
import math
import re

from flipped_t5x import errors
from flipped_t5x import hlo
from flipped_t5x import hlo_runs
import numpy as np

_SENT = {
    'all-gather': lambda size, n: size * (n - 1),
    'all-reduce': lambda size, n: 2 * size * (n - 1) / n,
    'reduce-scatter': lambda size, n: size * (n - 1) / n,
    'all-to-all': lambda size, n: size * (n - 1) / n,
    'ragged-all-to-all': lambda size, n: size * (n - 1) / n,
    'collective-broadcast': lambda size, n: size * (n - 1) / n,
    'collective-permute': lambda size, n: size,
}
_LISTED = re.compile(r'replica_groups=\{((?:\{[\d,]*\},?)*)\}')
_IOTA = re.compile(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?'
)
_MESH = re.compile(
    r'replica_groups=mesh\[([^\]]*)\]'
    r'(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}'
)
_MESH_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?(?:=(\d+))?")
_PAIRS = re.compile(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of the program's text.

  Attributes:
    kind: such as 'all-gather'.
    runs: how often it happens in one run of the program.
    bytes: that each participant sends in all of these runs.
    groups: int[number, size], the participants that have to do with another;
      of a permutation (source, target) pairs.
    names: where in the model it is from, if the text says so.
  """

  kind: str
  runs: int
  bytes: float
  groups: np.ndarray
  name: str

  @property
  def group_size(self) -> int:
    return self.groups.shape[1]


def collectives(program: hlo.Program, num_partitions: int) -> list[Collective]:
  """All collectives of a program that move something.

  Args:
    program: the compiled program.
    num_partitions: the number of devices that run it together.

  Returns:
    One for each place in the text that runs at all.

  Raises:
    UserError: the text has a form that is not known.
  """
  found = []
  for name, runs in hlo_runs.runs(program).items():
    computation = program.computations[name]
    for instruction in computation:
      kind = instruction.opcode.removesuffix('-start')
      if kind not in _SENT:
        continue
      operands = computation.operands(instruction)
      size = sum(operand.bytes for operand in operands)
      groups = _groups(kind, instruction.attributes, num_partitions)
      if kind == 'all-reduce' and _is_scattered(computation, instruction):
        kind = 'reduce-scatter'
      sent = _SENT[kind](size, groups.shape[1])
      if groups.size and sent:
        op_name = re.search(r'op_name="([^"]*)"', instruction.attributes)
        found.append(Collective(
            kind, runs, runs * sent, groups, op_name[1] if op_name else ''
        ))
  return found


def totals(found: Sequence[Collective]) -> list[dict[str, float]]:
  """Sums over collectives of a kind and a size of groups, most bytes first.

  Returns:
    Dicts of `kind`, `group_size`, `count` (runs) and `bytes`.
  """
  counts, sizes = collections.Counter(), collections.Counter()
  for collective in found:
    key = collective.kind, collective.group_size
    counts[key] += collective.runs
    sizes[key] += collective.bytes
  return [
      {'kind': kind, 'group_size': n, 'count': counts[kind, n], 'bytes': size}
      for (kind, n), size in sizes.most_common()
  ]


def _is_scattered(
    computation: hlo.Computation, reduced: hlo.Instruction
) -> bool:
  """Whether all that is done with a sum is to take a slice of it.

  A TPU's compiler makes a reduce-scatter a fusion of these two.
  """
  if computation.instructions[computation.root].opcode != 'dynamic-slice':
    return False
  users = [i for i in computation if reduced.name in i.operands]
  return all(user.opcode in ('dynamic-slice', 'bitcast') for user in users)


def _groups(kind: str, attributes: str, num_partitions: int) -> np.ndarray:
  """int[number, size] of an instruction; each of the forms XLA writes."""
  if kind == 'collective-permute':
    match = _PAIRS.search(attributes)
    pairs = re.findall(r'(\d+),(\d+)', match[1]) if match else []
    pairs = [(int(a), int(b)) for a, b in pairs if a != b]
    return np.array(pairs, int).reshape(-1, 2)
  if match := _LISTED.search(attributes):
    listed = [_ints(group) for group in re.findall(r'\{([\d,]*)\}', match[1])]
    return np.array(listed or [range(num_partitions)])
  if match := _IOTA.search(attributes):
    return _iota(match[2], match[3]).reshape(_ints(match[1]))
  if match := _MESH.search(attributes):
    return _mesh_groups(*match.groups())
  raise errors.UserError(f'unknown form of groups: {attributes[:200]!r}')


def _ints(text: str) -> list[int]:
  return [int(n) for n in text.split(',') if n]


def _iota(shape: str, permutation: str | None) -> np.ndarray:
  """`[16,4]T(1,0)`: 0, 1, ... in this shape, transposed."""
  shape = _ints(shape)
  ids = np.arange(math.prod(shape)).reshape(shape)
  return ids.transpose(_ints(permutation)) if permutation else ids


def _mesh_groups(
    axes: str, shape: str | None, permutation: str | None, along: str
) -> np.ndarray:
  """`mesh['a'=16,'b'=4], device_ids=([4,16]T(1,0)) {'a'}`: groups along a.

  A part of an axis is written `'a':(2)4`: 4 of it, after the first 2.
  """
  sizes = {m[1]: int(m[4]) for m in _MESH_AXIS.finditer(axes)}
  chosen = [
      (m[1], int(m[2] or 1), int(m[3] or sizes[m[1]]))
      for m in _MESH_AXIS.finditer(along)
  ]
  # Every axis cut where a part of it begins or ends.
  shape_of_parts, parts = [], []
  for name, size in sizes.items():
    cuts = {1, size}
    for _, before, part in (c for c in chosen if c[0] == name):
      cuts |= {before, before * part}
    cuts = sorted(cuts)
    for low, high in zip(cuts, cuts[1:], strict=False):
      shape_of_parts.append(high // low)
      parts.append((name, low, high))
  ids = _iota(shape, permutation) if shape else np.arange(
      math.prod(shape_of_parts)
  )
  ids = ids.reshape(shape_of_parts)
  inside = [
      any(
          name == n and before <= low and high <= before * part
          for n, before, part in chosen
      )
      for name, low, high in parts
  ]
  order = [i for i, x in enumerate(inside) if not x]
  order += [i for i, x in enumerate(inside) if x]
  size = math.prod(n for n, x in zip(shape_of_parts, inside, strict=True) if x)
  return ids.transpose(order).reshape(-1, size)
