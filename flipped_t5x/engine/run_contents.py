"""What a run was started with, compared when it resumes.

    MODEL_DIR/data.json             dataset -> where its rows came from, and the
                                    digests of rows and templates
    MODEL_DIR/sentencepiece.model   the vocabulary
    MODEL_DIR/initial_weights.json  the weights it started from, if not random

They are written once. Settings alone do not tell whether a file behind them has
changed.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.tasks import origins as origins_lib
from flipped_t5x.weights import initial_weights
from flipped_t5x.weights import model_files
from flipped_t5x.weights import run_config

DATA, WEIGHTS = origins_lib.FILE, initial_weights.FILE


def check(
    model_dir: pathlib.Path,
    origins: Mapping[str, Mapping[str, Any]],
    vocabulary: pathlib.Path,
) -> None:
  """Checks that a run resumes with the contents that it was started with.

  Args:
    model_dir: the run's folder; if it has no run yet, nothing is compared.
    origins: dataset -> its origin, see `arrays.Batches`.
    vocabulary: the SentencePiece file.

  Raises:
    UserError: a file has changed; the message names it.
  """
  if not (model_dir / run_config.CONFIG).exists():
    return
  changed = []
  if (model_dir / DATA).is_file():
    old = files.read_json(model_dir / DATA)
    changed += origins_lib.changed(old, origins)
  kept = model_dir / model_files.VOCABULARY
  if kept.is_file() and kept.read_bytes() != vocabulary.read_bytes():
    changed.append(f'VOCABULARY: {vocabulary} is not {kept}')
  if (model_dir / WEIGHTS).is_file():
    changed += _changed_weights(
        files.read_json(model_dir / WEIGHTS), vocabulary
    )
  if changed:
    raise errors.UserError(
        f'{model_dir} holds a run that was started with other contents:'
        f' {"; ".join(changed)}. Restore them, or choose another MODEL_DIR'
    )


def record(
    model_dir: pathlib.Path,
    origins: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Any] | None,
) -> None:
  """Writes what a run is started with, unless it is written.

  Args:
    model_dir: the run's folder.
    origins: see `check`.
    weights: `initial_weights.Digested.record` of the weights that the run
      starts from; None for random weights, and where none were read.

  Raises:
    UserError: other weights are recorded.
  """
  if not (model_dir / DATA).exists():
    files.write_json(model_dir / DATA, origins)
  if weights is None:
    return
  path = model_dir / WEIGHTS
  if not path.exists():
    files.write_json(path, weights)
  elif files.read_json(path).get('sha256') != weights['sha256']:
    raise errors.UserError(
        f'{model_dir} holds a run that was started from other weights than'
        f' those of {weights["path"]}: choose another MODEL_DIR, or delete it'
    )


def _changed_weights(
    recorded: Mapping[str, Any], vocabulary: pathlib.Path
) -> list[str]:
  """What to say of weights that have changed; they need not be there still."""
  path = files.any_path(recorded['path'])
  if recorded['files'] is None or not path.is_dir():
    return []
  if initial_weights.are(
      recorded, model_files.open(path, vocabulary=vocabulary)
  ):
    return []
  return [f'INITIAL_CHECKPOINT_PATH: the weights of {path} have changed']
