"""A message for a process that is ended without being able to print one.

If another host is gone or does not join, JAX calls `abort()` in C++: no
`except`, `finally` or `atexit` runs. A second process then prints the message.
"""

import contextlib
import subprocess
import sys

# It ends when its parent does, and ignores the signals that a terminal or SLURM
# sends to all processes of a job.
_SCRIPT = r"""
import signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
  signal.signal(number, signal.SIG_IGN)
last = ''
for line in sys.stdin:
  last = line.strip()
if last:
  print('\n' + last, file=sys.stderr)  # After a progress bar, too.
"""


class ExitNotice:
  """Prints a sentence on standard error when this process has ended."""

  def __init__(self, sentence: str):
    """Starts the second process with the sentence to print."""
    self._process = subprocess.Popen(
        [sys.executable, '-I', '-S', '-c', _SCRIPT], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, encoding='utf-8',
    )
    self.set(sentence)

  def set(self, sentence: str) -> None:
    """Changes the sentence."""
    with contextlib.suppress(BrokenPipeError):  # It was killed.
      self._process.stdin.write(' '.join(sentence.split()) + '\n')
      self._process.stdin.flush()

  def dismiss(self) -> None:
    """Ends the second process; nothing is printed."""
    self.set('')
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()
