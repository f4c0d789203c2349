"""How much of packed training batches is padding, by the settings of packing.

Examples:
  python benchmarks/packing.py --data FOLDER
  python benchmarks/packing.py --batch_size 6 --input_length 128 \\
    --target_length 48
"""

import argparse
import dataclasses
import json
from typing import Any

import flags
import numpy as np
import rich.console
import rich.table
import rows
import sides

_SIDES = ('encoder', 'wrong_encoder', 'decoder')


def main() -> None:
  parser = sides.parser(__doc__)
  parser.add_argument('--mixture')
  parser.add_argument(
      '--batch_size', type=flags.count, default=8, help='packed rows'
  )
  parser.add_argument('--batches', type=flags.count, default=100)
  parser.add_argument('--input_length', type=flags.count, default=384)
  parser.add_argument('--target_length', type=flags.count, default=64)
  arguments = parser.parse_args()
  sides.use_data(arguments.data)
  results = measure(arguments)
  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for heading in results[0]:
    table.add_column(heading.replace('_', ' '), justify='right')
  for row in results:
    table.add_row(*(
        f'{value:.3f}' if isinstance(value, float) else f'{value}'
        for value in row.values()
    ))
  rich.console.Console(width=120).print(table)
  if arguments.json is not None:
    arguments.json.write_text(json.dumps(results, indent=2) + '\n')


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
  """Packs the same examples in several ways.

  Returns:
    For each: `open_rows` and `target_length`, the share of real tokens of the
    `encoder` and of the `decoder`, the `pairs_per_row`, and the operations that
    are `needed`, without padding, as a share of those that are computed.
  """
  recipe = dataclasses.replace(
      rows.recipe(arguments.size), input_length=arguments.input_length,
      target_length=arguments.target_length,
  )
  mixture = arguments.mixture or (
      rows.TRAINING if sides.has_data() else rows.DEMO
  )
  vocabulary = rows.vocabulary(arguments.vocabulary, mixture, recipe.network)
  results = []
  for open_rows, more in ((None, 1), (64, 1), (64, 1.5), (256, 1.5)):
    target_length = int(recipe.target_length * more)
    batches = rows.packed_pairs(
        mixture, vocabulary, recipe, arguments.batch_size, arguments.batches,
        open_rows, target_length,
    )
    pairs = [pair for batch in batches for pair in rows.unpacked(batch)]
    real = {
        side: float(np.mean([b[f'{side}_segment_ids'] > 0 for b in batches]))
        for side in _SIDES
    }
    packed = len(batches) * arguments.batch_size
    results.append({
        'open_rows': open_rows or arguments.batch_size,
        'target_length': target_length,
        'encoder': (real['encoder'] + real['wrong_encoder']) / 2,
        'decoder': real['decoder'],
        'pairs_per_row': len(pairs) / packed,
        'needed': rows.forward(recipe.network, [
            (1, 1, len(pair[side]), len(pair['targets']))
            for pair in pairs for side in ('inputs', 'wrong_inputs')
        ]) / rows.forward(recipe.network, [
            (2 * packed, 2 * packed, recipe.input_length, target_length)
        ]),
    })
  return results


if __name__ == '__main__':
  main()
