"""The sections of one run's report."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

from flipped_t5x import ranking
from flipped_t5x.evaluation import suites
from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import parts
from flipped_t5x.reports import plots as plots_lib
from flipped_t5x.reports import published_tables
from flipped_t5x.reports import settings
from flipped_t5x.reports import tables as tables_lib

FEWER = (
    'Where tasks are missing, the numbers are over fewer tasks than the name'
    ' says, and cannot be compared with those over all tasks.'
)
_METRICS = {'accuracy': 'accuracy', 'macro_f1': 'macro-F1'}


def report(run: evaluated_run.EvaluatedRun) -> parts.Report:
  """The report of one run."""
  results = run.results
  sections = [
      _tasks(results), _groups(results), published_tables.section(results),
      _label_words(results), _confusions(results), _calibration(results),
      _training(run.log, run.results.get('format', 'flipped')),
      parts.Section('Templates', [tables_lib.templates(results)]),
      _data(results),
      parts.Section('Settings', [settings.table(results)]),
  ]
  return parts.Report(
      _title(run), _facts(results), [s for s in sections if s is not None]
  )


def _title(run) -> str:
  suite = run.results.get('suite')
  return f'{run.name}: {suites.get(suite).title}' if suite else run.name


def _facts(results) -> str:
  facts = [f'step {results["step"]}', f'{evaluated_run.splits(results)} split']
  if results.get('mixture'):
    facts.insert(0, results['mixture'])
  if results.get('format'):
    facts.append(f'format {results["format"]}')
  size = evaluated_run.num_parameters(results['network'])
  if size is not None:
    facts.append(f'{evaluated_run.million(size)} parameters')
  return ', '.join(facts)


def _tasks(results) -> parts.Section:
  content = [tables_lib.tasks(results)]
  sample = evaluated_run.sample(results)
  if sample is not None:
    content.append(parts.Text(sample, warns=True))
  content += missing_parts(evaluated_run.missing(results))
  text = (
      'Accuracy and macro-F1 are mean ± standard deviation over templates;'
      ' majority and random are the accuracy of the option whose text is right'
      ' most often and of a uniform draw.'
  )
  known = [t for t in results['tasks'].values() if 'low' in t['accuracy']]
  if known:
    above = sum(
        t['accuracy']['low'] > max(t['majority_accuracy'], t['random_accuracy'])
        for t in known
    )
    text += (
        ' 95 % is the bootstrap interval of the mean over templates, over rows.'
        f' In {above} of {len(known)} tasks, the whole interval of accuracy is'
        ' above both majority and random.'
    )
  content += [parts.Text(text), accuracy_plot({'': results})]
  return parts.Section('Results', content)


def missing_parts(missing: Mapping[str, str]) -> list[parts.Text | parts.Items]:
  """The tasks that were not evaluated, and why."""
  if not missing:
    return []
  return [
      parts.Text('Not evaluated, and therefore in no average:', warns=True),
      parts.Items([f'{n}: {why}' if why else n for n, why in missing.items()]),
  ]


def accuracy_plot(runs: Mapping[str, Mapping[str, Any]]) -> parts.Plot:
  """Accuracy by task of one or several runs."""
  number = len({n for r in runs.values() for n in r['tasks']})
  in_runs = f' and {len(runs)} runs' if len(runs) > 1 else ''
  return parts.Plot(
      'accuracy', 'Accuracy by task',
      f'Accuracy of each template, their mean and its 95 % interval, majority'
      f' and random, for {number} tasks{in_runs}; the numbers are in the'
      ' tables.',
      lambda: plots_lib.accuracy(runs),
  )


def _groups(results) -> parts.Section | None:
  if not results.get('groups'):
    return None
  content = []
  lacking = [g for g in results['groups'] if g['missing']]
  if lacking:
    content.append(parts.Text(FEWER, warns=True))
  content.append(tables_lib.groups(results))
  if lacking:
    content.append(parts.Items([
        f'{g["name"]} lacks {parts.listed(g["missing"])}' for g in lacking
    ]))
  return parts.Section('Groups and averages', content)


def _label_words(results) -> parts.Section | None:
  rows, plotted, baselines = [], {}, {}
  for name, task in results['tasks'].items():
    metric = suites.metric_of(name, task)
    found = tables_lib.label_words(task, metric)
    if found is None:
      continue
    own, scores = found
    others = {words: v for words, v in scores.items() if words != own}
    if not others:  # The other words are called like the task's own template.
      continue
    spread = ranking.spread(list(others.values()))
    best, worst = max(others, key=others.get), min(others, key=others.get)
    rows.append([
        name, _METRICS[metric], parts.number(scores[own]),
        f'{spread["mean"]:.3f}±{spread["std"]:.3f}',
        f'{others[worst]:.3f} ({worst})', f'{others[best]:.3f} ({best})',
        str(len(others)),
    ])
    plotted.setdefault(metric, {})[name] = [found]
    baselines[name] = chance(task, metric)
  if not rows:
    return None
  header = ['task', 'metric', 'own words', 'other words', 'worst', 'best',
            'sets of words']
  return parts.Section('Label words', [
      parts.Text(
          'The same template and rows with other words for the options: mean ±'
          ' standard deviation over the sets of words. The boxes show'
          ' quartiles.'
      ),
      parts.Table('Label words', header, rows, left=(0, 1)),
      *(
          parts.Plot(
              f'labels_{metric}', f'{_METRICS[metric]} by label words',
              f'Distribution of {_METRICS[metric]} over sets of label words,'
              " with the task's own words marked, and baselines; the numbers"
              ' are in the tables.',
              lambda tasks=tasks, metric=metric: plots_lib.label_words(
                  [''], tasks, baselines, _METRICS[metric]
              ),
          )
          for metric, tasks in plotted.items()
      ),
  ])


def chance(task, metric) -> dict[str, float]:
  """A metric's baselines: majority, and random where it is known."""
  if metric == 'accuracy':
    return {'majority': task['majority_accuracy'],
            'random': task['random_accuracy']}
  found = {'majority': task['majority_macro_f1']}
  matrix = tables_lib.confusion(task)
  if matrix is not None and len(task['options']) == 1:
    found['random'] = random_macro_f1(matrix)
  return found


def random_macro_f1(matrix: Sequence[Sequence[int]]) -> float:
  """The macro-F1 of a uniform draw, from expected counts.

  Args:
    matrix: a confusion matrix with a row for each gold option. All examples
      have as many options as there are rows.
  """
  size, gold = len(matrix), [sum(row) for row in matrix]
  predicted = sum(gold) / size
  f1 = [2 * n / size / (n + predicted) for n in gold if n]
  return sum(f1) / len(f1)


def _confusions(results) -> parts.Section | None:
  tables = list(tables_lib.confusions(results))
  left_out = tables_lib.without_confusion(results)
  if not tables and not left_out:
    return None
  content = [parts.Text(
      'Rows are gold options and columns are predicted options, by number,'
      ' summed over templates, whose options may be different words in another'
      ' order. A darker cell is a larger share of its row.'
  )]
  if tables:
    content.append(parts.Group(tables))
  if left_out:
    content.append(parts.Text(
        f'Not shown because of too many options: {parts.listed(left_out)}.'
    ))
  return parts.Section('Confusion matrices', content)


def _calibration(results) -> parts.Section | None:
  table = tables_lib.calibration(results)
  if table is None:
    return None
  return parts.Section('Calibration', [
      parts.Text(
          'Confidence is the softmax of the scores of the options, over all'
          ' templates. On the diagonal, rankings are right as often as they are'
          ' confident. A larger dot stands for more rankings. ECE is the mean'
          ' distance from the diagonal.'
      ),
      table,
      parts.Group([
          parts.Plot(
              f'calibration-{i}', name,
              f'Share of right rankings by confidence of {name}; ECE'
              f' {parts.number(task["calibration"]["ece"])}.',
              lambda task=task: plots_lib.reliability(task['calibration']),
              file=False,
          )
          for i, (name, task) in enumerate(results['tasks'].items())
          if 'calibration' in task
      ]),
  ])


def _training(log, form: str) -> parts.Section | None:
  if not log:
    return None
  plots = (
      ('losses', 'Loss terms', plots_lib.losses,
       ('likelihood', 'unlikelihood')),
      ('probabilities', 'Probability of the target',
       functools.partial(plots_lib.probabilities, form=form),
       ('prob_right', 'prob_wrong')),
  )
  return parts.Section('Training', [
      parts.Group([
          parts.Plot(
              name, title,
              f'{title} over {log[-1]["step"]:,} steps; the last values are in'
              ' the table.',
              lambda draw=draw: draw(log), of_results=False,
          )
          for name, title, draw, keys in plots
          if any(key in line for line in log for key in keys)
      ]),
      tables_lib.last_step(log),
  ])


def _data(results) -> parts.Section:
  content = [settings.origins(results)]
  passes = settings.passes(results)
  if passes is not None:
    content += [
        parts.Text(
            'Candidates with the same encoder text share one encoder pass:'
        ),
        passes,
    ]
  return parts.Section('Data', content)
