"""Weights by name, each read when it is asked for.

Names are those of T5X's network with its layers apart:
`encoder/layers_0/attention/query/kernel`. Scanned layers are stacked along axis
1, as in T5X, under `encoder/encoder/attention/...` and `decoder/decoder/...`;
`stacked` and `unstacked` convert between the two. The readers and writers of
all formats use these mappings, so that one tensor at a time can be in memory.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import hashlib
import json
import re
import threading
from typing import Any

from flax import traverse_util
from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x.network import adapters
from flipped_t5x.network import layers as layers_lib
import numpy as np

_LAYER = re.compile(r'(encoder|decoder)/layers_(\d+)/(.+)')
_STACK = re.compile(r'(encoder|decoder)/\1/(.+)')
# Attention block of a layer -> the name of the norm before it.
_ATTENTION = {
    'encoder': {'attention': 'pre_attention'},
    'decoder': {
        'self_attention': 'pre_self_attention',
        'encoder_decoder_attention': 'pre_cross_attention',
    },
}
EMBEDDING = 'token_embedder/embedding'
_MAX_SHOWN = 5  # Problems in a message.

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor that has not been read yet.

  Attributes:
    shape: the tensor's shape.
    dtype: the NumPy type; bfloat16 is that of ml_dtypes.
    read: reads the values, anew at each call.
  """

  shape: Shape
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
  def T(self) -> 'Tensor':
    """The transpose of a matrix; a vector is unchanged."""
    return Tensor(self.shape[::-1], self.dtype, lambda: self.read().T)

  def reshape(self, shape: Shape) -> 'Tensor':
    """The same values in another shape."""
    return Tensor(shape, self.dtype, lambda: self.read().reshape(shape))


Tensors = Mapping[str, Tensor]


def from_arrays(params: Mapping[str, Any]) -> dict[str, Tensor]:
  """A tree of arrays as tensors; a leaf may also be a tensor already."""
  flat = traverse_util.flatten_dict(params, sep='/')
  return {name: _from_array(array) for name, array in flat.items()}


def _from_array(array: Any) -> Tensor:
  if isinstance(array, Tensor):
    return array
  return Tensor(
      tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array)
  )


def tree(values: Mapping[str, Any]) -> dict[str, Any]:
  """Name -> value as Flax's nested mapping."""
  return traverse_util.unflatten_dict(dict(values), sep='/')


def is_stacked(names: Iterable[str]) -> bool:
  """Whether these are the names of stacked layers."""
  return any(_STACK.fullmatch(name) for name in names)


def shapes(config: network_lib.T5Config) -> dict[str, Shape]:
  """Name -> shape of the weights of a network."""
  emb = config.emb_dim
  result: dict[str, Shape] = {EMBEDDING: (config.vocab_size, emb)}
  for side, number in (
      ('encoder', config.num_encoder_layers),
      ('decoder', config.num_decoder_layers),
  ):
    for name, (first, *others) in _layer_shapes(config, side).items():
      if config.scan_layers:
        result[f'{side}/{side}/{name}'] = (first, number, *others)
      else:
        for i in range(number):
          result[f'{side}/layers_{i}/{name}'] = (first, *others)
    result[f'{side}/relpos_bias/rel_embedding'] = (
        config.num_heads, layers_lib.NUM_BUCKETS
    )
    result[f'{side}/{side}_norm/scale'] = (emb,)
  if not config.logits_via_embedding:
    result['decoder/logits_dense/kernel'] = (emb, config.vocab_size)
  return _with_scales(result) if config.int8_weights else result


def is_matrix(name: str) -> bool:
  """Whether a weight is one that int8 weights have in int8."""
  return name.endswith('/kernel') or name == EMBEDDING


def is_scale(name: str) -> bool:
  """Whether this is the name of a matrix's scales."""
  return name.endswith(layers_lib.SCALE) and is_matrix(
      name.removesuffix(layers_lib.SCALE)
  )


def scale_shape(name: str, shape: Shape) -> Shape:
  """The shape of the scales of a matrix in int8; stacked as other weights."""
  return shape[:1] if name == EMBEDDING else shape[:0:-1]


def _with_scales(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
  """Name -> shape of the same weights in int8."""
  result = {}
  for name, shape in shapes.items():
    result[name] = shape
    if is_matrix(name):
      result[name + layers_lib.SCALE] = scale_shape(name, shape)
  return result


def _layer_shapes(
    config: network_lib.T5Config, side: str
) -> dict[str, Shape]:
  """Name -> shape of the weights of one layer."""
  emb, mlp = config.emb_dim, config.mlp_dim
  width = config.num_heads * config.head_dim
  *names, output = layers_lib.mlp_names(config.mlp_activations)
  result: dict[str, Shape] = {f'mlp/{n}/kernel': (emb, mlp) for n in names}
  result[f'mlp/{output}/kernel'] = (mlp, emb)
  result['pre_mlp_layer_norm/scale'] = (emb,)
  for block, norm in _ATTENTION[side].items():
    for name in ('query', 'key', 'value'):
      result[f'{block}/{name}/kernel'] = (emb, width)
    result[f'{block}/out/kernel'] = (width, emb)
    result[f'{norm}_layer_norm/scale'] = (emb,)
  return result | _adapter_shapes(config, result)


def _adapter_shapes(
    config: network_lib.T5Config, layer: Mapping[str, Shape]
) -> dict[str, Shape]:
  """Name -> shape of the adapters of the matrices of a layer."""
  result: dict[str, Shape] = {}
  for name, shape in layer.items():
    path, _, kind = name.rpartition('/')
    rank = config.lora.rank_of(path.rpartition('/')[2])
    if kind == 'kernel' and rank:
      result[f'{path}/{adapters.A}'] = (shape[0], rank)
      result[f'{path}/{adapters.B}'] = (rank, shape[1])
  return result


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Shape]
) -> str:
  """What is missing, unexpected or of another shape; '' if nothing is.

  Args:
    found: name -> tensor or array.
    wanted: name -> shape.
  """
  problems = [f'{name} is missing' for name in wanted if name not in found]
  problems += [
      f'{name} is not in the network' for name in found if name not in wanted
  ]
  problems += [
      f'{name} is {tuple(found[name].shape)} where the network has'
      f' {tuple(shape)}'
      for name, shape in wanted.items()
      if name in found and tuple(found[name].shape) != tuple(shape)
  ]
  shown = problems[:_MAX_SHOWN]
  if len(problems) > _MAX_SHOWN:
    shown.append(f'{len(problems) - _MAX_SHOWN} more')
  return '; '.join(shown)


def stacked(tensors: Tensors) -> dict[str, Tensor]:
  """Stacks layers along axis 1.

  Args:
    tensors: the weights, with layers apart or stacked already.

  Returns:
    The weights, with one tensor for the same weight of all layers. To read it,
    the layers are read one after the other.

  Raises:
    UserError: layers differ, or one is missing; the message names it.
  """
  result: dict[str, Tensor] = {}
  layers: dict[str, dict[int, Tensor]] = {}
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
        raise errors.UserError(f'{side}/layers_{i}/{rest} is missing')
      if (numbered[i].shape, numbered[i].dtype) != (first.shape, first.dtype):
        raise errors.UserError(
            f'{side}/layers_{i}/{rest} is {numbered[i].dtype}'
            f'{list(numbered[i].shape)}, whereas other layers have'
            f' {first.dtype}{list(first.shape)}: they cannot be stacked'
        )
    result[name] = _stack([numbered[i] for i in range(len(numbered))])
  return result


def _stack(layers: list[Tensor]) -> Tensor:
  shape = list(layers[0].shape)
  shape.insert(layers_lib.SCAN_AXIS, len(layers))

  def read():
    values = np.empty(shape, layers[0].dtype)
    for i, layer in enumerate(layers):
      values[:, i] = layer.read()
    return values

  return Tensor(tuple(shape), layers[0].dtype, read)


def unstacked(tensors: Tensors) -> dict[str, Tensor]:
  """Takes stacked layers apart.

  Args:
    tensors: the weights, with layers stacked or apart already.

  Returns:
    The weights, with one tensor for each layer of a stack. If they are read in
    this order, each stack is read once.
  """
  result: dict[str, Tensor] = {}
  last_read = _LastRead()
  for name, tensor in tensors.items():
    match = _STACK.fullmatch(name)
    if not match:
      result[name] = tensor
      continue
    side, rest = match.groups()
    shape = list(tensor.shape)
    number = shape.pop(layers_lib.SCAN_AXIS)
    for i in range(number):
      result[f'{side}/layers_{i}/{rest}'] = Tensor(
          tuple(shape), tensor.dtype,
          functools.partial(last_read.layer, tensor, i),
      )
  return result


class _LastRead:
  """Keeps the stack that was read last until all its layers were taken."""

  def __init__(self):
    self._stack: Tensor | None = None
    self._values = np.empty(0)
    self._left: set[int] = set()
    self._lock = threading.Lock()

  def layer(self, stack: Tensor, i: int) -> np.ndarray:
    """Layer i of a stack."""
    with self._lock:
      if stack is not self._stack:
        self._forget()  # Never two stacks in memory.
        self._values, self._stack = stack.read(), stack
        self._left = set(range(stack.shape[layers_lib.SCAN_AXIS]))
      values = np.ascontiguousarray(self._values[:, i])
      self._left.discard(i)
      if not self._left:
        self._forget()
      return values

  def _forget(self) -> None:
    self._stack, self._values = None, np.empty(0)


def digest(params: Mapping[str, Any]) -> str:
  """SHA-256 over names, shapes, types and bytes of all weights.

  Args:
    params: tree of arrays, which are read one by one.

  Returns:
    64 hexadecimal digits. They do not depend on the order of the names or on
    the device, but they do on the types and on whether layers are stacked.
  """
  sha256 = hashlib.sha256()
  for name, tensor in sorted(from_arrays(params).items()):
    header = [name, list(tensor.shape), np.dtype(tensor.dtype).name]
    sha256.update(json.dumps(header).encode())
    sha256.update(np.ascontiguousarray(tensor.read()).tobytes())
  return sha256.hexdigest()
