"""The results of `make experiment`: means, spreads and tests over its runs.

All numbers are accuracies from the files of the evaluations. A column is a
task. Its accuracy is the mean over its templates, and then over seeds, with the
sample standard deviation.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import ranking
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.evaluation import statistics

# Column -> task. The last three differ only in their label words.
COLUMNS = {
    'held-out rows': 'vader_kind',
    'held-out templates': 'vader_kind_reworded',
    'known words': 'vader_kind_known',
    'held-out words': 'vader_kind_new',
    'invented words': 'vader_kind_invented',
}
# Columns in which each template has its own set of label words.
OF_WORDS = ('known words', 'held-out words', 'invented words')
TESTED = ('held-out rows', 'held-out templates', 'held-out words')
_NAMED = ' (named)'
_BASELINES = {'majority': 'majority_accuracy', 'random': 'random_accuracy'}

Results = Mapping[str, Any]  # The content of one evaluation's file.
Runs = Mapping[str, Mapping[int, Results]]  # method -> seed -> results


def find(
    output: pathlib.Path, methods: Sequence[str]
) -> dict[str, dict[int, pathlib.Path]]:
  """Finds the results of evaluated runs: method -> seed -> file."""
  found = {}
  for method in methods:
    seeds = {
        int(path.parent.name): path
        for path in (output / method).glob('*/results_*_experiment_all.json')
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
    seeds; `checkpoints`: seed -> SHA-256 of the weights; `words`: column -> set
    of words -> accuracy over seeds, in the template that does not name the
    words; `named`: likewise, in the template that names them. Accuracies over
    seeds are return values of `statistics.over_seeds`.
  """
  runs = {
      str(seed): {
          column: results['tasks'][task]['accuracy']['mean']
          for column, task in COLUMNS.items()
      }
      for seed, results in seeds.items()
  }
  found = {
      'runs': runs,
      'columns': {
          column: _over_seeds(run[column] for run in runs.values())
          for column in COLUMNS
      },
      'checkpoints': {
          str(seed): r['checkpoint']['sha256'] for seed, r in seeds.items()
      },
  }
  for key, named in (('words', False), ('named', True)):
    found[key] = {
        column: _of_words(
            [r['tasks'][COLUMNS[column]] for r in seeds.values()], named
        )
        for column in OF_WORDS
    }
  return found


def _over_seeds(values) -> dict[str, float | None]:
  return statistics.over_seeds(list(values))


def _of_words(
    runs: Sequence[Mapping[str, Any]], named: bool
) -> dict[str, dict[str, float | None]]:
  """Set of words -> accuracy over seeds.

  Args:
    runs: the results of one task, of each seed.
    named: whether to take the templates that name the words.
  """
  return {
      name.removesuffix(_NAMED): _over_seeds(
          run['templates'][name]['accuracy'] for run in runs
      )
      for name in runs[0]['templates'] if name.endswith(_NAMED) == named
  }


def predictions(
    path: pathlib.Path, results: Results
) -> dict[str, dict[str, ranking.Predictions]]:
  """Reads the predictions that are tested: column -> template -> predictions.

  Args:
    path: the file of results. It names the files of scored examples, which are
      in a folder beside it.
    results: its content.
  """
  return {
      column: {
          name: examples.ranked
          for name, examples in scored_examples.read(
              path.parent / results['tasks'][COLUMNS[column]]['scores']['file']
          ).items()
      }
      for column in TESTED
  }


def paired_tests(
    examples: Mapping[tuple[str, int], Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """Tests FLIPPED against each other method with the same seed.

  Args:
    examples: (method, seed) -> column -> template -> predictions.

  Returns:
    For each test `column`, `method`, `seed`, the return value of
    `statistics.paired_test`, and `holm`, which is p adjusted for the number of
    these tests.
  """
  tests = []
  for column in TESTED:
    for (method, seed), found in examples.items():
      if method == 'flipped' or ('flipped', seed) not in examples:
        continue
      tests.append({
          'column': column, 'method': method, 'seed': seed,
          **statistics.paired_test(
              examples['flipped', seed][column], found[column]
          ),
      })
  adjusted = statistics.holm([test['p'] for test in tests])
  return [t | {'holm': p} for t, p in zip(tests, adjusted, strict=True)]
