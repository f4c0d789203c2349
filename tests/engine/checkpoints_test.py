"""Checkpoints: they are read back before they count, or are not taken."""

import pathlib
import resource
import shutil

from flipped_t5x import errors
from flipped_t5x.engine import checkpoints
from flipped_t5x.weights import t5x_checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest


def state(number):
  return {
      'params': {'a': {'b': jnp.full((3, 2), number, jnp.float32)}},
      'opt_state': (jnp.zeros(4),), 'step': jnp.int32(number),
  }


@pytest.fixture
def folder(tmp_path):
  """A run with the steps 1, 2 and 3."""
  saver = checkpoints.Checkpoints(tmp_path / 'run')
  for step in (1, 2, 3):
    saver.save(step, state(step), b'at %d' % step)
  saver.close()
  return tmp_path / 'run'


def numbers(folder):
  return sorted(int(p.name) for p in (folder / 'checkpoints').iterdir())


def test_shapes(folder):
  assert t5x_checkpoints.shapes(folder / 'checkpoints' / '2') == {
      'params/a/b': (3, 2), 'opt_state/0': (4,), 'step': (),
  }


@pytest.mark.parametrize('keep, kept', ((None, [1, 2, 3]), (2, [2, 3])))
def test_how_many_are_kept(tmp_path, keep, kept):
  saver = checkpoints.Checkpoints(tmp_path, keep)
  for step in (1, 2, 3):
    saver.save(step, state(step), b'')
  assert saver.latest == 3
  assert numbers(tmp_path) == kept


def test_a_save_for_which_there_is_no_room_leaves_nothing(tmp_path):
  large = {'a': jnp.asarray(np.random.default_rng(0).normal(size=100_000))}
  saver = checkpoints.Checkpoints(tmp_path)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
  try:
    with pytest.raises(OSError, match='step 7 could not be saved: .*Make room'):
      saver.save(7, large, b'')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert list((tmp_path / 'checkpoints').iterdir()) == []
  saver.save(7, large, b'')
  assert numbers(tmp_path) == [7]


@pytest.mark.parametrize('name', ('lr=[0.1]', 'a*', 'a?'))
def test_a_path_that_orbax_takes_for_a_pattern(tmp_path, name):
  folder = tmp_path / name / 'run'
  message = r'MODEL_DIR: .*/run: Orbax takes \*, \? and \['
  with pytest.raises(errors.UserError, match=message):
    checkpoints.Checkpoints(folder)
  assert not folder.exists()


def test_a_save_that_cannot_be_read_does_not_count(
    folder, monkeypatch, capfd
):
  """Nor does it cost the older one."""
  saver = checkpoints.Checkpoints(folder, keep=1)
  wait = saver._manager.wait_until_finished

  def wait_and_lose():
    wait()
    (folder / 'checkpoints/4/state/manifest.ocdbt').unlink(missing_ok=True)

  monkeypatch.setattr(saver._manager, 'wait_until_finished', wait_and_lose)
  capfd.readouterr()
  with pytest.raises(OSError, match=(
      rf'^{folder}/checkpoints: step 4 could not be saved: .* is damaged: .*;'
      ' the last good checkpoint is step 3. Check the disk'
  )):
    saver.save(4, state(4), b'')
  assert numbers(folder) == [1, 2, 3]
  assert 'Traceback' not in capfd.readouterr().err
  monkeypatch.undo()
  saver.save(4, state(4), b'')
  assert numbers(folder) == [4]


def files(folder):
  return sorted(
      str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()
      and p.name != 'commit_success.txt'  # A copy of a bucket has them.
  )


def test_copied_in_part(folder, capfd):
  """Whatever file is missing: an error that names the checkpoint, or all."""
  whole = folder / 'checkpoints' / '3'
  kept = folder.parent / 'kept'
  shutil.copytree(whole, kept)
  names = [*files(whole), 'state', 'data', 'state/d', 'state/ocdbt.process_0']
  refused = set()
  for name in names:
    lost = whole / name
    if lost.is_dir():
      shutil.rmtree(lost)
    else:
      lost.unlink()
    saver = checkpoints.Checkpoints(folder)
    assert saver.latest == 3
    capfd.readouterr()
    try:
      found, positions = saver.restore(3, state(0))
    except errors.UserError as e:
      refused.add(name)
      assert str(whole) in str(e) and len(str(e).splitlines()) == 1, name
    else:
      jax.tree.map(np.testing.assert_array_equal, found, state(3))
      assert positions == [b'at 3'], name
    assert 'Traceback' not in capfd.readouterr().err, name
    saver.close()
    shutil.rmtree(whole)
    shutil.copytree(kept, whole)
  assert refused >= {
      'state', 'state/_METADATA', 'state/manifest.ocdbt', 'state/d',
      'data', 'data/metadata',
  }


@pytest.mark.parametrize('name', ('state/_METADATA', 'data/metadata'))
@pytest.mark.parametrize('content', ('', '[]', '{"a": 1}', '{"a"'))
def test_damaged_json(folder, name, content):
  (folder / 'checkpoints' / '3' / name).write_text(content)
  with pytest.raises(errors.UserError, match=f'{folder}/checkpoints/3'):
    checkpoints.Checkpoints(folder).restore(3, state(0))


def test_relative_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  checkpoints.Checkpoints(pathlib.Path('run/../run')).save(1, state(1), b'')
  assert numbers(tmp_path / 'run') == [1]
