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
from collections.abc import Iterable, Mapping
import sys
import time
from typing import Any

import flags
import record
import sides

_TOLERANCES = {'float32': 1e-3, 'bfloat16': 2e-2}  # Relative in bfloat16.
_FEW = 1  # Rows in all templates for the check, and for T5X.
_QUICK = {'rows': 2, 'templates': 4}


def main() -> None:
  parser = sides.parser(__doc__)
  parser.add_argument(
      '--datasets', help='separated by commas, or a mixture; by default six'
      " evaluation sets, or the demo's",
  )
  parser.add_argument(
      '--rows', type=flags.count, default=16, help='of a dataset'
  )
  parser.add_argument(
      '--templates', type=flags.count,
      help='the first ones of a dataset; default all',
  )
  parser.add_argument(
      '--batch_size', type=flags.count, default=8,
      help='rows of a batch of ours',
  )
  parser.add_argument(
      '--length_multiple', type=flags.count, default=8,
      help='ours pads lengths to a multiple of this: the smaller, the more'
      ' there is to compile, and the less to compute',
  )
  parser.add_argument(
      '--peer_prompts', type=flags.counts, default='1,16',
      help='prompts a batch; a side for each number',
  )
  parser.add_argument(
      '--rounds', type=flags.count, default=1, help='over all datasets'
  )
  parser.add_argument(
      '--sides', default='ours,peer,t5x',
      help="also 'ours int8', with weights in int8",
  )
  sides.add_large(parser)
  arguments = sides.parse(parser, _QUICK)
  try:
    results = measure(arguments)
  except (ValueError, RuntimeError) as e:
    sys.exit(f'rank_step.py: {e}')
  sides.report(results, 'prompts')


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Times all sides in turns; see the flags' help.

  Returns:
    What `sides.summary` gives for whole rounds, and in `datasets` for each
    dataset; `warm_up_seconds`, for ours with compiling; and how much the scores
    of each side differ from ours at most, `differences`. The file of `--json`
    also has `rounds` with all that was measured, and `arguments`.

  Raises:
    ValueError: something that is asked for does not fit.
    RuntimeError: a side failed, or their scores differ.
  """
  # Not above: the sides' processes import this file, and it counts as theirs.
  import rows

  sides.leave_gpu()
  kept = record.Record(arguments)
  recipe = rows.recipe(arguments.size)
  datasets, training = (
      (rows.RANKED, rows.TRAINING) if sides.has_data()
      else (rows.DEMO_EVAL, rows.DEMO)
  )
  kept.say('reading rows')
  vocabulary = rows.vocabulary(arguments.vocabulary, training, recipe.network)
  tasks = rows.candidates(
      arguments.datasets or datasets, vocabulary, recipe, arguments.rows,
      arguments.templates,
  )
  wanted = _sides(arguments, recipe)
  for group in sides.groups(wanted, arguments.apart):
    if not kept.is_done(_keys(group, tasks)):
      with (
          sides.weights_of(group, arguments, recipe.network) as group,
          sides.started(group, arguments.threads) as made,
      ):
        _time(made, arguments, recipe, tasks, kept)
  rounds = [
      {d: {n: r[f'{n}, {d}'] for n in wanted} for d in tasks}
      for r in kept.rounds
  ]
  results = {
      **kept.facts,
      **sides.summary([
          {n: sides.total([r[d][n] for d in tasks]) for n in wanted}
          for r in rounds
      ]),
      'datasets': {d: sides.summary([r[d] for r in rounds]) for d in tasks},
  }
  kept.write(results)
  return results


def _keys(names: Iterable[str], tasks: Iterable[str]) -> list[str]:
  """The results of a round: of each side in each dataset."""
  return [f'{name}, {dataset}' for dataset in tasks for name in names]


def _time(
    made: Mapping[str, sides.Side], arguments: argparse.Namespace, recipe: Any,
    tasks: Mapping[str, Any], kept: record.Record,
) -> None:
  """Checks the scores of some sides, warms them up and times them."""
  import rows

  few = {name: rows.first(task, _FEW) for name, task in tasks.items()}
  scores = kept.facts.setdefault('scores', {})
  for name, side in made.items():
    scores[name] = side.call('scores', [*few.values()])
    kept.say(f'{name}: {len(scores[name])} scores')
  differences = {
      name: max(abs(a - b) for a, b in zip(theirs, scores['ours'], strict=True))
      for name, theirs in scores.items()
  }
  kept.facts['differences'] = differences
  sides.check_equal(
      # In int8 they are others.
      {n: s for n, s in scores.items() if n != 'ours int8'},
      _TOLERANCES[arguments.dtype], relative=arguments.dtype == 'bfloat16',
  )
  for name, side in made.items():
    if name.startswith('ours'):
      start = time.perf_counter()
      side.call('run', [*tasks.values()])
      seconds = time.perf_counter() - start
      kept.facts.setdefault('warm_up_seconds', {})[name] = seconds
      kept.say(f'{name}: warm after {seconds:.1f} s')
  for number in range(arguments.rounds):
    for dataset in tasks:
      for name, side in made.items():
        key, = _keys([name], [dataset])
        if kept.has(number, key):
          continue
        task = (few if name == 't5x' else tasks)[dataset]
        result = sides.timed(side, [task])
        kept.add(number, key, result | {
            'examples': len(set(task['prompts'])),
            'needed': rows.forward(
                recipe.network, _lengths(task, once=name.startswith('ours'))
            ),
            'computed': rows.forward(recipe.network, result['shapes']),
        }, result['seconds'])


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
    arguments: argparse.Namespace, recipe: Any
) -> dict[str, tuple[str, Mapping[str, Any]]]:
  """Name -> factory and its arguments, of those that can be had."""
  common = {'source': recipe.network, 'dtype': arguments.dtype}
  ours = common | {
      'scan_layers': arguments.scan_layers,
      'batch_size': arguments.batch_size,
      'length_multiple': arguments.length_multiple,
  }
  peers = {
      f'peer, {number} prompt{"s"[: number > 1]}': ('peer_t5.Ranker', {
          'folder': None, 'dtype': arguments.dtype,
          'threads': arguments.threads, 'rows': number,
      })
      for number in arguments.peer_prompts
  }
  return sides.installed({
      'ours': ('ours.Ranker', ours),
      'ours int8': ('ours.Ranker', ours | {'weights_dtype': 'int8'}),
      **peers,
      't5x': ('ours.T5xRanker', common | {
          'input_length': recipe.input_length,
          'target_length': recipe.target_length,
      }),
  }, arguments.sides)


if __name__ == '__main__':
  main()
