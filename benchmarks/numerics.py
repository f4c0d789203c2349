"""The numbers of one training batch on a GPU, beside those of the CPU.

The loss, the log-probabilities of all targets and the gradient of one batch,
on the CPU in float32, and on JAX's default device in float32 with full
precision, in float32 as JAX multiplies by default (on NVIDIA's cards with fewer
bits), and with activations in bfloat16. It fails if full precision differs.

Example:
  python benchmarks/numerics.py --size small
"""

import argparse
import dataclasses
import json
import sys
from typing import Any

import flags
from flipped_t5x import libtpu_loading
from flipped_t5x import network as network_lib
from flipped_t5x.weights import tensors
import jax
import numpy as np
import ours
import random_weights
import rich.console
import rich.table
import rows
import sides

_VARIANTS = {
    'float32, full precision': ('float32', 'highest'),
    'float32': ('float32', None),
    'bfloat16': ('bfloat16', None),
}
# What float32 with full precision may differ by.
_MOST = {'loss': 1e-4, 'log_probs': 1e-3, 'gradient': 1e-3}


def main() -> None:
  libtpu_loading.avoid()
  parser = sides.parser(__doc__)
  parser.add_argument('--mixture')
  parser.add_argument(
      '--batch_size', type=flags.count, default=4, help='packed rows'
  )
  arguments = parser.parse_args()
  sides.use_data(arguments.data)
  results = measure(arguments)
  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for heading in (
      f'{jax.devices()[0].device_kind}, differences from the CPU', 'loss',
      'log-probabilities', 'gradient, relative',
  ):
    table.add_column(heading)
  for name, found in results['differences'].items():
    table.add_row(name, *(f'{found[kind]:.2g}' for kind in _MOST))
  rich.console.Console(width=120).print(table)
  if arguments.json is not None:
    arguments.json.write_text(json.dumps(results, indent=2) + '\n')
  full, *_ = results['differences'].values()
  for kind, most in _MOST.items():
    if not full[kind] <= most:  # NaN, too, fails.
      sys.exit(f'numerics.py: {kind} differs by {full[kind]:.2g}, over {most}')


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Computes one batch in all variants.

  Returns:
    The CPU's `loss`, and in `differences` for each variant the greatest one of
    the loss and of the `log_probs`, and the norm of the gradient's difference
    by that of the gradient.
  """
  recipe = rows.recipe(arguments.size)
  mixture = arguments.mixture or (
      rows.TRAINING if sides.has_data() else rows.DEMO
  )
  vocabulary = rows.vocabulary(arguments.vocabulary, mixture, recipe.network)
  batch, = rows.packed_pairs(
      mixture, vocabulary, recipe, arguments.batch_size, 1
  )
  params = tensors.tree({
      name: tensor.astype('float32').read()
      for name, tensor in random_weights.tensors(recipe.network).items()
  })

  def numbers(device, dtype, precision):
    network = dataclasses.replace(recipe.network, dtype=dtype)
    placed = jax.device_put((params, batch), device)
    with jax.default_matmul_precision(precision):
      found = jax.jit(
          jax.value_and_grad(_loss(network, recipe), has_aux=True)
      )(*placed)
    return jax.device_get(found)

  reference = numbers(jax.devices('cpu')[0], 'float32', None)
  return {
      'loss': float(reference[0][0]),
      'differences': {
          name: _differences(
              reference, numbers(jax.devices()[0], dtype, precision)
          )
          for name, (dtype, precision) in _VARIANTS.items()
      },
  }


def _loss(network: network_lib.T5Config, recipe: rows.Recipe) -> Any:
  """(weights, batch) -> the loss, and the targets' log-probabilities."""
  objective = {
      name: recipe.objective[name] for name in ('unlikelihood_weight', 'eps')
  }
  return lambda params, batch: ours.loss(
      network_lib.Transformer(network), objective, params, batch
  )


def _differences(expected: Any, found: Any) -> dict[str, float]:
  (loss, log_probs), gradient = expected
  (other_loss, other_log_probs), other_gradient = found
  norm = lambda tree: np.sqrt(sum(
      float(np.square(leaf, dtype=np.float64).sum())
      for leaf in jax.tree.leaves(tree)
  ))
  return {
      'loss': abs(float(loss) - float(other_loss)),
      'log_probs': float(np.abs(log_probs - other_log_probs).max()),
      'gradient': float(
          norm(jax.tree.map(np.subtract, gradient, other_gradient))
          / norm(gradient)
      ),
  }


if __name__ == '__main__':
  main()
