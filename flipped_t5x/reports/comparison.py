"""Several evaluated runs beside each other: whether they may be compared, what
differs between them, and whether that is more than chance.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import ranking
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.evaluation import statistics
from flipped_t5x.reports import evaluated_run
import numpy as np

SIGNIFICANT = 0.05
_UNKNOWN = object()
_FILE = 'scores'  # Key of a task: its file of examples.

Run = evaluated_run.EvaluatedRun


@dataclasses.dataclass(frozen=True)
class Test:
  """A run against the first one, on a task.

  Attributes:
    run: the run's number, from 1.
    task: the task.
    difference: accuracy of the run minus that of the first.
    low, high: its 95 % interval.
    p: of the paired test.
    adjusted: p by Holm's method, over all tests of the report.
  """

  run: int
  task: str
  difference: float
  low: float
  high: float
  p: float
  adjusted: float

  @property
  def significant(self) -> bool:
    return self.adjusted < SIGNIFICANT


def check(runs: Sequence[Run]) -> None:
  """UserError unless all runs ranked the same rows.

  The message names what differs, both values, both files, and what to do.
  """
  first = runs[0]
  for run in runs[1:]:
    if not first.results['tasks'].keys() & run.results['tasks'].keys():
      raise _differ('tasks', list(first.results['tasks']), first,
                    list(run.results['tasks']), run,
                    'evaluate them on the same --suite')
    for (name, theirs, hint), (_, ours, _) in zip(
        _identity(run, first), _identity(first, run), strict=True
    ):
      if _UNKNOWN not in (ours, theirs) and ours != theirs:
        raise _differ(name, ours, first, theirs, run, hint)


def _differ(name, a, first, b, run, hint) -> errors.UserError:
  return errors.UserError(
      f'{name}: {a!r} in {first.path}, {b!r} in {run.path}: these results'
      f' cannot be compared; {hint}'
  )


def _identity(run: Run, other: Run) -> Iterator[tuple[str, Any, str]]:
  """(what, its value, what to do if it differs), in an order of its own."""
  results = run.results
  again = 'evaluate both with the same --'
  suite = results.get('suite') or _UNKNOWN
  yield 'suite', suite, f'{again}suite'
  mixture = results.get('mixture')
  yield (
      'mixture (but for its format)',
      _without_format(mixture, results.get('format')) if mixture else _UNKNOWN,
      f'{again}mixture',
  )
  yield 'limit', results.get('limit', _UNKNOWN), f'{again}limit'
  yield (
      'MAX_FIELD_CHARS', results['settings'].get('MAX_FIELD_CHARS'),
      'a text that was cut is another text: compare runs of the same value',
  )
  for name, task in results['tasks'].items():
    other_task = other.results['tasks'].get(name)
    if other_task is None:
      continue
    yield f'split of {name}', task['data'].get('split'), f'{again}split'
    digests = 'sha256' in task['data'] and 'sha256' in other_task['data']
    yield (
        f'{"SHA-256 of the " if digests else ""}rows of {name}',
        task['data']['sha256'] if digests else task['data'],
        'evaluate both on rows from the same source',
    )
    yield (
        f'templates of {name}', sorted(task['templates'].keys()),
        'evaluate both with the same templates and lengths',
    )


def _without_format(mixture: str, form: str | None) -> str:
  """`train` of `flipped_train`: its twin is of the same tasks."""
  return ','.join(
      name.removeprefix(f'{form}_') for name in mixture.split(',')
  )


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
  """Setting -> its value in each run, of those that are not all the same."""
  flat = [_flat(run.results) for run in runs]
  names = dict.fromkeys(name for settings in flat for name in settings)
  found = {name: [s.get(name) for s in flat] for name in names}
  return {
      name: values for name, values in found.items()
      if any(value != values[0] for value in values)
  }


def _flat(results: Mapping[str, Any]) -> dict[str, Any]:
  flat = {
      name: results.get(name)
      for name in ('format', 'step', 'input_length', 'target_length')
  }
  checkpoint = results.get('checkpoint', {})
  flat |= {f'checkpoint: {k}': v for k, v in checkpoint.items()}
  flat |= results['settings']
  flat |= {f'network: {k}': v for k, v in results['network'].items()}
  return flat | {
      f'version of {k}': v for k, v in results['versions'].items()
  }


def untested(runs: Sequence[Run]) -> dict[str, str]:
  """Task -> why there is no test of it: what has no file for each example."""
  found = {}
  for name in runs[0].results['tasks']:
    for run in runs:
      task = run.results['tasks'].get(name)
      if task is None:
        continue
      if _FILE not in task:
        found[name] = f'{run.path} names no file of its examples'
      elif not _examples_path(run, name).is_file():
        found[name] = f'{_examples_path(run, name)} is not there'
  return found


def tests(runs: Sequence[Run]) -> list[Test]:
  """Each run against the first, on each task that both have examples of.

  Raises:
    UserError: other rows, or a file that is not of its results; names both.
  """
  without = untested(runs)
  found = []
  for name in runs[0].results['tasks']:
    if name in without:
      continue
    first = examples(runs[0], name)
    for number, run in enumerate(runs[1:], 1):
      if name in run.results['tasks']:
        theirs = examples(run, name)
        _check_rows(name, runs[0], first, run, theirs)
        values = statistics.paired_test(theirs, first)
        found.append((number, name, values))
  adjusted = statistics.holm([values['p'] for _, _, values in found])
  return [
      Test(number, name, **values, adjusted=p)
      for (number, name, values), p in zip(found, adjusted, strict=True)
  ]


def examples(run: Run, task: str) -> dict[str, ranking.Predictions]:
  """What a run predicted, by template.

  Raises:
    UserError: the file is not the one that the results were written with, or
      it is damaged.
  """
  path = _examples_path(run, task)
  digest = files.sha256(path.read_bytes())
  if digest != run.results['tasks'][task][_FILE]['sha256']:
    raise errors.UserError(
        f'{path} is not the file that {run.path} was written with (SHA-256):'
        ' evaluate the run again'
    )
  found = scored_examples.read(str(path))
  return {template: values.ranked for template, values in found.items()}


def _examples_path(run: Run, task: str) -> epath.Path:
  return run.path.parent / run.results['tasks'][task][_FILE]['file']


def _check_rows(task, first, a, run, b) -> None:
  """UserError unless both ranked the same rows with the same gold options."""
  for template in [*a, *(n for n in b if n not in a)]:
    where = f'rows of {task} "{template}"'
    ids = [
        np.sort(found[template].example_id) if template in found
        else np.zeros(0, int)
        for found in (a, b)
    ]
    only = np.setxor1d(*ids)
    if len(only):
      raise _differ(
          where, f'{len(ids[0])} rows', first, f'{len(ids[1])} rows', run,
          f'{len(only)} are in one alone, such as number {only[0]}: evaluate'
          ' both with the same lengths, --limit and --split',
      )
    gold, theirs = (
        f[template].gold[np.argsort(f[template].example_id)] for f in (a, b)
    )
    other = np.flatnonzero(gold != theirs)
    if len(other):
      i = other[0]
      raise _differ(
          f'{where}, right option of number {ids[0][i]}', int(gold[i]), first,
          int(theirs[i]), run, 'evaluate both on rows from the same source',
      )
