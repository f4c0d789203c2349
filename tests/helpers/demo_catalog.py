"""A catalog of one row, for tests of where rows come from."""

import csv
import json
import pathlib

from flipped_t5x.tasks import catalog


def isolate(folder: pathlib.Path, patch) -> pathlib.Path:
  """Sets the environment to a data folder of its own; returns that folder."""
  data = folder / 'data'
  patch.setenv('FLIPPED_T5X_DATA', str(data))
  for name in ('FLIPPED_T5X_CATALOG', 'FLIPPED_T5X_SOURCES'):
    patch.delenv(name, raising=False)
  return data


def dataset(folder: pathlib.Path, patch, **columns) -> catalog.Dataset:
  """Adds a dataset to the catalog, in the place of what was added before.

  Args:
    folder: where the catalog is written.
    patch: a `pytest.MonkeyPatch`.
    **columns: of the row; `my/set` of 3 rows is the default.

  Returns:
    The dataset.
  """
  columns = {
      'name': 'my/set', 'templates': 'promptsource:imdb', 'test': '3',
      'eval_split': 'test', 'fields': 'text label', **columns,
  }
  path = folder / f'{len(list(folder.glob("*.csv")))}.csv'
  with open(path, 'w', newline='') as f:
    writer = csv.DictWriter(f, columns)
    writer.writeheader()
    writer.writerow(columns)
  patch.setenv('FLIPPED_T5X_CATALOG', str(path))
  return catalog.dataset(columns['name'])


def rows(number: int, start: int = 0) -> list[dict[str, object]]:
  """Rows that differ."""
  return [
      {'text': f'Text {i}.', 'label': i % 2}
      for i in range(start, start + number)
  ]


def write_lines(path: pathlib.Path, content: list[dict[str, object]]) -> None:
  """Writes rows as JSON lines, and the folders above."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in content))
