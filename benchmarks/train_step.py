"""Pairs/s of training: this project, the authors' way, and T5X's network.

All sides start from the same weights and get the same pairs of real lengths,
the same ones in an update, in alternating rounds:

  ours        packed rows, as the trainer makes them, in `--microbatches` parts
  peer        PyTorch, one padded batch of all pairs; see peer_t5.py
  peer split  the same in as many parts as ours, each padded to its own longest
  t5x         T5X's network, loss and microbatches, on our packed rows

Making the rows is not timed, putting them on the device is. Before anything is
timed the sides must agree on the loss of a batch.

Example:
  python benchmarks/train_step.py --data FOLDER --json train_step.json
"""

import argparse
from collections.abc import Mapping
import pathlib
import sys
import tempfile
import time
from typing import Any

import sides

_TOLERANCES = {'float32': 1e-3, 'bfloat16': 5e-2}
_WARM_UP = 2  # Pairs; PyTorch compiles nothing.


def main() -> None:
  parser = sides.parser(__doc__)
  parser.add_argument(
      '--mixture', help='or datasets, separated by commas; by default 15 sets'
      " of the published mixture, or the demo's",
  )
  parser.add_argument(
      '--batch_size', type=int, default=8,
      help='packed rows, each of 2.8 pairs on average',
  )
  parser.add_argument(
      '--microbatches', type=int, help='by default 2 rows each'
  )
  parser.add_argument('--steps', type=int, default=1, help='updates a round')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument(
      '--scan_layers', action='store_true', help='of ours, as the next two'
  )
  parser.add_argument('--remat_policy', default='none')
  parser.add_argument('--num_logit_chunks', type=int, default=1)
  parser.add_argument('--sides', default='ours,peer,peer split,t5x')
  arguments = parser.parse_args()
  sides.use_data(arguments.data)
  try:
    results = measure(arguments)
  except (ValueError, RuntimeError) as e:
    sys.exit(f'train_step.py: {e}')
  sides.report(results, 'pairs', arguments.json)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Times all sides in alternating rounds; see the flags' help.

  Returns:
    What `sides.summary` gives, `losses` of the first batch, `warm_up_seconds`,
    for ours with compiling, `rounds` with all that was measured, and
    `arguments`.

  Raises:
    ValueError: something that is asked for does not fit.
    RuntimeError: a side failed, or their losses differ.
  """
  # Not above: the sides' processes import this file, and it counts as theirs.
  import rows

  recipe = rows.recipe(arguments.size)
  mixture = arguments.mixture or (
      rows.TRAINING if sides.has_data() else rows.DEMO
  )
  vocabulary = rows.vocabulary(arguments.vocabulary, mixture, recipe.network)
  batches = rows.packed_pairs(
      mixture, vocabulary, recipe, arguments.batch_size,
      1 + arguments.rounds * arguments.steps,
  )
  pairs = [rows.unpacked(batch) for batch in batches]
  warm_up = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    rows.write_weights(folder, recipe.network)
    with sides.started(
        _sides(arguments, folder, recipe.objective), arguments.threads
    ) as made:
      of_side = {
          name: pairs if name.startswith('peer') else batches for name in made
      }
      losses = {
          name: side.call('loss', of_side[name][0])
          for name, side in made.items()
      }
      sides.check_equal(losses, _TOLERANCES[arguments.dtype])
      for name, side in made.items():
        first = of_side[name][0]
        start = time.perf_counter()
        side.call('run', [first[:_WARM_UP] if first is pairs[0] else first])
        warm_up[name] = time.perf_counter() - start
      rounds = []
      for number in range(arguments.rounds):
        chosen = slice(
            1 + number * arguments.steps, 1 + (number + 1) * arguments.steps
        )
        rounds.append({
            name: sides.timed(side, of_side[name][chosen])
            for name, side in made.items()
        })
        trained = [pair for batch in pairs[chosen] for pair in batch]
        lengths = [
            (1, 1, len(pair[side]), len(pair['targets']))
            for pair in trained for side in ('inputs', 'wrong_inputs')
        ]
        for result in rounds[-1].values():
          result |= {
              'examples': len(trained),
              # The backward pass costs twice the forward one.
              'needed': 3 * rows.forward(recipe.network, lengths),
              'computed': 3 * rows.forward(recipe.network, result['shapes']),
          }
  return {
      **sides.summary(rounds),
      'losses': losses,
      'warm_up_seconds': warm_up,
      'rounds': rounds,
      'arguments': {k: str(v) for k, v in vars(arguments).items()},
  }


def _sides(
    arguments: argparse.Namespace, folder: pathlib.Path,
    objective: Mapping[str, float],
) -> dict[str, tuple[str, Mapping[str, Any]]]:
  """Name -> factory and its arguments, of those that can be had."""
  split = arguments.microbatches or max(1, arguments.batch_size // 2)
  common = {'folder': folder, 'dtype': arguments.dtype, **objective}
  ours = common | {'microbatches': split}
  peer = common | {'threads': arguments.threads}
  return sides.installed({
      'ours': ('ours.Trainer', ours | {
          'scan_layers': arguments.scan_layers,
          'remat_policy': arguments.remat_policy,
          'num_logit_chunks': arguments.num_logit_chunks,
      }),
      'peer': ('peer_t5.Trainer', peer),
      'peer split': ('peer_t5.Trainer', peer | {'microbatches': split}),
      't5x': ('ours.T5xTrainer', ours),
  }, arguments.sides)


if __name__ == '__main__':
  main()
