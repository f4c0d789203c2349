"""Published results, which reports show beside ours.

`published_results.csv` has the figures as they were published, in percent, with
their sources. Here they are shares, 0 to 1. Baselines (majority, random) are
not among them, as they depend on the rows that were evaluated.
"""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import functools
import os
import pathlib

from flipped_t5x import errors

RESULTS = pathlib.Path(__file__).parent / 'published_results.csv'
# The first columns of a table, see `Figure.column`, the most similar models
# first.
DEFAULT_COLUMNS = {
    'nlp': ('FLIPPED-3B', 'T0-3B', 'T0-11B', 'GPT-3-175B'),
    'bigbench': ('T0-11B', 'GPT-3-175B', 'GPT-3-175B (3-shot)', 'PaLM-535B'),
    'label_generalization': (),
}
# Metric as published -> its key in results. The grade of BIG-bench is the
# accuracy of the option with the best score.
_METRICS = {
    'accuracy': 'accuracy',
    'accuracy, mean over templates': 'accuracy',
    'multiple_choice_grade': 'accuracy',
    'macro-F1': 'macro_f1',
}
# Task as published -> a group of `evaluation/suites.py`.
_GROUPS = {'mean of 14': 'average of 14'}
_DIFFERENCE = ' minus '
_COLUMNS = [
    'benchmark', 'task', 'metric', 'model', 'shots', 'value', 'source',
]


@dataclasses.dataclass(frozen=True)
class Figure:
  """One published number.

  Attributes:
    benchmark: 'nlp', 'bigbench' or 'label_generalization'.
    task: for nlp, a task of the catalog; for BIG-bench, one of the 14 groups of
      `evaluation/suites.py`, or 'average of 14'. A claim may have other words.
    metric: 'accuracy' or 'macro_f1'.
    measured: the metric in the words of the source.
    model: the model; 'A minus B' for a claim.
    shots: the number of examples in the prompt.
    value: a share, 0 to 1; for a claim, the difference of two shares.
    source: where it was published.
  """

  benchmark: str
  task: str
  metric: str
  measured: str
  model: str
  shots: int
  value: float
  source: str

  @property
  def column(self) -> str:
    """The name of the model, with its shots if there are any."""
    return f'{self.model} ({self.shots}-shot)' if self.shots else self.model

  @property
  def is_claim(self) -> bool:
    """Whether it is the difference between two models."""
    return _DIFFERENCE in self.model


@functools.cache
def read(path: str | os.PathLike[str] = RESULTS) -> Sequence[Figure]:
  """Reads all published numbers, in the order of the file.

  Raises:
    UserError: the file has other columns, or an invalid line; the message names
      the line.
  """
  figures = []
  with open(path, encoding='utf-8', newline='') as f:
    table = csv.DictReader(f)
    if table.fieldnames != _COLUMNS:
      raise errors.UserError(
          f'{path}: columns {table.fieldnames}, not {_COLUMNS}'
      )
    for record in table:
      try:
        figure = _figure(record)
        for other in figures:
          if _key(other) == _key(figure):
            raise errors.UserError(
                f'{figure.task}, {figure.column} appears twice'
            )
      except ValueError as e:
        raise errors.UserError(f'{path}, line {table.line_num}: {e}') from e
      figures.append(figure)
  return tuple(figures)


def _key(figure: Figure) -> tuple[str, ...]:
  return figure.benchmark, figure.task, figure.metric, figure.column


def _figure(record: Mapping[str, str]) -> Figure:
  if None in record or None in record.values():
    raise errors.UserError('more or fewer values than columns')
  for name, text in record.items():
    if not text:
      raise errors.UserError(f'the {name} is missing')
  for name, known in (('benchmark', DEFAULT_COLUMNS), ('metric', _METRICS)):
    if record[name] not in known:
      raise errors.UserError(
          f'{name} {record[name]!r} is not one of {list(known)}'
      )
  figure = Figure(**record | {
      'task': _GROUPS.get(record['task'], record['task']),
      'metric': _METRICS[record['metric']],
      'measured': record['metric'],
      'shots': _number(int, 'shots', record),
      'value': _number(float, 'value', record) / 100,
  })
  least = -1 if figure.is_claim else 0
  if not least <= figure.value <= 1:  # NaN is not, either.
    raise errors.UserError(f'value {record["value"]!r} is not in percent')
  if figure.shots < 0:
    raise errors.UserError(f'shots {figure.shots} is below 0')
  return figure


def _number(kind: type, name: str, record: Mapping[str, str]) -> float:
  try:
    return kind(record[name])
  except ValueError as e:
    raise errors.UserError(f'{name} {record[name]!r} is not a number') from e


def lookup(
    benchmark: str | None, task: str, metric: str = 'accuracy'
) -> Mapping[str, Figure]:
  """The published numbers for a task or group of ours, without claims.

  Args:
    benchmark: the name of a suite; None has no published numbers.
    task: a task of the catalog or a group of `suites.groups`. Single subtasks
      of BIG-bench have no published numbers.
    metric: 'accuracy' or 'macro_f1'.

  Returns:
    `Figure.column` -> figure.
  """
  if benchmark == 'bigbench':
    task = task.removeprefix('bigbench/')
  return {
      f.column: f for f in read()
      if not f.is_claim
      and (f.benchmark, f.task, f.metric) == (benchmark, task, metric)
  }


def claims(benchmark: str | None) -> Sequence[Figure]:
  """The published differences between two models on a benchmark."""
  return [f for f in read() if f.is_claim and f.benchmark == benchmark]


def columns(benchmark: str | None) -> Sequence[str]:
  """All columns of a benchmark, with `DEFAULT_COLUMNS` first."""
  found = [
      f.column for f in read() if not f.is_claim and f.benchmark == benchmark
  ]
  return list(dict.fromkeys([*DEFAULT_COLUMNS.get(benchmark, ()), *found]))
