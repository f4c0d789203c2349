"""Which weights a run was started from: their digest.

    MODEL_DIR/initial_weights.json   path, sha256, and a digest of the files'
                                     names, sizes and times
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, Protocol

from etils import epath
from flipped_t5x import files
from flipped_t5x.weights import tensors as tensors_lib
import numpy as np

FILE = 'initial_weights.json'


class Opened(Protocol):
  """A model that has not been read yet, see `model_files.ModelFiles`."""

  @property
  def path(self) -> epath.Path: ...

  @property
  def tensors(self) -> tensors_lib.Tensors: ...

  @property
  def step(self) -> int | None: ...


def are(recorded: Mapping[str, Any], opened: Opened) -> bool:
  """Whether weights are the recorded ones; they are read if need be.

  Args:
    recorded: the content of the file.
    opened: the model.
  """
  digested = Digested.of(opened)
  if recorded['files'] is not None and (
      _listing(digested.path) == recorded['files']
  ):
    return True
  for tensor in digested.tensors.values():
    tensor.read()
  return digested.record()['sha256'] == recorded['sha256']


@dataclasses.dataclass(frozen=True)
class Digested:
  """Weights whose digest is computed while they are read.

  Attributes:
    path: the checkpoint.
    tensors: the weights; each must be read once.
    digests: name -> digest of the weights that have been read.
  """

  path: epath.Path
  tensors: tensors_lib.Tensors
  digests: dict[str, str] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, opened: Opened) -> 'Digested':
    """The weights of a model, layers apart."""
    digests: dict[str, str] = {}

    def digested(name, tensor):
      def read() -> np.ndarray:
        values = tensor.read()
        digests[name] = hashlib.sha256(
            np.ascontiguousarray(values).tobytes()
        ).hexdigest()
        return values

      return dataclasses.replace(tensor, read=read)

    apart = tensors_lib.unstacked(opened.tensors)
    return cls(
        _checkpoint(opened), {n: digested(n, t) for n, t in apart.items()},
        digests,
    )

  def record(self) -> dict[str, Any]:
    """JSON that identifies the weights, once all have been read."""
    return {
        'path': os.fspath(self.path),
        'sha256': files.sha256(
            json.dumps(sorted(self.digests.items())).encode()
        ),
        'files': _listing(self.path),
    }


def _checkpoint(opened: Opened) -> epath.Path:
  """The folder of the weights alone: a run may have saved more steps later."""
  path, step = opened.path, opened.step
  for inside in (path / 'checkpoints' / str(step), path / f'checkpoint_{step}'):
    if inside.is_dir():
      return inside
  return path


def _listing(folder: epath.Path) -> str | None:
  """A digest of names, sizes and times; None in a bucket, where it is slow."""
  if '://' in os.fspath(folder):
    return None
  found = []
  for path in sorted(pathlib.Path(folder).rglob('*')):
    if path.is_file():
      stat = path.stat()
      found.append([str(path), stat.st_size, stat.st_mtime_ns])
  return files.sha256(json.dumps(found).encode())
