"""Weights by name, each read when it is asked for.

Names are those of T5X's network with its layers apart:
`encoder/layers_0/attention/query/kernel`. Where layers are scanned they lie
stacked along axis 1, as T5X stacks them, in `encoder/encoder/attention/...` and
`decoder/decoder/...`; `stacked` and `unstacked` go from one to the other. What
reads or writes weights, of whatever format, reads or writes these mappings, so
that no more than one tensor need be in memory.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import json
import re
import threading
from typing import Any

from flax import traverse_util
from flipped_t5x import errors
from flipped_t5x.network import layers as layers_lib
import numpy as np

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


def from_arrays(params: Mapping[str, Any]) -> dict[str, Tensor]:
  """A tree of arrays as tensors; what is a tensor already stays one."""
  return {
      name: a if isinstance(a, Tensor) else Tensor(
          tuple(a.shape), np.dtype(a.dtype), lambda a=a: np.asarray(a)
      )
      for name, a in traverse_util.flatten_dict(params, sep='/').items()
  }


def tree(values: Mapping[str, Any]) -> dict[str, Any]:
  """Name -> value as the nested mapping that Flax has."""
  return traverse_util.unflatten_dict(dict(values), sep='/')


def is_stacked(names: Iterable[str]) -> bool:
  """Whether the layers of these names lie stacked."""
  return any(_STACK.fullmatch(name) for name in names)


def shapes(config: Any) -> dict[str, tuple[int, ...]]:
  """Name -> shape of the weights of a network of this `T5Config`."""
  width = config.num_heads * config.head_dim
  emb, mlp = config.emb_dim, config.mlp_dim
  attention = {f'{n}/kernel': (emb, width) for n in ('query', 'key', 'value')}
  attention['out/kernel'] = (width, emb)
  activations = config.mlp_activations
  gated = [f'wi_{i}' for i in range(len(activations))]
  feed_forward = {
      f'mlp/{n}/kernel': (emb, mlp)
      for n in (gated if len(activations) > 1 else ['wi'])
  } | {'mlp/wo/kernel': (mlp, emb), 'pre_mlp_layer_norm/scale': (emb,)}
  result = {'token_embedder/embedding': (config.vocab_size, emb)}
  for side, number, blocks in (
      ('encoder', config.num_encoder_layers,
       {'attention': 'pre_attention'}),
      ('decoder', config.num_decoder_layers,
       {'self_attention': 'pre_self_attention',
        'encoder_decoder_attention': 'pre_cross_attention'}),
  ):
    layer = dict(feed_forward)
    for block, norm in blocks.items():
      layer |= {f'{block}/{n}': shape for n, shape in attention.items()}
      layer[f'{norm}_layer_norm/scale'] = (emb,)
    for name, shape in layer.items():
      if config.scan_layers:
        result[f'{side}/{side}/{name}'] = (shape[0], number, *shape[1:])
      else:
        for i in range(number):
          result[f'{side}/layers_{i}/{name}'] = shape
    result[f'{side}/relpos_bias/rel_embedding'] = (config.num_heads, 32)
    result[f'{side}/{side}_norm/scale'] = (emb,)
  if not config.logits_via_embedding:
    result['decoder/logits_dense/kernel'] = (emb, config.vocab_size)
  return result


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]
) -> str:
  """What is missing, too much or of another shape; '' if nothing is.

  Args:
    found: name -> what has a shape.
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
  shown = problems[:5] + [f'{len(problems) - 5} more'] * (len(problems) > 5)
  return '; '.join(shown)


def stacked(tensors: Tensors) -> dict[str, Tensor]:
  """Layers stacked along axis 1; a stack is read layer by layer.

  Args:
    tensors: with their layers apart, or stacked already.

  Returns:
    The others as they are, and one tensor for each of a layer's.

  Raises:
    UserError: layers differ, or one is missing; the message names it.
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
        raise errors.UserError(f'{side}/layers_{i}/{rest} is missing')
      if (numbered[i].shape, numbered[i].dtype) != (first.shape, first.dtype):
        raise errors.UserError(
            f'{side}/layers_{i}/{rest} is {numbered[i].dtype}'
            f'{list(numbered[i].shape)} where other layers have'
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
  """Layers apart, stack by stack; read in this order, a stack is read once.

  Args:
    tensors: with their layers stacked, or apart already.

  Returns:
    The others as they are, and one tensor for each layer of a stack.
  """
  result, last_read = {}, _LastRead()
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
  """Keeps the stack that was read last, until each of its layers was taken."""

  def __init__(self):
    self._stack = self._values = None
    self._left = set()
    self._lock = threading.Lock()

  def layer(self, stack: Tensor, i: int) -> np.ndarray:
    """Layer i of a stack."""
    with self._lock:
      if stack is not self._stack:
        self._stack = self._values = None  # Never two of them in memory.
        self._values, self._stack = stack.read(), stack
        self._left = set(range(stack.shape[layers_lib.SCAN_AXIS]))
      values = np.ascontiguousarray(self._values[:, i])
      self._left.discard(i)
      if not self._left:
        self._stack = self._values = None
      return values


def digest(params: Mapping[str, Any]) -> str:
  """SHA-256 over names, shapes, types and bytes of all weights.

  Args:
    params: tree of arrays, which are read one by one.

  Returns:
    64 hexadecimal digits. They do not depend on the order of the names or on
    the device, but on the types, and on whether layers are stacked.
  """
  sha256 = hashlib.sha256()
  for name, tensor in sorted(from_arrays(params).items()):
    header = [name, list(tensor.shape), np.dtype(tensor.dtype).name]
    sha256.update(json.dumps(header).encode())
    sha256.update(np.ascontiguousarray(tensor.read()).tobytes())
  return sha256.hexdigest()
