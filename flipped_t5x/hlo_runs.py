"""How often each part of a compiled program runs.

The text says nothing of how often a loop runs, but the loops that JAX and XLA
make count from a constant to a constant.
"""

import re

from flipped_t5x import errors
from flipped_t5x import hlo

_COMPARE = {
    'LT': lambda i, n: i < n, 'LE': lambda i, n: i <= n,
    'GT': lambda i, n: i > n, 'GE': lambda i, n: i >= n,
    'NE': lambda i, n: i != n,
}


def runs(program: hlo.Program) -> dict[str, int]:
  """How often each computation runs, the bodies of fusions too.

  Functions of single elements, as of a reduction, are left out. Of the
  branches of a conditional each counts as if it were always taken.

  Raises:
    UserError: a loop does not count from a constant to a constant.
  """
  found = {program.entry: 1}
  # Callers stand after what they call, in the order of the text.
  for computation in reversed(list(program.computations.values())):
    times = found.get(computation.name, 0)
    if not times:
      continue
    for instruction in computation:
      for name, factor in _calls(program, computation, instruction):
        found[name] = found.get(name, 0) + times * factor
  return found


def _calls(program, computation, instruction) -> list[tuple[str, int]]:
  opcode = instruction.opcode
  if opcode == 'while':
    rounds = trips(program, computation, instruction)
    body, = instruction.called('body')
    condition, = instruction.called('condition')
    return [(body, rounds), (condition, rounds + 1)]
  if opcode in ('fusion', 'async-start'):
    return [(name, 1) for name in instruction.called('calls')]
  if opcode == 'call':
    return [(name, 1) for name in instruction.called('to_apply')]
  if opcode == 'conditional':
    keys = ('branch_computations', 'true_computation', 'false_computation')
    return [(name, 1) for key in keys for name in instruction.called(key)]
  return []


def trips(
    program: hlo.Program, computation: hlo.Computation, loop: hlo.Instruction
) -> int:
  """How often the body of a loop runs.

  Args:
    program: the whole.
    computation: where the loop is.
    loop: a 'while'.

  Raises:
    UserError: it does not count from a constant to a constant.
  """
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
  if known:
    return int(known[1])
  condition = program.computations[loop.called('condition')[0]]
  body = program.computations[loop.called('body')[0]]
  initial = computation.instructions[loop.operands[0]]
  test = condition.instructions[condition.root]
  direction = re.search(r'direction=(\w+)', test.attributes)
  if test.opcode == 'compare' and direction and direction[1] in _COMPARE:
    i, limit = (
        _carried(condition, name, computation, initial)
        for name in test.operands
    )
    step = _step(program, body, i[0]) if i else None
    if i and limit and step and i[1] is not None and limit[1] is not None:
      rounds = _count(i[1], limit[1], step, _COMPARE[direction[1]])
      if rounds is not None and _is_kept(body, limit[0]):
        return rounds
  raise errors.UserError(
      f'%{loop.name} of the compiled program: no loop from a constant to a'
      ' constant; how often it runs is unknown'
  )


def _carried(condition, name, computation, initial):
  """(index in the loop's tuple or None, value at first), or None."""
  instruction = condition.instructions[name]
  if instruction.opcode == 'constant':
    return None, int(instruction.operands[0])
  index = re.search(r'index=(\d+)', instruction.attributes)
  if instruction.opcode != 'get-tuple-element' or not index:
    return None
  index = int(index[1])
  if initial.opcode != 'tuple':
    return index, None
  return index, _constant(
      computation, computation.instructions[initial.operands[index]]
  )


def _step(
    program: hlo.Program, body: hlo.Computation, index: int | None
) -> int | None:
  """What the body adds to an element of the loop's tuple."""
  root = body.instructions[body.root]
  if index is None or root.opcode != 'tuple':
    return None
  added = body.instructions[root.operands[index]]
  while added.opcode in ('copy', 'bitcast'):
    added, = body.operands(added)
  if added.opcode == 'fusion':
    name, = added.called('calls')
    inner = program.computations[name]
    added, body = inner.instructions[inner.root], inner
  if added.opcode != 'add':
    return None
  steps = [_constant(body, operand) for operand in body.operands(added)]
  steps = [step for step in steps if step is not None]
  return steps[0] if len(steps) == 1 else None


def _is_kept(body: hlo.Computation, index: int | None) -> bool:
  """Whether the body leaves an element of the loop's tuple as it is."""
  root = body.instructions[body.root]
  if index is None:
    return True
  kept = body.instructions[root.operands[index]]
  return kept.opcode == 'get-tuple-element' and bool(
      re.search(rf'\bindex={index}\b', kept.attributes)
  )


def _constant(
    computation: hlo.Computation, instruction: hlo.Instruction
) -> int | None:
  while instruction.opcode in ('copy', 'bitcast'):
    instruction, = computation.operands(instruction)
  if instruction.opcode != 'constant':
    return None
  return int(instruction.operands[0])


def _count(i: int, limit: int, step: int, goes_on) -> int | None:
  """Times that `i += step` happens while `goes_on(i, limit)`; None: no end."""
  if not goes_on(i, limit):
    return 0
  # The limit itself may be counted or not.
  about = (limit - i) // step
  for trips in range(max(about, 1), about + 3):
    if not goes_on(i + trips * step, limit):
      return trips
  return None
