"""Safetensors files: read tensor by tensor, written as a whole."""

from collections.abc import Callable
import functools
import operator
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.weights import tensors
import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

_DTYPES = {
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F16': np.dtype(np.float16),
    'F32': np.dtype(np.float32),
    'F64': np.dtype(np.float64),
    'I8': np.dtype(np.int8),
}
_COLUMNS = 16


def open(path: pathlib.Path) -> dict[str, tensors.Tensor]:
  """Opens a file.

  Args:
    path: the file.

  Returns:
    Name -> tensor, not read yet.

  Raises:
    UserError: the file is damaged, or a tensor is neither of floating point
      numbers nor int8; the message names the file and the tensor.
  """
  found = {}
  for name, (shape, dtype) in _read(path, _header).items():
    if dtype not in _DTYPES:
      raise errors.UserError(f'{path}: {name} is {dtype}, not a weight')
    found[name] = tensors.Tensor(
        tuple(shape), _DTYPES[dtype],
        functools.partial(
            _read, path, operator.methodcaller('get_tensor', name)
        ),
    )
  return found


def _header(file: Any) -> dict[str, tuple[list[int], str]]:
  """Name -> shape and type, in safetensors' words."""
  slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
  return {n: (s.get_shape(), s.get_dtype()) for n, s in slices.items()}


def _read(path: pathlib.Path, use: Callable[[Any], Any]) -> Any:
  try:
    # Not a memory map: there, all that was ever read stays in memory.
    with safetensors.safe_open(path, 'np', backend='pread') as file:
      return use(file)
  except safetensors.SafetensorError as e:
    files.check_is_fetched(path)
    raise errors.UserError(f'{path} is damaged: {e}') from e


def write(path: pathlib.Path, values: tensors.Tensors) -> None:
  """Writes a file; all of its tensors are in memory until it is written.

  Args:
    path: the file.
    values: name -> tensor, read in this order.

  Raises:
    OSError: the file could not be written.
    UserError: a tensor is neither of floating point numbers nor int8; the
      message names it.
  """
  for name, tensor in values.items():
    if tensor.dtype not in _DTYPES.values():
      raise errors.UserError(f'{name} is {tensor.dtype}, not a weight')
  arrays = {n: _contiguous(tensor.read()) for n, tensor in values.items()}
  # `save_file` renames a temporary file, which only the user may read.
  path.touch()
  mode = path.stat().st_mode
  try:
    # Older versions of Transformers refuse a file that names no framework.
    safetensors_numpy.save_file(arrays, path, {'format': 'pt'})
  except safetensors.SafetensorError as e:
    raise OSError(f'{path}: {e}') from e
  path.chmod(mode)


def _contiguous(array: np.ndarray) -> np.ndarray:
  """The array with its rows one after the other, which `save_file` assumes."""
  if array.flags.c_contiguous:
    return array
  # A few columns at a time: NumPy's own copy of a transpose is a third as fast.
  copy = np.empty(array.shape, array.dtype)
  for i in range(0, array.shape[-1], _COLUMNS):
    copy[..., i : i + _COLUMNS] = array[..., i : i + _COLUMNS]
  return copy
