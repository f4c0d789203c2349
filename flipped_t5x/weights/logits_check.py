"""Compares the logits of two models, of which one at a time is in memory."""

import contextlib
import ctypes
import dataclasses
import gc
import pathlib
import re

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x.weights import model_files
from flipped_t5x.weights import tensors as tensors_lib
import jax.numpy as jnp
import numpy as np

_MEMINFO = pathlib.Path('/proc/meminfo')
_BATCH, _INPUT_LENGTH, _TARGET_LENGTH = 2, 16, 8
_FIRST_ID, _PADDING = 3, 4


class Comparison:
  """The logits of a model on random inputs, to compare with another model's."""

  def __init__(self, files: model_files.ModelFiles, seed: int = 0):
    """Computes the logits of a model, and keeps nothing else of it.

    Args:
      files: the model.
      seed: for the random inputs.
    """
    rng = np.random.default_rng(seed)
    inputs, targets = (
        rng.integers(_FIRST_ID, files.network.vocab_size, (_BATCH, length))
        for length in (_INPUT_LENGTH, _TARGET_LENGTH)
    )
    inputs[-1, -_PADDING:] = 0
    previous = np.roll(targets, 1, axis=1)
    previous[:, 0] = 0
    self._tokens = inputs, previous, targets
    self._logits = _logits(files, self._tokens)

  def with_other(self, files: model_files.ModelFiles) -> tuple[float, float]:
    """Compares with another model.

    Args:
      files: the other model.

    Returns:
      The largest difference between logits, and the first model's largest
      absolute logit.

    Raises:
      UserError: some logits are not finite.
    """
    logits = _logits(files, self._tokens)
    return (
        float(np.max(np.abs(logits - self._logits))),
        float(np.max(np.abs(self._logits))),
    )


def check_memory(nbytes: int) -> None:
  """Raises OSError if Linux reports that too little memory is free.

  Args:
    nbytes: the bytes of the larger model's weights.
  """
  if not _MEMINFO.is_file():
    return
  free = re.search(r'^MemAvailable: +(\d+) kB', _MEMINFO.read_text(), re.M)
  needed = nbytes + nbytes // 10 + 10**9
  if free and int(free[1]) * 1024 < needed:
    raise OSError(
        'comparing logits needs memory for all weights of a model:'
        f' {needed / 1e9:.1f} GB are needed, {int(free[1]) * 1024 / 1e9:.1f} GB'
        ' are free; leave out --check'
    )


def _logits(
    files: model_files.ModelFiles,
    tokens: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
  """The logits, float32[batch, length, vocab], computed in float32."""
  config = dataclasses.replace(
      files.network, dtype='float32', scan_layers=False, remat_policy='none'
  )
  # The types stay as stored; the network itself computes in float32.
  params = tensors_lib.tree({
      name: jnp.asarray(tensor.read())
      for name, tensor in tensors_lib.unstacked(files.tensors).items()
  })
  # Not jitted: XLA would hold all weights in float32 at once, and take minutes
  # to compile.
  logits = np.asarray(network_lib.Transformer(config).apply(
      {'params': params}, *map(jnp.asarray, tokens), enable_dropout=False
  ))
  del params
  _give_back_memory()
  if not np.all(np.isfinite(logits)):
    raise errors.UserError(
        f'{files.path}: logits on random inputs are not finite'
    )
  return logits


def _give_back_memory() -> None:
  """Returns freed memory to the system, for the next model."""
  gc.collect()  # Reference cycles in Flax hold the weights.
  with contextlib.suppress(AttributeError, OSError):  # Only glibc has it.
    ctypes.CDLL(None).malloc_trim(0)
