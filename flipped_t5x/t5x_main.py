"""Runs T5X's train, eval or infer on the hosts of a TPU pod.

T5X calls `jax.distributed.initialize` only for `--multiprocess_gpu`, a flag
that t5x.eval and t5x.infer do not have, and without that call Orbax does not
save or restore on several hosts. Everything else is T5X's: flags, gin files and
`__main__`.

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

from flipped_t5x import libtpu_loading
from flipped_t5x.engine import hosts
import flipped_t5x.tasks  # so that SeqIO finds them  # noqa: F401

MODES = ('train', 'eval', 'infer')


def _is_working_folder(path: str) -> bool:
  return os.path.realpath(path) == os.path.realpath(os.getcwd())


def main(argv: Sequence[str]) -> None:
  if len(argv) < 2 or argv[1] not in MODES:
    sys.exit(f'usage: python -m flipped_t5x.t5x_main {"|".join(MODES)} [FLAGS]')
  if importlib.util.find_spec('t5x') is None:
    sys.exit('T5X is not installed: see docs/t5x.md')
  # Gin would take a folder named runs, models or methods in the working folder
  # for a package, and fail.
  sys.path[:] = [p for p in sys.path if p and not _is_working_folder(p)]
  libtpu_loading.avoid()
  hosts.join_tpu_slice()
  sys.argv = [f't5x.{argv[1]}', *argv[2:]]
  # As `python -m` would: T5X's gin files refer to `__main__`.
  runpy.run_module(f't5x.{argv[1]}', run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main(sys.argv)
