"""Flags of the TPU's compiler that this engine's programs need.

They change how a program is compiled, not what it computes. `precompile` and
whatever runs on a TPU must compile with the same ones.
"""

import os

_VARIABLE = 'LIBTPU_INIT_ARGS'
_FLAGS = {
    # In libtpu 0.0.42 products that are fused into one another overflow the 64
    # KiB of stack that its threads have, and end the process.
    '--fibers_default_thread_stack_size': 2**20,
    # A weight that is divided over `data` is gathered before its product. By
    # default the product goes around in pieces (Wang et al. 2023, Overlap
    # Communication with Dependent Computation via Decomposition): the result is
    # read and written once for each of them, which doubles the traffic with the
    # memory, and each product is compiled as a loop of its own.
    '--xla_jf_spmd_threshold_for_windowed_einsum_mib': 2**20,
}


def set_defaults() -> None:
  """Adds to the environment the flags that it does not have.

  Call it before JAX looks for devices; without a TPU it does nothing.
  """
  present = os.environ.get(_VARIABLE, '')
  missing = [
      f'{name}={value}' for name, value in _FLAGS.items()
      if name not in present
  ]
  os.environ[_VARIABLE] = ' '.join([*present.split(), *missing])


def are_set() -> bool:
  """Whether the environment has all of them, with whatever values."""
  return all(name in os.environ.get(_VARIABLE, '') for name in _FLAGS)
