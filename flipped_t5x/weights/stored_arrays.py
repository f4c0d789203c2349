"""Arrays in TensorStore, read and written piece by piece.

TensorStore encodes and decodes each request as a whole: an array in one request
would be in memory two or three times.
"""

from collections.abc import Iterator
import contextlib
import itertools
import math
import os

import numpy as np
import tensorstore as ts

_PIECE_BYTES = 128 * 2**20
_CHUNK_BYTES = 32 * 2**20
_ALIGNMENT = 64  # Bytes, that XLA asks of a buffer.

Piece = tuple[slice, ...]


def kvstore(folder: str | os.PathLike[str], name: str = '') -> dict[str, str]:
  """TensorStore's spec of a folder.

  Args:
    folder: a local folder, or one in a bucket, `gs://...`.
    name: a subfolder; '' for the folder itself.
  """
  path = '/'.join(filter(None, (os.fspath(folder), name.strip('/')))) + '/'
  if path.startswith('gs://'):
    bucket, _, key = path.removeprefix('gs://').partition('/')
    return {'driver': 'gcs', 'bucket': bucket, 'path': key}
  return {'driver': 'file', 'path': path}


def chunk_shape(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
  """The shape of chunks: whole rows, of at most 32 MiB if there are several."""
  if not shape:
    return ()
  row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
  return (min(shape[0], max(1, _CHUNK_BYTES // row_bytes)), *shape[1:])


def read(store: ts.TensorStore) -> np.ndarray:
  """Reads all values, with 256 MiB or one chunk in memory besides them."""
  values = _empty(store.shape, store.dtype.numpy_dtype)
  destination = ts.array(values)
  for piece in _pieces(store, store.chunk_layout.read_chunk.shape):
    destination[piece].write(store[piece]).result()
  return values


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """An array whose memory a CPU's device can use as it is, without a copy."""
  size = math.prod(shape) * dtype.itemsize
  memory = np.empty(size + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  return memory[start : start + size].view(dtype).reshape(shape)


def write(store: ts.TensorStore, values: np.ndarray) -> None:
  """Writes all values, with as little memory as `read`."""
  for piece in _pieces(store, store.chunk_layout.write_chunk.shape):
    _wait(store[piece].write(values[piece]))


def _wait(writing: ts.WriteFutures) -> None:
  """Waits for a write, also after Ctrl-C, so that its files can be removed."""
  try:
    writing.result()
  except KeyboardInterrupt:
    with contextlib.suppress(Exception):
      writing.result()
    raise


def _pieces(
    store: ts.TensorStore, chunk: tuple[int | None, ...] | None
) -> Iterator[Piece]:
  """Slices of whole chunks, each of at most 128 MiB or of a single chunk."""
  sizes = [size or 1 for size in chunk or ()]  # A scalar has no chunks.
  most = _PIECE_BYTES // store.dtype.numpy_dtype.itemsize
  for axis in reversed(range(store.ndim)):
    number = max(1, most // max(1, math.prod(sizes)))
    sizes[axis] = min(store.shape[axis], number * sizes[axis])
  yield from itertools.product(*(
      [slice(i, min(i + size, n)) for i in range(0, n, max(1, size))]
      for size, n in zip(sizes, store.shape, strict=True)
  ))
