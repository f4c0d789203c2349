"""The paper's evaluation suites: their tasks, groups and averages.

A group whose tasks are not all evaluated lists those that are missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import difflib
from typing import Any

from flipped_t5x import errors
import numpy as np

_ANLI = ('anli/r1', 'anli/r2', 'anli/r3')
_BASELINES = ('random_accuracy', 'majority_accuracy', 'majority_macro_f1')
_METRICS = {'accuracy': 'accuracy', 'macro-F1': 'macro_f1'}
_Tasks = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Suite:
  """Tasks that are evaluated together and averaged.

  Attributes:
    name: the name in `--suite NAME` and `results_NAME.json`, and the benchmark
      in `published_results.csv`.
    mixture: the mixture of the tasks, without its format; None for the mixture
      that the run was trained on.
    title: the title in reports.
  """

  name: str
  mixture: str | None
  title: str


SUITES = {
    suite.name: suite for suite in (
        Suite('nlp', 'nlp_eval', 'Unseen NLP tasks'),
        Suite('bigbench', 'bigbench_eval', 'BIG-bench'),
        Suite(
            'label_generalization', 'label_generalization',
            'Label words never seen',
        ),
        Suite('seen', None, 'Held-out rows of seen tasks'),
    )
}


def get(name: str) -> Suite:
  """A suite by name; UserError names the nearest one."""
  if name not in SUITES:
    near = difflib.get_close_matches(name, SUITES, 1, 0) or list(SUITES)
    raise errors.UserError(
        f'no suite {name!r}; nearest: {near[0]}; all: {", ".join(SUITES)}'
    )
  return SUITES[name]


def groups(
    suite: Suite, tasks: _Tasks, missing: Iterable[str] = ()
) -> list[dict[str, Any]]:
  """Averages the results of a suite as the paper's tables do.

  - nlp and seen: each cluster, such as natural language inference, is a group.
    In the paper's 14 tasks, as in T0's tables, the three rounds of anli count
    as three. A further average is over 12 tasks, with anli as one.
  - bigbench: each of the 14 tasks is a group. `accuracy` is the mean over its
    subtasks; `accuracy_pooled` is over all of their examples together.
  - label_generalization: each of the five tasks is a group. `original` is the
    task's metric with its own label words; `others` has `mean`, `std`, `min`,
    `max` and `number` over the other sets of words; `drop` is `original` minus
    the mean of the others. `accuracy`, `macro_f1` and `metric` are over all
    sets. The average has the means of all these numbers.

  Args:
    suite: one of `SUITES`.
    tasks: task -> its results, see docs/evaluation.md.
    missing: the names of tasks that could not be evaluated. Tasks that the
      catalog has for the suite are missing, too, if they are not in `tasks`.

  Returns:
    The groups, and last the average over all tasks. Each has its `name`; the
    `tasks` that its numbers are over, and those that are `missing`, by their
    names in the catalog; `accuracy`, `macro_f1`, and `metric`, which is one of
    these two for each task; and the baselines `random_accuracy`,
    `majority_accuracy` and `majority_macro_f1`. A number is None if no task has
    it.

  Raises:
    UserError: a task's metric is neither accuracy nor macro-F1.
  """
  names, clusters = _members(suite, tasks, missing)
  if not names:  # A suite of no mixture, and no results.
    return []
  if suite.name == 'label_generalization':
    found = [
        {**_group(name, [name], tasks), **_label_words(tasks.get(name), name)}
        for name in names
    ]
    return [*found, _average(found)]
  found = [
      _group(cluster, members, tasks) for cluster, members in clusters.items()
  ]
  if suite.name == 'bigbench':
    for one in found:
      one['accuracy_pooled'] = _pooled(one['tasks'], tasks)
    return [*found, _average(found)]
  single = [_group(name, [name], tasks) for name in names]
  if suite.name == 'nlp':
    others = [_group(n, [n], tasks) for n in names if n not in _ANLI]
    anli = _group('anli', _ANLI, tasks)
    found.append(_average([anli, *others], ', anli as one'))
  return [*found, _average(single)]


def _members(suite, tasks, missing) -> tuple[list[str], dict[str, list[str]]]:
  """All tasks of a suite, and by cluster, in the order of the catalog."""
  from flipped_t5x.tasks import catalog  # It opens a file.

  facts = catalog.catalog()
  ours = [n for n, d in facts.items() if suite.mixture and
          d.role == suite.mixture]
  names = list(dict.fromkeys([*ours, *tasks, *missing]))
  clusters = {}
  for name in names:
    cluster = tasks.get(name, {}).get('cluster') or (
        facts[name].cluster if name in facts else ''
    )
    clusters.setdefault(cluster or 'other', []).append(name)
  return names, clusters


def metric_of(name: str, task: Mapping[str, Any]) -> str:
  """The metric that a task is judged by.

  Args:
    name: the task's name.
    task: the task's results. Older ones have no `metric`; it is taken from the
      catalog, and is accuracy for a task that the catalog does not have.

  Returns:
    'accuracy' or 'macro_f1', a key of the task's results.

  Raises:
    UserError: the results name another metric.
  """
  from flipped_t5x.tasks import catalog

  metric = task.get('metric')
  if metric is None:
    known = catalog.catalog().get(name)
    metric = known.metric if known else 'accuracy'
  if metric not in _METRICS:
    raise errors.UserError(
        f'{name}: metric {metric!r} is not one of {", ".join(_METRICS)}'
    )
  return _METRICS[metric]


def _group(
    name: str, members: Sequence[str], tasks: _Tasks
) -> dict[str, Any]:
  """The means over some tasks, each with the same weight."""
  evaluated = [n for n in members if n in tasks]

  def mean(value: Callable[[str], float | None]) -> float | None:
    return _mean([value(n) for n in evaluated])

  return {
      'name': name,
      'tasks': evaluated,
      'missing': [n for n in members if n not in tasks],
      'accuracy': mean(lambda n: tasks[n]['accuracy']['mean']),
      'macro_f1': mean(lambda n: tasks[n]['macro_f1']['mean']),
      'metric': mean(lambda n: tasks[n][metric_of(n, tasks[n])]['mean']),
      **{k: mean(lambda n, k=k: tasks[n].get(k)) for k in _BASELINES},
  }


def _average(
    groups_: Sequence[Mapping[str, Any]], note: str = ''
) -> dict[str, Any]:
  """The mean over groups, each with the same weight."""

  def mean(values):
    if all(isinstance(v, Mapping) for v in values):
      return {k: _mean([v[k] for v in values]) for k in values[0]}
    return _mean(values)

  lists = ('tasks', 'missing')
  return {
      'name': f'average of {len(groups_)}{note}',
      **{key: [n for g in groups_ for n in g[key]] for key in lists},
      **{
          key: mean([g[key] for g in groups_])
          for key in groups_[0] if key not in ('name', *lists)
      },
  }


def _pooled(names: Sequence[str], tasks: _Tasks) -> float | None:
  """Accuracy over all examples of some tasks."""
  if not names:
    return None
  return float(np.average(
      [tasks[n]['accuracy']['mean'] for n in names],
      weights=[tasks[n]['examples'] for n in names],
  ))


def _label_words(task: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
  """Compares a task's own label words with other words, in its metric."""
  own, others = [], []
  for template in task['templates'].values() if task else ():
    scores = others if 'label_words' in template else own
    scores.append(template[metric_of(name, task)])
  original = _mean(own)
  spread = lambda f: float(f(others)) if others else None
  mean = spread(np.mean)
  return {
      'original': original,
      'others': {
          'mean': mean, 'std': spread(np.std), 'min': spread(min),
          'max': spread(max), 'number': len(others),
      },
      'drop': None if original is None or mean is None else original - mean,
  }


def _mean(values: Iterable[float | None]) -> float | None:
  values = [v for v in values if v is not None]
  return float(np.mean(values)) if values else None
