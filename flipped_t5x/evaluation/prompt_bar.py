"""A progress bar over the prompts of all tasks, with the time left."""

from collections.abc import Callable

from flipped_t5x import terminal


class PromptBar:
  """Counts prompts; each is a row in a template."""

  def __init__(self, total: int, shown: bool = True):
    """Shows a bar of `total` prompts on standard error, if it is `shown`."""
    self._bar = terminal.progress_bar(
        total, 'prompt', shown, unit_scale=True,
        smoothing=0.05,  # Compilation comes in bursts.
    )

  def __enter__(self) -> 'PromptBar':
    return self

  def __exit__(self, *unused_error) -> None:
    self._bar.close()

  def name(self, task: str) -> None:
    """Shows the name of the task that is being evaluated."""
    self._bar.set_postfix_str(task)

  def skip(self, prompts: int) -> None:
    """Counts prompts that were scored earlier, leaving the speed as it is."""
    if not self._bar.disable:  # A bar that is not shown has no `initial`.
      self._bar.initial += prompts
      self._bar.update(prompts)

  def counter(self, prompts: int, candidates: int) -> Callable[[int], None]:
    """Counts the next prompts in proportion to their candidates.

    Args:
      prompts: the number of prompts.
      candidates: the number of their candidates. If there are none, the prompts
        count as done at once.

    Returns:
      A function to call with the number of further candidates that are scored.
    """
    done, shown = 0, 0

    def count(number: int) -> None:
      nonlocal done, shown
      done += number
      now = prompts * done // candidates
      self._bar.update(now - shown)
      shown = now

    if not candidates:
      self._bar.update(prompts)
    return count
