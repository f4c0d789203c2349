"""The results of `make experiment`: means, spreads, tests, and explanations.

All numbers are from the files of the evaluations. A column is a task. Its
accuracy is the mean over its templates, and then over seeds, with the sample
standard deviation.
"""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import ranking
from flipped_t5x import structure
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.evaluation import statistics
import numpy as np

# Column -> task. The tasks of new wordings and of new words have the same rows
# and the same wordings, and differ in their label words alone.
COLUMNS = {
    'sentiment: new rows': 'vader_sentiment',
    'sentiment: new wordings': 'vader_sentiment_reworded',
    'sentiment: new words': 'vader_sentiment_words',
    'source: new rows': 'vader_source',
    'source: new wordings': 'vader_source_reworded',
    'source: new words': 'vader_source_words',
}
# What new words are compared with -> new words.
WORDS = {
    'sentiment: new wordings': 'sentiment: new words',
    'source: new wordings': 'source: new words',
}
_BASELINES = {'majority': 'majority_accuracy', 'random': 'random_accuracy'}

Results = Mapping[str, Any]  # The content of one evaluation's file.
Runs = Mapping[str, Mapping[int, Results]]  # method -> seed -> results
Examples = Mapping[str, Mapping[str, scored_examples.Examples]]


def find(
    output: pathlib.Path, methods: Sequence[str]
) -> dict[str, dict[int, pathlib.Path]]:
  """Finds the results of evaluated runs: method -> seed -> file."""
  found = {}
  for method in methods:
    seeds = {
        int(path.parent.name): path
        for path in (output / method).glob('*/results_*_experiment_eval.json')
        if path.parent.name.isdigit()
    }
    if seeds:
      found[method] = dict(sorted(seeds.items()))
  if not found:
    raise FileNotFoundError(
        f'{output}: no run is complete; run make experiment first'
    )
  return found


def check_alike(runs: Runs) -> None:
  """Raises UserError unless all runs had the same training and evaluation."""
  first, expected = None, None
  for method, seeds in runs.items():
    for seed, results in seeds.items():
      facts = {
          name: results['settings'].get(name)
          for name in ('TRAIN_STEPS', 'BATCH_SIZE', 'PACK', 'MIXTURE')
      }
      facts |= {'step': results['step'], 'network': results['network']}
      facts |= {
          f'{task} "{name}"': (t['examples'], t['majority_accuracy'])
          for task, values in results['tasks'].items()
          for name, t in values['templates'].items()
      }
      if expected is None:
        first, expected = f'{method}/{seed}', facts
      for name in sorted(expected.keys() | facts.keys()):
        if expected.get(name) != facts.get(name):
          raise errors.UserError(
              f'{method}/{seed} and {first} cannot be compared: {name} is'
              f' {facts.get(name)} and {expected.get(name)}'
          )


def summarize(runs: Runs) -> dict[str, Any]:
  """Summarizes the runs as JSON.

  Args:
    runs: method -> seed -> results.

  Returns:
    `methods`: the summary of each, see `_method`; `baselines`: 'majority' and
    'random' -> column -> accuracy; `settings`: those that all runs share;
    `network` and `versions`: those of the first run.
  """
  any_run = next(iter(next(iter(runs.values())).values()))
  methods = {method: _method(seeds) for method, seeds in runs.items()}
  baselines = {
      name: {c: any_run['tasks'][task][key] for c, task in COLUMNS.items()}
      for name, key in _BASELINES.items()
  }
  settings = {
      k: v for k, v in any_run['settings'].items()
      if all(
          r['settings'].get(k) == v for s in runs.values() for r in s.values()
      )
  }
  return {
      'methods': methods, 'baselines': baselines, 'settings': settings,
      'network': any_run['network'], 'versions': any_run['versions'],
  }


def _method(seeds: Mapping[int, Results]) -> dict[str, Any]:
  """Summarizes the runs of one method.

  Args:
    seeds: seed -> results.

  Returns:
    `runs`: seed -> column -> accuracy; `columns`: column -> accuracy over
    seeds; `checkpoints`: seed -> SHA-256 of the weights; `words`: column of new
    words or of new wordings -> set of words -> accuracy over seeds, the mean
    over its wordings. Accuracies over seeds are return values of
    `statistics.over_seeds`.
  """
  runs = {
      str(seed): {
          column: accuracy(results, column) for column in COLUMNS
      }
      for seed, results in seeds.items()
  }
  return {
      'runs': runs,
      'columns': {
          column: _over_seeds(run[column] for run in runs.values())
          for column in COLUMNS
      },
      'checkpoints': {
          str(seed): r['checkpoint']['sha256'] for seed, r in seeds.items()
      },
      'words': {
          column: _of_words(
              [r['tasks'][COLUMNS[column]] for r in seeds.values()]
          )
          for pair in WORDS.items() for column in pair
      },
  }


def accuracy(results: Results, column: str) -> float:
  """The accuracy of a column in the results of one evaluation."""
  return results['tasks'][COLUMNS[column]]['accuracy']['mean']


def _over_seeds(values: Iterable[float]) -> dict[str, float | None]:
  return statistics.over_seeds(list(values))


def words_of(template: str) -> str:
  """The set of words of a template that is named `WORDS (WORDING)`."""
  return template.rpartition(' (')[0]


def _of_words(
    runs: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, float | None]]:
  """Set of words -> accuracy over seeds, of the results of one task."""
  names = list(runs[0]['templates'])
  return {
      words: _over_seeds(
          float(np.mean([
              run['templates'][name]['accuracy']
              for name in names if words_of(name) == words
          ]))
          for run in runs
      )
      for words in dict.fromkeys(map(words_of, names))
  }


def start(output: pathlib.Path) -> dict[str, dict[str, float]]:
  """Format -> column -> accuracy of the weights that all runs start from."""
  found = {}
  for path in sorted((output / 'start').glob('results_*_experiment_eval.json')):
    content = structure.read_results(path)
    found[content['format']] = {c: accuracy(content, c) for c in COLUMNS}
  return found


def curves(
    paths: Mapping[str, Mapping[int, pathlib.Path]],
) -> dict[str, dict[str, dict[str, float]]]:
  """Method -> step -> column -> accuracy of runs with results of earlier steps.

  Args:
    paths: the return value of `find`. The results of earlier steps are in the
      folder `steps` beside the file of a run; runs without are left out.

  Returns:
    The accuracies, means over the seeds of those runs.
  """
  found = {}
  for method, seeds in paths.items():
    steps: dict[int, list[Results]] = {}
    for path in seeds.values():
      earlier = list((path.parent / 'steps').glob('*.json'))
      for file in (*earlier, path) if earlier else ():
        content = structure.read_results(file)
        steps.setdefault(content['step'], []).append(content)
    if steps:
      found[method] = {
          str(step): {
              c: float(np.mean([accuracy(r, c) for r in steps[step]]))
              for c in COLUMNS
          }
          for step in sorted(steps)
      }
  return found


def read_examples(path: pathlib.Path, results: Results) -> Examples:
  """Reads the scored examples: column -> template -> examples.

  Args:
    path: the file of results. It names the files of scored examples, which are
      in a folder beside it.
    results: its content.
  """
  return {
      column: scored_examples.read(
          path.parent / results['tasks'][task]['scores']['file']
      )
      for column, task in COLUMNS.items()
  }


def _ranked(
    examples: Mapping[str, scored_examples.Examples],
) -> dict[str, ranking.Predictions]:
  return {name: e.ranked for name, e in examples.items()}


def paired_tests(
    examples: Mapping[tuple[str, int], Examples],
) -> list[dict[str, Any]]:
  """Tests FLIPPED against each other method with the same seed.

  In each column the difference in accuracy is tested, and for each pair of
  `WORDS` the difference in what new words cost: the accuracy with new words
  minus that with known ones, on the same rows in the same wordings.

  Args:
    examples: (method, seed) -> column -> template -> examples.

  Returns:
    For each test `column`, `method`, `seed`, the return value of
    `statistics.difference_test`, and `holm`, which is p adjusted for the number
    of these tests.
  """
  tests = []
  for (method, seed), found in examples.items():
    flipped = examples.get(('flipped', seed))
    if method == 'flipped' or flipped is None:
      continue
    differences = {
        column: _row_values(flipped[column], found[column])
        - _row_values(found[column], flipped[column])
        for column in COLUMNS
    }
    for known, new in WORDS.items():
      differences[f'{new}, minus known'] = differences[new] - differences[known]
    tests += [
        {
            'column': column, 'method': method, 'seed': seed,
            **statistics.difference_test(difference),
        }
        for column, difference in differences.items()
    ]
  adjusted = statistics.holm([test['p'] for test in tests])
  return [t | {'holm': p} for t, p in zip(tests, adjusted, strict=True)]


def _row_values(run, other) -> np.ndarray:
  return statistics.row_values(_ranked(run), _ranked(other))


def explanations(
    examples: Mapping[tuple[str, int], Examples],
) -> list[dict[str, Any]]:
  """How far a method's answers depend on the words and not on the text.

  A method that prefers a word whatever the text is gives the same answer for
  most rows. The mean score of an option over all rows is such a preference;
  without it, the answer depends on the text alone. (Zhao et al. 2021, arXiv
  2102.09690, and Min et al. 2022, arXiv 2108.04106, calibrate likewise, with
  the score of an empty text.) The rows are the evaluated ones: this explains
  results, and is no method of classification.

  Args:
    examples: (method, seed) -> column -> template -> examples.

  Returns:
    For each method, seed and column: `accuracy`; `most_frequent`, the share of
    rows that get the most frequent answer; `right_most_frequent`, the same of
    the right answers; and `without_preference`, the accuracy after each
    option's mean score over the rows is subtracted. All are means over
    templates.
  """
  found = []
  for (method, seed), columns in examples.items():
    for column, templates in columns.items():
      values = [_explanation(e) for e in templates.values()]
      found.append({
          'method': method, 'seed': seed, 'column': column,
          **{k: float(np.mean([v[k] for v in values])) for k in values[0]},
      })
  return found


def _explanation(examples: scored_examples.Examples) -> dict[str, float]:
  """See `explanations`; all rows have the same options."""
  gold, prediction = examples.ranked.gold, examples.ranked.prediction
  scores = np.stack(examples.scores).astype(np.float64)
  centred = (scores - scores.mean(axis=0)).argmax(axis=1)
  return {
      'accuracy': ranking.accuracy(prediction, gold),
      'most_frequent': _share(prediction),
      'right_most_frequent': _share(gold),
      'without_preference': ranking.accuracy(centred, gold),
  }


def _share(answers: np.ndarray) -> float:
  return float(np.bincount(answers).max() / len(answers))
