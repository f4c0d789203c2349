"""Several hosts that train together: finding each other, and losing one.

A host is a process of JAX here, as on a TPU pod; elsewhere one machine may run
several of them, one for each GPU.
"""

import atexit
from collections.abc import Iterator
import contextlib
import os
import re
import sys
import threading
import time
from typing import Any

from flipped_t5x import files
from flipped_t5x.engine import witness as witness_lib
import jax

_HEARTBEAT_SECONDS = 30  # A host that is silent for so long is taken for dead.
_JOIN_SECONDS = 300
_GOODBYE_SECONDS = 60
# Of what JAX, its collectives and Orbax say when another process is gone.
_LOSS = re.compile(
    'gloo|nccl|closed by peer|reset by peer|broken pipe|socket closed'
    '|coordination.?service|heartbeat|barrier|unavailable|deadline.?exceeded',
    re.IGNORECASE,
)
_AGAIN = (
    'Start the same command on all hosts again, be it on another number of'
    ' them: the run goes on from its last checkpoint'
)


class HostLost(RuntimeError):
  """Another host is gone, or out of reach."""


@contextlib.contextmanager
def joined(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
  """Connects this host with the others, if there are any.

  Use it once in a process, around all that uses JAX. Hosts are found by the
  arguments, else under SLURM, under Open MPI and on a TPU slice; without any of
  those nothing is asked for, and this host is alone.

  Args:
    coordinator_address: HOST:PORT of host 0 where all others can reach it.
    num_processes: how many hosts there are.
    process_id: the number of this one.

  Raises:
    ValueError: arguments that do not fit, or hosts that JAX cannot find.
    HostLost: within it, another host was lost.
    RuntimeError: JAX's. Where other hosts do not come within five minutes, JAX
      ends the process.
  """
  given = (coordinator_address, num_processes, process_id)
  if all(a is None for a in given):
    given = ()
    several = _num_tasks() > 1 or _on_tpu_slice()
  else:
    _check_flags(*given)
    several = num_processes > 1
  if not several:
    yield
    return
  witness = witness_lib.Witness(
      'flipped-t5x: the hosts have not found each other: is each of them'
      ' started, with the address of host 0 and a number of its own, and can'
      ' they reach that address, with no proxy in between?'
  )
  try:
    _initialize(*given)
    number = jax.process_count()
  except BaseException:
    witness.dismiss()
    raise
  if number == 1:
    witness.dismiss()
    yield
    return
  witness.will_say(
      f'flipped-t5x: host {jax.process_index()} of {number} was ended from'
      ' outside, or by JAX because another host is gone or out of reach; the'
      f' lines above may say which. {_AGAIN}'
  )
  raised = []
  atexit.register(_leave, witness, raised)
  try:
    with _watched():
      yield
  except BaseException as e:
    raised.append(e)
    raise


def _check_flags(coordinator_address, num_processes, process_id) -> None:
  if None in (coordinator_address, num_processes, process_id):
    raise ValueError(
        '--coordinator_address, --num_processes and --process_id go together'
    )
  if not re.fullmatch(r'.+:\d+', coordinator_address):
    raise ValueError(
        f'--coordinator_address={coordinator_address} is not HOST:PORT'
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
        f'--process_id={process_id} is not one of 0 to {num_processes - 1}'
    )


def _num_tasks() -> int:
  """How many processes SLURM or Open MPI have started; 0 without them."""
  names = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')
  return max(int(os.environ.get(name, 0)) for name in names)


def _initialize(*given: Any) -> None:
  try:
    jax.distributed.initialize(
        *given, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_GOODBYE_SECONDS,
        initialization_timeout=_JOIN_SECONDS,
    )
  except ValueError as e:
    raise ValueError(
        f'JAX does not find the other hosts ({e}); name them by'
        ' --coordinator_address, --num_processes and --process_id'
    ) from e


def join_tpu_slice() -> bool:
  """Connects the hosts of a TPU slice; call it before any other use of JAX.

  Returns:
    Whether it did: not without a TPU, not when the runtime says that this
    host is alone (Colab and Kaggle, where there is nothing to ask), and not
    twice.

  Raises:
    RuntimeError: JAX's, if hosts do not come or JAX was used already.
  """
  connects = _on_tpu_slice()
  if connects:
    jax.distributed.initialize()
  return connects


def _on_tpu_slice() -> bool:
  # JAX sets this when it is imported, where there are TPU chips and libtpu.
  if 'tpu' not in (jax.config.jax_platforms or '').split(','):
    return False
  workers = os.environ.get('TPU_WORKER_HOSTNAMES')
  alone = workers and ',' not in workers
  return not alone and not jax.distributed.is_initialized()


def _leave(witness: witness_lib.Witness, raised: list[BaseException]) -> None:
  """Parts from the others at exit, the command's last message being out.

  JAX would wait for them at a barrier, and abort where one does not come.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if raised:
    witness.dismiss()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # JAX would drown it.
  if any(isinstance(e, HostLost) for e in raised):
    if jax.process_index() == 0:
      time.sleep(3)  # JAX aborts the others when its coordinator goes.
    os._exit(1)
  # An error that all hosts have met is left in order; of one that is this
  # host's own the others hear when it is gone.
  leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  leaving.start()
  with contextlib.suppress(KeyboardInterrupt):
    leaving.join(10 if raised else _GOODBYE_SECONDS)
  if leaving.is_alive():
    os._exit(1)
  if not raised:
    witness.dismiss()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
  """Makes an error that says that another host is gone a `HostLost`."""
  try:
    yield
  except Exception as e:
    if not _LOSS.search(str(e)):
      raise
    raise HostLost(
        f'host {jax.process_index()} of {jax.process_count()} has lost another'
        f' one, whose own last lines say why ({files.first_line(e)}). {_AGAIN}'
    ) from e
