"""The text of a compiled XLA program as data.

A program is a set of computations; one is the entry, others are the bodies of
loops, branches and fusions.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

from flipped_t5x import errors

_BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16,
    's32': 32, 'u32': 32, 's64': 64, 'u64': 64, 'bf16': 16, 'f16': 16,
    'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128, 'token': 0,
}
_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'  (ROOT )?%?([\w.-]+) = ')
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?')
_SPACE = re.compile(r'S\((\d+)\)')
_NAME = re.compile(r'%([\w.-]+)')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's result.

  Attributes:
    dtype: as XLA writes it: 'bf16'.
    dims: sizes.
    memory_space: 0 is the main memory; a TPU's on-chip memories have others.
  """

  dtype: str
  dims: tuple[int, ...]
  memory_space: int = 0

  @property
  def elements(self) -> int:
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """Without the padding of tiles."""
    # float8 types have long names: f8e4m3fn.
    return self.elements * _BITS.get(self.dtype, 8) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line.

  Attributes:
    name: without %.
    opcode: such as 'all-gather'.
    arrays: of the result; several for a tuple.
    operands: names of instructions of the same computation; of a constant its
      value.
    attributes: the rest of the line.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str

  @property
  def bytes(self) -> int:
    return sum(a.bytes for a in self.arrays)

  def called(self, key: str) -> list[str]:
    """Computations of an attribute: `body=%a`, `branches={%a, %b}`."""
    match = re.search(rf'\b{key}=(\{{[^}}]*\}}|%[\w.-]+)', self.attributes)
    return _NAME.findall(match[1]) if match else []


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name; the last or marked one is the result."""

  name: str
  instructions: dict[str, Instruction]
  root: str

  def __iter__(self) -> Iterator[Instruction]:
    return iter(self.instructions.values())

  def operands(self, instruction: Instruction) -> list[Instruction]:
    return [
        self.instructions[name] for name in instruction.operands
        if name in self.instructions
    ]


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    computations: by name.
    entry: name of the one that is run.
  """

  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Program:
  """Reads what `compiled.as_text()` returns.

  Args:
    text: the program.

  Returns:
    The program.

  Raises:
    UserError: it has no entry.
  """
  computations, entry = {}, None
  name, instructions, root = None, {}, None
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      name, instructions, root = header[2], {}, None
      entry = name if header[1] else entry
    elif line == '}' and name:
      computations[name] = Computation(
          name, instructions, root or next(reversed(instructions))
      )
      name = None
    elif name:
      match = _INSTRUCTION.match(line)
      if match:
        instruction = _instruction(match[2], line[match.end():])
        instructions[instruction.name] = instruction
        root = instruction.name if match[1] else root
  if entry is None:
    raise errors.UserError(
        'no ENTRY computation: is this the text of a program?'
    )
  return Program(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
  """`TYPE opcode(operands), attributes`."""
  end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  opening = rest.index('(', end)
  closing = _closing(rest, opening)
  inside = rest[opening + 1 : closing]
  return Instruction(
      name=name,
      opcode=rest[end:opening].strip(),
      arrays=tuple(
          Array(
              dtype,
              tuple(int(n) for n in dims.split(',') if n),
              int(space[1]) if (space := _SPACE.search(layout)) else 0,
          )
          for dtype, dims, layout in _ARRAY.findall(rest[:end])
      ),
      operands=tuple(_NAME.findall(inside)) or (inside,),
      attributes=rest[closing + 1 :],
  )


def _closing(text: str, opening: int) -> int:
  """The parenthesis that closes the one at `opening`."""
  depth = 0
  for match in re.compile(r'[()]').finditer(text, opening):
    depth += 1 if match[0] == '(' else -1
    if not depth:
      return match.start()
  raise errors.UserError(
      f'no closing parenthesis: {text[opening:opening + 60]!r}'
  )
