"""Fails unless JAX sees the whole slice from this worker.

Run on all workers at the same time: they wait for each other.
"""

import argparse
import importlib.util
import sys

from flipped_t5x.engine import hosts
import jax


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--platform', default='tpu')
  parser.add_argument('--devices', type=int, required=True)
  parser.add_argument('--workers', type=int, required=True)
  arguments = parser.parse_args()
  hosts.join_tpu_slice()
  found = (jax.default_backend(), jax.device_count(), jax.process_count())
  expected = (arguments.platform, arguments.devices, arguments.workers)
  text = '{}, {} devices, {} workers'
  if found != expected:
    sys.exit(
        f'JAX finds {text.format(*found)}; expected {text.format(*expected)}'
    )
  if importlib.util.find_spec('t5x') is None:
    sys.exit('T5X is not installed')
  print(f'ok: {text.format(*found)}, this is worker {jax.process_index()}')


if __name__ == '__main__':
  main()
