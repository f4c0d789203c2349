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
from collections.abc import Mapping, Sequence
import sys
import time
from typing import Any

import flags
import record
import sides

_TOLERANCES = {'float32': 1e-3, 'bfloat16': 5e-2}
_WARM_UP = 2  # Pairs; PyTorch compiles nothing.
_QUICK = {'batch_size': 4, 'rounds': 1}


def main() -> None:
  parser = sides.parser(__doc__)
  parser.add_argument(
      '--mixture', help='or datasets, separated by commas; by default 15 sets'
      " of the published mixture, or the demo's",
  )
  parser.add_argument(
      '--batch_size', type=flags.count, default=8,
      help='packed rows, each of 3.1 pairs of the 15 sets on average',
  )
  parser.add_argument(
      '--open_rows', type=flags.count, default=64, help='packed at a time'
  )
  parser.add_argument(
      '--packed_target_length', type=flags.count,
      help='decoder tokens of a packed row; by default half as many again as'
      ' the most of a pair',
  )
  parser.add_argument(
      '--microbatches', type=flags.count, help='by default 2 rows each'
  )
  parser.add_argument(
      '--peer_microbatches', type=flags.count,
      help='of peer split; by default as ours',
  )
  parser.add_argument(
      '--steps', type=flags.count, default=1, help='updates a round'
  )
  parser.add_argument('--rounds', type=flags.count, default=3)
  parser.add_argument(
      '--remat_policy', default='none', help='of ours, as the next one'
  )
  parser.add_argument('--num_logit_chunks', type=flags.count, default=1)
  parser.add_argument(
      '--lora', action='store_true',
      help='train the adapters of adapters/lora.gin; ours alone',
  )
  parser.add_argument(
      '--weights_dtype', choices=('float32', 'int8'), default='float32',
      help='of the weights; int8 is for those that adapters adapt',
  )
  parser.add_argument('--sides', default='ours,peer,peer split,t5x')
  sides.add_large(parser)
  arguments = sides.parse(parser, _QUICK)
  try:
    results = measure(arguments)
  except (ValueError, RuntimeError) as e:
    sys.exit(f'train_step.py: {e}')
  sides.report(results, 'pairs')


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Times all sides in alternating rounds; see the flags' help.

  Returns:
    What `sides.summary` gives, `losses` of the first batch, `warm_up_seconds`,
    for ours with compiling, and of ours the number of `parameters`. The file of
    `--json` also has `rounds` with all that was measured, and `arguments`.

  Raises:
    ValueError: something that is asked for does not fit.
    RuntimeError: a side failed, or their losses differ.
  """
  # Not above: the sides' processes import this file, and it counts as theirs.
  import rows

  sides.leave_gpu()
  if arguments.weights_dtype == 'int8' and not arguments.lora:
    raise ValueError('--weights_dtype int8: only --lora can train with it')
  split = arguments.microbatches or max(1, arguments.batch_size // 2)
  if arguments.batch_size % split:
    raise ValueError(
        f'--microbatches {split} does not divide --batch_size'
        f' {arguments.batch_size}'
    )
  kept = record.Record(arguments)
  recipe = rows.recipe(arguments.size, arguments.lora)
  mixture = arguments.mixture or (
      rows.TRAINING if sides.has_data() else rows.DEMO
  )
  kept.say('reading rows')
  vocabulary = rows.vocabulary(arguments.vocabulary, mixture, recipe.network)
  batches = rows.packed_pairs(
      mixture, vocabulary, recipe, arguments.batch_size,
      1 + arguments.rounds * arguments.steps, arguments.open_rows,
      arguments.packed_target_length or 3 * recipe.target_length // 2,
  )
  wanted = _sides(arguments, recipe, split)
  for group in sides.groups(wanted, arguments.apart):
    if not kept.is_done(group):
      with (
          sides.weights_of(group, arguments, recipe.network) as group,
          sides.started(group, arguments.threads) as made,
      ):
        _time(made, arguments, recipe, batches, kept)
  results = {**kept.facts, **sides.summary(kept.rounds)}
  kept.write(results)
  return results


def _time(
    made: Mapping[str, sides.Side], arguments: argparse.Namespace, recipe: Any,
    batches: Sequence[Any], kept: record.Record,
) -> None:
  """Checks the losses of some sides, warms them up and times them."""
  import rows

  pairs = [rows.unpacked(batch) for batch in batches]
  of_side = {
      name: pairs if name.startswith('peer') else batches for name in made
  }
  losses = kept.facts.setdefault('losses', {})
  for name, side in made.items():
    losses[name] = side.call('loss', of_side[name][0])
    kept.say(f'{name}: a loss of {losses[name][0]:.4f}')
  sides.check_equal(losses, _TOLERANCES[arguments.dtype])
  for name, side in made.items():
    first = of_side[name][0]
    start = time.perf_counter()
    side.call('run', [first[:_WARM_UP] if first is pairs[0] else first])
    seconds = time.perf_counter() - start
    kept.facts.setdefault('warm_up_seconds', {})[name] = seconds
    kept.say(f'{name}: warm after {seconds:.1f} s')
  if 'ours' in made:
    kept.facts['parameters'] = made['ours'].call('parameters')
  for number in range(arguments.rounds):
    chosen = slice(
        1 + number * arguments.steps, 1 + (number + 1) * arguments.steps
    )
    trained = [pair for batch in pairs[chosen] for pair in batch]
    lengths = [
        (1, 1, len(pair[side]), len(pair['targets']))
        for pair in trained for side in ('inputs', 'wrong_inputs')
    ]
    for name, side in made.items():
      if kept.has(number, name):
        continue
      result = sides.timed(side, of_side[name][chosen])
      kept.add(number, name, result | {
          'examples': len(trained),
          # The backward pass costs twice the forward one.
          'needed': 3 * rows.forward(recipe.network, lengths),
          'computed': 3 * rows.forward(recipe.network, result['shapes']),
      }, result['seconds'])


def _sides(
    arguments: argparse.Namespace, recipe: Any, split: int
) -> dict[str, tuple[str, Mapping[str, Any]]]:
  """Name -> factory and its arguments, of those that can be had."""
  common = {'dtype': arguments.dtype, **recipe.objective}
  theirs = common | {'source': recipe.network, 'microbatches': split}
  peer = common | {'folder': None, 'threads': arguments.threads}
  return sides.installed({
      'ours': ('ours.Trainer', theirs | {
          'weights_dtype': arguments.weights_dtype,
          'scan_layers': arguments.scan_layers,
          'remat_policy': arguments.remat_policy,
          'num_logit_chunks': arguments.num_logit_chunks,
      }),
      'peer': ('peer_t5.Trainer', peer),
      'peer split': ('peer_t5.Trainer', peer | {
          'microbatches': arguments.peer_microbatches or split
      }),
      't5x': ('ours.T5xTrainer', theirs),
  }, 'ours' if arguments.lora else arguments.sides)  # Adapters have no peer.


if __name__ == '__main__':
  main()
