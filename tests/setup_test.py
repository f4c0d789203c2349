"""setup.py: what an installation contains."""

import itertools
import pathlib
import re
import runpy

import flipped_t5x
import flipped_t5x.tasks
import pytest
import setuptools

ROOT = pathlib.Path(flipped_t5x.__file__).parents[1]


@pytest.fixture
def given(monkeypatch):
  """What setup.py tells setuptools."""
  arguments = {}
  monkeypatch.setattr(setuptools, 'setup', arguments.update)
  runpy.run_path(str(ROOT / 'setup.py'))
  return arguments


def test_all_packages_are_installed(given):
  folders = {
      path.parent.relative_to(ROOT).as_posix().replace('/', '.')
      for path in ROOT.glob('flipped_t5x/**/__init__.py')
  } | {
      'flipped_t5x.' + path.parent.relative_to(ROOT).as_posix()
      .replace('/', '.') for path in ROOT.glob('tasks/**/__init__.py')
  }
  assert set(given['packages']) == folders | {'flipped_t5x.gin'}


def test_extras_that_are_asked_for_exist(given):
  """The pip of Python 3.11 says nothing of one that does not, nor fails."""
  extras = set(given['extras_require'])
  # That pip looks for a-b where a_b is asked for, and does not find a_b.
  assert all(re.fullmatch('[a-z0-9]+(-[a-z0-9]+)*', name) for name in extras)
  asked = {}
  for path in itertools.chain(
      ROOT.glob('*.md'), [ROOT / 'Makefile'], (ROOT / 'docs').glob('*.md'),
      (ROOT / 'tpu_scripts').iterdir(), (ROOT / 'benchmarks').glob('*.md'),
      ROOT.glob('flipped_t5x/**/*.py'), ROOT.glob('tests/**/*.py'),
  ):
    for names in re.findall(r'[ \'"`]\.\[([\w,-]+)\]', path.read_text()):
      asked |= dict.fromkeys(names.split(','), path)
  assert {'lm-eval', 'seqio', 'test', 'torch', 'docs', 'tpu'} <= asked.keys()
  unknown = {name: path for name, path in asked.items() if name not in extras}
  assert not unknown
