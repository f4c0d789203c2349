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

CONFIG = 'config.json'
# The setting that says where `flipped-t5x convert` took the weights from. Such
# a folder has no optimizer state and no data position to resume from.
CONVERTED_FROM = 'CONVERTED_FROM'


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
    fields['network'] = network_lib.T5Config(**fields['network'])
    return cls(**fields)


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
