"""What one process compiles, the next one does not."""

import errno
import json
import os
import subprocess
import sys
import tempfile

from flipped_t5x import compilation_cache
from flipped_t5x import gin_config
import jax
import pytest

_DIR = 'jax_compilation_cache_dir'
# Runs the command, and prints what JAX's monitoring has heard of its cache.
_SCRIPT = """
import json, sys
import jax
from flipped_t5x.cli import main
heard = []
jax.monitoring.register_event_listener(
    lambda event, **_: heard.append(event.rpartition('/')[-1])
)
status = main.main(sys.argv[1:])
print(json.dumps([
    status, heard.count('cache_hits'), heard.count('cache_misses')
]))
"""


def ranked(run, data, *more, **variables):
  """What `rank` prints, (status, hits, misses), and its errors."""
  environment = {
      name: value for name, value in os.environ.items()
      if name != 'JAX_ENABLE_COMPILATION_CACHE'
  }
  done = subprocess.run(
      [
          sys.executable, '-c', _SCRIPT, 'rank', '--checkpoint', str(run),
          '--input', 'A good film.', '--instruction', 'was the film good?',
          '--options', 'yes,no', *more,
      ],
      env=environment | {'FLIPPED_T5X_DATA': str(data)} | variables,
      capture_output=True, text=True, check=True,
  )
  *shown, heard = done.stdout.splitlines()
  return shown, json.loads(heard), done.stderr


def programs(data):
  return sorted(
      path.name for path in data.rglob('*') if path.name.endswith('-cache')
  )


@pytest.mark.process
@pytest.mark.slow
def test_the_second_rank_does_not_compile(tiny_run, tmp_path):
  shown, (status, hits, misses), _ = ranked(tiny_run, tmp_path)
  assert (status, hits) == (0, 0) and misses > 0
  kept = programs(tmp_path)
  assert any(name.startswith('jit_log_probs-') for name in kept)
  again, (status, hits, _), errors = ranked(tiny_run, tmp_path)
  assert (again, status, hits) == (shown, 0, len(kept))
  assert programs(tmp_path) == kept
  assert 'compil' not in errors


@pytest.mark.process
@pytest.mark.slow
def test_turned_off_or_not_writable(tiny_run, tmp_path):
  data = tmp_path / 'data'
  data.mkdir()
  for more, variables in (
      (['--no-compilation_cache'], {}),
      ([], {'JAX_ENABLE_COMPILATION_CACHE': 'false'}),
  ):
    shown, heard, errors = ranked(tiny_run, data, *more, **variables)
    assert heard == [0, 0, 0] and 'compiled' not in errors
    assert not any(data.iterdir())
  file = tmp_path / 'file'
  file.touch()
  again, heard, errors = ranked(tiny_run, file)
  assert (again, heard) == (shown, [0, 0, 0])
  assert errors.count('what is compiled is not kept: ') == 1
  assert f'{file}/compiled/' in errors and 'Not a directory' in errors


@pytest.fixture
def config(monkeypatch, tmp_path):
  """JAX's configuration, as it is where nobody has changed it."""
  names = (
      'jax_enable_compilation_cache', _DIR, 'jax_compilation_cache_max_size',
      'jax_persistent_cache_min_compile_time_secs',
  )
  before = {name: getattr(jax.config, name) for name in names}
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path))
  jax.config.update('jax_enable_compilation_cache', True)
  jax.config.update(_DIR, None)
  yield jax.config
  for name, value in before.items():
    jax.config.update(name, value)


def test_bounded_and_by_processor(config, tmp_path, monkeypatch):
  compilation_cache.use()
  first = config.jax_compilation_cache_dir
  assert first.startswith(f'{tmp_path}/compiled/')
  assert config.jax_compilation_cache_max_size == 2 * 2**30
  monkeypatch.setattr(compilation_cache, '_CPU_INFO', tmp_path / 'cpuinfo')
  (tmp_path / 'cpuinfo').write_text('processor: 0\nflags : fpu avx512\n')
  jax.config.update(_DIR, None)
  compilation_cache.use()
  assert config.jax_compilation_cache_dir != first


def test_ones_own_folder_stays(config, tmp_path):
  jax.config.update(_DIR, str(tmp_path / 'mine'))
  compilation_cache.use()
  assert config.jax_compilation_cache_dir == str(tmp_path / 'mine')
  assert not any(tmp_path.iterdir())
  compilation_cache.use(False)
  assert not config.jax_enable_compilation_cache


def test_full_disk(config, monkeypatch, capsys):
  def full(**_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(tempfile, 'TemporaryFile', full)
  compilation_cache.use()
  assert config.jax_compilation_cache_dir is None
  said = capsys.readouterr().err
  assert said.startswith('what is compiled is not kept: ')
  assert said.endswith('No space left on device\n')


def test_macro():
  files = ['runs/train.gin', 'models/t5_1_1_small.gin', 'methods/flipped.gin']
  for value in (True, False):
    macros = gin_config.parse(
        files, ["MODEL_DIR = 'none'", f'COMPILATION_CACHE = {value}']
    )
    assert macros['COMPILATION_CACHE'] is value
