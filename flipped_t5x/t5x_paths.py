"""Paths in T5X's gin files, checked before anything is compiled."""

from collections.abc import Callable, Sequence
import os
import pathlib
import uuid

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import locks
from flipped_t5x import t5x_settings
from flipped_t5x.tasks import origins as origins_lib
from flipped_t5x.weights import model_files
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import t5x_runs
import jax
import seqio
import tensorflow as tf


def run_folder(
    path: str,
    training: bool = False,
    alone: bool = True,
    origins: Callable[[], origins_lib.Origins] | None = None,
) -> str:
  """A folder to write to, which is made if it does not exist.

  Args:
    path: an absolute path, or one with a scheme such as `gs://`, or that
      begins with `~`.
    training: whether it is that of a training.
    alone: whether no other job may write to it until this process ends. Only
      folders on this machine, or on a disk that several share, have locks.
    origins: `registry.origins` or its like, which is asked when the folder is
      in order, and whose answer is kept there.

  Returns:
    The path.

  Raises:
    UserError: the path is relative, or cannot be written to, or has checkpoints
      or scores of other settings, rows or templates; or another job is writing
      there.
  """
  path = os.path.expanduser(path)
  if not os.path.isabs(path) and '://' not in path:
    raise errors.UserError(
        f'{path!r} is relative: T5X needs an absolute path, or gs://..., for'
        ' MODEL_DIR, EVAL_OUTPUT_DIR and INFER_OUTPUT_DIR'
    )
  # Hosts, and jobs that share the shards, come here at the same time.
  probe = os.path.join(path, f'.writable-{uuid.uuid4().hex[:8]}')
  try:
    tf.io.gfile.makedirs(path)
    with tf.io.gfile.GFile(probe, 'w') as f:
      f.write('')
    tf.io.gfile.remove(probe)
  except tf.errors.OpError as e:
    raise errors.UserError(f'{path}: cannot be written to: {e.message}') from e
  if alone and not files.is_remote(path) and jax.process_index() == 0:
    locks.hold_until_exit(
        pathlib.Path(path, '.lock'), path, 'choose another folder'
    )
  t5x_settings.check_folder(epath.Path(path), training)
  if origins:
    _check_origins(epath.Path(path), origins())
  return path


def _check_origins(folder: epath.Path, origins: origins_lib.Origins) -> None:
  """UserError if a run is of other rows or templates; a new one keeps them."""
  if not origins:
    return
  kept = folder / origins_lib.FILE
  if t5x_settings.is_begun(folder):
    old = files.read_json(kept) if kept.is_file() else origins
    changed = origins_lib.changed(old, origins)
    if changed:
      raise errors.UserError(
          f'{folder} holds a run of other contents: {"; ".join(changed)}.'
          ' Restore them, or choose another folder'
      )
  elif jax.process_index() == 0:
    files.write_json(kept, origins)


def model_dir(
    path: str,
    vocabulary: seqio.SentencePieceVocabulary,
    origins: Callable[[], origins_lib.Origins] | None = None,
) -> str:
  """The folder of a training, which keeps the vocabulary.

  Args:
    path: see `run_folder`.
    vocabulary: the vocabulary of the run.
    origins: see `run_folder`.

  Returns:
    The path.

  Raises:
    UserError: see `run_folder`; or the folder has checkpoints of another
      vocabulary.
  """
  path = run_folder(path, training=True, origins=origins)
  if jax.process_index() == 0:
    folder = epath.Path(path)
    if t5x_checkpoints.steps(folder):
      _check_vocabulary(folder, vocabulary)
    (folder / model_files.VOCABULARY).write_bytes(_content(vocabulary))
  return path


def checkpoint(
    path: str | None,
    required: bool = False,
    format: str | None = None,
    vocabulary: seqio.SentencePieceVocabulary | None = None,
) -> str | Sequence[str]:
  """A checkpoint to read weights from.

  Args:
    path: the folder of one step, such as `.../checkpoint_1000000`; empty or
      None for random weights.
    required: whether random weights are refused.
    format: the text format that the weights have to be of; None for any.
    vocabulary: the vocabulary that they have to be of; None for any.

  Returns:
    What T5X's `RestoreCheckpointConfig.path` takes.

  Raises:
    UserError: there is no checkpoint of T5X, and the message lists those
      nearby; or the run that it belongs to says that it is of another format or
      vocabulary.
  """
  if not path:
    if required:
      raise errors.UserError(
          'CHECKPOINT_PATH is empty: set it to the checkpoint to use'
      )
    return ()
  path = os.path.expanduser(path)
  folder = epath.Path(path)
  if not os.path.isabs(path) and '://' not in path:
    raise errors.UserError(
        f'{path}: T5X needs the absolute path of a checkpoint, or gs://..., and'
        f' no name on a hub or pypi:NAME; {_CONVERT.format(path)}'
    )
  if not t5x_checkpoints.is_checkpoint(folder) or _is_native(folder):
    raise errors.UserError(f'{path}: {_what_it_is(folder)}')
  trained = t5x_runs.format_of(folder.parent)
  if format and trained and trained != format:
    raise errors.UserError(
        f'{path} was trained in the format {trained!r}, and FORMAT is'
        f' {format!r}, in which its scores would be meaningless: take the gin'
        ' file of its method'
    )
  if vocabulary is not None:
    _check_vocabulary(folder.parent, vocabulary)
  return path


_CONVERT = (
    '`flipped-t5x convert {} NEW_FOLDER --to t5x` makes a checkpoint for T5X of'
    ' a run of flipped-t5x, of a Hugging Face model or of pypi:NAME'
)


def _is_native(folder: epath.Path) -> bool:
  """Whether a checkpoint is one of `flipped-t5x train`."""
  return folder.parent.name == 'checkpoints'


def _what_it_is(folder: epath.Path) -> str:
  """Why a folder is no checkpoint of T5X, and what to do."""
  inside = t5x_checkpoints.steps(folder)
  has_config = (folder / model_files.CONFIG).is_file()
  if _is_native(folder) or any(map(_is_native, inside.values())) or (
      has_config and not inside
  ):
    return f'not a checkpoint of T5X; {_CONVERT.format(folder)}'
  if inside:
    return (
        'the folder of a run; name one of its checkpoints'
        f' {[path.name for path in inside.values()]}'
    )
  beside = t5x_checkpoints.steps(folder.parent)
  return (
      'no such checkpoint (INITIAL_CHECKPOINT_PATH or CHECKPOINT_PATH);'
      f' {folder.parent} has {[p.name for p in beside.values()] or "none"}'
  )


def _check_vocabulary(
    run: epath.Path, vocabulary: seqio.SentencePieceVocabulary
) -> None:
  """UserError if a run has kept another vocabulary than this one."""
  kept = run / model_files.VOCABULARY
  if kept.is_file() and kept.read_bytes() != _content(vocabulary):
    raise errors.UserError(
        f'{kept}, the vocabulary of this run, is another one than'
        f' {os.fspath(vocabulary.sentencepiece_model_file)}; set'
        ' FLIPPED_T5X_VOCABULARY to the former'
    )


def _content(vocabulary: seqio.SentencePieceVocabulary) -> bytes:
  return files.any_path(vocabulary.sentencepiece_model_file).read_bytes()
