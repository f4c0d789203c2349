"""A run over the datasets of `demo_data`, with given weights."""

import pathlib

import demo_data
from flipped_t5x.engine import checkpoints
from flipped_t5x.weights import run_config
import numpy as np


def write(path: pathlib.Path, params: dict, step: int = 7) -> pathlib.Path:
  """Writes a run that records what a trained one records.

  Args:
    path: the folder to write.
    params: weights of `demo_data.NETWORK`.
    step: the step of its only checkpoint.

  Returns:
    The folder.
  """
  settings = {'MIXTURE': demo_data.MIXTURE, 'MAX_FIELD_CHARS': None}
  checkpoints.prepare(
      path,
      run_config.RunConfig(demo_data.NETWORK, 'flipped', 32, 16, settings),
      demo_data.vocabulary(),
  )
  saver = checkpoints.Checkpoints(path)
  saver.save(step, {'params': params, 'step': np.int32(step)}, b'')
  saver.close()
  return path
