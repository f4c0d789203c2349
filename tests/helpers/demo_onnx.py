"""ONNX files with weights in them, as PyTorch and ONNX Runtime write them."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper


def quantized(
    name: str, values: np.ndarray, kind: type = np.int8, zero_point: int = 0
) -> dict[str, np.ndarray]:
  """The three tensors of one, with one scale for all values."""
  lowest, highest = np.iinfo(kind).min, np.iinfo(kind).max
  room = min(highest - zero_point, zero_point - lowest)
  scale = np.float32(np.abs(values).max() / room)
  integers = np.clip(np.round(values / scale) + zero_point, lowest, highest)
  return {
      f'{name}_quantized': integers.astype(kind),
      f'{name}_scale': scale,
      f'{name}_zero_point': np.asarray(zero_point, kind),
  }


def file(
    tensors: Mapping[str, np.ndarray], products: Mapping[str, str]
) -> bytes:
  """Bytes of a file.

  Args:
    tensors: name -> values.
    products: name of an operation -> the tensor that it multiplies by.
  """
  nodes = [
      helper.make_node(
          'MatMulInteger', ['x', tensor], [f'{name}_output'], name=name
      )
      for name, tensor in products.items()
  ]
  graph = helper.make_graph(
      nodes, 'main', [], [],
      [numpy_helper.from_array(np.asarray(v), n) for n, v in tensors.items()],
  )
  return helper.make_model(graph).SerializeToString()


def stack(
    weights: Mapping[str, np.ndarray], side: str, prefix: str
) -> tuple[bytes, dict[str, np.ndarray]]:
  """A file of an encoder or a decoder, in int8 but for its norms.

  Args:
    weights: Hugging Face's name -> values.
    side: 'encoder' or 'decoder'; the head goes with the decoder, and both have
      the embedding.
    prefix: what names begin with in the file in place of `side`.

  Returns:
    The bytes, and Hugging Face's name -> what int8 has left of the values.
  """
  tensors, products, left = {}, {}, {}
  for number, (name, values) in enumerate(weights.items()):
    own = name.replace(side, prefix, 1)
    if name == 'shared.weight':
      own = f'{prefix}.embed_tokens.weight'
    elif name == 'lm_head.weight':
      if side == 'encoder':
        continue
      own = f'{prefix}.lm_head.weight'
    elif not name.startswith(side):
      continue
    if values.ndim == 1:
      tensors[own], left[name] = values, values
    elif 'embed' in own or 'bias' in own:
      parts = quantized(own, values, np.uint8, 138)
      tensors |= parts
      left[name] = dequantized(own, parts)
    else:  # Transposed, and under a number.
      anonymous = f'onnx::MatMul_{number}'
      parts = quantized(anonymous, values.T)
      tensors |= parts
      module = own.removesuffix('.weight').replace('.', '/')
      products[f'/{module}/MatMul_quant'] = f'{anonymous}_quantized'
      left[name] = dequantized(anonymous, parts).T
  return file(tensors, products), left


def dequantized(name: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
  integers = parts[f'{name}_quantized'].astype(np.int64)
  zero_point = int(parts[f'{name}_zero_point'])
  return ((integers - zero_point) * parts[f'{name}_scale']).astype(np.float32)


def damaged() -> bytes:
  """Bytes that are no ONNX file."""
  return onnx.ModelProto().SerializeToString() + b'\xff\xff\xff'
