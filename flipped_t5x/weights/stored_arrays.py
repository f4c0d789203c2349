"""Arrays in TensorStore, read and written piece by piece.

TensorStore encodes and decodes whole what it is asked for at once: an array in
one request would be in memory twice or three times.
"""

from collections.abc import Iterator
import contextlib
import itertools
import math
import os
from typing import Any

import numpy as np
import tensorstore as ts

_PIECE_BYTES = 128 * 2**20
_CHUNK_BYTES = 32 * 2**20

Piece = tuple[slice, ...]


def kvstore(folder: str | os.PathLike[str], name: str = '') -> dict[str, str]:
  """TensorStore's way to say where files lie.

  Args:
    folder: a local folder or one of a bucket, `gs://...`.
    name: a folder in it.
  """
  path = '/'.join(filter(None, (os.fspath(folder), name.strip('/')))) + '/'
  if path.startswith('gs://'):
    bucket, _, key = path.removeprefix('gs://').partition('/')
    return {'driver': 'gcs', 'bucket': bucket, 'path': key}
  return {'driver': 'file', 'path': path}


def chunk_shape(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
  """Rows of at most 32 MiB, for the arrays that are written here."""
  if not shape:
    return ()
  row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
  return (min(shape[0], max(1, _CHUNK_BYTES // row_bytes)), *shape[1:])


def read(store: ts.TensorStore) -> np.ndarray:
  """All values; besides them 256 MiB or one chunk are in memory at a time."""
  values = np.empty(store.shape, store.dtype.numpy_dtype)
  for piece in _pieces(store, store.chunk_layout.read_chunk.shape):
    values[piece] = store[piece].read().result()
  return values


def write(store: ts.TensorStore, values: np.ndarray) -> None:
  """Writes all values, with as little besides them in memory as `read`."""
  for piece in _pieces(store, store.chunk_layout.write_chunk.shape):
    _wait(store[piece].write(values[piece]))


def _wait(writing: Any) -> None:
  """The end of a write, after Ctrl-C, too: whoever cleans up is then alone.

  Args:
    writing: a future.
  """
  try:
    writing.result()
  except KeyboardInterrupt:
    with contextlib.suppress(Exception):
      writing.result()
    raise


def _pieces(
    store: ts.TensorStore, chunk: tuple[int, ...] | None
) -> Iterator[Piece]:
  """Slices of whole chunks, of at most 128 MiB where a chunk is no larger."""
  sizes = list(chunk or ())  # A scalar has no chunks.
  most = _PIECE_BYTES // store.dtype.numpy_dtype.itemsize
  for axis in reversed(range(store.ndim)):
    number = max(1, most // max(1, math.prod(sizes)))
    sizes[axis] = min(store.shape[axis], number * sizes[axis])
  yield from itertools.product(*(
      [slice(i, min(i + size, n)) for i in range(0, n, max(1, size))]
      for size, n in zip(sizes, store.shape, strict=True)
  ))
