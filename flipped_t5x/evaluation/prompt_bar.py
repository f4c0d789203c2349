"""A progress bar of rows in templates, over all tasks, with the time left."""

from collections.abc import Callable

from flipped_t5x import terminal


class PromptBar:
  """Counts prompts: a row in a template each."""

  def __init__(self, total: int):
    """Shows a bar of `total` prompts on standard error."""
    self._bar = terminal.progress_bar(
        total, 'prompt', unit_scale=True,
        smoothing=0.05,  # Compilation comes in bursts.
    )

  def __enter__(self) -> 'PromptBar':
    return self

  def __exit__(self, *unused_error) -> None:
    self._bar.close()

  def name(self, task: str) -> None:
    """Says what is evaluated now."""
    self._bar.set_postfix_str(task)

  def skip(self, prompts: int) -> None:
    """These were done before: they say nothing of the speed."""
    self._bar.initial += prompts
    self._bar.update(prompts)

  def counter(self, prompts: int, candidates: int) -> Callable[[int], None]:
    """For the next prompts, done as their candidates are.

    Args:
      prompts: how many.
      candidates: their options; where there are none they are done now.

    Returns:
      What to call with a number of candidates that are done.
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
