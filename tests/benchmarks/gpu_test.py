"""benchmarks/gpu.sh: all parts on a CPU, and parts that fail or take long."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import demo_archive
import demo_data
import pytest
import xla_flags

FOLDER = pathlib.Path(__file__).parents[2] / 'benchmarks'
MINE = {
    'mine/__init__.py': b'NUMBER = 5',
    'mine-1.0.dist-info/METADATA':
        b'Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n',
    'mine-1.0.dist-info/WHEEL': b'Wheel-Version: 1.0\nGenerator: test\n'
        b'Root-Is-Purelib: true\nTag: py3-none-any\n',
    'mine-1.0.dist-info/RECORD': b'',
}


@pytest.fixture(scope='module')
def gpu():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(FOLDER))
    yield importlib.import_module('gpu')


def part(gpu, code, *more):
  return gpu.Part('mine', 1, [['-c', text] for text in (code, *more)])


def run(gpu, tmp_path, some, seconds=60.0):
  return gpu.run(some, time.monotonic() + seconds, dict(os.environ), tmp_path)


def test_a_part_that_fails_shows_its_log(gpu, tmp_path):
  code = 'import sys; print("table"); sys.exit("disk full")'
  status, printed = run(gpu, tmp_path, part(gpu, code, 'print("never")'))
  assert status.startswith('FAILED with status 1 after ')
  assert printed == 'table\ndisk full\n'


def test_commands_of_a_part(gpu, tmp_path):
  code = 'import sys; print("progress", file=sys.stderr); print(1)'
  status, printed = run(gpu, tmp_path, part(gpu, code, 'print(2)'))
  assert status.startswith('done after ') and printed == '1\n2\n'


def test_a_part_that_takes_too_long_ends_with_its_processes(gpu, tmp_path):
  child = 'import time; time.sleep(5); open("late", "w")'
  code = (
      'import subprocess, sys, time\n'
      'print("half", flush=True)\n'
      f'subprocess.Popen([sys.executable, "-c", {child!r}])\n'
      'time.sleep(60)'
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path)
    status, printed = run(gpu, tmp_path, part(gpu, code), seconds=2)
    time.sleep(6)
  assert status.startswith('STOPPED: its time was up after ')
  assert printed.startswith('half\n')
  assert not (tmp_path / 'late').exists()


@pytest.mark.process
def test_only_missing_wheels_are_installed(gpu, tmp_path):
  wheels, site = tmp_path / 'wheels', tmp_path / 'site'
  wheels.mkdir()
  site.mkdir()
  (wheels / 'mine-1.0-py3-none-any.whl').write_bytes(demo_archive.wheel(MINE))
  (wheels / 'numpy-9.0-py3-none-any.whl').write_bytes(b'not looked at')
  gpu.install(wheels, site)
  code = (
      'import flipped_t5x.tasks.catalog as c, mine; from flipped_t5x import'
      ' gin_config; print(c.__file__, mine.NUMBER)'
  )
  done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True,
      env={**os.environ, 'PYTHONPATH': str(site)}, cwd=tmp_path,
  )
  assert done.stdout == f'{site}/flipped_t5x/tasks/catalog.py 5\n'


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.torch
def test_all_parts_on_a_cpu(tmp_path, monkeypatch):
  (tmp_path / 'data').mkdir()
  demo_data.install(tmp_path / 'data', monkeypatch)
  output = tmp_path / 'out'
  done = subprocess.run(
      [
          'bash', FOLDER / 'gpu.sh', '--output', output, '--tiny',
          '--mixture', 'tiny_mood,tiny_kind', '--vocabulary',
          demo_data.vocabulary(), '--data', tmp_path / 'data', '--minutes',
          '30',
      ],
      capture_output=True, text=True, check=False,
      env={
          **os.environ, 'PYTHON': sys.executable, 'XLA_FLAGS': xla_flags.QUICK,
      },
  )
  assert not done.returncode, done.stdout + done.stderr
  report = (output / 'gpu.txt').read_text()
  assert report in done.stdout
  assert re.search(r'JAX: .*CPU.*\nPyTorch: no GPU\n', report, re.IGNORECASE)
  found = {f.stem: json.loads(f.read_text()) for f in output.glob('*.json')}
  names = ['numerics', 'train', 'rank', 'lora', 'demo', 'int8']
  assert sorted(found) == sorted(names)
  for name in names:
    assert f'== {name}: done after ' in report
  differences = found['numerics']['differences']
  assert differences['float32']['loss'] < 1e-5
  assert 1e-5 < differences['bfloat16']['gradient'] < 0.5
  assert [*found['train']['sides']] == ['ours', 'peer split']
  assert [*found['rank']['sides']] == ['ours', 'ours int8', 'peer, 16 prompts']
  assert [*found['lora']['sides']] == ['ours']
  numbers = found['lora']['parameters']
  assert 0 < numbers['trained'] < numbers['all'] / 5
  assert found['demo']['tasks'].keys() == {'tiny_mood', 'tiny_kind'}
  assert sorted(path.suffix for path in output.iterdir()) == (
      ['.json'] * 6 + ['.txt']
  )
  assert [r['dtype'] for r in found['int8']] == ['float32', 'bfloat16', 'int8']
