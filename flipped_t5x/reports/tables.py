"""The tables of one run's report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import parts

_MOST_OPTIONS = 10  # Larger confusion matrices are not readable.
_NOT_EVALUATED = 'not evaluated'

Results = Mapping[str, Any]


def brief(results: Results) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of the table in the terminal."""
  header = ['task', 'examples', 'options', 'accuracy', 'macro-F1', 'majority',
            'random']
  rows = [
      [
          name, f'{task["examples"]:,}', parts.span(task['options']),
          parts.spread(task['accuracy']), parts.spread(task['macro_f1']),
          parts.number(task['majority_accuracy']),
          parts.number(task['random_accuracy']),
      ]
      for name, task in results['tasks'].items()
  ]
  return header, rows


def tasks(results: Results) -> parts.Table:
  """The main table: a row for each task, including those not evaluated."""
  columns = {
      'task': lambda name, t: name,
      'judged by': lambda name, t: t.get('metric', parts.MISSING),
      'accuracy': lambda name, t: parts.spread(t['accuracy']),
      '95 % of accuracy': lambda name, t: parts.interval(t['accuracy']),
      'macro-F1': lambda name, t: parts.spread(t['macro_f1']),
      '95 % of macro-F1': lambda name, t: parts.interval(t['macro_f1']),
      'majority': lambda name, t: parts.number(t['majority_accuracy']),
      'random': lambda name, t: parts.number(t['random_accuracy']),
      'templates': lambda name, t: str(len(t['templates'])),
      'examples': lambda name, t: f'{t["examples"]:,}',
      'options': lambda name, t: parts.span(t['options']),
      'ties': lambda name, t: f'{t["ties"]:,}',
      'dropped or truncated': lambda name, t: _dropped(_total_counts(t)),
  }
  header = list(columns)
  rows = [
      [value(name, task) for value in columns.values()]
      for name, task in results['tasks'].items()
  ]
  rows += [
      [name, parts.MISSING, _NOT_EVALUATED,
       *[parts.MISSING] * (len(header) - 3)]
      for name in evaluated_run.missing(results)
  ]
  # Older results and those of T5X lack some columns.
  empty = [
      i for i in range(1, len(header))
      if all(row[i] in (parts.MISSING, _NOT_EVALUATED) for row in rows)
  ]
  keep = [i for i in range(len(header)) if i not in empty]
  header = [header[i] for i in keep]
  texts = ('task', 'judged by', 'dropped or truncated')
  left = [header.index(name) for name in texts if name in header]
  return parts.Table(
      'Results by task', header, [[row[i] for i in keep] for row in rows],
      left=left,
  )


def _total_counts(task) -> dict[str, int] | None:
  total = {}
  for template in task['templates'].values():
    if template['counts'] is None:
      return None
    for reason, count in template['counts'].items():
      total[reason] = total.get(reason, 0) + count
  return total


def _dropped(counts: Mapping[str, int] | None) -> str:
  if counts is None:
    return '-'  # T5X does not write them.
  return ', '.join(f'{n:,} {reason}' for reason, n in counts.items()) or 'none'


def groups(results: Results) -> parts.Table:
  """Groups and averages, each with the number of its tasks."""
  found = results['groups']
  extra = {
      'accuracy_pooled': 'accuracy, examples pooled',
      'original': 'own words', 'others': 'other words', 'drop': 'drop',
  }
  extra = {k: v for k, v in extra.items() if any(k in g for g in found)}
  header = ['group', 'tasks', 'accuracy', 'macro-F1', "tasks' own metric",
            'majority', 'random', *extra.values()]
  rows = [
      [
          group['name'], coverage(group), parts.number(group['accuracy']),
          parts.number(group['macro_f1']), parts.number(group['metric']),
          parts.number(group.get('majority_accuracy')),
          parts.number(group.get('random_accuracy')),
          *(_extra(group.get(key)) for key in extra),
      ]
      for group in found
  ]
  return parts.Table('Groups and averages', header, rows, left=(0, 1))


def _extra(value: float | Mapping[str, float | None] | None) -> str:
  if isinstance(value, Mapping):
    value = value['mean']
  return parts.number(value).replace('-', '−')


def coverage(group: Mapping[str, Any]) -> str:
  """`5 tasks`, or `4 of 5 tasks` if some are missing."""
  missing = set(group['missing'])
  evaluated = [name for name in group['tasks'] if name not in missing]
  number = len(evaluated) + len(missing)
  tasks = 'task' if number == 1 else 'tasks'
  if missing:
    return f'{len(evaluated)} of {number} {tasks}'
  return f'{number} {tasks}'


def templates(results: Results) -> parts.Group:
  """A table of templates for each task."""
  tables = []
  for name, task in results['tasks'].items():
    rows = [
        [
            template, f'{t["examples"]:,}', parts.number(t['accuracy']),
            parts.number(t['macro_f1']), f'{t["ties"]:,}',
            _dropped(t['counts']),
        ]
        for template, t in task['templates'].items()
    ]
    rows += [
        [template, '0', *[parts.MISSING] * 3, reason]
        for template, reason in task.get('unfit', {}).items()
    ]
    tables.append(parts.Table(
        f'Templates of {name}',
        ['template', 'examples', 'accuracy', 'macro-F1', 'ties',
         'dropped or truncated'],
        rows, left=(0, 5), heading=name,
    ))
  return parts.Group(tables, folded=len(tables) > 3)


def label_words(
    task: Mapping[str, Any], metric: str
) -> tuple[str, dict[str, float]] | None:
  """A task's score for each set of label words.

  Args:
    task: one of `results['tasks']`.
    metric: 'accuracy' or 'macro_f1'.

  Returns:
    The name of the template with its own words; and words -> score, with that
    name in place of its own words. None if the task has no templates with
    `label_words`, which older results lack, or not just one without.
  """
  templates_ = task['templates']
  own = [name for name, t in templates_.items() if 'label_words' not in t]
  if len(own) != 1 or len(templates_) == 1:
    return None
  return own[0], {
      '/'.join(t.get('label_words', own)): t[metric]
      for t in templates_.values()
  }


def confusions(results: Results) -> Iterator[parts.Table]:
  """Yields the confusion matrix of each task that has not too many options."""
  for name, task in results['tasks'].items():
    matrix = confusion(task)
    if matrix is None or len(matrix) > _MOST_OPTIONS:
      continue
    size = len(matrix)
    numbers = [str(i + 1) for i in range(size)]
    yield parts.Table(
        f'Confusion matrix of {name}',
        ['gold', *numbers],
        [[numbers[i], *(f'{n:,}' for n in matrix[i])] for i in range(size)],
        shares=[[n / max(sum(row), 1) for n in row] for row in matrix],
        heading=name,
    )


def confusion(task: Mapping[str, Any]) -> list[list[int]] | None:
  """A task's confusion matrix: rows gold, columns predicted, over templates."""
  found = [t.get('confusion') for t in task['templates'].values()]
  if None in found:
    return None
  size = max(map(len, found))
  total = [[0] * size for _ in range(size)]
  for matrix in found:
    for i, row in enumerate(matrix):
      for j, count in enumerate(row):
        total[i][j] += count
  return total


def without_confusion(results: Results) -> list[str]:
  """The tasks that have too many options for a confusion matrix."""
  sizes = {n: confusion(t) for n, t in results['tasks'].items()}
  return [n for n, m in sizes.items() if m and len(m) > _MOST_OPTIONS]


def calibration(results: Results) -> parts.Table | None:
  """The mean confidence, the accuracy and the ECE of each task."""
  rows = []
  for name, task in results['tasks'].items():
    if 'calibration' not in task:
      continue
    bins = [b for b in task['calibration']['bins'] if b['count']]
    total = sum(b['count'] for b in bins)
    mean = {
        key: sum(b[key] * b['count'] for b in bins) / total
        for key in ('confidence', 'accuracy')
    }
    rows.append([
        name, f'{total:,}', parts.number(mean['confidence']),
        parts.number(mean['accuracy']),
        parts.number(task['calibration']['ece']),
    ])
  header = ['task', 'rankings', 'mean confidence', 'share right', 'ECE']
  return parts.Table('Calibration by task', header, rows) if rows else None


def last_step(log: Sequence[Mapping[str, float]]) -> parts.Table:
  """The last line of the training log."""
  return parts.Table(
      'Last logged step', list(log[-1]),
      [[f'{value:.4g}' for value in log[-1].values()]], left=(),
  )
