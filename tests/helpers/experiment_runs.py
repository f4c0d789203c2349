"""Results of the experiment's runs, and files of scored examples."""

from flipped_t5x.evaluation import scored_examples
from flipped_t5x.experiment import results as results_lib
import numpy as np
import pyarrow as pa


def results(accuracy, **changes):
  """Results of a run: task -> template -> accuracy of 10 examples."""
  return {
      'step': 4, 'network': {'emb_dim': 8}, 'versions': {},
      'checkpoint': {'sha256': 'f00'},
      'settings': {'TRAIN_STEPS': 4, 'BATCH_SIZE': 2, 'SEED': 0},
      'tasks': {
          task: {
              'accuracy': {'mean': float(np.mean(list(templates.values())))},
              'majority_accuracy': 0.6, 'random_accuracy': 0.5,
              'templates': {
                  name: {
                      'accuracy': value, 'examples': 10,
                      'majority_accuracy': 0.6,
                  }
                  for name, value in templates.items()
              },
          }
          for task, templates in accuracy.items()
      },
      **changes,
  }


def accuracies(base):
  """Every task in two templates; words with and without their names."""
  found = {
      task: {'a/b': base, 'a/b (named)': base + 0.2}
      for task in results_lib.COLUMNS.values()
  }
  found['vader_kind_new'] = {'c/d': base + 0.2, 'c/d (named)': base + 0.4}
  return found


def write_scores(path, right):
  """Ten examples of two options, the first of them right, in one template."""
  scores = [[0.0, -1.0], [-1.0, 0.0]][0 if right else 1]
  scored_examples.write(
      pa.Table.from_pylist([
          {
              'template': 'a/b', 'example_id': i, 'options': ['a', 'b'],
              'scores': scores, 'prediction': int(not right), 'gold': 0,
              'tied': False,
          }
          for i in range(10)
      ], scored_examples.SCHEMA),
      path,
  )


def three_methods():
  """method -> seed -> results, FLIPPED with two seeds."""
  return {
      'flipped': {0: results(accuracies(0.4)), 1: results(accuracies(0.5))},
      'direct': {0: results(accuracies(0.2))},
      'no_unlikelihood': {0: results(accuracies(0.3))},
  }
