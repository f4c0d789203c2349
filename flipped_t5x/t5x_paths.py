"""Paths of T5X's gin files, looked at before anything is compiled."""

from collections.abc import Sequence
import os

from flipped_t5x import errors
import tensorflow as tf


def run_folder(path: str) -> str:
  """A folder to write to; made if it is not there.

  Args:
    path: an absolute path, or one with a scheme such as `gs://`.

  Returns:
    The path.

  Raises:
    UserError: it is relative, or cannot be written to.
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
    path: folder of one step, such as `.../checkpoint_1000000`; empty or None to
      start from random weights.
    required: whether there must be one.

  Returns:
    What T5X's `RestoreCheckpointConfig.path` takes.

  Raises:
    UserError: there is none; names those that are there.
  """
  if not path:
    if required:
      raise errors.UserError('CHECKPOINT_PATH is empty: which weights?')
    return ()
  if not tf.io.gfile.exists(path):
    folder = os.path.dirname(path.rstrip('/'))
    there = []
    if tf.io.gfile.isdir(folder):
      there = [n.rstrip('/') for n in tf.io.gfile.listdir(folder)]
    steps = sorted(n for n in there if n.startswith('checkpoint_'))
    raise errors.UserError(
        f'{path}: no such checkpoint (INITIAL_CHECKPOINT_PATH or'
        f' CHECKPOINT_PATH); {folder} has {steps or "none"}'
    )
  return path
