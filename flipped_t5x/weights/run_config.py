"""`config.json`: what the folder of a run says about its model."""

import collections.abc
from collections.abc import Mapping
import dataclasses
import pathlib
import typing
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x.prompts import formats
from flipped_t5x.settings import macro_types

CONFIG = 'config.json'
# The setting that says where `flipped-t5x convert` took the weights from. Such
# a folder has no optimizer state and no data position to resume from.
CONVERTED_FROM = 'CONVERTED_FROM'
_LONGEST = 10**6  # Tokens; a longer text is a damaged number.


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """What a run folder says about its model.

  Attributes:
    network: the network's sizes.
    format: the text format; see `prompts/formats.py`.
    input_length: tokens of the encoder side, with EOS.
    target_length: tokens of the decoder side, with EOS.
    settings: macro -> value, for everything that could change a number.
  """

  network: network_lib.T5Config
  format: str
  input_length: int
  target_length: int
  settings: Mapping[str, Any]

  def write(self, model_dir: pathlib.Path) -> None:
    """Writes `config.json`, whole or not at all."""
    files.write_json(model_dir / CONFIG, dataclasses.asdict(self))

  @classmethod
  def read(cls, model_dir: pathlib.Path) -> 'RunConfig':
    """Reads `config.json`.

    Args:
      model_dir: the folder of the run.

    Raises:
      FileNotFoundError: there is none.
      UserError: the file is no JSON, a field is missing or of the wrong type,
        or it has one that this version does not know.
    """
    path = model_dir / CONFIG
    if not path.is_file():
      raise FileNotFoundError(
          f'{path} not found: {model_dir} is not the folder of a run'
      )
    fields = files.read_json(path)
    _check(cls, fields, str(path))
    _check(network_lib.T5Config, fields['network'], f'{path}: network')
    try:
      fields['network'] = network_lib.T5Config(**fields['network'])
    except errors.UserError as e:
      raise errors.UserError(f'{path}: network: {e}') from e
    check_use(fields, str(path))
    return cls(**fields)


def check_use(fields: Mapping[str, Any], where: str) -> None:
  """Checks what a file says of how a model is used.

  Args:
    fields: `format`, `input_length`, `target_length` and `settings`, of the
      types of `RunConfig`.
    where: the file, for the message.

  Raises:
    UserError: the format is unknown, a length is not positive, or a setting
      that is used again is of another type.
  """
  try:
    formats.get(fields['format'])
  except errors.UserError as e:
    raise errors.UserError(f'{where}: {e}') from e
  for name in ('input_length', 'target_length'):
    if not 1 <= fields[name] <= _LONGEST:
      raise errors.UserError(f'{where}: {name} is {fields[name]}')
  used = ('MAX_FIELD_CHARS', 'MIXTURE', 'INITIAL_CHECKPOINT_PATH')
  settings = fields['settings']
  macro_types.check({k: settings[k] for k in used if k in settings}, where)


# Type of a field -> the types that JSON has for it.
_JSON: Mapping[Any, tuple[type, ...]] = {
    int: (int,), float: (int, float), bool: (bool,), str: (str,),
    tuple: (list,), collections.abc.Mapping: (dict,),
    network_lib.T5Config: (dict,),
}


def _check(wanted: type, found: Mapping[str, Any], where: str) -> None:
  """UserError unless `found` has the fields of a dataclass."""
  fields = {field.name: field for field in dataclasses.fields(wanted)}
  missing = sorted(
      name for name, field in fields.items()
      if name not in found and field.default is dataclasses.MISSING
  )
  if missing:
    raise errors.UserError(f'{where}: {", ".join(missing)} is missing')
  unknown = sorted(found.keys() - fields.keys())
  if unknown:
    raise errors.UserError(
        f'{where}: {", ".join(unknown)} is not known to this version'
    )
  hints = typing.get_type_hints(wanted)
  for name, value in found.items():
    types = _JSON[typing.get_origin(hints[name]) or hints[name]]
    if not isinstance(value, types) or (
        isinstance(value, bool) and bool not in types
    ):
      raise errors.UserError(
          f'{where}: {name} is {value!r}, which is no {types[-1].__name__}'
      )
