"""Weights in checkpoints of T5X, read and written without T5X.

    checkpoint_N/               T5X's first layout, which its public models have
      checkpoint                msgpack: the step, small arrays, and the place of
      target.encoder.../        the zarr of each large array
    checkpoint_N/state/         Orbax's layout, which T5X writes today
    RUN/checkpoints/N/state/    Orbax's layout, written by the embedded engine
    RUN/checkpoints/N/          the first layout, written by `flipped-t5x convert`

Paths may be in a bucket (`gs://...`). Only the weights are read; the state of
the optimizer is never fetched.
"""

from collections.abc import Mapping
import contextlib
import os
import re
from typing import Any

from etils import epath
from flax import serialization
from flax import traverse_util
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.weights import stored_arrays
from flipped_t5x.weights import tensors as tensors_lib
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

# Compressors of zarr.
GZIP = {'id': 'gzip', 'level': 1}
ZSTD = {'id': 'zstd', 'level': 1}

_VERSION = 3  # Of the first layout; 2 wrote bfloat16 as uint16, 0 was Flax's.
_MIN_FACTORED = 128
_STEP = re.compile(r'(?:checkpoint_)?(\d+)')
Params = Mapping[str, Any]


def open(  # pylint: disable=redefined-builtin
    path: str | os.PathLike[str],
) -> tuple[dict[str, tensors_lib.Tensor], int]:
  """Opens the weights of a checkpoint.

  Args:
    path: a checkpoint, or the folder of a run: then the newest of it.

  Returns:
    The tensors, none of them read yet, and the step that the checkpoint is of.

  Raises:
    FileNotFoundError: there is no checkpoint; the message lists those nearby.
    UserError: it is damaged, or has what is no weight; reading a tensor raises
      it, too, with the tensor's name.
  """
  path = find(path)
  opened, step = (
      _open_orbax if (path / 'state').is_dir() else _open_zarr
  )(path)
  for name, tensor in opened.items():
    if not jax.numpy.issubdtype(tensor.dtype, np.floating):
      raise errors.UserError(f'{path}: {name} is {tensor.dtype}, not a weight')
  return opened, step


def write(
    params: Params,
    step: int,
    folder: str | os.PathLike[str],
    compressor: Mapping[str, Any] = GZIP,
) -> epath.Path:
  """Writes `folder/checkpoint_STEP` for T5X, whole or not at all.

  The layout is the first one: T5X reads it whether `use_orbax` is on or off.
  T5X's training also wants the optimizer's state: that of an Adafactor without
  momentum at its first update is there; where layers are stacked, of one with
  `standard_logical_factor_rules`, without which T5X does not train those.
  Where `step` is not 0, set Adafactor's `step_offset` to it, or second moments
  are as if averaged over `step` updates.

  Args:
    params: tree of arrays, or name -> Tensor, of which one at a time is in
      memory; stored in the type that they have.
    step: the training step that the weights are of.
    folder: where to write, made if need be. In a bucket, where nothing can be
      renamed, the file without which no one reads the others is written last.
    compressor: `GZIP`, as T5X itself writes, or `ZSTD`, five times as fast.

  Returns:
    The checkpoint's path.

  Raises:
    FileExistsError: there is a checkpoint of this step.
    OSError: it could not be written.
  """
  folder = _absolute(folder)
  path = folder / f'checkpoint_{step}'
  if path.exists():
    raise FileExistsError(f'{path}: there is a checkpoint of this step')
  remote = _is_remote(folder)
  unfinished = path if remote else folder / f'{path.name}.tmp-{os.getpid()}'
  unfinished.mkdir(parents=True, exist_ok=True)
  try:
    target, slots = {}, {}
    for name, tensor in tensors_lib.from_arrays(params).items():
      target[name] = _write_array(unfinished, name, tensor, compressor)
      slots[name] = _first_slots(name, tensor.shape)
    state = {'step': np.int32(step), 'param_states': tensors_lib.tree(slots)}
    (unfinished / 'checkpoint').write_bytes(serialization.msgpack_serialize({
        'version': _VERSION,
        'optimizer': {'target': tensors_lib.tree(target), 'state': state},
    }))
    if not remote:
      unfinished.rename(path)
  except BaseException:
    with contextlib.suppress(OSError):  # It would hide why.
      unfinished.rmtree(missing_ok=True)
    raise
  return path


def steps(folder: str | os.PathLike[str]) -> dict[int, os.PathLike[str]]:
  """Step -> path of the complete checkpoints of a run's folder, in order."""
  folder = _absolute(folder)
  found = {}
  for parent in (folder, folder / 'checkpoints'):
    for path in parent.iterdir() if parent.is_dir() else ():
      match = _STEP.fullmatch(path.name)
      if match and _is_checkpoint(path):
        found[int(match[1])] = path
  return dict(sorted(found.items()))


def find(path: str | os.PathLike[str]) -> epath.Path:
  """The checkpoint itself; FileNotFoundError says which ones there are."""
  path = _absolute(path)
  if _is_checkpoint(path):
    return path
  inside = steps(path)
  if inside:
    return inside[max(inside)]
  beside = ', '.join(map(str, steps(path.parent))) or 'none'
  raise FileNotFoundError(
      f'{path}: no checkpoint there'
      f' ({"the folder has none" if path.is_dir() else "no such folder"};'
      f' steps in {path.parent}: {beside})'
  )


def _absolute(path: str | os.PathLike[str]) -> epath.Path:
  path = files.any_path(path)
  return path if _is_remote(path) else epath.Path(
      os.path.abspath(path.expanduser())
  )


def _is_remote(path: epath.Path) -> bool:
  return '://' in os.fspath(path)


def _is_checkpoint(path: epath.Path) -> bool:
  return (path / 'state').is_dir() or (path / 'checkpoint').is_file()


def _open_zarr(
    path: epath.Path,
) -> tuple[dict[str, tensors_lib.Tensor], int]:
  """Opens T5X's first layout."""
  content = (path / 'checkpoint').read_bytes()
  if content.startswith(b'model_checkpoint_path'):
    raise errors.UserError(
        f'{path}: a TensorFlow checkpoint; T5X can convert it (see its'
        ' `convert_tf_checkpoint`)'
    )
  try:
    content = serialization.msgpack_restore(content)
    version = content.get('version', 0)
    if version >= 2:
      saved = content['optimizer']
      target, step = saved['target'], int(saved['state']['step'])
  except Exception as e:  # MessagePack's errors have no common base.
    raise errors.UserError(f'{path}/checkpoint is damaged: {_reason(e)}') from e
  if version < 2:
    raise errors.UserError(
        f'{path}: version {version} of the layout; T5X reads 2, 3'
    )
  leaves = traverse_util.flatten_dict(
      target, sep='/', is_leaf=lambda _, leaf: _is_spec(leaf)
  )
  # All at once: a bucket answers each one late.
  opening = {
      name: ts.open(_spec(path, leaf), open=True)
      for name, leaf in leaves.items() if _is_spec(leaf)
  }
  arrays = tensors_lib.from_arrays({
      name: leaf for name, leaf in leaves.items() if name not in opening
  })
  for name, future in opening.items():
    arrays[name] = _tensor(path, name, _result(path, name, future))
  return {name: arrays[name] for name in leaves}, step


def _open_orbax(
    path: epath.Path,
) -> tuple[dict[str, tensors_lib.Tensor], int]:
  """Opens Orbax's layout."""
  state = path / 'state'
  try:
    # Not a checkpointer: it would warn that `state` is no checkpoint by itself.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
      saved = handler.metadata(state)
    is_t5x = 'target' in saved.tree
    leaves = traverse_util.flatten_dict(
        saved.tree['target' if is_t5x else 'params'], sep='/'
    )
    step = (saved.tree['state'] if is_t5x else saved.tree)['step']

    def start_open(leaf):
      store = stored_arrays.kvstore(state, leaf.name)
      if ocp.type_handlers.is_ocdbt_checkpoint(state):
        store = {
            'driver': 'ocdbt', 'base': stored_arrays.kvstore(state),
            'path': f'{leaf.name}/',
        }
      return ts.open({
          'driver': 'zarr3' if saved.use_zarr3 else 'zarr', 'kvstore': store,
          'fill_missing_data_reads': False,
      }, open=True)

    opening = {name: start_open(leaf) for name, leaf in leaves.items()}
    step = int(start_open(step).result().read().result())
  except Exception as e:  # Orbax has many errors.
    raise errors.UserError(f'{path} is damaged: {_reason(e)}') from e
  return {
      name: _tensor(path, name, _result(path, name, future))
      for name, future in opening.items()
  }, step


def _spec(path: epath.Path, saved: Mapping[str, Any]) -> dict[str, Any]:
  """How to open an array of the first layout.

  Args:
    path: the checkpoint.
    saved: as the checkpoint has it, with a path relative to the checkpoint and
      the store that it was written to, wherever the checkpoint lies today.
  """
  # TensorStore before 0.1.14 had the path outside.
  relative = saved['kvstore'].get('path', saved.get('path'))
  return {
      'driver': saved['driver'],
      'kvstore': stored_arrays.kvstore(path, relative),
      'metadata': {'shape': saved['metadata']['shape']},
      # A piece that is missing is not all zeros: T5X writes those too.
      'fill_missing_data_reads': False,
  }


def _result(path: epath.Path, name: str, future: ts.Future) -> ts.TensorStore:
  try:
    return future.result()
  except Exception as e:  # TensorStore raises ValueError and others.
    raise errors.UserError(f'{path}: {name} is damaged: {_reason(e)}') from e


def _tensor(
    path: epath.Path, name: str, store: ts.TensorStore
) -> tensors_lib.Tensor:

  def read_all():
    try:
      return stored_arrays.read(store)
    except MemoryError:
      raise
    except Exception as e:
      raise errors.UserError(f'{path}: {name} is damaged: {_reason(e)}') from e

  return tensors_lib.Tensor(store.shape, store.dtype.numpy_dtype, read_all)


def _write_array(
    path: epath.Path,
    name: str,
    tensor: tensors_lib.Tensor,
    compressor: Mapping[str, Any],
) -> dict[str, Any]:
  """Writes a zarr; gives what stands for it in the msgpack."""
  values = tensor.read()
  spec = {
      'driver': 'zarr',
      'dtype': tensor.dtype.name,
      'kvstore': {
          'driver': 'file', 'path': f'target.{name.replace("/", ".")}/'
      },
      'metadata': {
          'chunks': list(stored_arrays.chunk_shape(tensor.shape, tensor.dtype)),
          'compressor': dict(compressor),
          'shape': list(tensor.shape),
      },
  }
  place = stored_arrays.kvstore(path, spec['kvstore']['path'])
  try:
    stored_arrays.write(ts.open(
        spec | {'kvstore': place}, create=True, delete_existing=True
    ).result(), values)
  except Exception as e:
    raise OSError(f'{path}: {name} could not be written: {_reason(e)}') from e
  return spec


def _first_slots(name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
  """What T5X's Adafactor keeps of a weight, before its first update.

  Rows and columns are kept where the two largest axes have 128 or more, else
  the whole; what is not kept has shape (1,). Of stacked layers it keeps those
  of each matrix, whatever their sizes: the rows are the axis 'embed'.
  """
  slots = {name: np.zeros(1, np.float32) for name in ('m', 'v_row', 'v_col')}
  if tensors_lib.is_stacked({name: None}):
    factored = len(shape) > 2
    into_embed = name.endswith(('/out/kernel', '/wo/kernel'))
    row, column = (2, 0) if into_embed else (0, 2)
  else:
    # Axes from the smallest to the largest, as T5X orders them.
    *_, row, column = (None, *np.argsort(shape))
    factored = len(shape) > 1 and shape[row] >= _MIN_FACTORED
  if not factored:
    return slots | {'v': np.zeros(shape, np.float32)}
  return slots | {
      'v': np.zeros(1, np.float32),
      'v_row': np.zeros(np.delete(shape, column), np.float32),
      'v_col': np.zeros(np.delete(shape, row), np.float32),
  }


def _is_spec(leaf: Any) -> bool:
  """Whether it says where an array lies; else it is one, or a tree of them."""
  return isinstance(leaf, Mapping) and leaf.keys() >= {
      'driver', 'kvstore', 'metadata'
  }


def _reason(error: Exception) -> str:
  """The first line of an error."""
  return str(error).strip().splitlines()[0] if str(error) else repr(error)
