"""The label of a row: whether there is one, and which option it means."""

from collections.abc import Sequence
import numbers
from typing import Any


def is_missing(label: Any) -> bool:
  """Whether a label says "unknown", as in most test splits of the hub.

  Args:
    label: the value of the field that holds the label.

  Returns:
    Whether it is None, NaN, -1 (as a text, too), or a text without characters
    other than white space.
  """
  if isinstance(label, str):
    return label.strip() in ('', '-1')
  if isinstance(label, numbers.Real):
    return bool(label == -1 or label != label)
  return label is None


def option_number(label: Any, options: Sequence[str]) -> int:
  """The number of the option that `answer_choices[label]` means.

  Args:
    label: an integer, the same as a float or a text (1.0, "1", as spreadsheets
      and data frames write it), or the text of an option.
    options: the options.

  Returns:
    An index of `options`.

  Raises:
    ValueError: the label means no option, or might mean two.
  """
  found = {i for i, option in enumerate(options) if option == label}
  try:
    number = int(label)
    # Not 1.5, and not a Boolean in a text.
    if number == float(label) and 0 <= number < len(options):
      found.add(number)
  except (OverflowError, TypeError, ValueError):
    pass
  if len(found) == 1:
    return found.pop()
  listed = ', '.join(map(repr, options))
  if found:
    raise ValueError(
        f'label {label!r} is the number of one option and the text of another:'
        f' {listed}'
    )
  raise ValueError(
      f'label {label!r} is neither the number of an option, 0 to'
      f' {len(options) - 1}, nor the text of one: {listed}'
  )
