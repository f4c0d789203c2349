"""Checkpoints of weights alone, of any size, in the layout of `checkpoints.py`.

Orbax would have all arrays in memory. It asks a type handler to write what it
finds in a tree; the one here is for tensors that have not been read yet, and
reads and writes them one after the other.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

from flipped_t5x.weights import stored_arrays
from flipped_t5x.weights import tensors as tensors_lib
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts


def write(
    model_dir: pathlib.Path, step: int, tensors: tensors_lib.Tensors
) -> None:
  """Writes `model_dir/checkpoints/STEP`, whole or not at all.

  Args:
    model_dir: the run's folder.
    step: the training step that the weights are of.
    tensors: the weights, read in this order, with no two in memory.

  Raises:
    OSError: it could not be written. What reading a tensor raises is raised as
      it is.
  """
  # The step, too: what Orbax writes itself it writes beside us, and goes on
  # when a tensor cannot be read and all is being removed.
  flat = {f'params/{name}': tensor for name, tensor in tensors.items()}
  flat |= tensors_lib.from_arrays({'step': np.asarray(step, np.int32)})
  tree = tensors_lib.tree(flat)
  registry = ocp.type_handlers.create_type_handler_registry(
      (tensors_lib.Tensor, _TensorHandler(flat)),
      (jax.Array, ocp.type_handlers.ArrayHandler()),  # Orbax warns without.
  )
  save_args = jax.tree.map(
      lambda _: ocp.SaveArgs(chunk_byte_size=stored_arrays.CHUNK_BYTES), tree
  )
  folder = model_dir.absolute() / 'checkpoints'
  try:
    with ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={'state': ocp.PyTreeCheckpointHandler(
            type_handler_registry=registry
        )},
    ) as manager:
      manager.save(step, args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(tree, save_args=save_args)
      ))
  except _ReadError as e:
    raise e.__cause__ from None
  except Exception as e:  # Orbax and TensorStore have many.
    reason = str(e).strip().splitlines()[0] if str(e) else repr(e)
    raise OSError(
        f'{folder}: step {step} could not be saved: {reason}'
    ) from e


class _ReadError(Exception):
  """A tensor could not be read; its cause says why."""


class _TensorHandler(ocp.type_handlers.NumpyHandler):
  """Writes tensors as arrays of NumPy, which they are once they are read."""

  def __init__(self, tensors: tensors_lib.Tensors):
    super().__init__(deepcopy_host_arrays=False)
    self._order = {
        name.replace('/', '.'): i for i, name in enumerate(tensors)
    }

  async def serialize(
      self,
      values: Sequence[tensors_lib.Tensor],
      infos: Sequence[ocp.type_handlers.ParamInfo],
      args: Sequence[ocp.SaveArgs] | None = None,
  ) -> Sequence[Any]:
    """Writes all there is before it returns."""
    args = args or [ocp.SaveArgs()] * len(values)
    for value, info, arg in sorted(
        zip(values, infos, args, strict=True),
        key=lambda part: self._order[part[1].name],
    ):
      written = await super().serialize([_read(value)], [info], [arg])
      while written:
        stored_arrays.wait(written.pop())
    return [ocp.future.NoopFuture()]

  async def _open_and_write(
      self, value: np.ndarray, tspec: dict[str, Any], ts_context: ts.Context
  ) -> None:
    """Orbax's own gives TensorStore the whole array at once."""
    stored_arrays.write(await ts.open(
        ts.Spec(tspec), create=True, open=True, context=ts_context
    ), value)


def _read(tensor: tensors_lib.Tensor) -> np.ndarray:
  try:
    return tensor.read()
  except Exception as e:
    raise _ReadError() from e
