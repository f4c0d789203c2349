"""The floors of the package: each file imports from lower floors alone."""

import ast
import pathlib
import subprocess
import sys

import flipped_t5x
import flipped_t5x.tasks
import pytest

# A package or a module of the root -> its floor; see docs/architecture.md.
FLOORS = {
    'errors': -4,  # The ground: any file may import it.
    'locks': -3,
    'files': -2,
    'structure': -1,
    'colours': 0, 'compilation_cache': 0, 'hub_errors': 0, 'libtpu_loading': 0,
    'packages': 0, 'settings': 0,
    'prompts': 0, 'terminal': 0,
    'gin_config': 1, 'network': 1, 'objectives': 1, 'ranking': 1,
    'vocabulary_files': 1,
    'feature_converters': 2, 'lm_eval_prompt': 2, 'partitioning': 2,
    't5x_infer': 2, 't5x_network': 2, 't5x_settings': 2, 'tasks': 2,
    'weights': 2,
    'engine': 3, 'inference': 3, 'inspection': 3, 't5x_paths': 3,
    'tables': 3,
    'evaluation': 4, 'lm_eval_model': 4, 'models': 4, 'new_task': 4,
    'precompile': 4,
    't5x_main': 4,
    'fine_tuning': 5, 'reports': 5, 'serving': 5,
    'cli': 6,
    'experiment': 7,
}
TENSORFLOW = {'tasks', 'models', 'feature_converters', 't5x_paths'}
PACKAGE = pathlib.Path(flipped_t5x.__file__).parent
TASKS = pathlib.Path(flipped_t5x.tasks.__file__).parent


def files():
  """(room, path) of each file of the package."""
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    if parts != ('__init__',):
      yield parts[0], path
  for path in sorted(TASKS.rglob('*.py')):
    yield 'tasks', path


def imported(path):
  """The modules that a file imports, those inside functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def rooms_of(module):
  """The room of `flipped_t5x.ROOM...`, if that is what it is."""
  package, _, rest = module.partition('.')
  return {rest.split('.')[0]} if package == 'flipped_t5x' and rest else set()


def test_every_room_has_a_floor():
  rooms = {room for room, _ in files()}
  assert rooms == FLOORS.keys(), rooms ^ FLOORS.keys()


@pytest.mark.parametrize('room', sorted(FLOORS))
def test_no_import_runs_up(room):
  faults = []
  for own, path in files():
    if own != room:
      continue
    for module in imported(path):
      for other in rooms_of(module) - {room}:
        if FLOORS[other] >= FLOORS[room]:
          faults.append(
              f'{path}: {room} (floor {FLOORS[room]}) imports {module} (floor'
              f' {FLOORS[other]})'
          )
  assert not faults, '\n'.join(faults)


def test_tensorflow_has_its_rooms():
  for room, path in files():
    if room not in TENSORFLOW:
      for module in imported(path):
        top = module.split('.')[0]
        assert top not in ('tensorflow', 'seqio', 't5x'), f'{path}: {module}'


@pytest.mark.process
@pytest.mark.parametrize('modules, absent', (
    (('cli.main', 'cli.report', 'reports.report'), ('jax', 'tensorflow')),
    (('prompts.examples', 'prompts.arrays'), ('jax', 'tensorflow')),
    (('cli.rank', 'cli.guess', 'cli.explain'),
     ('orbax.checkpoint', 'pyarrow', 'openpyxl', 'matplotlib')),
    (('cli.train', 'inference.model', 'cli.evaluate'), ('tensorflow', 'seqio')),
))
def test_what_importing_loads(modules, absent):
  script = ''.join(f'import flipped_t5x.{name}\n' for name in modules)
  script += f'import sys\nprint([n for n in {absent} if n in sys.modules])'
  printed = subprocess.run(
      [sys.executable, '-c', script], capture_output=True, check=True, text=True
  ).stdout
  assert printed.strip() == '[]'
