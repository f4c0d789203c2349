"""Several hosts that work together: how they join, and what ends them.

A host is a JAX process, as on a TPU pod; one machine may run several, such as
one for each GPU.
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

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.engine import exit_notice
import jax

_HEARTBEAT_SECONDS = 30  # A host that is silent for longer counts as lost.
_JOIN_SECONDS = 300
_GOODBYE_SECONDS = 60
# In the messages of JAX, its collectives and Orbax when a process is gone.
_LOSS = re.compile(
    'gloo|nccl|closed by peer|reset by peer|broken pipe|socket closed'
    '|coordination.?service|heartbeat|barrier|unavailable|deadline.?exceeded',
    re.IGNORECASE,
)
_AGAIN = (
    'Start the same command on all hosts again, on the same number of them or'
    ' another: it goes on from what has been saved'
)


class HostLost(errors.UserError):
  """Another host is gone or cannot be reached."""


@contextlib.contextmanager
def joined(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
  """Connects this host with the others, if there are any.

  Use it once in a process, around everything that uses JAX. Without arguments
  the hosts are found under SLURM, under Open MPI and on a TPU slice; elsewhere
  this host is alone.

  Args:
    coordinator_address: HOST:PORT of host 0, which all others must reach.
    num_processes: the number of hosts.
    process_id: the number of this host, from 0.

  Raises:
    UserError: the arguments do not fit together, or JAX cannot find the hosts.
    HostLost: inside the block, another host was lost.
    RuntimeError: JAX's. If the other hosts do not join within five minutes, JAX
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
  notice = exit_notice.ExitNotice(
      'flipped-t5x: the hosts have not found each other. Is each of them'
      ' started, with the address of host 0 and a number of its own, and can'
      ' it reach that address without a proxy?'
  )
  try:
    _initialize(*given)
    number = jax.process_count()
  except BaseException:
    notice.dismiss()
    raise
  if number == 1:
    notice.dismiss()
    yield
    return
  notice.set(
      f'flipped-t5x: host {jax.process_index()} of {number} was ended from'
      ' outside, or by JAX because another host is gone or out of reach; the'
      f' lines above may say which. {_AGAIN}'
  )
  raised = []
  atexit.register(_leave, notice, raised)
  try:
    with _watched():
      yield
  except BaseException as e:
    raised.append(e)
    raise


def _check_flags(coordinator_address, num_processes, process_id) -> None:
  if None in (coordinator_address, num_processes, process_id):
    raise errors.UserError(
        '--coordinator_address, --num_processes and --process_id go together'
    )
  if not re.fullmatch(r'.+:\d+', coordinator_address):
    raise errors.UserError(
        f'--coordinator_address={coordinator_address} is not HOST:PORT'
    )
  if not 0 <= process_id < num_processes:
    raise errors.UserError(
        f'--process_id={process_id} is not one of 0 to {num_processes - 1}'
    )


def _num_tasks() -> int:
  """The number of processes that SLURM or Open MPI started; 0 without them."""
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
    raise errors.UserError(
        f'JAX does not find the other hosts ({e}); name them by'
        ' --coordinator_address, --num_processes and --process_id'
    ) from e


def join_tpu_slice() -> bool:
  """Connects the hosts of a TPU slice; call it before any other use of JAX.

  Returns:
    Whether it connected them. It does not without a TPU, nor if the runtime
    says that this host is alone (as on Colab and Kaggle), nor a second time.

  Raises:
    RuntimeError: JAX's, if hosts do not join or JAX was used before.
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


def _leave(notice: exit_notice.ExitNotice, raised: list[BaseException]) -> None:
  """Leaves the other hosts at exit, after the command's last message.

  JAX would wait for them at a barrier, and abort if one does not reach it.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if raised:
    notice.dismiss()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # JAX would drown it.
  if any(isinstance(e, HostLost) for e in raised):
    if jax.process_index() == 0:
      time.sleep(3)  # JAX aborts the others when its coordinator goes.
    os._exit(1)
  # If all hosts have met the same error, they leave in order. The others learn
  # of an error of this host alone when it is gone.
  leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  leaving.start()
  with contextlib.suppress(KeyboardInterrupt):
    leaving.join(10 if raised else _GOODBYE_SECONDS)
  if leaving.is_alive():
    os._exit(1)
  if not raised:
    notice.dismiss()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
  """Turns an error about a host that is gone into a `HostLost`."""
  try:
    yield
  except Exception as e:
    if not _LOSS.search(str(e)):
      raise
    raise HostLost(
        f'host {jax.process_index()} of {jax.process_count()} has lost another'
        f' host, whose last lines say why ({files.first_line(e)}). {_AGAIN}'
    ) from e
