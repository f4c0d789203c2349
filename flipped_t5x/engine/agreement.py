"""What hosts tell each other: facts, errors, when to stop, who reads what."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import hashlib
from importlib import metadata
import itertools
import json
import os
import pathlib
import signal
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
from orbax.checkpoint import multihost

_WAIT_SECONDS = 3600  # For a host that reads data; one that is gone is noticed.
_SHOWN = 6
_meetings = itertools.count()
# What draws, batches, steps and checkpoints are made with.
_PACKAGES = (
    'flax', 'grain', 'jax', 'jaxlib', 'jinja2', 'numpy', 'optax',
    'orbax-checkpoint', 'sentencepiece',
)


def gather(data: bytes) -> list[bytes]:
  """What each host has called this with, in the hosts' order."""
  if jax.process_count() == 1:
    return [data]
  # The collectives themselves wait half a minute, on a CPU.
  multihost.get_barrier_sync_fn()(
      key=f'flipped_t5x/{next(_meetings)}', timeout_ms=_WAIT_SECONDS * 1000
  )
  sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32))
  # Few sizes, so that few programs are compiled.
  padded = np.zeros(-(-int(sizes.max()) // 4096) * 4096, np.uint8)
  padded[: len(data)] = np.frombuffer(data, np.uint8)
  rows = multihost_utils.process_allgather(padded)
  return [
      row[:size].tobytes()
      for row, size in zip(rows, sizes.ravel(), strict=True)
  ]


def total(number: int) -> int:
  """The sum of all hosts' numbers."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).sum())


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
  """Ends on all hosts, in an error if it is one on any; all must enter it.

  Raises:
    RuntimeError: the errors of the other hosts.
  """
  error = None
  try:
    yield
  except Exception as e:
    error = e
  said = f'{type(error).__name__}: {error}' if error else ''
  errors = [
      f'host {number}: {text.decode()}'
      for number, text in enumerate(gather(said.encode())) if text
  ]
  if error:
    raise error
  if errors:
    raise RuntimeError('; '.join(errors))


def compiled(
    function: Callable[..., Any], *arguments: Any
) -> Callable[..., Any]:
  """A jitted function, for such arguments, once all hosts have compiled it.

  They need not take as long: JAX's cache of compilations is host 0's alone.
  """
  if jax.process_count() == 1:
    return function
  with fail_together():
    function = function.lower(*arguments).compile()
  return function


def check_same(facts: Mapping[str, Any]) -> None:
  """ValueError, on every host, where the hosts' facts are not the same.

  Args:
    facts: JSON; the error names what is not the same in any depth.
  """
  found = [
      _flat(json.loads(text))
      for text in gather(json.dumps(facts).encode())
  ]
  differing = []
  for name in sorted(set().union(*found)):
    there = {}
    for number, host in enumerate(found):
      there.setdefault(host.get(name, 'missing'), []).append(str(number))
    if len(there) > 1:
      differing.append(f'{name} is ' + ', '.join(
          f'{value} on host {", ".join(numbers)}'
          for value, numbers in there.items()
      ))
  if differing:
    more = f'; {len(differing) - _SHOWN} more' if differing[_SHOWN:] else ''
    raise ValueError(
        f'the hosts are not alike: {"; ".join(differing[:_SHOWN])}{more}. They'
        ' must run the same command with the same versions, vocabulary and data'
    )


def _flat(value: Any, prefix: str = '') -> dict[str, str]:
  if not isinstance(value, dict):
    return {prefix: json.dumps(value)}
  flat = {}
  for name, part in value.items():
    flat |= _flat(part, f'{prefix} {name}'.strip())
  return flat


def versions() -> dict[str, str]:
  """Package -> version; file of this one -> digest."""
  found = {name: metadata.version(name) for name in _PACKAGES}
  # Not only what is imported: where rows come from may not be the same.
  for package in ('flipped_t5x', 'flipped_t5x.tasks'):
    for folder in getattr(sys.modules.get(package), '__path__', ()):
      for path in sorted(pathlib.Path(folder).rglob('*.py')):
        name = f'{package}/{path.relative_to(folder)}'
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
  return found


def local_rows(sharding: jax.sharding.Sharding, number: int) -> list[int]:
  """Which of `number` rows lie on this host's devices, ascending."""
  places = sharding.addressable_devices_indices_map((number,))
  return sorted({
      row for index, in places.values() for row in range(number)[index]
  })


@contextlib.contextmanager
def stops() -> Iterator[Callable[[int], bool]]:
  """Whether to stop after a step, once SIGINT or SIGTERM has asked for it.

  All hosts stop after the same step, whichever was asked. A second Ctrl-C is
  not waited for: it ends the process as usual.

  Yields:
    A function to be called once after every step with its number.
  """
  received, old = [], {}
  several = jax.process_count() > 1

  def handle(number, unused_frame):
    received.append(number)
    signal.signal(number, old[number])
    if several:
      os.kill(os.getpid(), signal.SIGTERM)

  # With several hosts SIGTERM is JAX's: it makes all agree on a step.
  for number in (signal.SIGINT,) if several else (
      signal.SIGINT, signal.SIGTERM
  ):
    old[number] = signal.signal(number, handle)
  try:
    if several:
      yield multihost_utils.reached_preemption_sync_point
    else:
      yield lambda unused_step: bool(received)
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)
