"""`config.json`: what the folder of a run says about its model."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

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
    """Reads `config.json`; FileNotFoundError says what is missing."""
    path = model_dir / CONFIG
    if not path.is_file():
      raise FileNotFoundError(
          f'{path} not found: {model_dir} is not the folder of a run'
      )
    fields = files.read_json(path)
    fields['network'] = network_lib.T5Config(**fields['network'])
    return cls(**fields)
