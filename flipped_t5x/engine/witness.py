"""The last word of a process that is ended without having one.

Where another host is gone, or does not come, JAX calls `abort()` in C++: no
`except`, `finally` or `atexit` runs. A process beside this one then says what
has happened.
"""

import contextlib
import subprocess
import sys

# Ends when its parent does, and not by the signals that a terminal or SLURM
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


class Witness:
  """Says something on `stderr` when this process has ended."""

  def __init__(self, sentence: str):
    """Starts it; `sentence` is what it will say."""
    self._process = subprocess.Popen(
        [sys.executable, '-I', '-S', '-c', _SCRIPT], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, encoding='utf-8',
    )
    self.will_say(sentence)

  def will_say(self, sentence: str) -> None:
    """Changes what it will say."""
    with contextlib.suppress(BrokenPipeError):  # It was killed.
      self._process.stdin.write(' '.join(sentence.split()) + '\n')
      self._process.stdin.flush()

  def dismiss(self) -> None:
    """Ends it, without a word."""
    self.will_say('')
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()
