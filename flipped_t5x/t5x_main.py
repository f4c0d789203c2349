"""T5X's own train, eval and infer, also on the several hosts of a TPU pod.

T5X calls `jax.distributed.initialize` only for `--multiprocess_gpu`, a flag
that t5x.eval and t5x.infer do not have; without that call Orbax does not save
or restore on several hosts. All else is T5X's: flags, gin files, `__main__`.

Example:
  python -m flipped_t5x.t5x_main train --gin_search_paths=gin \\
    --gin_file=runs/t5x_finetune.gin --gin_file=models/t5_1_1_xl.gin \\
    --gin_file=methods/flipped.gin --gin.MODEL_DIR="'gs://bucket/run'"
"""

from collections.abc import Sequence
import importlib.util
import os
import runpy
import sys

import flipped_t5x.tasks  # so that SeqIO finds them  # noqa: F401
import jax

MODES = ('train', 'eval', 'infer')


def initialize() -> bool:
  """Connects the hosts of a TPU slice; call it before any other use of JAX.

  Returns:
    Whether it did: not without a TPU, not when the runtime says that this
    host is alone (Colab and Kaggle, where there is nothing to ask), and not
    twice.

  Raises:
    RuntimeError: JAX's, if hosts do not come or JAX was used already.
  """
  # JAX sets this when it is imported, where there are TPU chips and libtpu.
  if 'tpu' not in (jax.config.jax_platforms or '').split(','):
    return False
  hosts = os.environ.get('TPU_WORKER_HOSTNAMES')
  if jax.distributed.is_initialized() or hosts and ',' not in hosts:
    return False
  jax.distributed.initialize()
  return True


def _is_working_folder(path: str) -> bool:
  return os.path.realpath(path) == os.path.realpath(os.getcwd())


def main(argv: Sequence[str]) -> None:
  if len(argv) < 2 or argv[1] not in MODES:
    sys.exit(f'usage: python -m flipped_t5x.t5x_main {"|".join(MODES)} [FLAGS]')
  if importlib.util.find_spec('t5x') is None:
    sys.exit('T5X is not installed: see "On T5X" in README.md')
  # Gin takes a folder of the working folder that is called runs, models or
  # methods for a package, and fails.
  sys.path[:] = [p for p in sys.path if p and not _is_working_folder(p)]
  initialize()
  sys.argv = [f't5x.{argv[1]}', *argv[2:]]
  # As `python -m` does: T5X's gin files name `__main__`.
  runpy.run_module(f't5x.{argv[1]}', run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main(sys.argv)
