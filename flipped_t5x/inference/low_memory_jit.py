"""Compiles functions so that narrow weights take little memory on a CPU.

On a CPU XLA computes in float32. Its default scheduler, made for running small
operations concurrently, converts all weights before it uses the first: weights
in bfloat16 then take three times their memory, those in int8 five times. So
they do if their conversion is moved in front of a loop over tokens. A scan over
layers copies their stack whatever the options: `model.load` takes them apart.
"""

from collections.abc import Callable, Iterable
import functools
from typing import Any

import jax
import jax.numpy as jnp

_MEMORY_OPTIMIZED = {
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    'xla_disable_hlo_passes': 'while-loop-invariant-code-motion',
}


def is_for(weights: Iterable[Any]) -> bool:
  """Whether `jit` compiles otherwise for arrays or tensors like these."""
  return jax.default_backend() == 'cpu' and any(
      weight.dtype != jnp.float32 for weight in weights
  )


def jit(
    function: Callable[..., Any], params: Any, static_argnums: tuple[int, ...]
) -> Callable[..., Any]:
  """Jits a function so that weights other than float32 take little memory.

  Args:
    function: a function at the top level of a module; equal calls return the
      same jitted function.
    params: the weights that the function will be called with.
    static_argnums: see `jax.jit`.

  Returns:
    The jitted function.
  """
  return _jit(function, static_argnums, is_for(jax.tree.leaves(params)))


@functools.cache
def _jit(function, static_argnums, narrow):
  return jax.jit(
      function, static_argnums=static_argnums,
      compiler_options=_MEMORY_OPTIMIZED if narrow else None,
  )
