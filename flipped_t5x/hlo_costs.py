"""What one run of a compiled program costs a device: products and memory.

XLA's own estimate takes each loop for one round. Here all that runs is counted,
what the compiler computes twice or on every device included.
"""

import re

from flipped_t5x import hlo
from flipped_t5x import hlo_runs
import numpy as np

# These have no result of their own in memory, or their parts are counted.
_FREE = frozenset({
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'conditional', 'call', 'partition-id', 'replica-id', 'after-all',
    'opt-barrier', 'iota', 'add-dependency', 'get-dimension-size',
})
_WINDOW = re.compile(r'window=\{([^}]*)\}')
_LABELS = re.compile(r'dim_labels=(\w+)_(\w+)->(\w+)')
_CONTRACTED = re.compile(r'lhs_contracting_dims=\{([\d,]*)\}')


def matmul_flops(program: hlo.Program) -> float:
  """Floating-point operations of a device's matrix products in one run.

  A multiplication and an addition count as 2.
  """
  return float(sum(
      runs * _flops(program.computations[name], instruction)
      for name, runs in hlo_runs.runs(program).items()
      for instruction in program.computations[name]
      if instruction.opcode in ('dot', 'convolution')
  ))


def _flops(computation: hlo.Computation, product: hlo.Instruction) -> int:
  left, right = (o.arrays[0] for o in computation.operands(product))
  out, = product.arrays
  if product.opcode == 'dot':
    dims = _CONTRACTED.search(product.attributes)[1]
    contracted = [left.dims[int(i)] for i in dims.split(',') if i]
    return 2 * out.elements * int(np.prod(contracted))
  labels = _LABELS.search(product.attributes)
  spatial = sorted(c for c in labels[1] if c.isdigit())
  window = dict(re.findall(
      r'(\w+)=([\dx_-]+)',
      (_WINDOW.search(product.attributes) or [None, ''])[1],
  ))

  def along(key, i, default):
    return window[key].split('x')[i] if key in window else default

  products = right.dims[labels[2].index('i')]
  for i, label in enumerate(spatial):
    low, _ = map(int, along('pad', i, '0_0').split('_'))
    products *= _valid(
        size=left.dims[labels[1].index(label)],
        kernel=right.dims[labels[2].index(label)],
        out=out.dims[labels[3].index(label)],
        stride=int(along('stride', i, 1)),
        low=low,
        left_dilation=int(along('lhs_dilate', i, 1)),
        right_dilation=int(along('rhs_dilate', i, 1)),
    )
  rest = [out.dims[labels[3].index(c)] for c in 'bf']
  return 2 * int(products) * rest[0] * rest[1]


def _valid(
    size, kernel, out, stride, low, left_dilation, right_dilation
) -> int:
  """Pairs of kernel and output positions that meet an element, no padding.

  A TPU's compiler writes batched products as windows that are mostly padding.
  """
  at = (
      np.arange(out)[:, None] * stride - low
      + np.arange(kernel)[None, :] * right_dilation
  )
  inside = (at >= 0) & (at < (size - 1) * left_dilation + 1)
  return int(np.sum(inside & (at % left_dilation == 0)))


def hbm_bytes(program: hlo.Program) -> float:
  """Bytes that one run reads from and writes to a device's main memory.

  Of an array that is only sliced, or of which only a part is overwritten, the
  slice counts.
  """
  inner = {
      called
      for computation in program.computations.values()
      for instruction in computation
      if instruction.opcode == 'fusion'
      for called in instruction.called('calls')
  }
  return float(sum(
      runs * _traffic(program, program.computations[name], instruction)
      for name, runs in hlo_runs.runs(program).items() if name not in inner
      for instruction in program.computations[name]
      if instruction.opcode not in _FREE
      and not instruction.opcode.endswith('-done')
  ))


def _traffic(
    program: hlo.Program, computation: hlo.Computation,
    instruction: hlo.Instruction,
) -> int:
  operands = computation.operands(instruction)
  opcode = instruction.opcode
  if opcode == 'fusion':
    name, = instruction.called('calls')
    return _fusion_traffic(program.computations[name], instruction, operands)
  if opcode in ('copy-start', 'slice-start'):
    # (source, destination) in either order, and a semaphore.
    moved = min(instruction.arrays[:2], key=lambda a: a.bytes).bytes
    return sum(moved for a in instruction.arrays[:2] if not a.memory_space)
  if opcode in ('dynamic-slice', 'gather', 'slice'):
    return 2 * _main(instruction.arrays)
  if opcode in ('dynamic-update-slice', 'scatter'):
    return 2 * _main(operands[-1 if opcode == 'scatter' else 1].arrays)
  if opcode.endswith('-start'):
    # Its result holds the operands once more.
    return 2 * sum(_main(o.arrays) for o in operands)
  if opcode == 'custom-call' and 'AllocateBuffer' in instruction.attributes:
    return 0
  return _main(instruction.arrays) + sum(_main(o.arrays) for o in operands)


def _fusion_traffic(
    inner: hlo.Computation, fusion: hlo.Instruction,
    operands: list[hlo.Instruction],
) -> int:
  """A fusion reads what it is given and writes its result, or slices of it."""
  root = inner.instructions[inner.root]
  total = 0
  results = inner.operands(root) if root.opcode == 'tuple' else [root]
  if len(results) == len(fusion.arrays):
    pairs = zip(results, fusion.arrays, strict=True)
  else:
    pairs = ((root, a) for a in fusion.arrays)
  for result, array in pairs:
    if array.memory_space:
      continue
    while result.opcode == 'bitcast':
      result, = inner.operands(result)
    if result.opcode == 'dynamic-update-slice':
      total += inner.operands(result)[1].bytes
    else:
      total += array.bytes
  parameters = {
      int(i.operands[0]): i for i in inner if i.opcode == 'parameter'
  }
  for number, operand in enumerate(operands):
    if _main(operand.arrays):
      total += _read(inner, parameters[number])
  return total


def _read(inner: hlo.Computation, parameter: hlo.Instruction) -> int:
  """Bytes of a fusion's operand that are read: all, or those of its slices."""
  total = 0
  names = [parameter.name]
  for name in names:
    for user in inner:
      if name not in user.operands:
        continue
      if user.opcode == 'bitcast':
        names.append(user.name)
      elif user.opcode in ('dynamic-slice', 'slice', 'gather'):
        total += user.bytes
      elif user.opcode != 'dynamic-update-slice' or user.operands[0] != name:
        return parameter.bytes
  return min(total, parameter.bytes)


def _main(arrays) -> int:
  return sum(a.bytes for a in arrays if not a.memory_space)
