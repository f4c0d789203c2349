"""What `flipped-t5x rank` of one text costs: importing, reading, compiling.

Each round runs the command twice, in a data folder of its own:

  cold  nothing has been compiled
  warm  the same command again

Shown are the processor seconds of the process, user and system, and the seconds
until it ends. Another checkout of this project can be timed in turns, with the
packages of this one's environment.

Example:
  python benchmarks/start.py --model output/demo
  python benchmarks/start.py --model output/demo --beside CHECKOUT
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import flags
from flipped_t5x.cli import local_paths
import record
import rich.console
import rich.table

_COMMAND = 'import sys; from flipped_t5x.cli import main; sys.exit(main.main())'
_QUERY = (
    '--instruction', 'Did the reviewer enjoy the movie?', '--input',
    'A warm, funny and clever film.', '--options', 'Yes,No',
)
_HERE = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', required=True, help='folder or name')
  parser.add_argument(
      '--beside', type=local_paths.local, metavar='CHECKOUT',
      help='another checkout of this project',
  )
  parser.add_argument(
      '--beside_model', help='what it reads; by default that of --model'
  )
  parser.add_argument('--rounds', type=flags.count, default=5)
  parser.add_argument('--json', type=local_paths.local)
  arguments = parser.parse_args()
  if arguments.beside and arguments.beside.resolve() == _HERE:
    parser.error(f'--beside {arguments.beside} is this checkout')
  models = {_HERE: arguments.model}
  if arguments.beside:
    models[arguments.beside] = arguments.beside_model or arguments.model
  try:
    kept = record.Record(arguments)
    for number in range(arguments.rounds):
      for checkout, model in models.items():
        if not kept.has(number, str(checkout)):
          start = time.monotonic()
          result = _round(checkout, model)
          kept.add(number, str(checkout), result, time.monotonic() - start)
  except (ValueError, RuntimeError) as e:
    sys.exit(f'start.py: {e}')
  _report(kept)


def _round(checkout: pathlib.Path, model: str) -> dict[str, list[float]]:
  """'cold' and 'warm' -> processor seconds and seconds of a process."""
  with tempfile.TemporaryDirectory() as data:
    return {name: _run(checkout, model, data) for name in ('cold', 'warm')}


def _run(checkout: pathlib.Path, model: str, data: str) -> list[float]:
  """Runs the command once; RuntimeError if it fails."""
  # Byte code is kept, as for users.
  environment = {**os.environ, 'PYTHONDONTWRITEBYTECODE': ''}
  environment |= {'FLIPPED_T5X_DATA': data, 'PYTHONPATH': str(checkout)}
  start = time.perf_counter()
  with tempfile.TemporaryFile() as errors:
    process = subprocess.Popen(
        [
            # -P: whatever checkout the working folder is.
            sys.executable, '-P', '-c', _COMMAND, 'rank', '--checkpoint',
            model, *_QUERY,
        ],
        stdout=subprocess.DEVNULL, stderr=errors, env=environment,
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
      errors.seek(0)
      raise RuntimeError(f'{checkout}: {errors.read().decode().strip()}')
  return [used.ru_utime + used.ru_stime, seconds]


def _report(kept: record.Record) -> None:
  """Prints the medians, and of two checkouts what this one needs."""
  kinds = ('cold', 'warm')
  times = {
      (checkout, kind): list(zip(
          *(found[checkout][kind] for found in kept.rounds), strict=True
      ))
      for checkout in kept.rounds[0] for kind in kinds
  }
  table = rich.table.Table('', 'processor s', 'min .. max', 's', 'of beside')
  for (checkout, kind), (used, seconds) in times.items():
    here = checkout == str(_HERE)
    beside = [
        values[0] for (other, k), values in times.items()
        if here and k == kind and other != checkout
    ]
    table.add_row(
        kind if here else f'{checkout}, {kind}',
        f'{statistics.median(used):.2f}', f'{min(used):.2f} .. {max(used):.2f}',
        f'{statistics.median(seconds):.2f}',
        *(f'{statistics.median(used) / statistics.median(b):.0%}'
          for b in beside),
    )
  rich.console.Console().print(table)
  kept.write(kept.facts)


if __name__ == '__main__':
  main()
