"""One row of a dataset as a model sees it, for people."""

from collections.abc import Mapping
from typing import Any

from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.inspection import units
import rich.console
import rich.rule
import rich.table
import rich.text

_WIDE = 100  # Columns that two texts need side by side.
_SHOWN_CHARS = 900  # Of each text; --json has all of it.
_SENTINEL = r'<extra_id_\d+>'


def write(
    name: str,
    example: Mapping[str, Any],
    settings: inspect_mixture.Settings,
    console: rich.console.Console,
) -> None:
  """Prints a row as the model sees it, with its right and a wrong option.

  Args:
    name: the dataset's name.
    example: see `measurement.Measured`.
    settings: the settings that it was made with.
    console: where to print.
  """
  options = ' | '.join(' '.join(o.split()) for o in example['options'])
  console.print()
  console.print(rich.rule.Rule(
      rich.text.Text(f'{name}, row {example["row"]:,}'), align='left', style=''
  ))
  facts = {
      'template': example['template'],
      'options': _shortened(options),
      'gold': example['options'][example['gold']],
      'tokens': ', '.join(
          f'{n} of {side}' + (f' cut to {most}' if n > most else '')
          for (side, n), most in zip(
              example['tokens'].items(),
              (settings.input_length, settings.target_length), strict=True,
          )
      ),
  }
  for key, value in facts.items():
    console.print(rich.text.Text.assemble((f'{key:<9}', 'dim'), value))
  for side, reads in zip(units.SIDES, ('encoder', 'decoder'), strict=True):
    texts = {'': example[side]}
    if f'wrong_{side}' in example:
      texts = {
          ', right option': example[side],
          ', wrong option': example[f'wrong_{side}'],
      }
    _print_texts(console, {reads + k: text for k, text in texts.items()})


def _print_texts(
    console: rich.console.Console, texts: Mapping[str, str]
) -> None:
  """Prints texts side by side if there is room, else one above the other."""
  wide = console.width >= _WIDE
  grid = rich.table.Table.grid(padding=(0, 2), expand=wide)
  cells = []
  for title, text in texts.items():
    style = 'bold red' if title.endswith('wrong option') else 'bold green'
    body = rich.text.Text(_shortened(text))
    body.highlight_regex(_SENTINEL, 'cyan')
    cells.append(rich.text.Text.assemble((f'{title}\n', style), body))
  if wide:
    for _ in cells:
      grid.add_column(ratio=1)
    grid.add_row(*cells)
  else:
    grid.add_column()
    for cell in cells:
      grid.add_row(cell)
  console.print(grid)


def _shortened(text: str) -> str:
  """A long text without its middle; the label is at its end."""
  left_out = len(text) - _SHOWN_CHARS
  if left_out <= _SHOWN_CHARS // 4:
    return text
  half = _SHOWN_CHARS // 2
  return f'{text[:half]} [... {left_out:,} characters ...] {text[-half:]}'
