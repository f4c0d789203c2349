"""What hosts exchange: facts, errors, when to stop, who reads which rows."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
from importlib import metadata
import itertools
import json
import os
import pathlib
import signal
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import locks
import jax
from jax.experimental import multihost_utils
import numpy as np

# A host may read data or score for long; a lost one is noticed.
_WAIT_SECONDS = 7 * 24 * 3600
_SHOWN = 6
_meetings = itertools.count()
# The packages that draws, batches, steps and checkpoints depend on.
_PACKAGES = (
    'flax', 'grain', 'jax', 'jaxlib', 'jinja2', 'numpy', 'optax',
    'orbax-checkpoint', 'sentencepiece',
)


def gather(data: bytes) -> list[bytes]:
  """The bytes that each host passes, in the order of the hosts."""
  if jax.process_count() == 1:
    return [data]
  # Imported here, because one host needs none of it to evaluate.
  from orbax.checkpoint import multihost

  # On a CPU, the collectives themselves wait for half a minute only.
  multihost.get_barrier_sync_fn()(
      key=f'flipped_t5x/{next(_meetings)}', timeout_ms=_WAIT_SECONDS * 1000
  )
  sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32))
  # Rounded up, so that few programs are compiled.
  padded = np.zeros(-(-int(sizes.max()) // 4096) * 4096, np.uint8)
  padded[: len(data)] = np.frombuffer(data, np.uint8)
  rows = multihost_utils.process_allgather(padded)
  return [
      row[:size].tobytes()
      for row, size in zip(rows, sizes.ravel(), strict=True)
  ]


def wait() -> None:
  """Waits until all hosts have come here."""
  gather(b'')


def is_first() -> bool:
  """Whether this is host 0, which prints and writes what is written once."""
  return jax.process_index() == 0


def total(number: int) -> int:
  """The sum of the numbers of all hosts."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).sum())


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
  """Waits for all hosts at its end, and fails on all if it fails on any.

  All hosts must enter the block.

  Raises:
    UserError: the errors of the other hosts, if there is none on this one.
  """
  error = None
  try:
    yield
  except Exception as e:
    error = e
  message = ''
  if isinstance(error, errors.UserError):
    message = str(error)
  elif error:
    message = f'{type(error).__name__}: {error}'
  messages = [
      f'host {number}: {text.decode()}'
      for number, text in enumerate(gather(message.encode())) if text
  ]
  if error:
    raise error
  if messages:
    raise errors.UserError('; '.join(messages))


@contextlib.contextmanager
def alone_in(
    folder: pathlib.Path, place: str, advice: str
) -> Iterator[None]:
  """Keeps other commands out of a folder; only host 0 takes the lock.

  All hosts must enter the block.

  Args:
    folder: the folder, which is made if need be.
    place: what is locked, for messages.
    advice: what to do if another process has it, for messages.

  Raises:
    UserError: another process is writing there.
  """
  with contextlib.ExitStack() as stack:
    with fail_together():
      if is_first():
        stack.enter_context(files.made(folder))
        stack.enter_context(locks.held(folder / '.lock', place, advice))
    yield


def compiled(
    function: Callable[..., Any], *arguments: Any
) -> Callable[..., Any]:
  """Compiles a jitted function on all hosts before any of them runs it.

  They may take different times: JAX's compilation cache is on host 0 alone.

  Args:
    function: the jitted function.
    *arguments: arguments to compile it for.

  Returns:
    The compiled function; on a single host the jitted function itself.
  """
  if jax.process_count() == 1:
    return function
  with fail_together():
    function = function.lower(*arguments).compile()
  return function


def check_same(facts: Mapping[str, Any]) -> None:
  """Checks that all hosts have the same facts.

  Args:
    facts: JSON, nested to any depth.

  Raises:
    UserError: on every host; the message names the facts that differ.
  """
  found = [
      _flat(json.loads(text))
      for text in gather(json.dumps(facts).encode())
  ]
  differing = []
  for name in sorted(set().union(*found)):
    hosts = {}
    for number, host in enumerate(found):
      hosts.setdefault(host.get(name, 'missing'), []).append(str(number))
    if len(hosts) > 1:
      differing.append(f'{name} is ' + ', '.join(
          f'{value} on host {", ".join(numbers)}'
          for value, numbers in hosts.items()
      ))
  if differing:
    more = f'; {len(differing) - _SHOWN} more' if differing[_SHOWN:] else ''
    raise errors.UserError(
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
  """Package -> version, and file of this package -> digest."""
  found = {name: metadata.version(name) for name in _PACKAGES}
  # All files, because hosts may not import the same ones.
  for package in ('flipped_t5x', 'flipped_t5x.tasks'):
    for folder in getattr(sys.modules.get(package), '__path__', ()):
      for path in sorted(pathlib.Path(folder).rglob('*.py')):
        name = f'{package}/{path.relative_to(folder)}'
        found[name] = files.sha256(path.read_bytes())[:8]
  return found


def local_rows(sharding: jax.sharding.Sharding, number: int) -> list[int]:
  """Which of `number` rows are on the devices of this host, ascending."""
  places = sharding.addressable_devices_indices_map((number,))
  return sorted({
      row for index, in places.values() for row in range(number)[index]
  })


@contextlib.contextmanager
def stops() -> Iterator[Callable[[int], bool]]:
  """Turns SIGINT and SIGTERM into a request to stop after a step.

  All hosts stop after the same step, whichever received the signal. A second
  Ctrl-C ends the process at once.

  Yields:
    A function to call once after every step with its number; it returns whether
    to stop.
  """
  received, old = [], {}
  several = jax.process_count() > 1

  def handle(number, unused_frame):
    received.append(number)
    signal.signal(number, old[number])
    if several:
      os.kill(os.getpid(), signal.SIGTERM)

  # With several hosts JAX handles SIGTERM: it makes all agree on a step.
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
