"""PyTorch's files of weights, read without PyTorch and without running them.

A file of `torch.save` is a zip: a pickle says what the tensors are, and their
values are other entries. A pickle may call whatever it names; here it may name
no more than a mapping of tensors needs, and gets an object of this module for
each name. Files of PyTorch before 1.6, which are no zips, are refused.
"""

import collections
from collections.abc import Callable, Mapping
import io
import math
import os
import pathlib
import pickle
import pickletools
import struct
from typing import Any, BinaryIO, NamedTuple
import zipfile

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.weights import tensors
import ml_dtypes
import numpy as np

_ZIP = b'PK\x03\x04'
# How a file of PyTorch before 1.6 begins: a pickle of one number.
_BEFORE_1_6 = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
# Room for thousands of tensors. An object may take one byte of a pickle and 56
# bytes of memory.
_MOST_BYTES = {'data.pkl': 2**22, 'byteorder': 16}
_MOST_EXPANDED = 2**24
_LOCAL_HEADER = 30  # Bytes of a zip's, before the name and the extra field.

_DTYPES = {
    'BFloat16Storage': ml_dtypes.bfloat16,
    'BoolStorage': np.bool_,
    'ByteStorage': np.uint8,
    'CharStorage': np.int8,
    'DoubleStorage': np.float64,
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    'IntStorage': np.int32,
    'LongStorage': np.int64,
    'ShortStorage': np.int16,
}


class _Refused(errors.UserError):
  """The file holds, or its pickle names, what weights do not need."""


# These are tuples because a pickle may set the fields of what it has made, even
# those of a frozen dataclass: what was checked would no longer hold.
class _Call(NamedTuple):
  """What a pickle gets for a function's name, and cannot change."""

  function: Callable[..., Any]

  def __call__(self, *args):
    return self.function(*args)


class _Type(NamedTuple):
  """What a pickle gets for the name of a storage's type."""

  dtype: np.dtype


class _Storage(NamedTuple):
  """Consecutive values of one type.

  Attributes:
    key: the name of the zip's entry that has the values.
    dtype: their type.
    size: their number.
  """

  key: str
  dtype: np.dtype
  size: int


class _View(NamedTuple):
  """A tensor: a storage, and the place of each value in it."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]

  @property
  def span(self) -> int:
    """The number of values from the first to the last."""
    if 0 in self.shape:
      return 0
    steps = zip(self.shape, self.stride, strict=True)
    return 1 + sum((n - 1) * step for n, step in steps)


def open(path: str | os.PathLike[str]) -> dict[str, tensors.Tensor]:
  """Opens a file of `torch.save(model.state_dict(), path)`.

  Args:
    path: the file.

  Returns:
    Name -> tensor, not read yet. Several may read the same values.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: the file is damaged, in the format before PyTorch 1.6, or holds
      other things than weights; the message names the file and, if it would run
      code, what.
  """
  path = pathlib.Path(path)
  with path.open('rb') as file:
    start = file.read(len(_BEFORE_1_6))
    if start == _BEFORE_1_6:
      raise errors.UserError(
          f'{path} is in the format of PyTorch before 1.6, which is not read;'
          ' with a current PyTorch, torch.load(path, weights_only=True) and'
          ' torch.save convert it, or save the weights as safetensors'
      )
    if not start.startswith(_ZIP):
      files.check_is_fetched(path)
      raise errors.UserError(f'{path} is damaged: it is no file of PyTorch')
    try:
      state, places = _read_zip(file)
      if not isinstance(state, dict):
        raise _Refused(f'holds a {type(state).__name__}')
      state = dict(state)
      for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, _View):
          raise _Refused(f'holds {name!r}, a {type(view).__name__}')
    except _Refused as e:
      raise errors.UserError(
          f'{path} is not weights alone: it {e}; nothing of it was run'
      ) from None
    except Exception as e:  # A damaged pickle fails in any way.
      raise errors.UserError(f'{path} is damaged: {str(e) or repr(e)}') from e
    size = path.stat().st_size
    return {
        name: _tensor(path, size, name, view, places)
        for name, view in state.items()
    }


def _tensor(
    path: pathlib.Path,
    file_size: int,
    name: str,
    view: _View,
    places: Mapping[str, tuple[int, int]],
) -> tensors.Tensor:
  """A tensor of the file; UserError if the file is too short for it.

  Args:
    path: the file.
    file_size: its bytes.
    name: the tensor's name.
    view: what the pickle says of it.
    places: storage's key -> where it starts in the file, and its bytes.
  """
  storage = view.storage
  start, available = places.get(storage.key, (0, 0))
  itemsize = storage.dtype.itemsize
  nbytes = view.span * itemsize
  offset = view.offset * itemsize
  start += offset
  if (
      view.span > storage.size - view.offset
      # A step of 0 makes any number of values of one.
      or math.prod(view.shape) > max(storage.size, _MOST_EXPANDED)
      or offset + nbytes > available
      or start + nbytes > file_size
  ):
    raise errors.UserError(f'{path} is truncated: {name} goes beyond its end')
  numbers = np.dtype(storage.dtype)

  def read():
    values = np.fromfile(path, np.uint8, nbytes, offset=start)
    if values.size < nbytes:
      raise errors.UserError(f'{path} is truncated: {name} goes beyond its end')
    values = values.view(numbers)
    strides = [s * itemsize for s in view.stride]
    strided = np.lib.stride_tricks.as_strided(values, view.shape, strides)
    return np.ascontiguousarray(strided).reshape(view.shape)

  return tensors.Tensor(view.shape, numbers, read)


class _Unpickler(pickle.Unpickler):
  """Reads a pickle that names nothing but what weights need."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch' and name in _DTYPES:
      return _Type(np.dtype(_DTYPES[name]))
    if module == 'torch._utils' and name in _REBUILD:
      return _Call(_REBUILD[name])
    raise _Refused(
        f'asks for {module}.{name}, which weights do not need and which may run'
        ' code'
    )

  def persistent_load(self, pid: Any) -> _Storage:
    kind, storage_type, key, _, size = pid  # The fourth is the device.
    if kind != 'storage':
      raise _Refused(f'asks for a {kind!r}')
    return _Storage(str(key), storage_type.dtype, _count(size))


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple, stride: tuple, *_
) -> _View:
  """A tensor; the other arguments are about gradients."""
  if not isinstance(storage, _Storage) or len(shape) != len(stride):
    raise errors.UserError(
        'a tensor has no storage, or not as many axes as strides'
    )
  return _View(
      storage, _count(offset), tuple(map(_count, shape)),
      tuple(map(_count, stride)),
  )


def _rebuild_parameter(data: _View, *_) -> _View:
  return data


_REBUILD: dict[str, Callable[..., _View]] = {
    '_rebuild_parameter': _rebuild_parameter,
    '_rebuild_tensor': _rebuild_tensor,
    '_rebuild_tensor_v2': _rebuild_tensor,
}


def _count(value: Any) -> int:
  """The value, which must be an integer and not negative."""
  if type(value) is not int or value < 0:
    raise errors.UserError(f'{value!r} where a number should be')
  return value


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]]]:
  """The pickle's content, and a storage's key -> its start and bytes."""
  with zipfile.ZipFile(file) as archive:
    entries = {info.filename: info for info in archive.infolist()}
    folders = [
        name.removesuffix('data.pkl') for name in entries
        if name.endswith('/data.pkl')
    ]
    if len(folders) != 1:
      raise errors.UserError('it is a zip, but not one of PyTorch')
    folder = folders[0]
    order = entries.get(f'{folder}byteorder')
    if order and _read_entry(archive, order) != b'little':
      raise errors.UserError(
          'it was written on a machine whose bytes are in another order'
      )
    data = _read_entry(archive, entries[f'{folder}data.pkl'])
  _check_memo(data)
  state = _Unpickler(io.BytesIO(data)).load()
  places = {}
  for name, info in entries.items():
    if not name.startswith(f'{folder}data/'):
      continue
    if info.compress_type != zipfile.ZIP_STORED:
      raise errors.UserError(f'{name} is compressed; PyTorch never does that')
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    name_size, extra_size = struct.unpack('<HH', header[26:])
    places[name.removeprefix(f'{folder}data/')] = (
        info.header_offset + _LOCAL_HEADER + name_size + extra_size,
        info.file_size,
    )
  return state, places


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
  """An entry's content; UserError if it is larger than it can have to be."""
  most = _MOST_BYTES[info.filename.rpartition('/')[2]]
  if info.file_size > most:
    raise errors.UserError(
        f'{info.filename} has {info.file_size:,} bytes, where weights need'
        f' {most:,} at most'
    )
  return archive.read(info)  # No more than `file_size` is unpacked.


def _check_memo(data: bytes) -> None:
  """UserError if a pickle numbers more objects than it has.

  Python makes room for all numbers up to the largest, whose four bytes may be
  those of 64 GB.
  """
  steps = list(pickletools.genops(data))
  numbers = [
      v for code, v, _ in steps
      if code.name.endswith('PUT') and isinstance(v, int)
  ]
  largest = max(numbers, default=0)
  if largest > len(steps):
    raise errors.UserError(
        f'its pickle has an object number {largest}, but only {len(steps)}'
        ' steps'
    )
