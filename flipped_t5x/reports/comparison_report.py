"""The report of several runs side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from flipped_t5x.evaluation import suites
from flipped_t5x.reports import comparison
from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import parts
from flipped_t5x.reports import plots as plots_lib
from flipped_t5x.reports import sections as sections_lib
from flipped_t5x.reports import settings
from flipped_t5x.reports import tables

_METRICS = {'accuracy': 'accuracy', 'macro_f1': 'macro-F1'}
BETTER, WORSE = '▲', '▼'

Runs = Sequence[evaluated_run.EvaluatedRun]
Tests = Sequence[comparison.Test]


def report(runs: Runs) -> tuple[parts.Report, Tests]:
  """Compares runs with the first of them.

  Returns:
    The report, and the tests that it shows.

  Raises:
    UserError: they cannot be compared; see `comparison.check` and `tests`.
  """
  comparison.check(runs)
  tests = comparison.tests(runs)
  sections = [
      _runs(runs), _metrics(runs, tests), _groups(runs), _tests(runs, tests),
      _label_words(runs), _differences(runs), _same(runs),
  ]
  suite = runs[0].results.get('suite')
  title = f'{len(runs)} runs compared'
  return parts.Report(
      f'{title}: {suites.get(suite).title}' if suite else title,
      f'{evaluated_run.splits(runs[0].results)} split',
      [s for s in sections if s is not None],
  ), tests


def task_names(runs: Runs) -> list[str]:
  """All tasks that any run has or is missing."""
  found = [n for run in runs for n in run.results['tasks']]
  found += [n for run in runs for n in evaluated_run.missing(run.results)]
  return list(dict.fromkeys(found))


def cells(
    runs: Runs, task: str, metric: str, tests: Tests = ()
) -> list[str]:
  """The cells of a task: each run's mean, marked where it is significant."""
  found = []
  for number, run in enumerate(runs):
    values = run.results['tasks'].get(task)
    mark = next((
        BETTER if test.difference > 0 else WORSE for test in tests
        if (test.run, test.task) == (number, task) and test.significant
    ), '')
    found.append(
        f'{parts.number(values[metric]["mean"])}{mark}' if values
        else parts.MISSING
    )
  return found


def _runs(runs) -> parts.Section:
  rows = []
  for run in runs:
    size = evaluated_run.num_parameters(run.results['network'])
    rows.append([
        run.name, str(run.results.get('format') or parts.MISSING),
        parts.MISSING if run.results['step'] is None
        else str(run.results['step']),
        parts.MISSING if size is None else evaluated_run.million(size),
        str(run.path),
    ])
  content = [parts.Table(
      'Runs', ['run', 'format', 'step', 'parameters', 'results'], rows,
      left=(0, 1, 3, 4), code=(4,),
  )]
  return parts.Section('', content + warnings(runs))


def warnings(runs) -> list[parts.Text]:
  """What a reader must know before comparing any numbers."""
  texts = []
  for name, values in comparison.differences(runs).items():
    if name in ('input_length', 'target_length') or name.startswith('version'):
      in_runs = ', '.join(
          f'{value} in {run.name}'
          for value, run in zip(values, runs, strict=True)
      )
      texts.append(f'{name} differs: {in_runs}.')
  digests = {}
  for run in runs:
    digest = run.results.get('checkpoint', {}).get('sha256')
    digests.setdefault(digest or run.path, []).append(run.name)
  texts += [
      f'{parts.listed(names)} have the same weights.'
      for names in digests.values() if len(names) > 1
  ]
  sample = evaluated_run.sample(runs[0].results)
  if sample is not None:
    texts.append(sample)
  return [parts.Text(text, warns=True) for text in texts]


def _metrics(runs, tests) -> parts.Section:
  return parts.Section('Results by task', [
      _metric_table(runs, 'accuracy', tests),
      parts.Text(_legend(runs, tests)),
      _metric_table(runs, 'macro_f1'),
      *missing(runs),
      sections_lib.accuracy_plot({run.name: run.results for run in runs}),
  ])


def _metric_table(runs, metric, tests=()) -> parts.Table:
  """A metric by task and run, with significance marks and baselines."""
  is_accuracy = metric == 'accuracy'
  header = ['task', *(run.name for run in runs), 'majority']
  if is_accuracy:
    header.append('random')
  rows = []
  for task in task_names(runs):
    values = next(
        (r.results['tasks'][task] for r in runs if task in r.results['tasks']),
        {},
    )
    row = [
        task, *cells(runs, task, metric, tests),
        parts.number(values.get(f'majority_{metric}')),
    ]
    if is_accuracy:
      row.append(parts.number(values.get('random_accuracy')))
    rows.append(row)
  return parts.Table(
      f'{_METRICS[metric]} by run', header, rows,
      heading='Accuracy' if is_accuracy else _METRICS[metric],
  )


def _legend(runs, tests) -> str:
  if not tests:
    return (
        'Means over templates. No difference is tested, see below, and any may'
        ' be due to chance.'
    )
  return (
      f'Means over templates. {BETTER} and {WORSE} mark runs that are'
      f' significantly better or worse than {runs[0].name} by the paired test'
      ' below; other differences may be due to chance.'
  )


def missing(runs) -> list[parts.Text | parts.Items]:
  """What was not evaluated, in which runs, and why."""
  reasons = {}
  for task in task_names(runs):
    for run in runs:
      if task not in run.results['tasks']:
        why = evaluated_run.missing(run.results).get(task, '')
        reasons.setdefault((task, why), []).append(run.name)
  items = []
  for (task, why), names in reasons.items():
    where = 'all runs' if len(names) == len(runs) else parts.listed(names)
    reason = f': {why}' if why else ''
    items.append(f'{task} in {where}{reason}')
  if not items:
    return []
  return [parts.Text('Not evaluated:', warns=True), parts.Items(items)]


def _groups(runs) -> parts.Section | None:
  if not all(run.results.get('groups') for run in runs):
    return None
  found = [{g['name']: g for g in run.results['groups']} for run in runs]
  rows, apart = [], []
  for name, group in found[0].items():
    in_runs = [groups.get(name) for groups in found]
    evaluated = {frozenset(_evaluated(g)) if g else None for g in in_runs}
    if len(evaluated) == 1:
      values = [parts.number(g['metric']) for g in in_runs]
      rows.append([name, tables.coverage(group), *values])
    else:
      rows.append([name, 'differ', *[parts.MISSING] * len(runs)])
      apart.append(name)
  content = [
      parts.Text("Means of each task's own metric, accuracy or macro-F1."),
      parts.Table(
          'Groups and averages by run',
          ['group', 'tasks', *(run.name for run in runs)], rows, left=(0, 1),
      ),
  ]
  if any(g['missing'] for groups in found for g in groups.values()):
    content.append(parts.Text(sections_lib.FEWER, warns=True))
  if apart:
    content.append(parts.Text(
        'There is no average where different tasks are missing from the runs.',
        warns=True,
    ))
  return parts.Section('Groups and averages', content)


def _evaluated(group: Mapping[str, Any]) -> set[str]:
  return set(group['tasks']) - set(group['missing'])


def _tests(runs, tests) -> parts.Section:
  content = []
  if tests:
    rows = [
        [
            test.task, runs[test.run].name, parts.signed(test.difference),
            f'{parts.signed(test.low)} to {parts.signed(test.high)}',
            p_value(test.p), p_value(test.adjusted),
            'yes' if test.significant else 'no',
        ]
        for test in tests
    ]
    content += [
        parts.Text(
            f'Accuracy of each run minus that of {runs[0].name}, on the same'
            ' rows and templates: the difference, its 95 % bootstrap interval'
            ' over rows, and the p of a two-sided sign-flip test over rows,'
            f' before and after Holm\'s correction for {len(tests)} tests. A'
            ' difference is significant if the corrected p is below'
            f' {comparison.SIGNIFICANT}. The test is about these weights on'
            ' other rows, not about training with another seed.'
        ),
        parts.Table(
            'Paired test',
            ['task', 'run', 'difference', '95 % interval', 'p', 'p (Holm)',
             'significant'],
            rows, left=(0, 1, 6),
        ),
    ]
  without = comparison.untested(runs)
  if without:
    content += [
        parts.Text(
            'These tasks cannot be tested without the scores of single'
            ' examples, which flipped-t5x eval writes:', warns=True,
        ),
        parts.Items([f'{task}: {why}' for task, why in without.items()]),
    ]
  return parts.Section('Paired test', content)


def p_value(p: float) -> str:
  """A p with four digits; 10,000 draws give at least 1 / 10,001."""
  return f'{p:.4f}'


def _label_words(runs) -> parts.Section | None:
  by_metric = {}
  for name in task_names(runs):
    results = [run.results['tasks'].get(name) for run in runs]
    metric = suites.metric_of(name, next(filter(None, results), {}))
    found = [task and tables.label_words(task, metric) for task in results]
    if any(found):
      by_metric.setdefault(metric, {})[name] = found
  if not by_metric:
    return None
  plots = []
  for metric, tasks in by_metric.items():
    baselines = {
        name: sections_lib.chance(
            next(r.results['tasks'][name] for r in runs
                 if name in r.results['tasks']), metric
        )
        for name in tasks
    }
    plots.append(parts.Plot(
        f'labels_{metric}', f'{_METRICS[metric]} by label words',
        f'Distribution of {_METRICS[metric]} over sets of label words for each'
        " task and run, with the task's own words marked.",
        lambda tasks=tasks, baselines=baselines, metric=metric:
        plots_lib.label_words(
            [run.name for run in runs], tasks, baselines, _METRICS[metric]
        ),
    ))
  return parts.Section('Label words', plots)


def _differences(runs) -> parts.Section:
  found, without = comparison.differences(runs), comparison.unrecorded(runs)
  notes = [
      parts.Text(
          f'Settings of trainings are not compared: {", ".join(without)}'
          ' records none.'
      )
  ] if without else []
  if not found:
    return parts.Section(
        'What differs', notes or [parts.Text('All settings agree.')]
    )
  columns = tuple(range(len(runs) + 1))
  return parts.Section('What differs', [
      parts.Table(
          'Settings that differ', ['setting', *(run.name for run in runs)],
          [[name, *map(str, values)] for name, values in found.items()],
          left=columns, code=columns[1:],
      ),
      *notes,
  ])


def _same(runs) -> parts.Section:
  results = runs[0].results
  items = []
  if results.get('suite'):
    items.append(f'suite: {results["suite"]}')
  items += [
      f'split: {evaluated_run.splits(results)}',
      f'maximum rows of a dataset: {evaluated_run.limit(results) or "all"}',
      'maximum characters of a field: '
      f'{results["settings"].get("MAX_FIELD_CHARS") or "all"}',
  ]
  return parts.Section('What is the same', [
      parts.Items(items), settings.origins(results),
  ])
