"""Weights in checkpoints of T5X, read and written without T5X.

    checkpoint_N/               T5X's first layout, that of its public models
      checkpoint                msgpack: the step, small arrays, and where the
      target.encoder.../        zarr of each large one lies
    checkpoint_N/state/         Orbax, as T5X has written since
    RUN/checkpoints/N/state/    Orbax, of a run of the embedded engine

Paths may be of a bucket (`gs://...`). Reading takes the weights alone: what the
optimizer had is never fetched.
"""

from collections.abc import Callable
from collections.abc import Mapping
import os
import re
from typing import Any

from etils import epath
from flax import serialization
from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

_VERSION = 3  # Of the first layout; 2 wrote bfloat16 as uint16, 0 was Flax's.
_CHUNK_BYTES = 64 * 2**20
_MIN_FACTORED = 128
_STEP = re.compile(r'(?:checkpoint_)?(\d+)')
Params = Mapping[str, Any]
_Flat = dict[str, Any]  # 'encoder/layers_0/...' -> what there is of the tensor


def read(
    path: str | os.PathLike[str], like: Params | None = None
) -> tuple[Params, int]:
  """Reads the weights of a checkpoint.

  Args:
    path: a checkpoint, or the folder of a run: then the newest of it.
    like: tree of arrays or `jax.ShapeDtypeStruct`s to check against, which also
      says what type the weights are to have; without it they are as stored.

  Returns:
    The tree of NumPy arrays, and the step that the checkpoint is of.

  Raises:
    FileNotFoundError: there is no checkpoint; the message lists those nearby.
    ValueError: weights are missing, too many, of another shape than in `like`,
      or damaged; the message names them.
  """
  path = _find(_absolute(path))
  wanted = None if like is None else _flatten(like)
  reader = _read_orbax if (path / 'state').is_dir() else _read_zarr
  params, step = reader(path, lambda found: _check(path, found, wanted))
  if wanted is not None:
    params = {
        n: a.astype(wanted[n].dtype, copy=False) for n, a in params.items()
    }
  return traverse_util.unflatten_dict(params, sep='/'), step


def write(
    params: Params, step: int, folder: str | os.PathLike[str]
) -> os.PathLike[str]:
  """Writes `folder/checkpoint_STEP` for T5X, whole or not at all.

  The layout is the first one: T5X reads it whether `use_orbax` is on or off.
  T5X's training also wants the optimizer's state: that of an Adafactor without
  momentum at its first update is there. Where `step` is not 0, set Adafactor's
  `step_offset` to it, or second moments are as if averaged over `step` updates.

  Args:
    params: tree of arrays, stored in the type that they have.
    step: the training step that the weights are of.
    folder: where to write, made if need be. In a bucket, where nothing can be
      renamed, the file without which no one reads the others is written last.

  Returns:
    The checkpoint's path.

  Raises:
    FileExistsError: there is a checkpoint of this step.
    ValueError: layers are stacked; T5X would factor their state by axis names.
  """
  stacked = [n for n, a in _flatten(params).items() if len(a.shape) > 2]
  if stacked:
    raise ValueError(f'{stacked[0]} has more than two axes: unstack the layers')
  folder = _absolute(folder)
  path = folder / f'checkpoint_{step}'
  if path.exists():
    raise FileExistsError(f'{path}: there is a checkpoint of this step')
  remote = _is_remote(folder)
  unfinished = path if remote else folder / f'{path.name}.tmp-{os.getpid()}'
  unfinished.mkdir(parents=True, exist_ok=True)
  try:
    target, slots = {}, {}
    for name, values in _flatten(params).items():
      spec = _new_spec(name, values)
      ts.open(
          spec | {'kvstore': _kvstore(unfinished, spec['kvstore']['path'])},
          create=True, delete_existing=True,
      ).result().write(np.asarray(values)).result()
      target[name], slots[name] = spec, _first_slots(values.shape)
    state = {
        'step': np.int32(step),
        'param_states': traverse_util.unflatten_dict(slots, sep='/'),
    }
    (unfinished / 'checkpoint').write_bytes(serialization.msgpack_serialize({
        'version': _VERSION,
        'optimizer': {
            'target': traverse_util.unflatten_dict(target, sep='/'),
            'state': state,
        },
    }))
    if not remote:
      unfinished.rename(path)
  except BaseException:
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


def _absolute(path: str | os.PathLike[str]) -> epath.Path:
  path = epath.Path(path)
  return path if _is_remote(path) else epath.Path(
      os.path.abspath(path.expanduser())
  )


def _is_remote(path: epath.Path) -> bool:
  return '://' in os.fspath(path)


def _is_checkpoint(path: epath.Path) -> bool:
  return (path / 'state').is_dir() or (path / 'checkpoint').is_file()


def _find(path: epath.Path) -> epath.Path:
  """The checkpoint itself; FileNotFoundError says which ones there are."""
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


def _check(path: epath.Path, found: _Flat, wanted: _Flat | None) -> None:
  """ValueError where tensors are not the wanted ones, or are not weights.

  Args:
    path: the checkpoint.
    found: name -> what has a shape and a dtype.
    wanted: the same; None for any.
  """
  for name, tensor in found.items():
    if not jax.numpy.issubdtype(tensor.dtype, np.floating):
      raise ValueError(f'{path}: {name} is {tensor.dtype}, not a weight')
  if wanted is None:
    return
  problems = [f'{name} is missing' for name in wanted if name not in found]
  problems += [f'{name} is not in the network' for name in found
               if name not in wanted]
  problems += [
      f'{name} is {tuple(found[name].shape)} where the network has'
      f' {tuple(tensor.shape)}'
      for name, tensor in wanted.items()
      if name in found and tuple(found[name].shape) != tuple(tensor.shape)
  ]
  if problems:
    shown = problems[:5] + [f'{len(problems) - 5} more'] * (len(problems) > 5)
    raise ValueError(
        f'{path} is of another model or another size: {"; ".join(shown)}'
    )


def _read_zarr(
    path: epath.Path, check: Callable[[_Flat], None]
) -> tuple[dict[str, np.ndarray], int]:
  """Reads T5X's first layout; `check` is given the shapes before the values."""
  content = (path / 'checkpoint').read_bytes()
  if content.startswith(b'model_checkpoint_path'):
    raise ValueError(
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
    raise ValueError(f'{path}/checkpoint is damaged: {_reason(e)}') from e
  if version < 2:
    raise ValueError(f'{path}: version {version} of the layout; T5X reads 2, 3')
  arrays = {
      name: _open(path, name, leaf) if _is_spec(leaf) else leaf
      for name, leaf in traverse_util.flatten_dict(
          target, sep='/', is_leaf=lambda _, leaf: _is_spec(leaf)
      ).items()
  }
  check({n: jax.ShapeDtypeStruct(a.shape, getattr(
      a.dtype, 'numpy_dtype', a.dtype)) for n, a in arrays.items()})
  # All at once: a bucket answers each one late.
  values = {n: a.read() if isinstance(a, ts.TensorStore) else a
            for n, a in arrays.items()}
  return {
      n: _wait(path, n, a) if isinstance(a, ts.Future) else a
      for n, a in values.items()
  }, step


def _read_orbax(
    path: epath.Path, check: Callable[[_Flat], None]
) -> tuple[dict[str, np.ndarray], int]:
  """Reads Orbax's layout; arguments as for `_read_zarr`."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    try:
      saved = checkpointer.metadata(path / 'state').item_metadata
      if saved is None:
        raise ValueError('it does not say what is in it')
      key = 'target' if 'target' in saved.tree else 'params'
      found = _flatten(saved.tree[key])
      names = ('state', 'step') if key == 'target' else ('step',)
      step = traverse_util.flatten_dict(saved.tree)[names]
    except Exception as e:  # Orbax has many errors.
      raise ValueError(f'{path} is damaged: {_reason(e)}') from e
    check(found)
    wanted = traverse_util.unflatten_dict({
        names: step, **{(key, *n.split('/')): a for n, a in found.items()}
    })
    try:
      restored = checkpointer.restore(path / 'state', ocp.args.PyTreeRestore(
          wanted,
          restore_args=jax.tree.map(
              lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
          ),
          partial_restore=True,
      ))
    except Exception as e:
      raise ValueError(f'{path} is damaged: {_reason(e)}') from e
  step = traverse_util.flatten_dict(restored)[names]
  return _flatten(restored[key]), int(step)


def _open(
    path: epath.Path, name: str, spec: Mapping[str, Any]
) -> ts.TensorStore:
  """Opens an array of the first layout.

  Args:
    path: the checkpoint.
    name: the tensor's, for messages.
    spec: as the checkpoint has it, with a path relative to the checkpoint and
      the store that it was written to, wherever the checkpoint lies today.
  """
  # TensorStore before 0.1.14 had the path outside.
  relative = spec['kvstore'].get('path', spec.get('path'))
  return _wait(path, name, ts.open({
      'driver': spec['driver'],
      'kvstore': _kvstore(path, relative),
      'metadata': {'shape': spec['metadata']['shape']},
      # A piece that is missing is not all zeros: T5X writes those too.
      'fill_missing_data_reads': False,
  }, open=True))


def _wait(path: epath.Path, name: str, future: ts.Future) -> Any:
  try:
    return future.result()
  except Exception as e:  # TensorStore raises ValueError and others.
    raise ValueError(f'{path}: {name} is damaged: {_reason(e)}') from e


def _kvstore(folder: epath.Path, name: str) -> dict[str, str]:
  """TensorStore's way to say where the files of an array lie."""
  path = f'{os.fspath(folder)}/{name.strip("/")}/'
  if path.startswith('gs://'):
    bucket, _, key = path.removeprefix('gs://').partition('/')
    return {'driver': 'gcs', 'bucket': bucket, 'path': key}
  return {'driver': 'file', 'path': path}


def _new_spec(name: str, values: Any) -> dict[str, Any]:
  """What stands in the msgpack for an array: its zarr, in rows of 64 MiB."""
  chunks = list(values.shape)
  if values.nbytes > _CHUNK_BYTES:
    row_bytes = values.nbytes // chunks[0]
    chunks[0] = max(1, _CHUNK_BYTES // row_bytes)
  return {
      'driver': 'zarr',
      'dtype': np.dtype(values.dtype).name,
      'kvstore': {
          'driver': 'file', 'path': f'target.{name.replace("/", ".")}/'
      },
      'metadata': {
          'chunks': chunks,
          'compressor': {'id': 'gzip', 'level': 1},
          'shape': list(values.shape),
      },
  }


def _first_slots(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
  """What T5X's Adafactor keeps of a weight, before its first update.

  Rows and columns are kept where the two largest axes have 128 or more, else
  the whole; what is not kept has shape (1,).
  """
  slots = {name: np.zeros(1, np.float32) for name in ('m', 'v_row', 'v_col')}
  # Axes from the smallest to the largest, as T5X orders them.
  *_, second, largest = (None, *np.argsort(shape))
  if len(shape) < 2 or shape[second] < _MIN_FACTORED:
    return slots | {'v': np.zeros(shape, np.float32)}
  return slots | {
      'v': np.zeros(1, np.float32),
      'v_row': np.zeros(np.delete(shape, largest), np.float32),
      'v_col': np.zeros(np.delete(shape, second), np.float32),
  }


def _flatten(tree: Params) -> _Flat:
  return traverse_util.flatten_dict(tree, sep='/')


def _is_spec(leaf: Any) -> bool:
  """Whether it says where an array lies; else it is one, or a tree of them."""
  return isinstance(leaf, Mapping) and leaf.keys() >= {
      'driver', 'kvstore', 'metadata'
  }


def _reason(error: Exception) -> str:
  """The first line of an error."""
  return str(error).strip().splitlines()[0] if str(error) else repr(error)
