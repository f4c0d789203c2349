"""Sides of a benchmark, each in a process of its own, and what they did.

A side is an object that a module makes. Its process imports nothing else, so
that its memory is its own, and waits while it is another side's turn.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import traceback
from typing import Any

import flags
import rich.console
import rich.table

# Of square matrices whose product is timed.
CPU_SIZES = (512, 1024, 2048)
GPU_SIZES = (2048, 4096, 8192)
_GIB = 2**30
_SOURCES = 'FLIPPED_T5X_SOURCES'
# Module of a side -> what it needs beside this project.
_NEEDS = {'peer_t5.': 'torch', 'ours.T5x': 't5x'}

Wanted = Mapping[str, tuple[str, Mapping[str, Any]]]


def parser(description: str) -> argparse.ArgumentParser:
  """The flags that all benchmarks with sides have."""
  from flipped_t5x.cli import local_paths  # The sides do not need it.

  made = argparse.ArgumentParser(
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument(
      '--data', type=local_paths.local, metavar='FOLDER',
      help='datasets as files, see tasks/sources/local.py; by default where'
      f" {_SOURCES} says, and without it the demo's",
  )
  made.add_argument(
      '--vocabulary', type=local_paths.local, metavar='FILE',
      help='a SentencePiece model; by default one is trained on the rows',
  )
  made.add_argument(
      '--size', default='small', help='demo, small, base, large, xl or xxl'
  )
  made.add_argument(
      '--dtype', default='float32', choices=('float32', 'bfloat16'),
      help='of the activations',
  )
  made.add_argument(
      '--threads', type=flags.count, default=2,
      help='cores of all sides in turn',
  )
  made.add_argument(
      '--json', type=local_paths.local, metavar='FILE',
      help='write all numbers after each round; the same command goes on with'
      ' the rounds that the file has',
  )
  return made


def parse(
    made: argparse.ArgumentParser, quick: Mapping[str, Any]
) -> argparse.Namespace:
  """The arguments of the command line, with the flag `--quick` added.

  Args:
    made: the parser.
    quick: flag -> value with `--quick`, where the flag is not given.
  """
  made.add_argument(
      '--quick', action='store_true',
      help='a short run, meant for three minutes on two cores: '
      + ' '.join(f'--{name} {value}' for name, value in quick.items()),
  )
  arguments = made.parse_args()
  if arguments.quick:
    made.set_defaults(**quick)
    arguments = made.parse_args()
  use_data(arguments.data)
  return arguments


def add_large(made: argparse.ArgumentParser) -> None:
  """Adds flags for large models."""
  from flipped_t5x.cli import local_paths  # The sides do not need it.

  made.add_argument(
      '--scan_layers', action='store_true',
      help='ours compiles one layer for all',
  )
  made.add_argument(
      '--apart', action='store_true',
      help='one side after the other, for models of which a GPU holds only one',
  )
  made.add_argument(
      '--weights', type=local_paths.local, metavar='FOLDER',
      help='keep the random weights here, and take them from here',
  )


@contextlib.contextmanager
def weights_of(
    wanted: Wanted, arguments: argparse.Namespace, network: Any
) -> Iterator[Wanted]:
  """Writes random weights for sides that are not ours; ours draw the same.

  Args:
    wanted: name -> factory and its arguments; a `folder` of None among these is
      where the weights are to be.
    arguments: with `size` and `weights`.
    network: the sizes that `size` stands for.

  Yields:
    The sides, with the folder in its place.
  """
  # Not above: the sides' processes import this file.
  import rows

  with contextlib.ExitStack() as stack:
    if not any('folder' in made for _, made in wanted.values()):
      yield wanted
      return
    folder = arguments.weights or pathlib.Path(
        stack.enter_context(tempfile.TemporaryDirectory())
    )
    folder /= arguments.size
    rows.write_weights(folder, network)
    yield {
        name: (factory, made | ({'folder': folder} if 'folder' in made else {}))
        for name, (factory, made) in wanted.items()
    }


def use_data(folder: pathlib.Path | None) -> None:
  """Says where datasets are, if it is given."""
  if folder is not None:
    os.environ[_SOURCES] = f'{folder}/,pypi'


def has_data() -> bool:
  """Whether there is more than the demo's data."""
  return _SOURCES in os.environ


def installed(known: Wanted, names: str) -> dict[str, Any]:
  """The sides that are asked for, without those that are not installed.

  Args:
    known: all sides.
    names: the first words of their names, separated by commas.

  Returns:
    Those of `known`; ours is always one of them.

  Raises:
    ValueError: there is no such side.
  """
  asked = {name.strip() for name in names.split(',')} | {'ours'}
  if unknown := asked - known.keys() - {n.split(',')[0] for n in known}:
    raise ValueError(f'--sides {names}: {sorted(unknown)}, of {[*known]}')
  found = {}
  for name, side in known.items():
    if not asked & {name, name.split(',')[0]}:
      continue
    missing = [
        module for start, module in _NEEDS.items()
        if side[0].startswith(start) and not importlib.util.find_spec(module)
    ]
    if missing:
      print(f'{name}: left out, {missing[0]} is not installed')
    else:
      found[name] = side
  return found


class Side:
  """A proxy of an object in a process of its own."""

  def __init__(self, name: str, factory: str, **arguments: Any):
    """Starts the process and makes the object there.

    Args:
      name: of the side, for messages.
      factory: `module.function`, in this folder.
      **arguments: of the factory.
    """
    self.name = name
    self._connection, theirs = multiprocessing.Pipe()
    self._process = multiprocessing.get_context('spawn').Process(
        target=_serve, args=(theirs, factory, arguments), daemon=True
    )
    self._process.start()
    theirs.close()
    self._receive()

  def call(self, method: str, *args: Any) -> Any:
    """What the object's method returns.

    Raises:
      RuntimeError: it raised an error, or its process ended.
    """
    self._connection.send((method, args))
    return self._receive()

  def close(self) -> None:
    """Ends the process."""
    self._connection.close()
    self._process.join()

  def _receive(self) -> Any:
    try:
      error, result = self._connection.recv()
    except EOFError:
      self._process.join()
      raise RuntimeError(
          f'{self.name}: its process ended with {self._process.exitcode}; -9'
          ' means that memory ran out'
      ) from None
    if error:
      raise RuntimeError(f'{self.name}: {error}')
    return result


def _serve(
    connection: Any, factory: str, arguments: Mapping[str, Any]
) -> None:
  """What a side's process does until the other end is closed."""
  module, name = factory.rsplit('.', 1)
  side = None
  call = lambda: None
  with contextlib.suppress(EOFError, BrokenPipeError):
    try:
      side = getattr(importlib.import_module(module), name)(**arguments)
    except Exception:
      connection.send((traceback.format_exc(), None))
      return
    while True:
      try:
        result = None, call()
      except Exception:
        result = traceback.format_exc(), None
      connection.send(result)
      method, args = connection.recv()
      call = lambda m=method, a=args: getattr(side, m)(*a)


def leave_gpu() -> None:
  """Keeps this process off a GPU, whose memory is for the sides."""
  # Not above: the sides' processes import this file.
  import jax

  jax.config.update('jax_platforms', 'cpu')


def groups(wanted: Wanted, apart: bool) -> list[Wanted]:
  """The sides that run beside each other."""
  return [{n: side} for n, side in wanted.items()] if apart else [wanted]


@contextlib.contextmanager
def started(
    wanted: Wanted, threads: int
) -> Iterator[dict[str, Side]]:
  """Starts sides on the same `threads` cores, and ends them in the end.

  Args:
    wanted: name -> factory and its arguments, see `Side`.
    threads: cores of all sides, and threads of each.

  Yields:
    Name -> side.

  Raises:
    ValueError: there are not as many cores.
  """
  cores = sorted(os.sched_getaffinity(0))
  if not 1 <= threads <= len(cores):
    raise ValueError(f'--threads {threads}: 1 to {len(cores)} are possible')
  # Processes inherit both: XLA goes by the one, OpenMP by the other. On a GPU
  # each is to leave room for the others, but may have all that they leave; a
  # side alone takes it at once, so that it is in one piece.
  environment = {
      'OMP_NUM_THREADS': str(threads),
      'XLA_PYTHON_CLIENT_PREALLOCATE': str(len(wanted) == 1).lower(),
      'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.95',
  }
  before = {name: os.environ.get(name) for name in environment}
  with contextlib.ExitStack() as stack:
    made = {}
    try:
      os.sched_setaffinity(0, cores[:threads])
      os.environ.update(environment)
      for name, (factory, arguments) in wanted.items():
        made[name] = Side(name, factory, **arguments)
        stack.callback(made[name].close)
    finally:
      os.sched_setaffinity(0, cores)
      for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
          os.environ[name] = value
    yield made


def timed(side: Side, *args: Any) -> dict[str, Any]:
  """One round of a side.

  Args:
    side: the side.
    *args: of its method `run`.

  Returns:
    `seconds`, what `shapes` were computed, `peak`: operations/s of a matrix
    product, the better one of before and after, and `memory`: bytes so far.
  """
  sizes = CPU_SIZES if side.call('platform') == 'cpu' else GPU_SIZES
  before = side.call('peak', sizes)
  seconds, shapes = side.call('run', *args)
  return {
      'seconds': seconds,
      'shapes': shapes,
      'peak': max(before, side.call('peak', sizes)),
      'memory': side.call('memory'),
  }


def check_equal(
    values: Mapping[str, Sequence[float]], tolerance: float,
    relative: bool = False,
) -> None:
  """RuntimeError unless all sides have the same numbers.

  Args:
    values: side -> numbers.
    tolerance: the greatest difference.
    relative: whether it is relative, of numbers above 1.
  """
  first, *others = values
  for name in others:
    for i, (a, b) in enumerate(zip(values[first], values[name], strict=True)):
      # Written so that NaN fails.
      if not abs(a - b) <= tolerance * (max(abs(a), 1) if relative else 1):
        raise RuntimeError(
            f'{first} and {name} differ by {abs(a - b):.2g}, more than'
            f' {tolerance}, in number {i + 1} of {len(values[first])}:'
            f' {a:.6f} and {b:.6f}'
        )


def total(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Several results of one side as one."""
  sums = ('seconds', 'examples', 'needed', 'computed')
  return {
      **{name: sum(r[name] for r in results) for name in sums},
      'peak': statistics.median(r['peak'] for r in results),
      'memory': max(r['memory'] for r in results),
  }


def summary(
    rounds: Sequence[Mapping[str, Mapping[str, Any]]]
) -> dict[str, Any]:
  """Medians over rounds.

  Args:
    rounds: for each round, name -> what `timed` gave, with `examples`, the
      number of them, `needed` and `computed`, operations without and with
      padding. The first side is ours.

  Returns:
    For each side examples/s, shares of the matrix product's speed without and
    with padding, and memory; for each but ours how many times as fast ours is.
  """
  ours, *_ = rounds[0]
  sides = {
      name: {
          'examples_per_second': spread(
              [r[name]['examples'] / r[name]['seconds'] for r in rounds]
          ),
          **{
              utilization: spread([
                  r[name][operations] / r[name]['seconds'] / r[name]['peak']
                  for r in rounds
              ])
              for utilization, operations in (
                  ('model_utilization', 'needed'),
                  ('hardware_utilization', 'computed'),
              )
          },
          'peak_operations_per_second': spread(
              [r[name]['peak'] for r in rounds]
          ),
          'memory_bytes': max(r[name]['memory'] for r in rounds),
      }
      for name in rounds[0]
  }
  return {
      'sides': sides,
      'ours_is_faster_by': {
          name: spread([
              r[ours]['examples'] / r[ours]['seconds']
              / (r[name]['examples'] / r[name]['seconds'])
              for r in rounds
          ])
          for name in sides if name != ours
      },
  }


def spread(values: Sequence[float]) -> dict[str, float]:
  """Median, least and greatest."""
  return {
      'median': statistics.median(values),
      'min': min(values),
      'max': max(values),
  }


def report(results: Mapping[str, Any], unit: str) -> None:
  """Prints a table of what `summary` gave."""
  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for heading in (
      '', f'{unit}/s', 'min .. max', 'ours is', 'min .. max',
      'of peak', 'with padding', 'peak, GFLOP/s', 'memory, GiB',
  ):
    table.add_column(heading, justify='right' if heading else 'left')
  for name, side in results['sides'].items():
    speed = side['examples_per_second']
    peak = side['peak_operations_per_second']
    faster = results['ours_is_faster_by'].get(name)
    table.add_row(
        name, f'{speed["median"]:.2f}',
        f'{speed["min"]:.2f} .. {speed["max"]:.2f}',
        *(
            (f'{faster["median"]:.2f} x',
             f'{faster["min"]:.2f} .. {faster["max"]:.2f}')
            if faster else ('', '')
        ),
        f'{side["model_utilization"]["median"]:.0%}',
        f'{side["hardware_utilization"]["median"]:.0%}',
        f'{peak["median"] / 1e9:,.0f}',
        f'{side["memory_bytes"] / _GIB:.1f}',
    )
  rich.console.Console(width=120).print(table)
