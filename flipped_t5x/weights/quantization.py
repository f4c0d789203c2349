"""Weights in int8: matrices with a scale for each output channel.

A channel is a column of a matrix [in, out], and a row of the token embedding
[vocab, embed]. Its scale is its largest absolute value divided by 127, and its
integers, from -127 to 127, are its values divided by the scale, rounded to the
nearest. Norms and relative position biases stay as they are: they are small,
and a rounded one would shift all activations.
"""

from collections.abc import Iterable
import functools
import os
from typing import Any

from flipped_t5x import errors
from flipped_t5x.network import layers
from flipped_t5x.weights import tensors as tensors_lib
import numpy as np

INT8 = np.dtype(np.int8)
_MOST = np.float32(127)
_CHANNELS = 64  # At a time: in float32, they stay in the processor's cache.


def is_quantized(names: Iterable[str]) -> bool:
  """Whether these are the names of int8 weights."""
  return any(name == tensors_lib.EMBEDDING + layers.SCALE for name in names)


def quantized(weights: tensors_lib.Tensors) -> dict[str, tensors_lib.Tensor]:
  """Rounds matrices to int8; weights in int8 already are unchanged.

  Args:
    weights: T5X's name -> tensor, layers apart or stacked.

  Returns:
    Name -> tensor, each matrix followed by its scales. Read in this order, each
    matrix of `weights` is read once.
  """
  if is_quantized(weights):
    return dict(weights)
  result = {}
  for name, tensor in weights.items():
    if not tensors_lib.is_matrix(name):
      result[name] = tensor
      continue
    matrix = _Matrix(name, tensor)
    result[name] = tensors_lib.Tensor(tensor.shape, INT8, matrix.integers)
    result[name + layers.SCALE] = tensors_lib.Tensor(
        tensors_lib.scale_shape(name, tensor.shape), np.dtype(np.float32),
        matrix.scales,
    )
  return result


def dequantized(
    weights: tensors_lib.Tensors, dtype: Any
) -> dict[str, tensors_lib.Tensor]:
  """Multiplies integers by their scales.

  Args:
    weights: int8 weights, layers apart or stacked.
    dtype: the type of all weights of the result.

  Returns:
    Name -> tensor, without scales.
  """

  def read(name: str) -> np.ndarray:
    scales = weights[name + layers.SCALE].read()
    values = weights[name].read().astype(np.float32)
    values *= _beside(name, scales)
    return values.astype(dtype, copy=False)

  result = {}
  for name, tensor in weights.items():
    if tensors_lib.is_matrix(name):
      result[name] = tensors_lib.Tensor(
          tensor.shape, np.dtype(dtype), functools.partial(read, name)
      )
    elif not tensors_lib.is_scale(name):
      result[name] = tensor.astype(dtype)
  return result


def astype(
    weights: tensors_lib.Tensors, dtype: Any
) -> dict[str, tensors_lib.Tensor]:
  """The same weights in another type, `int8` or one of floating point."""
  if np.dtype(dtype) == INT8:
    return quantized(weights)
  if is_quantized(weights):
    return dequantized(weights, dtype)
  return {name: tensor.astype(dtype) for name, tensor in weights.items()}


def check_types(
    weights: tensors_lib.Tensors, source: str | os.PathLike[str]
) -> None:
  """Raises UserError if some matrices are in int8 and others are not.

  Args:
    weights: T5X's name -> tensor.
    source: where they are from, for the message.
  """
  in_int8 = is_quantized(weights)
  for name, tensor in weights.items():
    if (tensor.dtype == INT8) != (in_int8 and tensors_lib.is_matrix(name)):
      raise errors.UserError(
          f'{source}: {name} is {tensor.dtype}: either all matrices of a model'
          ' are in int8, each with its scales, or none is'
      )


def _beside(name: str, scales: np.ndarray) -> np.ndarray:
  """A matrix's scales, so that they can be multiplied with it."""
  return scales[:, None] if name == tensors_lib.EMBEDDING else scales.T


class _Matrix:
  """A matrix, whose scales are kept once its integers have been read."""

  def __init__(self, name: str, tensor: tensors_lib.Tensor):
    self._name = name
    self._tensor = tensor
    self._scales: np.ndarray | None = None

  def integers(self) -> np.ndarray:
    """The integers, in the shape of the matrix."""
    values = self._tensor.read()
    result = np.empty_like(values, INT8)
    scales = np.empty(
        tensors_lib.scale_shape(self._name, values.shape), np.float32
    )
    if self._name == tensors_lib.EMBEDDING:
      self._round(values, result, scales)
    elif values.ndim == 2:
      self._round(values.T, result.T, scales)
    else:
      for i in range(values.shape[layers.SCAN_AXIS]):
        self._round(values[:, i].T, result[:, i].T, scales[:, i])
    self._scales = scales
    return result

  def scales(self) -> np.ndarray:
    """The scales."""
    if self._scales is None:
      self.integers()
    assert self._scales is not None
    return self._scales

  def _round(
      self, values: np.ndarray, result: np.ndarray, scales: np.ndarray
  ) -> None:
    """Writes integers and scales of a matrix [channels, n] into arrays."""
    for i in range(0, len(values), _CHANNELS):
      some = slice(i, i + _CHANNELS)
      block = values[some].astype(np.float32)
      largest = np.abs(block).max(axis=1)
      if not np.isfinite(largest).all():
        raise errors.UserError(
            f'{self._name} has values that are not finite: the weights are'
            ' damaged, or their type is too narrow'
        )
      scale = largest / _MOST
      block /= np.where(scale > 0, scale, np.float32(1))[:, None]
      result[some] = np.clip(np.rint(block, out=block), -_MOST, _MOST)
      scales[some] = scale
