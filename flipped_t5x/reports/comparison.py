"""Compares evaluated runs with the first of them.

Runs are compared only if they ranked the same rows. The settings that differ
are listed, and differences in accuracy are tested for significance.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import ranking
from flipped_t5x import terminal
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.evaluation import statistics
from flipped_t5x.reports import evaluated_run
import numpy as np

SIGNIFICANT = 0.05
NOT_RECORDED = 'not recorded'
_UNKNOWN = object()
_FILE = 'scores'  # Key of a task: its file of examples.

Run = evaluated_run.EvaluatedRun


@dataclasses.dataclass(frozen=True)
class Test:
  """The test of a run against the first one, on one task.

  Attributes:
    run: the run's number; the first run has the number 0.
    task: the task.
    difference: the accuracy of the run minus that of the first run.
    low: the lower end of the 95 % interval of `difference`.
    high: the upper end of that interval.
    p: the p of the paired test.
    adjusted: p adjusted by Holm's method for all tests of the report.
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
  """Raises UserError unless all runs ranked the same rows.

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
  """Yields what must be the same in both runs.

  Args:
    run: the run whose values are yielded.
    other: the run that it is compared with.

  Yields:
    A name, its value, and what to do if the values of the runs differ.
  """
  results = run.results
  again = 'evaluate both with the same --'
  suite = results.get('suite') or _UNKNOWN
  yield 'suite', suite, f'{again}suite'
  mixture = results.get('mixture')
  yield (
      'mixture (without its format)',
      _without_format(mixture, results.get('format')) if mixture else _UNKNOWN,
      f'{again}mixture',
  )
  yield 'limit', results.get('limit', _UNKNOWN), f'{again}limit'
  yield (
      'MAX_FIELD_CHARS', results['settings'].get('MAX_FIELD_CHARS'),
      'texts were cut to different lengths: compare runs with the same value',
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
  """`train` for `flipped_train`: its twin `direct_train` has the same tasks."""
  return ','.join(
      name.removeprefix(f'{form}_') for name in mixture.split(',')
  )


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
  """Setting -> its value in each run, for settings that differ.

  Those of a training are left out if there is a run without; see `unrecorded`.
  """
  flat = [_flat(run.results, bool(unrecorded(runs))) for run in runs]
  names = dict.fromkeys(name for settings in flat for name in settings)
  found = {name: [s.get(name, NOT_RECORDED) for s in flat] for name in names}
  return {
      name: values for name, values in found.items()
      if any(value != values[0] for value in values)
  }


def unrecorded(runs: Sequence[Run]) -> list[str]:
  """The names of the runs that record no settings of a training."""
  return [run.name for run in runs if not run.results['settings']]


def _flat(
    results: Mapping[str, Any], without_settings: bool
) -> dict[str, Any]:
  flat = {
      name: results[name]
      for name in ('format', 'step', 'input_length', 'target_length')
      if results.get(name) is not None
  }
  checkpoint = results.get('checkpoint', {})
  flat |= {
      f'checkpoint: {k}': v for k, v in checkpoint.items() if v is not None
  }
  if not without_settings:
    flat |= results['settings']
  flat |= {f'network: {k}': v for k, v in results['network'].items()}
  return flat | {
      f'version of {k}': v for k, v in results['versions'].items()
  }


def untested(runs: Sequence[Run]) -> dict[str, str]:
  """Task -> why it cannot be tested: a run has no scores of its examples."""
  found = {}
  for name in runs[0].results['tasks']:
    for run in runs:
      task = run.results['tasks'].get(name)
      if task is None:
        continue
      if _FILE not in task:
        found[name] = f'{run.path} names no file with the scores of examples'
      elif not _examples_path(run, name).is_file():
        found[name] = f'{_examples_path(run, name)} does not exist'
  return found


def tests(runs: Sequence[Run]) -> list[Test]:
  """Tests each run against the first, on each task that can be tested.

  Raises:
    UserError: the runs ranked different rows, or a file of scores does not
      belong to its results; the message names both files.
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
  """Reads what a run predicted, by template.

  Raises:
    UserError: the file of scores is damaged, or is not the one that was written
      together with the results.
  """
  path = _examples_path(run, task)
  digest = files.sha256(path.read_bytes())
  if digest != run.results['tasks'][task][_FILE]['sha256']:
    raise errors.UserError(
        f'{path} is not the file that was written together with {run.path}'
        ' (their SHA-256 differ): evaluate the run again'
    )
  found = scored_examples.read(str(path))
  return {terminal.visible(t): values.ranked for t, values in found.items()}


def _examples_path(run: Run, task: str) -> epath.Path:
  return run.path.parent / run.results['tasks'][task][_FILE]['file']


def _check_rows(task, first, a, run, b) -> None:
  """Raises UserError unless rows and gold options of a task are the same."""
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
          f'{len(only)} are in only one of them, such as number {only[0]}:'
          ' evaluate both with the same lengths, --limit and --split',
      )
    gold, theirs = (
        f[template].gold[np.argsort(f[template].example_id)] for f in (a, b)
    )
    other = np.flatnonzero(gold != theirs)
    if len(other):
      i = other[0]
      raise _differ(
          f'{where}, gold option of number {ids[0][i]}', int(gold[i]), first,
          int(theirs[i]), run, 'evaluate both on rows from the same source',
      )
