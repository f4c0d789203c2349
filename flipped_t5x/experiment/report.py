"""The report of `make experiment`: tables, a plot and `results.json`."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from flipped_t5x import files
from flipped_t5x.experiment import results
from flipped_t5x.reports import markdown
from flipped_t5x.reports import parts
import matplotlib
from matplotlib import figure
import numpy as np

matplotlib.use('Agg')

COLUMNS = results.COLUMNS
_LAMBDAS = {
    'no_unlikelihood': '0', 'flipped_lambda_1': '1', 'flipped': '3',
    'flipped_lambda_10': '10',
}
_TITLES = {
    'flipped': 'FLIPPED', 'no_unlikelihood': 'FLIPPED without unlikelihood',
    'direct': 'DIRECT', 'direct_unlikelihood': 'DIRECT with unlikelihood',
    'channel': 'CHANNEL', 'flipped_lambda_1': 'FLIPPED, lambda 1',
    'flipped_lambda_10': 'FLIPPED, lambda 10',
}
_COLORS = ('#1b6ca8', '#7fb2d6', '#d1495b', '#eda3ac', '#66a182')
_PLOTTED = tuple(_TITLES)[: len(_COLORS)]


def write(output: pathlib.Path, methods: Sequence[str]) -> None:
  """Writes `tables.md`, `results.json` and `accuracy.png` into a folder.

  Args:
    output: the folder, which has METHOD/SEED/results_*_experiment_all.json.
    methods: the names of the methods, in the order of the tables.

  Raises:
    FileNotFoundError: no run has been evaluated.
    UserError: runs were evaluated on different rows or templates, or trained
      with different settings.
  """
  paths = results.find(output, methods)
  runs = {
      method: {s: files.read_json(path) for s, path in seeds.items()}
      for method, seeds in paths.items()
  }
  results.check_alike(runs)
  examples = {
      (method, seed): results.predictions(path, runs[method][seed])
      for method, seeds in paths.items() for seed, path in seeds.items()
  }
  summary = results.summarize(runs)
  summary['tests'] = results.paired_tests(examples)
  files.write_json(output / 'results.json', summary)
  files.write(output / 'tables.md', tables(summary))
  plot_columns(summary).savefig(output / 'accuracy.png')
  print(f'{output}: tables.md, results.json and accuracy.png written')


def tables(summary: Mapping[str, Any]) -> str:
  """The tables as Markdown.

  Args:
    summary: the return value of `results.summarize`, with `tests` added.
  """
  methods, settings = summary['methods'], summary['settings']
  compared = [m for m in methods if m in _PLOTTED]
  seeds = [
      f'{_TITLES[m]} {" ".join(values["runs"])}'
      for m, values in methods.items()
  ]
  lines = [
      '# Experiment', '',
      f'{settings.get("TRAIN_STEPS")} steps of {settings.get("BATCH_SIZE")}'
      ' examples from random weights. Accuracy, mean ± sample standard'
      f' deviation over seeds (none with one seed). Seeds: {"; ".join(seeds)}.',
      '', '![accuracy](accuracy.png)', '', '## Methods', '',
      *_of_columns(summary, {m: _TITLES[m] for m in compared}),
      '', '## Lambda', '',
      *_of_columns(
          summary, {m: t for m, t in _LAMBDAS.items() if m in methods}
      ),
      '', '## Label words', '',
  ]
  for key, title in (
      ('words', 'The prompt does not name the words'),
      ('named', 'The prompt names the words'),
  ):
    lines += [f'{title}:', '', *_of_words(methods, compared, key), '']
  return '\n'.join([*lines, *_tests(summary['tests'])]) + '\n'


def _of_columns(
    summary: Mapping[str, Any], titles: Mapping[str, str]
) -> list[str]:
  """A table of methods by columns, with the baselines.

  Args:
    summary: see `tables`.
    titles: method -> its title in the table.
  """
  rows = [
      [title, *(_cell(summary['methods'][m]['columns'][c]) for c in COLUMNS)]
      for m, title in titles.items()
  ]
  rows += [
      [name, *(f'{values[c]:.3f}' for c in COLUMNS)]
      for name, values in summary['baselines'].items()
  ]
  return _table('Accuracy by task', ['', *COLUMNS], rows)


def _of_words(methods, compared: Sequence[str], key: str) -> list[str]:
  """A table of sets of words by methods; `key` is 'words' or 'named'."""
  rows = []
  for column in results.OF_WORDS:
    found = [methods[m][key][column] for m in compared]
    for words in found[0] if found else ():
      rows.append([column, words, *(_cell(values[words]) for values in found)])
  return _table(
      'Accuracy by label words',
      ['', 'words', *(_TITLES[m] for m in compared)], rows,
  )


def _tests(tests: Sequence[Mapping[str, Any]]) -> list[str]:
  rows = [
      [
          t['column'], _TITLES[t['method']], str(t['seed']),
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
  plot = figure.Figure(figsize=(9, 4), dpi=150, layout='constrained')
  axes = plot.add_subplot()
  axes.spines[['top', 'right']].set_visible(False)
  methods = [m for m in _PLOTTED if m in summary['methods']]
  width = 0.8 / max(len(methods), 1)
  for number, method in enumerate(methods):
    values = summary['methods'][method]
    x = np.arange(len(COLUMNS)) + (number - (len(methods) - 1) / 2) * width
    axes.bar(
        x, [values['columns'][c]['mean'] for c in COLUMNS], 0.92 * width,
        color=_COLORS[_PLOTTED.index(method)], label=_TITLES[method],
    )
    for run in values['runs'].values():
      axes.plot(x, [run[c] for c in COLUMNS], '.', color='black', markersize=4)
  for name, style in (('majority', '--'), ('random', ':')):
    for i, column in enumerate(COLUMNS):
      axes.plot(
          [i - 0.45, i + 0.45], [summary['baselines'][name][column]] * 2, style,
          color='#555555', label=name if i == 0 else None,
      )
  axes.set_xticks(range(len(COLUMNS)), COLUMNS)
  axes.set(ylim=(0, 1), ylabel='accuracy')
  plot.legend(loc='outside lower center', frameon=False, ncols=4, fontsize=9)
  return plot
