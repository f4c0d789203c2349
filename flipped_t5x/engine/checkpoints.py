"""Run folders: the settings, the vocabulary, and Orbax checkpoints.

    MODEL_DIR/
      config.json          network, format, lengths and every setting
      data.json            where the rows of each dataset came from
      initial_weights.json which weights it started from
      sentencepiece.model  the vocabulary, without sentinels
      metrics.jsonl        one line per logged step
      checkpoints/STEP/    weights, optimizer, step and data position
"""

import base64
import dataclasses
import json
import os
import pathlib
import re
import shutil
import time
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.engine import agreement
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import run_config
from flipped_t5x.weights import t5x_checkpoints
import jax
import orbax.checkpoint as ocp

_GLOB = re.compile(r'[*?\[]')
# Settings that may change when a run resumes; all others change its results.
RESUMABLE = frozenset((
    'CHECKPOINT_PERIOD', 'KEEP', 'LOG_PERIOD', 'MODEL_DIR', 'TRAIN_STEPS',
    'MODEL_PARALLEL', 'SHARD_PARAMS_OVER_DATA', 'NUM_MICROBATCHES',
    'NUM_LOGIT_CHUNKS', 'REMAT_POLICY', 'network.remat_policy',
    'COMPILATION_CACHE',
    'SCAN_LAYERS',  # Compared as the network's.
))


def prepare(
    model_dir: pathlib.Path,
    config: run_config.RunConfig,
    vocabulary: pathlib.Path,
) -> None:
  """Makes a run folder, or checks that an old one is of the same settings.

  Args:
    model_dir: the folder.
    config: the run's configuration.
    vocabulary: SentencePiece model to copy in.

  Raises:
    UserError: the folder holds a run of other settings, or converted weights
      without a run, or the embedding has fewer rows than the vocabulary has
      ids.
  """
  size = tokenization.load_vocabulary(vocabulary).vocab_size
  if config.network.vocab_size < size:
    raise errors.UserError(
        f'{vocabulary} has {size} ids but the network a vocab_size of'
        f' {config.network.vocab_size}; it must be at least as large, or'
        ' VOCABULARY another file'
    )
  if not (model_dir / 'config.json').exists():
    model_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(vocabulary, model_dir / 'sentencepiece.model')
    config.write(model_dir)
    return
  found = run_config.RunConfig.read(model_dir)
  if run_config.CONVERTED_FROM in found.settings:
    raise errors.UserError(
        f'{model_dir} holds weights converted from'
        f' {found.settings[run_config.CONVERTED_FROM]}, not a run that can'
        ' resume: choose another MODEL_DIR, and start from them with'
        f' INITIAL_CHECKPOINT_PATH={str(model_dir)!r}'
    )
  old, new = _comparable(found), _comparable(config)
  differing = [
      f'{k}: {old.get(k)!r} there, {new.get(k)!r} now'
      for k in sorted(old.keys() | new.keys())
      if old.get(k) != new.get(k)
  ]
  if differing:
    raise errors.UserError(
        f'{model_dir} holds a run of other settings ({"; ".join(differing)});'
        ' choose another MODEL_DIR, or delete that folder'
    )
  config.write(model_dir)


def wait_for(model_dir: pathlib.Path, seconds: float = 60) -> None:
  """Waits until this host sees the folder that host 0 has prepared.

  Args:
    model_dir: the folder.
    seconds: how long to wait: NFS caches that a file does not exist.

  Raises:
    FileNotFoundError: the folder did not appear in that time.
  """
  deadline = time.monotonic() + seconds
  while not (model_dir / 'config.json').exists():
    if time.monotonic() > deadline:
      raise FileNotFoundError(
          f'{model_dir}: this host does not see what host 0 wrote there;'
          ' MODEL_DIR must be on a disk that all hosts share'
      )
    time.sleep(0.2)


def _comparable(config: run_config.RunConfig) -> dict[str, Any]:
  """All settings that must stay the same when a run resumes."""
  flat = json.loads(json.dumps(dataclasses.asdict(config)))
  # Runs from before this setting existed had one shard.
  settings = {'DATA_SHARDS': 1} | flat.pop('settings')
  flat.update(
      {f'network.{k}': v for k, v in flat.pop('network').items()}
  )
  flat.update(settings)
  return {k: v for k, v in flat.items() if k not in RESUMABLE}


class Checkpoints:
  """The checkpoints of one run folder."""

  def __init__(self, model_dir: pathlib.Path, keep: int | None = None):
    """Opens or makes `model_dir/checkpoints`; keeps the `keep` newest steps.

    Raises:
      UserError: Orbax could not write there.
    """
    self._folder = pathlib.Path(os.path.abspath(model_dir)) / 'checkpoints'
    if _GLOB.search(str(self._folder)):
      raise errors.UserError(
          f'MODEL_DIR: {self._folder.parent}: Orbax takes *, ? and [ in a path'
          ' for a pattern, and its checkpoints could not be read: choose'
          ' another name'
      )
    self._keep = keep
    self._manager = ocp.CheckpointManager(
        self._folder,
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
    )

  def save(self, step: int, state: Any, *positions: bytes) -> None:
    """Saves a step, whole or not at all, and deletes those not to be kept.

    Args:
      step: the step's number.
      state: tree of arrays.
      *positions: the position in the data on each host; the same on all hosts.

    Raises:
      OSError: it could not be written, or what was written has not all arrays;
        earlier checkpoints are as they were.
    """
    if step in self._manager.all_steps():
      return
    try:
      self._manager.save(
          step,
          args=ocp.args.Composite(
              state=ocp.args.StandardSave(state),
              data=ocp.args.JsonSave({'positions': [
                  base64.b64encode(p).decode() for p in dict.fromkeys(positions)
              ]}),
          ),
      )
      self._manager.wait_until_finished()
    except Exception as e:  # Orbax and TensorStore have many; all are fatal.
      self._remove_unfinished(step)
      raise self._not_saved(step, e, 'Make room') from e
    with agreement.fail_together():
      try:
        self._check_shapes(step, state)
      except Exception as e:
        self._manager.delete(step)
        raise self._not_saved(step, e, 'Check the disk') from e
    # Only now, since it is known that there is a newer one that can be read.
    for old in self._manager.all_steps()[: -self._keep if self._keep else 0]:
      self._manager.delete(old)

  def _remove_unfinished(self, step: int) -> None:
    """Makes the room free that a failed save has taken."""
    if jax.process_index():
      return
    for left in self._folder.glob(f'{step}{ocp.utils.TMP_DIR_SUFFIX}*'):
      # What is left is removed by Orbax when the run resumes.
      shutil.rmtree(left, ignore_errors=True)

  def _not_saved(self, step: int, error: Exception, advice: str) -> OSError:
    return OSError(
        f'{self._folder}: step {step} could not be saved:'
        f' {files.first_line(error)}; {self.last_good}. {advice}, then start'
        ' the same command again'
    )

  @property
  def latest(self) -> int | None:
    """The newest complete step."""
    self._manager.reload()
    return self._manager.latest_step()

  @property
  def last_good(self) -> str:
    """A phrase about the newest complete step, for messages."""
    if self.latest is None:
      return 'no checkpoint has been saved yet'
    return f'the last good checkpoint is step {self.latest}'

  def restore(self, step: int, like: Any) -> tuple[Any, list[bytes]]:
    """Restores a step.

    Args:
      step: the step's number.
      like: tree of arrays or `jax.ShapeDtypeStruct`s as they were saved.

    Returns:
      The state and the positions of the data.

    Raises:
      UserError: the checkpoint is damaged or incomplete, or its arrays have
        other names or shapes.
    """
    try:
      self._check_shapes(step, like)
      restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
              state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
          ),
      )
      data = restored.data
      found = data['positions'] if 'positions' in data else [data['position']]
      return restored.state, [base64.b64decode(p) for p in found]
    except (errors.UserError, MemoryError):
      raise
    except Exception as e:  # Orbax and TensorStore have many.
      raise errors.UserError(
          f'{self._folder / str(step)} cannot be read: {files.first_line(e)}.'
          ' If it is incomplete, copy it again, or delete it to resume from an'
          ' older one'
      ) from e

  def close(self) -> None:
    """Releases what Orbax holds."""
    self._manager.close()

  def _check_shapes(self, step: int, like: Any) -> None:
    """Raises UserError unless the checkpoint has the arrays of `like`."""
    path = self._folder / str(step)
    if not path.is_dir():
      raise FileNotFoundError(f'{path}: no such checkpoint')
    saved = t5x_checkpoints.shapes(path)
    wanted = _shapes(like)
    # An extra layer is an error too: Orbax would leave it out in silence.
    weights = {name for name in saved if name.startswith('params/')}
    for name in sorted(weights | wanted.keys()):
      if saved.get(name) != wanted.get(name):
        raise errors.UserError(
            f'{path}: {name} is {saved.get(name, "missing")} where the'
            f' network has {wanted.get(name, "none")}: the checkpoint is of a'
            ' model of another size'
        )


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
      '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k))))
               for k in path): tuple(leaf.shape)
      for path, leaf in leaves
      if hasattr(leaf, 'shape')
  }
