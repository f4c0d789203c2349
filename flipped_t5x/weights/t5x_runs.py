"""What the folder of T5X's run says about its checkpoints.

`config.gin` is T5X's own file; `sentencepiece.model` is that of this project's
gin files. `flipped-t5x convert --to t5x` writes `config.json` instead.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import gin_config
from flipped_t5x.prompts import formats
from flipped_t5x.weights import run_config

VOCABULARY = 'sentencepiece.model'


def settings(run: epath.Path) -> dict[str, Any]:
  """The settings in a run's `config.gin`; empty if it has none."""
  config = run / gin_config.T5X_CONFIG
  return gin_config.macros_of(config.read_text()) if config.is_file() else {}


def format_of(run: epath.Path) -> str | None:
  """The text format of a run's weights; None if its folder does not say."""
  config = run / run_config.CONFIG
  if config.is_file():
    return files.read_json(config).get('format')
  return settings(run).get('FORMAT')


def model_fields(run: epath.Path) -> Mapping[str, Any]:
  """What a run's `config.gin` says about its model.

  Args:
    run: the folder of the checkpoints.

  Returns:
    Some of `format`, `input_length`, `target_length`, `settings` and
    `vocabulary`, as fields of `model_files.ModelFiles`; empty if the run is not
    one of this project's gin files.

  Raises:
    UserError: the format is unknown, or a length is no number.
  """
  found = settings(run)
  fields = {
      name.lower(): found[name]
      for name in ('FORMAT', 'INPUT_LENGTH', 'TARGET_LENGTH') if name in found
  }
  if len(fields) < 3:
    return {}
  formats.get(fields['format'])
  for name in ('input_length', 'target_length'):
    if not isinstance(fields[name], int):
      raise errors.UserError(
          f'{run / gin_config.T5X_CONFIG}: {name.upper()} is {fields[name]!r}'
      )
  vocabulary = run / VOCABULARY
  if vocabulary.is_file():
    fields['vocabulary'] = _local(vocabulary)
  return {**fields, 'settings': found}


def _local(path: epath.Path) -> pathlib.Path:
  """A file, or a copy of one in a bucket."""
  if '://' not in str(path):
    return pathlib.Path(path)
  content = path.read_bytes()
  copy = (
      files.data_folder() / 'vocabularies'
      / f't5x-{files.sha256(content)[:16]}.model'
  )
  if not copy.is_file():
    copy.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(copy) as unfinished:
      unfinished.write_bytes(content)
  return copy
