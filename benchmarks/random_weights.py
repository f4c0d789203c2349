"""Random weights of a T5 of any size, one tensor in memory at a time.

They are about as large as those that a network is initialized with, so that
activations stay finite. A tensor repeats a million numbers, from a place of its
own: to draw 11 billion would take longer than what is measured with them.
"""

import functools
import math
import zlib

from flipped_t5x import network as network_lib
from flipped_t5x.network import layers
from flipped_t5x.weights import tensors as tensors_lib
import ml_dtypes
import numpy as np

_DRAWN = 2**20 + 7  # Odd, so that the rows of a matrix differ.
_SPREAD = 127 / 4  # Of integers; four times this is the largest.


def tensors(network: network_lib.T5Config) -> dict[str, tensors_lib.Tensor]:
  """Draws weights.

  Args:
    network: the sizes, without adapters; layers are stacked if they are
      scanned, and matrices are in int8 if the network's are.

  Returns:
    Name -> tensor, in bfloat16; of int8 weights the integers, and their scales
    in float32.
  """
  drawn = np.random.default_rng(0).normal(size=_DRAWN).astype(np.float32)
  integers = np.clip(np.rint(drawn * _SPREAD), -127, 127).astype(np.int8)
  shapes = tensors_lib.shapes(network)

  def read(name: str) -> np.ndarray:
    shape = shapes[name]
    if tensors_lib.is_scale(name):
      matrix = name.removesuffix(layers.SCALE)
      scale = _deviation(matrix, shapes[matrix], network.head_dim) / _SPREAD
      return np.full(shape, scale, np.float32)
    if dtypes[name] == np.int8:
      return _repeated(name, integers, shape)
    if name.endswith('/scale'):
      return np.ones(shape, ml_dtypes.bfloat16)
    values = drawn * np.float32(_deviation(name, shape, network.head_dim))
    return _repeated(name, values.astype(ml_dtypes.bfloat16), shape)

  dtypes = {
      name: np.dtype(
          np.float32 if tensors_lib.is_scale(name)
          else np.int8 if network.int8_weights and tensors_lib.is_matrix(name)
          else ml_dtypes.bfloat16
      )
      for name in shapes
  }
  return {
      name: tensors_lib.Tensor(
          shape, dtypes[name], functools.partial(read, name)
      )
      for name, shape in shapes.items()
  }


def _deviation(name: str, shape: tensors_lib.Shape, head_dim: int) -> float:
  """The standard deviation of a weight's values."""
  if name == tensors_lib.EMBEDDING:
    return 1.0
  if name.endswith('/query/kernel'):
    return (shape[0] * head_dim) ** -0.5
  if name.endswith('rel_embedding'):
    return math.sqrt(2 / sum(shape))
  return shape[0] ** -0.5


def _repeated(
    name: str, values: np.ndarray, shape: tensors_lib.Shape
) -> np.ndarray:
  start = zlib.crc32(name.encode()) % len(values)
  return np.resize(np.roll(values, -start), shape)
