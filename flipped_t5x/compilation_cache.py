"""Compiled programs, kept in the data folder for later processes.

JAX's persistent compilation cache, in `compiled/` of the data folder. Programs
that were used last longest ago are removed when it grows too large. JAX's own
settings come first: `JAX_COMPILATION_CACHE_DIR` names another folder, and
`JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
"""

import hashlib
import pathlib
import platform
import sys
import tempfile
import warnings

from flipped_t5x import files
import jax

MOST_BYTES = 2 * 2**30
_MIN_SECONDS = 0.1  # What compiles faster is not worth a file.
_PROBE_BYTES = 2**20
_CPU_INFO = pathlib.Path('/proc/cpuinfo')


def use(wanted: bool = True) -> None:
  """Lets JAX keep what it compiles from now on.

  If the folder cannot be written, it says so and goes on without it.

  Args:
    wanted: whether to; if not, nothing is kept, whatever JAX's settings say.
  """
  if not wanted:
    jax.config.update('jax_enable_compilation_cache', False)
    return
  if (
      not jax.config.jax_enable_compilation_cache
      or jax.config.jax_compilation_cache_dir is not None
  ):
    return
  folder = files.data_folder() / 'compiled' / _processor()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(bytes(_PROBE_BYTES))
  except OSError as e:
    print(
        f'what is compiled is not kept: {folder}: {e.strerror}', file=sys.stderr
    )
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_compilation_cache_max_size', MOST_BYTES)
  jax.config.update(
      'jax_persistent_cache_min_compile_time_secs', _MIN_SECONDS
  )
  # Should the disk become full meanwhile, JAX would warn for each program.
  warnings.filterwarnings(
      'ignore', 'Error (reading|writing) persistent compilation cache'
  )


def _processor() -> str:
  """A name for processors with the same instructions.

  A program for a CPU has those of the machine that compiled it, and the data
  folder may be on a disk that other machines share.
  """
  flags = ''
  if _CPU_INFO.is_file():
    flags = next((
        line for line in _CPU_INFO.read_text().splitlines()
        if line.startswith(('flags', 'Features'))
    ), '')
  digest = hashlib.sha256(flags.encode()).hexdigest()[:12]
  return f'{platform.machine()}-{digest}'
