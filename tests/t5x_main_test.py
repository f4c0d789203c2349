"""The launcher of T5X: what it hands on, and how hosts find each other."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Says who it is to be, as T5X's gin files see it.
STAND_IN = """
import sys
import __main__
MARK = 'of t5x.{mode}'
print(__name__, __main__.MARK, sys.argv[1:], 'flipped_t5x.tasks' in sys.modules)
"""
CONNECT = """
import jax
from flipped_t5x.engine import hosts
found = 'tpu' in (jax.config.jax_platforms or '')
connected = hosts.join_tpu_slice()
again = hosts.join_tpu_slice()
jax.config.update('jax_platforms', 'cpu')
print(found, connected, again, jax.process_index(), jax.process_count())
"""


def start(
    *words: str, cwd: str | os.PathLike[str] = '/', **environment: str
) -> subprocess.Popen:
  inherited = {k: v for k, v in os.environ.items() if 'proxy' not in k.lower()}
  return subprocess.Popen(
      [sys.executable, *words], env={**inherited, **environment}, cwd=cwd,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding='utf-8',
  )


def run(*words: str, **keywords) -> tuple[int, str, str]:
  """Exit status, output, errors of Python; keywords as for `start`."""
  process = start(*words, **keywords)
  output, errors = process.communicate(timeout=120)
  return process.returncode, output, errors


@pytest.mark.process
@pytest.mark.parametrize('mode', ['train', 'eval', 'infer'])
def test_runs_the_module_as_main(tmp_path, mode):
  (tmp_path / 't5x').mkdir()
  (tmp_path / 't5x/__init__.py').touch()
  (tmp_path / f't5x/{mode}.py').write_text(STAND_IN.format(mode=mode))
  status, output, errors = run(
      '-m', 'flipped_t5x.t5x_main', mode, '--gin_file=a b', '--gin.X="y"',
      PYTHONPATH=str(tmp_path),
  )
  assert status == 0, errors
  assert output == (
      f"__main__ of t5x.{mode} ['--gin_file=a b', '--gin.X=\"y\"'] True\n"
  )


@pytest.mark.t5x
def test_runs_t5x():
  status, output, errors = run('-m', 'flipped_t5x.t5x_main', 'eval', '--help')
  assert '--gin_file' in output, errors
  assert status in (0, 1)  # absl says 1.


@pytest.mark.t5x
def test_folders_of_the_names_of_ours(tmp_path):
  for name in ('runs', 'models', 'methods', 'gin'):
    (tmp_path / name).mkdir()
  status, _, errors = run(
      '-m', 'flipped_t5x.t5x_main', 'train', f'--gin_search_paths={ROOT}/gin',
      '--gin_file=runs/t5x_finetune.gin', '--gin_file=models/t5_1_1_small.gin',
      '--gin_file=methods/flipped.gin', '--gin.MODEL_DIR="relative"',
      '--gin.INITIAL_CHECKPOINT_PATH=None',
      cwd=tmp_path,
  )
  assert status == 1
  assert "'relative' is relative: T5X needs an absolute path" in errors


@pytest.mark.process
@pytest.mark.parametrize('words', [(), ('pretrain',), ('--gin_file=a',)])
def test_unknown_mode(words):
  status, _, errors = run('-m', 'flipped_t5x.t5x_main', *words)
  assert status == 1
  assert errors.endswith('t5x_main train|eval|infer [FLAGS]\n')


@pytest.mark.process
def test_without_t5x(tmp_path):
  # -I and a path without T5X, wherever this runs.
  code = (
      'import importlib.util, sys\n'
      'find = importlib.util.find_spec\n'
      "importlib.util.find_spec = lambda n: None if n == 't5x' else find(n)\n"
      'from flipped_t5x import t5x_main\n'
      "t5x_main.main(['', 'train'])\n"
  )
  status, _, errors = run('-c', code)
  assert status == 1
  assert errors == 'T5X is not installed: see docs/t5x.md\n'


@pytest.mark.process
def test_hosts_of_a_slice_connect():
  """Two processes, told what GKE tells the hosts of a slice."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  processes = [
      start(
          '-c', CONNECT, JAX_FORCE_TPU_INIT='1', JAX_COORDINATOR_PORT=str(port),
          TPU_WORKER_HOSTNAMES='localhost,localhost', TPU_WORKER_ID=str(i),
          MEGASCALE_COORDINATOR_ADDRESS='localhost', MEGASCALE_NUM_SLICES='1',
          MEGASCALE_SLICE_ID='0',
      )
      for i in range(2)
  ]
  ended = [p.communicate(timeout=120) for p in processes]
  assert [output for output, _ in ended] == [
      'True True False 0 2\n', 'True True False 1 2\n'
  ], ended


@pytest.mark.process
@pytest.mark.parametrize('environment, expected', [
    ({}, 'False False False 0 1\n'),
    # Chips, but the user asked for the CPU.
    ({'JAX_FORCE_TPU_INIT': '1', 'JAX_PLATFORMS': 'cpu'},
     'False False False 0 1\n'),
    # One host with no metadata server, as on Colab.
    ({'JAX_FORCE_TPU_INIT': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'},
     'True False False 0 1\n'),
])
def test_one_host_does_not_connect(environment, expected):
  status, output, errors = run('-c', CONNECT, **environment)
  assert (status, output) == (0, expected), errors


@pytest.mark.process
def test_check_devices(tmp_path):
  # T5X is looked for, not imported.
  (tmp_path / 't5x').mkdir()
  (tmp_path / 't5x/__init__.py').touch()
  script = str(ROOT / 'tpu_scripts/check_devices.py')
  environment = {
      'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(tmp_path),
      'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
  }
  status, output, errors = run(
      script, '--platform=cpu', '--devices=4', '--workers=1', **environment
  )
  assert (status, output) == (
      0, 'ok: cpu, 4 devices, 1 workers, this is worker 0\n'
  ), errors
  status, output, errors = run(
      script, '--devices=16', '--workers=4', **environment
  )
  assert status == 1
  assert errors == (
      'JAX finds cpu, 4 devices, 1 workers; expected tpu, 16 devices,'
      ' 4 workers\n'
  )


def test_t5x_requirements():
  script = str(ROOT / 'tpu_scripts/t5x_requirements.py')
  status, urls, errors = run(script, 'urls')
  assert status == 0, errors
  names = [line.split('@')[0].strip() for line in urls.splitlines()]
  assert sorted(names) == ['airio', 'jestimator', 't5x']
  # At commits, not at branches.
  assert len(re.findall(r'@[0-9a-f]{7,40}$', urls, re.MULTILINE)) == 3
  status, others, errors = run(script, 'others')
  assert status == 0, errors
  assert 'fiddle' in others.split()
  assert '@' not in others
