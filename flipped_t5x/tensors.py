"""Weights by name, each read when it is asked for.

Names are those of T5X's network with its layers apart:
`encoder/layers_0/attention/query/kernel`. Where layers are scanned they lie
stacked along axis 1, as T5X stacks them, in `encoder/encoder/attention/...` and
`decoder/decoder/...`; `stacked` and `unstacked` go from one to the other. What
reads or writes weights, of whatever format, reads or writes these mappings, so
that no more than one tensor need be in memory.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from flax import traverse_util
import numpy as np

_SCAN_AXIS = 1
_LAYER = re.compile(r'(encoder|decoder)/layers_(\d+)/(.+)')
_STACK = re.compile(r'(encoder|decoder)/\1/(.+)')


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor that has not been read yet.

  Attributes:
    shape: its shape.
    dtype: its NumPy type, bfloat16 being that of ml_dtypes.
    read: reads it, anew at each call.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

  def astype(self, dtype: Any) -> 'Tensor':
    """The same values in another type."""
    dtype = np.dtype(dtype)
    return Tensor(
        self.shape, dtype, lambda: self.read().astype(dtype, copy=False)
    )

  @property
  def T(self) -> 'Tensor':  # pylint: disable=invalid-name
    """The transpose of a matrix; a vector stays what it is."""
    return Tensor(self.shape[::-1], self.dtype, lambda: self.read().T)


Tensors = Mapping[str, Tensor]


def of(params: Mapping[str, Any]) -> dict[str, Tensor]:
  """A tree of arrays as tensors."""
  return {
      name: Tensor(
          tuple(a.shape), np.dtype(a.dtype), lambda a=a: np.asarray(a)
      )
      for name, a in traverse_util.flatten_dict(params, sep='/').items()
  }


def tree(values: Mapping[str, Any]) -> dict[str, Any]:
  """Name -> value as the nested mapping that Flax has."""
  return traverse_util.unflatten_dict(dict(values), sep='/')


def is_stacked(names: Mapping[str, Any]) -> bool:
  """Whether the layers of these names lie stacked."""
  return any(_STACK.fullmatch(name) for name in names)


def stacked(tensors: Tensors) -> dict[str, Tensor]:
  """Layers stacked along axis 1; a stack is read layer by layer.

  Args:
    tensors: with their layers apart, or stacked already.

  Returns:
    The others as they are, and one tensor for each of a layer's.

  Raises:
    ValueError: layers differ, or one is missing; the message names it.
  """
  result, layers = {}, {}
  for name, tensor in tensors.items():
    match = _LAYER.fullmatch(name)
    if match:
      side, number, rest = match.groups()
      layers.setdefault(f'{side}/{side}/{rest}', {})[int(number)] = tensor
    else:
      result[name] = tensor
  for name, numbered in layers.items():
    side, _, rest = name.split('/', 2)
    first = next(iter(numbered.values()))
    for i in range(max(numbered) + 1):
      if i not in numbered:
        raise ValueError(f'{side}/layers_{i}/{rest} is missing')
      if (numbered[i].shape, numbered[i].dtype) != (first.shape, first.dtype):
        raise ValueError(
            f'{side}/layers_{i}/{rest} is {numbered[i].dtype}'
            f'{list(numbered[i].shape)} where other layers have'
            f' {first.dtype}{list(first.shape)}: they cannot be stacked'
        )
    result[name] = _stack([numbered[i] for i in range(len(numbered))])
  return result


def _stack(layers: list[Tensor]) -> Tensor:
  shape = list(layers[0].shape)
  shape.insert(_SCAN_AXIS, len(layers))

  def read():
    values = np.empty(shape, layers[0].dtype)
    for i, layer in enumerate(layers):
      values[:, i] = layer.read()
    return values

  return Tensor(tuple(shape), layers[0].dtype, read)


def unstacked(tensors: Tensors) -> dict[str, Tensor]:
  """Layers apart; each reads its stack anew.

  Args:
    tensors: with their layers stacked, or apart already.

  Returns:
    The others as they are, and one tensor for each layer of a stack.
  """
  result = {}
  for name, tensor in tensors.items():
    match = _STACK.fullmatch(name)
    if not match:
      result[name] = tensor
      continue
    side, rest = match.groups()
    shape = list(tensor.shape)
    number = shape.pop(_SCAN_AXIS)
    for i in range(number):
      result[f'{side}/layers_{i}/{rest}'] = Tensor(
          tuple(shape), tensor.dtype,
          lambda tensor=tensor, i=i: np.ascontiguousarray(tensor.read()[:, i]),
      )
  return result
