"""Weights inside ONNX files, int8 or float, by the names of PyTorch's modules.

PyTorch's exporter keeps names such as `enc.final_layer_norm.weight`. The weight
of a linear layer is transposed and loses its name, which is then had from the
operation that uses it: `/enc/block.0/layer.0/SelfAttention/q/MatMul`. ONNX
Runtime's quantization makes three tensors of one: NAME_quantized, NAME_scale
and NAME_zero_point.
"""

import pathlib

from flipped_t5x import errors
from flipped_t5x.weights import tensors
import numpy as np
import onnx
from onnx import numpy_helper

_QUANTIZED, _SCALE, _ZERO_POINT = '_quantized', '_scale', '_zero_point'
_PRODUCTS = frozenset(('MatMul', 'MatMulInteger'))


def open(path: pathlib.Path) -> dict[str, tensors.Tensor]:
  """Opens a file.

  Args:
    path: the file.

  Returns:
    The weight's name in PyTorch, such as
    `enc.block.0.layer.0.SelfAttention.q.weight` -> float32 tensor with the
    shape that it has there; int8 becomes (value - zero point) * scale.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: the file is damaged, or has a tensor that is no weight; the
      message names it.
  """
  try:
    graph = onnx.load(path, load_external_data=False).graph
  except FileNotFoundError:
    raise
  except Exception as e:  # A damaged file fails in any way.
    raise errors.UserError(f'{path} is damaged: {str(e) or repr(e)}') from e
  stored = {tensor.name: tensor for tensor in graph.initializer}
  users = {
      name: node for node in graph.node if node.op_type in _PRODUCTS
      for name in node.input
  }
  found = {}
  for name in stored:
    base = name.removesuffix(_QUANTIZED)
    if name.removesuffix(_SCALE) + _QUANTIZED in stored:
      continue
    if name.removesuffix(_ZERO_POINT) + _QUANTIZED in stored:
      continue
    tensor = _tensor(path, stored, name)
    if base.endswith('.weight'):
      found[base] = tensor
    elif name in users:
      module = users[name].name.rpartition('/')[0]
      found[module.strip('/').replace('/', '.') + '.weight'] = tensor.T
    else:
      raise errors.UserError(f'{path}: {name} is not a weight')
  return found


def _tensor(
    path: pathlib.Path, stored: dict[str, onnx.TensorProto], name: str
) -> tensors.Tensor:
  """A weight as float32, not transposed."""
  values = stored[name]
  if values.data_location == onnx.TensorProto.EXTERNAL:
    raise errors.UserError(f'{path}: {name} is in another file')
  shape = tuple(values.dims)
  if not name.endswith(_QUANTIZED):
    if values.data_type != onnx.TensorProto.FLOAT:
      kind = onnx.TensorProto.DataType.Name(values.data_type)
      raise errors.UserError(f'{path}: {name} is {kind}, not a weight')
    return tensors.Tensor(
        shape, np.dtype(np.float32), lambda: numpy_helper.to_array(values)
    )
  base = name.removesuffix(_QUANTIZED)
  scale, zero_point = (
      numpy_helper.to_array(stored[base + part])
      if base + part in stored else None for part in (_SCALE, _ZERO_POINT)
  )
  # One for all values, or one for each column.
  if scale is None or scale.shape not in ((), (1,), shape[-1:]):
    raise errors.UserError(f'{path}: {name} has no scale of its shape')
  zero = np.int32(0) if zero_point is None else zero_point.astype(np.int32)

  def read() -> np.ndarray:
    integers = numpy_helper.to_array(values).astype(np.int32)
    return ((integers - zero) * scale).astype(np.float32)

  return tensors.Tensor(shape, np.dtype(np.float32), read)
