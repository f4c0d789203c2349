"""The report of `make experiment`: tables, plots and `results.json`."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from flipped_t5x import files
from flipped_t5x import structure
from flipped_t5x.experiment import results
from flipped_t5x.reports import markdown
from flipped_t5x.reports import parts
import matplotlib
from matplotlib import figure
import numpy as np

matplotlib.use('Agg')

COLUMNS = results.COLUMNS
TITLES = {
    'flipped': 'FLIPPED', 'no_unlikelihood': 'FLIPPED without unlikelihood',
    'direct': 'DIRECT', 'channel': 'CHANNEL',
}
_COLORS = dict(
    zip(TITLES, ('#1b6ca8', '#7fb2d6', '#d1495b', '#66a182'), strict=True)
)


def write(output: pathlib.Path, methods: Sequence[str]) -> None:
  """Writes tables.md, results.json, accuracy.png and curves.png into a folder.

  Args:
    output: the folder, which has METHOD/SEED/results_*_experiment_eval.json.
    methods: the names of the methods, in the order of the tables.

  Raises:
    FileNotFoundError: no run has been evaluated.
    UserError: runs were evaluated on different rows or templates, or trained
      with different settings.
  """
  paths = results.find(output, methods)
  runs = {
      method: {s: structure.read_results(path) for s, path in seeds.items()}
      for method, seeds in paths.items()
  }
  results.check_alike(runs)
  examples = {
      (method, seed): results.read_examples(path, runs[method][seed])
      for method, seeds in paths.items() for seed, path in seeds.items()
  }
  summary = results.summarize(runs)
  summary['start'] = results.start(output)
  summary['curves'] = {
      method: _from_start(steps, summary['start'], runs[method])
      for method, steps in results.curves(paths).items()
  }
  summary['explanations'] = results.explanations(examples)
  summary['tests'] = results.paired_tests(examples)
  files.write_json(output / 'results.json', summary)
  files.write(output / 'tables.md', tables(summary))
  for name, plot in (('accuracy', plot_columns), ('curves', plot_curves)):
    with files.replacing(output / f'{name}.png') as unfinished:
      plot(summary).savefig(unfinished, format='png')
  print(
      f'{output}: tables.md, results.json, accuracy.png and curves.png written'
  )


def _from_start(
    steps: Mapping[str, Any],
    start: Mapping[str, Any],
    runs: Mapping[int, results.Results],
) -> dict[str, Any]:
  """A curve, from the weights that the runs of a method start from."""
  form = next(iter(runs.values()))['format']
  return ({'0': start[form]} if form in start else {}) | dict(steps)


def tables(summary: Mapping[str, Any]) -> str:
  """The tables as Markdown.

  Args:
    summary: the content of results.json, see `write`.
  """
  methods, settings = summary['methods'], summary['settings']
  seeds = [
      f'{TITLES[m]} {" ".join(values["runs"])}'
      for m, values in methods.items()
  ]
  return '\n'.join([
      '# Experiment', '',
      f'{settings.get("TRAIN_STEPS")} steps of {settings.get("BATCH_SIZE")}'
      f' examples from {settings.get("INITIAL_CHECKPOINT_PATH")}. Accuracy,'
      ' mean ± sample standard deviation over seeds (none with one seed).'
      f' Seeds: {"; ".join(seeds)}.', '',
      '![accuracy](accuracy.png)', '', '![curves](curves.png)', '',
      '## Methods', '', *_of_columns(summary), '',
      '## Label words', '',
      'The mean over the wordings, which are never trained on.', '',
      *_of_words(methods), '',
      '## Why', '', *_explanations(summary['explanations']), '',
      '## Steps', '', *_of_steps(summary['curves']), '',
      *_tests(summary['tests']),
  ]) + '\n'


def _of_columns(summary: Mapping[str, Any]) -> list[str]:
  """A table of methods by columns, with the starting point and baselines."""
  rows = [
      [TITLES[m], *(_cell(values['columns'][c]) for c in COLUMNS)]
      for m, values in summary['methods'].items()
  ]
  rows += [
      [f'before training, as {form.upper()}', *_numbers(values)]
      for form, values in summary['start'].items()
  ]
  rows += [
      [name, *_numbers(values)] for name, values in summary['baselines'].items()
  ]
  return _table('Accuracy by task', ['', *COLUMNS], rows)


def _numbers(values: Mapping[str, float]) -> list[str]:
  return [f'{values[c]:.3f}' for c in COLUMNS]


def _of_words(methods: Mapping[str, Any]) -> list[str]:
  """A table of sets of words by methods."""
  rows = []
  for pair in results.WORDS.items():
    for column in pair:
      found = [values['words'][column] for values in methods.values()]
      rows += [
          [column, words, *(_cell(values[words]) for values in found)]
          for words in found[0]
      ]
  return _table(
      'Accuracy by label words',
      ['', 'words', *(TITLES[m] for m in methods)], rows,
  )


def _explanations(found: Sequence[Mapping[str, Any]]) -> list[str]:
  """A table of how far answers depend on the words; means over seeds."""
  rows = []
  for method in dict.fromkeys(e['method'] for e in found):
    for column in COLUMNS:
      values = [
          e for e in found if (e['method'], e['column']) == (method, column)
      ]
      rows.append([
          column, TITLES[method],
          *(
              f'{np.mean([v[name] for v in values]):.3f}' for name in (
                  'most_frequent', 'right_most_frequent', 'accuracy',
                  'without_preference',
              )
          ),
      ])
  return [
      'The share of rows that get the most frequent answer, beside that of the'
      ' right answers; and the accuracy, as it is and after the mean score of'
      ' each option over all rows is subtracted. Means over templates and'
      ' seeds.', '',
      *_table('Answers that do not depend on the text', [
          '', 'method', 'most frequent answer', 'of the right answers',
          'accuracy', 'without preferences',
      ], rows),
  ]


def _of_steps(curves: Mapping[str, Any]) -> list[str]:
  """A table of accuracy by step; means over seeds."""
  rows = [
      [TITLES[method], step, *(f'{values[c]:.3f}' for c in COLUMNS)]
      for method, steps in curves.items() for step, values in steps.items()
  ]
  return _table('Accuracy by step', ['', 'step', *COLUMNS], rows)


def _tests(tests: Sequence[Mapping[str, Any]]) -> list[str]:
  rows = [
      [
          t['column'], TITLES[t['method']], str(t['seed']),
          f'{t["difference"]:+.3f}', f'{t["low"]:+.3f} to {t["high"]:+.3f}',
          f'{t["holm"]:.2g}',
      ]
      for t in tests
  ]
  return [
      '## FLIPPED against the others, on the same rows', '',
      'Difference in accuracy, its 95 % bootstrap interval over rows, and the p'
      ' of a sign-flip test, adjusted for all of these tests (Holm).', '',
      *_table(
          'Paired tests', ['', 'against', 'seed', 'difference', 'interval',
                           'p adjusted'], rows,
      ),
  ]


def _cell(value: Mapping[str, float | None]) -> str:
  std = '' if value['std'] is None else f' ± {value["std"]:.3f}'
  return f'{value["mean"]:.3f}{std}'


def _table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[str]:
  left = tuple(range(len(header)))
  return markdown.table(parts.Table(title, header, rows, left=left))


def plot_columns(summary: Mapping[str, Any]) -> figure.Figure:
  """Accuracy by column and method: the mean, each seed, and the baselines."""
  plot = figure.Figure(figsize=(10, 4.2), dpi=150, layout='constrained')
  axes = plot.add_subplot()
  axes.spines[['top', 'right']].set_visible(False)
  width = 0.8 / max(len(summary['methods']), 1)
  for number, (method, values) in enumerate(summary['methods'].items()):
    offset = (number - (len(summary['methods']) - 1) / 2) * width
    x = np.arange(len(COLUMNS)) + offset
    axes.bar(
        x, [values['columns'][c]['mean'] for c in COLUMNS], 0.92 * width,
        color=_COLORS[method], label=TITLES[method],
    )
    for run in values['runs'].values():
      axes.plot(x, [run[c] for c in COLUMNS], '.', color='black', markersize=4)
  for name, style in (('majority', '--'), ('random', ':')):
    for i, column in enumerate(COLUMNS):
      axes.plot(
          [i - 0.45, i + 0.45], [summary['baselines'][name][column]] * 2, style,
          color='#555555', label=name if i == 0 else None,
      )
  axes.set_xticks(
      range(len(COLUMNS)), [c.replace(': ', ':\n') for c in COLUMNS]
  )
  axes.set(ylim=(0, 1), ylabel='accuracy')
  plot.legend(loc='outside lower center', frameon=False, ncols=6, fontsize=9)
  return plot


def plot_curves(summary: Mapping[str, Any]) -> figure.Figure:
  """Accuracy over steps with known and with new words, means over seeds."""
  plot = figure.Figure(figsize=(10, 4), dpi=150, layout='constrained')
  for axes, (known, new) in zip(
      plot.subplots(1, len(results.WORDS), sharey=True),
      results.WORDS.items(), strict=True,
  ):
    axes.spines[['top', 'right']].set_visible(False)
    for method, steps in summary['curves'].items():
      x = [int(step) for step in steps]
      for column, style in ((known, '--'), (new, '-')):
        axes.plot(
            x, [values[column] for values in steps.values()], style,
            marker='.', color=_COLORS[method],
            label=f'{TITLES[method]}, {column.partition(": ")[2]}',
        )
    axes.set(title=known.partition(':')[0], xlabel='step', ylim=(0, 1))
  plot.axes[0].set_ylabel('accuracy')
  handles, labels = plot.axes[0].get_legend_handles_labels()
  plot.legend(
      handles, labels, loc='outside lower center', frameon=False, ncols=4,
      fontsize=8,
  )
  return plot
