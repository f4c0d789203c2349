"""A new task's rows as the encoder and the decoder will see them."""

import collections
import pathlib
import random

from flipped_t5x import terminal
from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.inspection import measurement
from flipped_t5x.inspection import shown_examples
from flipped_t5x.inspection import units
from flipped_t5x.new_task import folder as folder_lib
from flipped_t5x.prompts import examples
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.prompts import tokenization
import rich.console

_SAMPLE = 1000  # Rows that are measured.
_SIDES = {'inputs': 'input', 'targets': 'target'}


def measure(
    task: folder_lib.Task,
    folder: pathlib.Path,
    settings: inspect_mixture.Settings,
    num_examples: int,
) -> measurement.Measured:
  """Measures training rows of a folder that is being written.

  Args:
    task: the task.
    folder: where its folder is meanwhile.
    settings: vocabulary, lengths and seed.
    num_examples: the most rows to keep as text.

  Raises:
    UserError: a row does not fit a template.
  """
  rng, rows, numbers = random.Random(settings.seed), [], []
  with open(folder / task.name / 'train.jsonl', 'rb') as lines:
    for number, line in enumerate(lines):
      # A sample of all rows, without holding all of them.
      place = number if number < _SAMPLE else rng.randint(0, number)
      if number < _SAMPLE:
        rows.append(line)
        numbers.append(number)
      elif place < _SAMPLE:
        rows[place], numbers[place] = line, number
  make = units.PairUnits(examples.DrawPair(
      task.name,
      # As they will be read; so the file is known to be right.
      templates_lib.load_file(folder / folder_lib.TEMPLATES, label='label'),
      tokenization.load_vocabulary(settings.vocabulary),
      {
          'inputs': settings.input_length,
          'wrong_inputs': settings.input_length,
          'targets': settings.target_length,
      },
      settings.format, collections.Counter(),
  ))
  order = rng.sample(range(len(rows)), len(rows))
  seeds = [rng.getrandbits(63) for _ in order]
  measured = measurement.measure(make, rows, order, seeds, num_examples)
  for i, example in enumerate(measured.examples):
    number = numbers[example['row'] - 1] + 1  # Of the file, not of the sample.
    measured.examples[i] = {**example, 'row': number}
  return measured


def warnings(
    measured: measurement.Measured, settings: inspect_mixture.Settings
) -> list[str]:
  """What is cut or dropped at the lengths of the settings, one sentence each.

  Args:
    measured: what `measure` found.
    settings: the settings that it was made with.
  """
  found = []
  for side, length in zip(
      _SIDES, (settings.input_length, settings.target_length), strict=True
  ):
    share = measured.cut_share(side)
    if share:
      longest = measured.percentiles(side)['max']
      found.append(
          f'{share:.1%} of the {_SIDES[side]}s are cut to {length} tokens (the'
          f' longest has {longest:,})'
      )
  for why, number in measured.dropped.items():
    found.append(
        f'{number:,} of {measured.rows:,} rows would be dropped in training:'
        f' {why}'
    )
  return found


def show(
    name: str,
    measured: measurement.Measured,
    settings: inspect_mixture.Settings,
    console: rich.console.Console,
) -> None:
  """Prints the rows that were kept as text.

  Args:
    name: the task's name.
    measured: what `measure` found.
    settings: the settings that it was made with.
    console: where to print.
  """
  for example in measured.examples:
    shown_examples.write(name, terminal.visible(example), settings, console)
