"""Compiling programs that read weights of fewer bits than they compute in.

On a CPU XLA computes in float32. In its usual order, which is for running small
operations side by side, all weights are converted before the first is used:
three times the memory of weights in bfloat16.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

_ONE_AFTER_ANOTHER = {
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'
}


def jit(
    function: Callable[..., Any], params: Any, static_argnums: tuple[int, ...]
) -> Callable[..., Any]:
  """`jax.jit`, with little memory for weights that are not float32.

  Args:
    function: a function of a module, compiled once for all calls.
    params: the weights that it is for.
    static_argnums: as of `jax.jit`.

  Returns:
    The jitted function.
  """
  narrow = jax.default_backend() == 'cpu' and any(
      leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(params)
  )
  return _jit(function, static_argnums, narrow)


@functools.cache
def _jit(function, static_argnums, narrow):
  return jax.jit(
      function, static_argnums=static_argnums,
      compiler_options=_ONE_AFTER_ANOTHER if narrow else None,
  )
