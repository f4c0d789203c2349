"""The log of a run where its disk is full."""

import resource

from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import run_log
import jax.numpy as jnp
import pytest


@pytest.mark.parametrize('size, name', ((0, 'tensorboard'), (60, 'metrics')))
def test_no_room_for_the_log(size, name, tmp_path):
  """Neither for TensorBoard's first bytes, nor for a line."""
  saver = checkpoints.Checkpoints(tmp_path)
  log = run_log.RunLog(tmp_path, 0, 2)
  log.add(1, 4, {'loss': jnp.float32(0.5)})
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    with pytest.raises(
        OSError, match=f'^step 1 could not be logged: {tmp_path}/{name}.* could'
        ' not be written: .*File too large; no checkpoint has been saved yet',
    ):
      log.write(saver)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.close()
  # A line that is not whole is left out when the run resumes.
  assert '\n' not in (tmp_path / 'metrics.jsonl').read_text()
