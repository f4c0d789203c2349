"""A digest that tells weights apart, wherever and however they are stored."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

from flipped_t5x import tensors
import numpy as np


def sha256(params: Mapping[str, Any]) -> str:
  """Digest over names, shapes, types and bytes of all weights.

  Args:
    params: tree of arrays; each is read on its own.

  Returns:
    64 hexadecimal digits. They depend neither on the order of names nor on the
    device, but on the types, and on whether layers are stacked.
  """
  digest = hashlib.sha256()
  for name, tensor in sorted(tensors.of(params).items()):
    said = [name, list(tensor.shape), np.dtype(tensor.dtype).name]
    digest.update(json.dumps(said).encode())
    digest.update(np.ascontiguousarray(tensor.read()).tobytes())
  return digest.hexdigest()
