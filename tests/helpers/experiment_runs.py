"""Results of the experiment's runs, and files of scored examples."""

import dataclasses
import json

import evaluated_runs
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.experiment import results as results_lib
import numpy as np
import pyarrow as pa


def results(accuracy, **changes):
  """Results of a run: task -> template -> accuracy of 10 examples."""
  return {
      'step': 4, 'network': dataclasses.asdict(evaluated_runs.NETWORK),
      'versions': {},
      'checkpoint': {'sha256': 'f00'}, 'format': 'flipped',
      'settings': {'TRAIN_STEPS': 4, 'BATCH_SIZE': 2, 'SEED': 0},
      'tasks': {
          task: {
              'examples': 10, 'options': [2], 'ties': 0,
              'accuracy': _spread(templates), 'macro_f1': _spread(templates),
              'majority_accuracy': 0.6, 'random_accuracy': 0.5,
              'majority_macro_f1': 0.4, 'data': {'split': 'test'},
              'scores': {'file': f'results/{task}.parquet', 'sha256': 'f00'},
              'templates': {
                  name: {
                      'accuracy': value, 'macro_f1': value, 'examples': 10,
                      'majority_accuracy': 0.6, 'ties': 0, 'counts': {},
                  }
                  for name, value in templates.items()
              },
          }
          for task, templates in accuracy.items()
      },
      **changes,
  }


def _spread(templates):
  return {'mean': float(np.mean(list(templates.values()))), 'std': 0.0}


def accuracies(base):
  """Every task in two wordings; new words are 0.2 better."""
  found = {
      task: {'a/b (x)': base, 'a/b (y)': base + 0.2}
      for task in results_lib.COLUMNS.values()
  }
  found['vader_sentiment_words'] = {
      'c/d (x)': base + 0.2, 'c/d (y)': base + 0.4
  }
  return found


def scores(rows):
  """A file of two options: rows is [(score of a, of b, gold), ...]."""
  return pa.Table.from_pylist([
      {
          'template': 'a/b (x)', 'example_id': i, 'options': ['a', 'b'],
          'scores': [a, b], 'prediction': int(b > a), 'gold': gold,
          'tied': False,
      }
      for i, (a, b, gold) in enumerate(rows)
  ], scored_examples.SCHEMA)


def write(folder, name, content, rows):
  """Writes a file of results, and the same scores for each of its tasks."""
  (folder / 'results').mkdir(parents=True, exist_ok=True)
  for task in content['tasks']:
    scored_examples.write(
        scores(rows), folder / 'results' / f'{task}.parquet'
    )
  (folder / name).write_text(json.dumps(content))


def three_methods():
  """method -> seed -> results, FLIPPED with two seeds."""
  return {
      'flipped': {0: results(accuracies(0.4)), 1: results(accuracies(0.5))},
      'direct': {0: results(accuracies(0.2))},
      'no_unlikelihood': {0: results(accuracies(0.3))},
  }
