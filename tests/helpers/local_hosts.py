"""Processes on this machine that stand for hosts."""

from collections.abc import Sequence
import os
import pathlib
import socket
import subprocess
import sys
import time


def start(
    *words: str, devices: int = 1, paths: Sequence[pathlib.Path] = (),
    flags: str = '', **more: str
) -> subprocess.Popen:
  """Starts a process.

  Args:
    *words: a Python script, and its arguments.
    devices: how many it has.
    paths: folders of modules that it imports, beside this one.
    flags: more of XLA_FLAGS.
    **more: of its environment.

  Returns:
    The process; both of its outputs are in `stdout`.
  """
  environment = {
      k: v for k, v in os.environ.items() if 'proxy' not in k.lower()
  }
  folders = [*paths, pathlib.Path(__file__).parent]
  return subprocess.Popen(
      [sys.executable, '-c', *words], env=environment | {
          'JAX_PLATFORMS': 'cpu',
          'PYTHONPATH': os.pathsep.join(map(str, folders)),
          'XLA_FLAGS': (
              f'{flags} --xla_force_host_platform_device_count={devices}'
          ),
          **more,
      },
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def flags_of(count: int) -> list[list[str]]:
  """The flags of each of some hosts that are to find each other."""
  address = f'--coordinator_address=localhost:{free_port()}'
  return [
      [address, f'--num_processes={count}', f'--process_id={i}']
      for i in range(count)
  ]


def wait(
    processes: Sequence[subprocess.Popen], seconds: float = 200
) -> tuple[list[tuple[int, str]], float]:
  """Waits until all processes have ended; kills them if one does not.

  Returns:
    Exit status and output of each; the seconds from the end of the first to
    that of the last.
  """
  ended, deadline = {}, time.monotonic() + seconds
  while len(ended) < len(processes) and time.monotonic() < deadline:
    time.sleep(0.05)
    for process in processes:
      if process not in ended and process.poll() is not None:
        ended[process] = time.monotonic()
  for process in processes:
    process.kill()
  results = [(p.communicate()[0], p.returncode) for p in processes]
  assert len(ended) == len(processes), results
  times = sorted(ended.values())
  return [(code, text) for text, code in results], times[-1] - times[0]
