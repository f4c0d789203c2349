"""Whether two models give the same logits, with one of them in memory."""

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
  """The logits of a model on random inputs, to compare another's with."""

  def __init__(self, files: model_files.ModelFiles, seed: int = 0):
    """Reads a model, and keeps its logits alone."""
    rng = np.random.default_rng(seed)
    inputs, targets = (
        rng.integers(_FIRST_ID, files.network.vocab_size, (_BATCH, length))
        for length in (_INPUT_LENGTH, _TARGET_LENGTH)
    )
    inputs[-1, -_PADDING:] = 0
    self._tokens = inputs, np.roll(targets, 1, axis=1), targets
    self._tokens[1][:, 0] = 0
    self._logits = _logits(files, self._tokens)

  def with_other(self, files: model_files.ModelFiles) -> tuple[float, float]:
    """Compares another model.

    Args:
      files: the model.

    Returns:
      The largest difference of logits, and the largest logit there is.

    Raises:
      UserError: logits are not finite.
    """
    logits = _logits(files, self._tokens)
    return (
        float(np.max(np.abs(logits - self._logits))),
        float(np.max(np.abs(self._logits))),
    )


def check_memory(nbytes: int) -> None:
  """OSError where Linux says that so many bytes are not free."""
  if not _MEMINFO.is_file():
    return
  free = re.search(r'^MemAvailable: +(\d+) kB', _MEMINFO.read_text(), re.M)
  needed = nbytes + nbytes // 10 + 10**9
  if free and int(free[1]) * 1024 < needed:
    raise OSError(
        'comparing logits has all weights of one model at a time in memory:'
        f' {needed / 1e9:.1f} GB are needed, {int(free[1]) * 1024 / 1e9:.1f} GB'
        ' are free; leave out --check'
    )


def _logits(
    files: model_files.ModelFiles,
    tokens: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
  """float32[batch, length, vocab], computed in float32."""
  config = dataclasses.replace(
      files.network, dtype='float32', scan_layers=False, remat_policy='none'
  )
  # In the types that are stored; the network computes in float32.
  params = tensors_lib.tree({
      name: jnp.asarray(tensor.read())
      for name, tensor in tensors_lib.unstacked(files.tensors).items()
  })
  # Not compiled as a whole: XLA would have all weights in float32 at once, and
  # take minutes.
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
  """What was freed; another model is to be read into it."""
  gc.collect()  # Flax has cycles, with the weights in them.
  with contextlib.suppress(AttributeError, OSError):  # Of glibc alone.
    ctypes.CDLL(None).malloc_trim(0)
