"""Weights in checkpoints of T5X, read and written without T5X.

    checkpoint_N/               T5X's first layout, that of its public models
      checkpoint                msgpack: step, small arrays, references to zarrs
      target.encoder.../        the zarr of a large array
    checkpoint_N/state/         Orbax's layout, which T5X writes today
    RUN/checkpoints/N/state/    Orbax's layout, written by the embedded engine
    RUN/checkpoints/N/          the first layout, written by `convert`

Paths may be in a bucket (`gs://...`). Only the weights are read; the state of
the optimizer is never fetched.
"""

from collections.abc import Mapping
import contextlib
import json
import os
import pathlib
import re
from typing import Any

from etils import epath
from flax import serialization
from flax import traverse_util
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.network import layers
from flipped_t5x.weights import quantization
from flipped_t5x.weights import stored_arrays
from flipped_t5x.weights import tensors as tensors_lib
import jax
import numpy as np
import tensorstore as ts

# Compressors of zarr.
GZIP = {'id': 'gzip', 'level': 1}
ZSTD = {'id': 'zstd', 'level': 1}

# Of the first layout; version 2 has bfloat16 as uint16, version 0 is Flax's.
_VERSION = 3
_MIN_FACTORED = 128
_DATABASE = 'manifest.ocdbt'  # Orbax's name; Orbax takes long to import.
_OPTIMIZER = ('opt_state/', 'state/param_states/')  # Our name and T5X's.
_STEP = re.compile(r'(checkpoint_)?(\d+)')
Params = Mapping[str, Any]


def open(
    path: str | os.PathLike[str],
) -> tuple[dict[str, tensors_lib.Tensor], int]:
  """Opens the weights of a checkpoint.

  Args:
    path: a checkpoint, or the folder of a run, of which the newest checkpoint
      is opened.

  Returns:
    Name -> tensor, not read yet; and the training step of the checkpoint.

  Raises:
    FileNotFoundError: no checkpoint was found; the message lists those nearby.
    UserError: the checkpoint is damaged, or has an array that is not of
      floating point numbers and no matrix in int8. Reading a tensor raises
      it, too; the message names the tensor.
  """
  found = find(path)
  has_state = (found / 'state').is_dir()
  opened, step = (_open_orbax if has_state else _open_zarr)(found)
  for name, tensor in opened.items():
    if tensor.dtype == np.int8 and name + layers.SCALE in opened:
      continue
    if not jax.numpy.issubdtype(tensor.dtype, np.floating):
      raise errors.UserError(f'{found}: {name} is {tensor.dtype}, not a weight')
  return opened, step


def write(
    params: Params,
    step: int,
    folder: str | os.PathLike[str],
    compressor: Mapping[str, Any] = GZIP,
) -> epath.Path:
  """Writes `folder/checkpoint_STEP` for T5X, whole or not at all.

  The layout is the first one, which T5X reads whether `use_orbax` is on or off.
  T5X can also train from it: the state of an Adafactor without momentum, before
  its first update, is written beside the weights. If layers are stacked, the
  state is that of an Adafactor with `standard_logical_factor_rules`, without
  which T5X does not train stacked layers. If `step` is not 0, set Adafactor's
  `step_offset` to it; otherwise second moments are treated as averages over
  `step` updates.

  Args:
    params: tree of arrays, or name -> Tensor, of which one at a time is in
      memory. They are stored in their own types.
    step: the training step of the weights.
    folder: the parent folder; it is made if need be. In a bucket, where nothing
      can be renamed, the file that makes the others readable is written last.
    compressor: `GZIP`, as T5X itself writes, or `ZSTD`, five times as fast.

  Returns:
    The checkpoint's path.

  Raises:
    FileExistsError: the checkpoint exists already.
    OSError: the checkpoint could not be written.
  """
  path = _absolute(folder) / f'checkpoint_{step}'
  if path.exists():
    raise FileExistsError(f'{path} exists already')
  if not files.is_remote(path):
    with files.new_folder(pathlib.Path(path)) as unfinished:
      _write_all(epath.Path(unfinished), params, step, compressor)
    return path
  try:
    path.mkdir(parents=True, exist_ok=True)
    _write_all(path, params, step, compressor)
  except BaseException:
    with contextlib.suppress(OSError):  # It would hide the first error.
      path.rmtree(missing_ok=True)
    raise
  return path


def _write_all(
    folder: epath.Path,
    params: Params,
    step: int,
    compressor: Mapping[str, Any],
) -> None:
  """Writes the files of a checkpoint; arguments as for `write`."""
  target: dict[str, Any] = {}
  slots: dict[str, Any] = {}
  tensors = tensors_lib.from_arrays(params)
  in_int8 = quantization.is_quantized(tensors)
  for name, tensor in tensors.items():
    target[name] = _write_array(folder, name, tensor, compressor)
    if not in_int8:  # T5X cannot read those.
      slots[name] = _first_slots(name, tensor.shape)
  state = {'step': np.int32(step), 'param_states': tensors_lib.tree(slots)}
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize({
      'version': _VERSION,
      'optimizer': {'target': tensors_lib.tree(target), 'state': state},
  }))


def steps(folder: str | os.PathLike[str]) -> dict[int, epath.Path]:
  """Step -> path of the complete checkpoints of a run's folder, in order."""
  return {
      step: path for step, path in _numbered(_absolute(folder)).items()
      if is_checkpoint(path)
  }


def newest(folder: str | os.PathLike[str]) -> tuple[int, epath.Path] | None:
  """Step and path of the newest checkpoint of a run's folder, if it has any.

  Raises:
    UserError: the newest one is incomplete. Checkpoints appear under their
      names when they are whole, so it was copied in part, or parts of it were
      deleted; an older one is not what was asked for.
  """
  found = _numbered(_absolute(folder))
  if not found:
    return None
  step = max(found)
  if not is_checkpoint(found[step]):
    complete = ', '.join(map(str, steps(folder))) or 'none'
    raise errors.UserError(
        f'{found[step]} is incomplete: it has neither `state` nor `checkpoint`.'
        ' Copy it again, or delete it to use an older one (complete steps:'
        f' {complete})'
    )
  return step, found[step]


def find(path: str | os.PathLike[str]) -> epath.Path:
  """The checkpoint at a path, or the newest one of a run's folder.

  Raises:
    FileNotFoundError: none was found; the message lists those beside the path.
    UserError: the newest one is incomplete.
  """
  wanted = _absolute(path)
  if is_checkpoint(wanted):
    return wanted
  inside = newest(wanted)
  if inside:
    return inside[1]
  reason = 'the folder has none' if wanted.is_dir() else 'no such folder'
  beside = ', '.join(map(str, steps(wanted.parent))) or 'none'
  raise FileNotFoundError(
      f'{wanted}: no checkpoint found ({reason}; steps in {wanted.parent}:'
      f' {beside})'
  )


def _numbered(run: epath.Path) -> dict[int, epath.Path]:
  """Step -> folder with the name of a checkpoint, complete or not, in order."""
  found = {}
  for parent in (run, run / 'checkpoints'):
    for path in parent.iterdir() if parent.is_dir() else ():
      match = _STEP.fullmatch(path.name)
      # Elsewhere a number may be the name of anything.
      named = match and (match[1] or parent.name == 'checkpoints')
      if match and (named or is_checkpoint(path)) and path.is_dir():
        found[int(match[2])] = path
  return dict(sorted(found.items()))


def _absolute(path: str | os.PathLike[str]) -> epath.Path:
  found = files.any_path(path)
  return found if files.is_remote(found) else epath.Path(os.path.abspath(found))


def is_checkpoint(path: epath.Path) -> bool:
  """Whether a path is that of one checkpoint, of either layout."""
  return (path / 'state').is_dir() or (path / 'checkpoint').is_file()


def _open_zarr(
    path: epath.Path,
) -> tuple[dict[str, tensors_lib.Tensor], int]:
  """Opens T5X's first layout."""
  content = (path / 'checkpoint').read_bytes()
  if content.startswith(b'model_checkpoint_path'):
    raise errors.UserError(
        f'{path} is a TensorFlow checkpoint; convert it with'
        ' `convert_tf_checkpoint` of T5X first'
    )
  try:
    saved = serialization.msgpack_restore(content)
    version = saved.get('version', 0)
    if version >= 2:
      target = saved['optimizer']['target']
      step = int(saved['optimizer']['state']['step'])
  except Exception as e:  # MessagePack's errors have no common base.
    files.check_is_fetched(path / 'checkpoint')
    raise errors.UserError(
        f'{path}/checkpoint is damaged: {files.first_line(e)}'
    ) from e
  if version < 2:
    raise errors.UserError(
        f'{path} has version {version} of the layout; only 2 and 3 are'
        ' supported, as in T5X'
    )
  leaves = traverse_util.flatten_dict(
      target, sep='/', is_leaf=lambda _, leaf: _is_reference(leaf)
  )
  # All at once, because a bucket takes a while to answer each request.
  opening = {
      name: ts.open(_spec(path, leaf), open=True)
      for name, leaf in leaves.items() if _is_reference(leaf)
  }
  arrays = tensors_lib.from_arrays({
      name: leaf for name, leaf in leaves.items() if name not in opening
  })
  for name, future in opening.items():
    arrays[name] = _tensor(path, name, _result(path, name, future))
  return {name: arrays[name] for name in leaves}, step


def shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
  """The shapes of all arrays of a checkpoint in Orbax's layout.

  All of them are opened, and none is read.

  Args:
    path: the checkpoint.

  Returns:
    Name, such as `params/encoder/...`, `opt_state/...` or `step` -> shape.

  Raises:
    UserError: the checkpoint is damaged or incomplete.
  """
  path = _absolute(path)
  return {
      name: tuple(_result(path, name, future).shape)
      for name, future in _start_open(path).items()
  }


def _open_orbax(
    path: epath.Path,
) -> tuple[dict[str, tensors_lib.Tensor], int]:
  """Opens Orbax's layout."""
  opening = _start_open(path, leave_out=_OPTIMIZER)
  is_t5x = any(name.startswith('target/') for name in opening)
  root, step = ('target/', 'state/step') if is_t5x else ('params/', 'step')
  if step not in opening:
    raise errors.UserError(f'{path} is damaged: it has no {step}')
  weights = {
      name.removeprefix(root): future for name, future in opening.items()
      if name.startswith(root)
  }
  try:
    number = int(_result(path, step, opening[step]).read().result())
  except ValueError as e:  # TensorStore's, if a file is missing.
    raise _damaged(path, step, e) from e
  return {
      name: _tensor(path, name, _result(path, name, future))
      for name, future in weights.items()
  }, number


def _start_open(
    path: epath.Path, leave_out: tuple[str, ...] = ()
) -> dict[str, ts.Future]:
  """Name -> array that is being opened, of a checkpoint in Orbax's layout.

  Names that begin with one of `leave_out` are left out.

  Orbax itself would open them in a loop of its own; if one is missing, those
  that are still being opened print tracebacks when they find the loop closed.
  """
  state = path / 'state'
  try:
    described = json.loads((state / '_METADATA').read_text())
    names = [
        [str(key['key']) for key in leaf['key_metadata']]
        for leaf in described['tree_metadata'].values()
        if not leaf['value_metadata'].get('skip_deserialize')
    ]
    driver = 'zarr3' if described.get('use_zarr3') else 'zarr'
    in_database = (state / _DATABASE).exists()
  except Exception as e:  # The file may hold anything.
    files.check_is_fetched(state / '_METADATA')
    raise errors.UserError(
        f'{path} is damaged: {state}/_METADATA: {files.first_line(e)}'
    ) from e

  def start_open(name: str) -> ts.Future:
    store: dict[str, Any] = stored_arrays.kvstore(state, name)
    if in_database:
      store = {
          'driver': 'ocdbt', 'base': stored_arrays.kvstore(state),
          'path': f'{name}/',
      }
    return ts.open({
        'driver': driver, 'kvstore': store, 'fill_missing_data_reads': False,
    }, open=True)

  opening = {}
  for keys in names:
    name = '/'.join(keys)
    if not name.startswith(leave_out):
      opening[name] = start_open('.'.join(keys))
  return opening


def _spec(path: epath.Path, reference: Mapping[str, Any]) -> dict[str, Any]:
  """TensorStore's spec of an array of the first layout.

  Args:
    path: the checkpoint.
    reference: what the checkpoint records of the array: a path relative to the
      checkpoint, and the store that it was first written to, which is ignored.
  """
  # Before version 0.1.14 of TensorStore, the path was not inside `kvstore`.
  relative = reference['kvstore'].get('path', reference.get('path'))
  return {
      'driver': reference['driver'],
      'kvstore': stored_arrays.kvstore(path, relative),
      'metadata': {'shape': reference['metadata']['shape']},
      # T5X writes chunks of zeros, too, so a missing chunk is an error.
      'fill_missing_data_reads': False,
  }


def _result(path: epath.Path, name: str, future: ts.Future) -> ts.TensorStore:
  try:
    return future.result()
  except Exception as e:  # TensorStore raises ValueError and others.
    raise _damaged(path, name, e) from e


def _damaged(path: epath.Path, name: str, error: Exception) -> errors.UserError:
  return errors.UserError(
      f'{path}: {name} is damaged: {files.first_line(error)}'
  )


def _tensor(
    path: epath.Path, name: str, store: ts.TensorStore
) -> tensors_lib.Tensor:

  def read_all():
    try:
      return stored_arrays.read(store)
    except MemoryError:
      raise
    except Exception as e:
      raise _damaged(path, name, e) from e

  return tensors_lib.Tensor(store.shape, store.dtype.numpy_dtype, read_all)


def _write_array(
    path: epath.Path,
    name: str,
    tensor: tensors_lib.Tensor,
    compressor: Mapping[str, Any],
) -> dict[str, Any]:
  """Writes a zarr; gives the reference to it for the msgpack."""
  values = tensor.read()
  relative = f'target.{name.replace("/", ".")}/'
  spec: dict[str, Any] = {
      'driver': 'zarr',
      'dtype': tensor.dtype.name,
      'kvstore': {'driver': 'file', 'path': relative},
      'metadata': {
          'chunks': list(stored_arrays.chunk_shape(tensor.shape, tensor.dtype)),
          'compressor': dict(compressor),
          'shape': list(tensor.shape),
      },
  }
  store = stored_arrays.kvstore(path, relative)
  try:
    stored_arrays.write(ts.open(
        spec | {'kvstore': store}, create=True, delete_existing=True
    ).result(), values)
  except Exception as e:
    raise OSError(
        f'{path}: {name} could not be written: {files.first_line(e)}'
    ) from e
  return spec


def _first_slots(name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
  """The slots of T5X's Adafactor for a weight, before the first update.

  If the two largest axes have at least 128 entries, the slots are a row and a
  column; otherwise they are one array of the weight's shape. For stacked
  layers, they are a row and a column of each matrix, whatever its size, and
  the row belongs to the axis 'embed'. Unused slots have shape (1,).
  """
  slots = {slot: np.zeros(1, np.float32) for slot in ('m', 'v_row', 'v_col')}
  if tensors_lib.is_stacked([name]):
    factored = len(shape) > 2
    into_embed = name.endswith(('/out/kernel', '/wo/kernel'))
    row, column = (2, 0) if into_embed else (0, 2)
  else:
    # Axes from the smallest to the largest, as T5X orders them.
    *_, row, column = (-1, *map(int, np.argsort(shape)))
    factored = len(shape) > 1 and shape[row] >= _MIN_FACTORED
  if not factored:
    return slots | {'v': np.zeros(shape, np.float32)}
  return slots | {
      'v': np.zeros(1, np.float32),
      'v_row': np.zeros(np.delete(shape, column), np.float32),
      'v_col': np.zeros(np.delete(shape, row), np.float32),
  }


def _is_reference(leaf: Any) -> bool:
  """Whether a leaf of the msgpack refers to a zarr beside it."""
  return isinstance(leaf, Mapping) and leaf.keys() >= {
      'driver', 'kvstore', 'metadata'
  }
