"""Prompts/s of ranking: this project, the authors' way, and T5X's network.

A prompt is a row in a template. All sides have the same weights and score every
option of the same rows of real lengths, in all templates of their dataset, as
the method is evaluated; one dataset after the other, in turns:

  ours             as `flipped-t5x eval`: an input that several candidates share
                   is encoded once, batches are of like lengths
  peer, N prompts  PyTorch, N prompts in a batch, their labels one after
                   another; see peer_t5.py
  t5x              T5X's network, all candidates padded to the same lengths; the
                   first row of each dataset alone

Nothing is compiled while the clock runs: ours goes over everything once before.
Before that the sides must agree on the scores of the first row.

Example:
  python benchmarks/rank_step.py --data FOLDER --json rank_step.json
"""

import argparse
from collections.abc import Mapping
import pathlib
import sys
import tempfile
import time
from typing import Any

import sides

_TOLERANCES = {'float32': 1e-3, 'bfloat16': 2e-2}
_FEW = 1  # Rows in all templates for the check, and for T5X.


def main() -> None:
  parser = sides.parser(__doc__)
  parser.add_argument(
      '--datasets', help='separated by commas, or a mixture; by default six'
      " evaluation sets, or the demo's",
  )
  parser.add_argument('--rows', type=int, default=16, help='of a dataset')
  parser.add_argument(
      '--templates', type=int, help='the first ones of a dataset; default all'
  )
  parser.add_argument(
      '--batch_size', type=int, default=8, help='rows of a batch of ours'
  )
  parser.add_argument(
      '--length_multiple', type=int, default=8,
      help='ours pads lengths to a multiple of this: the smaller, the more'
      ' there is to compile, and the less to compute',
  )
  parser.add_argument(
      '--peer_prompts', default='1,16',
      help='prompts a batch; a side for each number',
  )
  parser.add_argument('--rounds', type=int, default=1, help='over all datasets')
  parser.add_argument('--sides', default='ours,peer,t5x')
  arguments = parser.parse_args()
  sides.use_data(arguments.data)
  try:
    results = measure(arguments)
  except (ValueError, RuntimeError) as e:
    sys.exit(f'rank_step.py: {e}')
  sides.report(results, 'prompts', arguments.json)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Times all sides in turns; see the flags' help.

  Returns:
    What `sides.summary` gives for whole rounds, and in `datasets` for each
    dataset; `compile_seconds` of ours; `rounds` with all that was measured; and
    `arguments`.

  Raises:
    ValueError: something that is asked for does not fit.
    RuntimeError: a side failed, or their scores differ.
  """
  # Not above: the sides' processes import this file, and it counts as theirs.
  import rows

  recipe = rows.recipe(arguments.size)
  datasets, training = (
      (rows.RANKED, rows.TRAINING) if sides.has_data()
      else (rows.DEMO_EVAL, rows.DEMO)
  )
  vocabulary = rows.vocabulary(arguments.vocabulary, training, recipe.network)
  tasks = rows.candidates(
      arguments.datasets or datasets, vocabulary, recipe, arguments.rows,
      arguments.templates,
  )
  few = {name: rows.first(task, _FEW) for name, task in tasks.items()}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    rows.write_weights(folder, recipe.network)
    with sides.started(
        _sides(arguments, folder, recipe), arguments.threads
    ) as made:
      sides.check_equal(
          {n: side.call('scores', [*few.values()]) for n, side in made.items()},
          _TOLERANCES[arguments.dtype],
      )
      start = time.perf_counter()
      made['ours'].call('run', [*tasks.values()])
      warm_up = time.perf_counter() - start

      def timed(name, side, dataset):
        task = (few if name == 't5x' else tasks)[dataset]
        result = sides.timed(side, [task])
        return result | {
            'examples': len(set(task['prompts'])),
            'needed': rows.forward(
                recipe.network, _lengths(task, once=name == 'ours')
            ),
            'computed': rows.forward(recipe.network, result['shapes']),
        }

      rounds = [
          {
              dataset: {n: timed(n, side, dataset) for n, side in made.items()}
              for dataset in tasks
          }
          for _ in range(arguments.rounds)
      ]
  whole = [
      {n: sides.total([r[dataset][n] for dataset in tasks]) for n in made}
      for r in rounds
  ]
  return {
      **sides.summary(whole),
      'datasets': {
          dataset: sides.summary([r[dataset] for r in rounds])
          for dataset in tasks
      },
      'compile_seconds': warm_up - whole[0]['ours']['seconds'],
      'rounds': rounds,
      'arguments': {k: str(v) for k, v in vars(arguments).items()},
  }


def _lengths(task: Mapping[str, Any], once: bool) -> list[tuple[int, ...]]:
  """The passes that a task needs, see `rows.forward`.

  Args:
    task: candidates.
    once: whether equal inputs are encoded once, and equal candidates count
      once.
  """
  pairs = [
      (tuple(i), tuple(t))
      for i, t in zip(task['inputs'], task['targets'], strict=True)
  ]
  if not once:
    return [(1, 1, len(i), len(t)) for i, t in pairs]
  return [
      *((1, 0, len(i), 0) for i in {i for i, _ in pairs}),
      *((0, 1, len(i), len(t)) for i, t in set(pairs)),
  ]


def _sides(
    arguments: argparse.Namespace, folder: pathlib.Path, recipe: Any
) -> dict[str, tuple[str, Mapping[str, Any]]]:
  """Name -> factory and its arguments, of those that can be had."""
  common = {'folder': folder, 'dtype': arguments.dtype}
  peers = {
      f'peer, {number} prompt{"s"[: number > 1]}': ('peer_t5.Ranker', common | {
          'threads': arguments.threads, 'rows': number,
      })
      for number in map(int, arguments.peer_prompts.split(','))
  }
  return sides.installed({
      'ours': ('ours.Ranker', common | {
          'batch_size': arguments.batch_size,
          'length_multiple': arguments.length_multiple,
      }),
      **peers,
      't5x': ('ours.T5xRanker', common | {
          'input_length': recipe.input_length,
          'target_length': recipe.target_length,
      }),
  }, arguments.sides)


if __name__ == '__main__':
  main()
