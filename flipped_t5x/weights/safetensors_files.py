"""Safetensors files, read and written one tensor at a time."""

from collections.abc import Callable
import json
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x.weights import tensors
import ml_dtypes
import numpy as np
import safetensors

_DTYPES = {
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F16': np.dtype(np.float16),
    'F32': np.dtype(np.float32),
    'F64': np.dtype(np.float64),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 8
_COLUMNS = 16


def open(path: pathlib.Path) -> dict[str, tensors.Tensor]:  # pylint: disable=redefined-builtin
  """Opens a file.

  Args:
    path: the file.

  Returns:
    Name -> tensor, not read yet.

  Raises:
    UserError: the file is damaged or cut off, or a tensor is not of floating
      point numbers; the message names them.
  """
  found = {}
  for name, shape, dtype in _read(path, lambda file: [
      (n, s.get_shape(), s.get_dtype())
      for n in file.keys() for s in (file.get_slice(n),)
  ]):
    if dtype not in _DTYPES:
      raise errors.UserError(f'{path}: {name} is {dtype}, not a weight')
    found[name] = tensors.Tensor(
        tuple(shape), _DTYPES[dtype],
        lambda name=name: _read(path, lambda file: file.get_tensor(name)),
    )
  return found


def _read(path: pathlib.Path, use: Callable[[Any], Any]) -> Any:
  try:
    # Of a file in a memory map, all that was ever read stays in memory.
    with safetensors.safe_open(path, 'np', backend='pread') as file:
      return use(file)
  except safetensors.SafetensorError as e:
    raise errors.UserError(f'{path} is damaged: {e}') from e


def write(
    path: pathlib.Path,
    values: tensors.Tensors,
    progress: Callable[[int], Any] = lambda nbytes: None,
) -> None:
  """Writes a file; the library itself wants all tensors at once.

  Args:
    path: the file.
    values: name -> tensor, read in this order.
    progress: called with the bytes of each tensor that has been written.

  Raises:
    UserError: a tensor is of a type that the format does not have, or not what
      it said it was; the message names it.
  """
  # Each is to start at a multiple of its item's size.
  ordered = sorted(values, key=lambda n: -values[n].dtype.itemsize)
  # What loads into PyTorch must say so.
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  end = 0
  for name in ordered:
    tensor = values[name]
    if tensor.dtype not in _NAMES:
      raise errors.UserError(f'{name} is {tensor.dtype}, not a weight')
    start, end = end, end + tensor.nbytes
    header[name] = {
        'dtype': _NAMES[tensor.dtype],
        'shape': list(tensor.shape),
        'data_offsets': [start, end],
    }
  content = json.dumps(header, separators=(',', ':')).encode()
  content += b' ' * (-len(content) % _ALIGNMENT)
  with path.open('wb') as file:
    file.write(len(content).to_bytes(8, 'little'))
    file.write(content)
    for name in ordered:
      tensor = values[name]
      array = tensor.read()
      if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
        raise errors.UserError(
            f'{name} is {array.dtype}{list(array.shape)}, and said'
            f' {tensor.dtype}{list(tensor.shape)}'
        )
      file.write(_contiguous(array))
      del array  # Before the next one is read.
      progress(tensor.nbytes)


def _contiguous(array: np.ndarray) -> np.ndarray:
  """The bits of an array, row after row."""
  array = array.view(f'u{array.itemsize}')
  if array.flags.c_contiguous:
    return array
  # Some columns at a time, a transposed matrix is copied five times as fast.
  copy = np.empty(array.shape, array.dtype)
  for i in range(0, array.shape[-1], _COLUMNS):
    copy[..., i : i + _COLUMNS] = array[..., i : i + _COLUMNS]
  return copy
