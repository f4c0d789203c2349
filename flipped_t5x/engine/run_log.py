"""What a training run logs: a progress bar, TensorBoard and `metrics.jsonl`."""

from collections.abc import Mapping
import contextlib
import functools
import json
import math
import pathlib
import time
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import structure
from flipped_t5x import terminal
from flipped_t5x.engine import agreement
from flipped_t5x.engine import checkpoints
import jax
import numpy as np

_SHOWN = {
    'likelihood': 'L_LM', 'unlikelihood': 'L_UL', 'prob_right': 'P(right)',
    'prob_wrong': 'P(wrong)',
}


class NotFinite(errors.UserError, FloatingPointError):
  """The loss or its gradient is not finite."""


class RunLog:
  """Logs means over steps; only the first host prints and writes.

  Attributes:
    last: the metrics that were logged last.
  """

  def __init__(
      self, folder: pathlib.Path, start: int, steps: int, copies: int = 1
  ):
    """Opens the log, without the lines that come after the step `start`.

    Args:
      folder: the run's folder.
      start: the step that the run resumes from.
      steps: the step that it trains to.
      copies: how many hosts have each row of a batch.
    """
    self.last = {}
    self._copies = copies
    self._pending = []
    self._since = time.monotonic()
    self._folder, self._start = folder, start
    self._is_first = jax.process_index() == 0
    if not self._is_first:
      return
    self._path = folder / 'metrics.jsonl'
    files.write(self._path, ''.join(_lines_until(self._path, start)))
    self._bar = terminal.progress_bar(steps, 'step', initial=start)

  @functools.cached_property
  def _writer(self) -> Any:
    """TensorBoard's writer, made when something is logged.

    It imports PyTorch where that is installed, which takes seconds; by then the
    first step is compiled.
    """
    import tensorboardX

    return tensorboardX.SummaryWriter(
        str(self._folder / 'tensorboard'), purge_step=self._start + 1
    )

  def add(
      self, step: int, examples: int, metrics: Mapping[str, jax.Array]
  ) -> None:
    """Keeps the metrics of a step, without waiting for them, until `write`."""
    self._pending.append((step, examples, metrics))

  def write(self, saver: checkpoints.Checkpoints) -> None:
    """Logs the steps since the last call.

    Args:
      saver: names the last good checkpoint if there is an error.

    Raises:
      NotFinite: a metric is not finite.
      OSError: the line could not be written.
    """
    if not self._pending:
      return
    steps, examples, metrics = zip(*self._pending, strict=True)
    self._pending = []
    metrics = jax.device_get(list(metrics))
    for step, values in zip(steps, metrics, strict=True):
      _check_finite(step, values, saver)
    now = time.monotonic()
    self.last = {
        k: float(np.mean([m[k] for m in metrics])) for k in metrics[0]
    }
    total = agreement.total(sum(examples)) / self._copies
    self.last['examples_per_second'] = total / (now - self._since)
    self._since = now
    if not self._is_first:
      return
    try:
      with files.named(self._folder / 'tensorboard'):
        for name, value in self.last.items():
          self._writer.add_scalar(name, value, steps[-1])
      with files.named(self._path), self._path.open('a') as f:
        f.write(json.dumps({'step': steps[-1], **self.last}) + '\n')
    except OSError as e:
      raise OSError(
          f'step {steps[-1]} could not be logged: {e}; {saver.last_good}'
      ) from e
    shown = ' '.join(
        f'{label} {self.last[name]:.3f}'
        for name, label in _SHOWN.items() if name in self.last
    )
    self._bar.set_postfix_str(
        f'{shown} {self.last["examples_per_second"]:.0f} examples/s',
        refresh=False,
    )
    self._bar.update(len(steps))

  def close(self) -> None:
    """Ends the bar, and writes out what TensorBoard's writer still holds."""
    if not self._is_first:
      return
    if '_writer' in vars(self):
      with contextlib.suppress(OSError):  # It would hide why the run ends.
        self._writer.close()
    self._bar.close()


def _lines_until(path: pathlib.Path, step: int) -> list[str]:
  """The complete lines of a log up to a step.

  What came after the checkpoint is trained, and logged, once more; a last line
  without a line break was not written whole.
  """
  if not path.exists():
    return []
  return [
      json.dumps(values) + '\n'
      for values in structure.read_log(path, complete=True)
      if values['step'] <= step
  ]


def _check_finite(
    step: int, metrics: Mapping[str, Any], saver: checkpoints.Checkpoints
) -> None:
  if not all(map(math.isfinite, metrics.values())):
    values = {k: float(v) for k, v in metrics.items()}
    raise NotFinite(
        f'step {step}: the loss or its gradient is not finite ({values}); try a'
        f' lower learning rate; {saver.last_good}, and the same command would'
        ' meet the same loss again'
    )
