"""setup.py: what an installation contains."""

import pathlib
import runpy

import flipped_t5x
import flipped_t5x.tasks
import setuptools


def test_all_packages_are_installed(monkeypatch):
  given = {}
  monkeypatch.setattr(setuptools, 'setup', given.update)
  root = pathlib.Path(flipped_t5x.__file__).parents[1]
  runpy.run_path(str(root / 'setup.py'))
  folders = {
      path.parent.relative_to(root).as_posix().replace('/', '.')
      for path in root.glob('flipped_t5x/**/__init__.py')
  } | {
      'flipped_t5x.' + path.parent.relative_to(root).as_posix()
      .replace('/', '.') for path in root.glob('tasks/**/__init__.py')
  }
  assert set(given['packages']) == folders | {'flipped_t5x.gin'}
