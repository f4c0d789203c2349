"""The table of docs/scale.md: sizes by slices, each cell compiled.

    python benchmarks/what_fits.py what_fits.jsonl
    python benchmarks/what_fits.py what_fits.jsonl --table

Each line of the file is what `flipped-t5x precompile --json` printed. Cells
that the file has already are not compiled again, so the command can be stopped
and repeated; all of them take about half an hour on two cores.
"""

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys

from flipped_t5x.cli import local_paths
from flipped_t5x.precompile import report
from flipped_t5x.precompile import topologies

TOPOLOGIES = ('v4:4x4x4', 'v5e:16x16', 'v5p:2x4x4', 'v3:32x32')
HEADS = {'small': 6, 'base': 12, 'large': 16, 'xl': 32, 'xxl': 64}
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Cell:
  """One compilation."""

  task: str
  topology: str
  size: str

  @property
  def batch_size(self) -> int:
    """240, or the next power of two that devices and heads can share."""
    devices = topologies.topology(self.topology).num_devices
    for size in (240, *(2**n for n in range(8, 14))):
      for model in range(1, devices + 1):
        if not (
            devices % model or HEADS[self.size] % model
            or size % (devices // model)
        ):
          return size
    raise ValueError(f'{self}: no batch size')

  def compile(self) -> dict:
    """Runs the command."""
    done = subprocess.run(
        [
            sys.executable, '-m', 'flipped_t5x.cli.main', 'precompile',
            '--topology', self.topology, '--size', self.size,
            '--task', self.task, '--batch_size', str(self.batch_size),
            '--max_compilations', '0', '--json',
        ],
        capture_output=True, text=True, check=False,
    )
    if not done.stdout:
      raise RuntimeError(f'{self}: {done.stderr}')
    return json.loads(done.stdout)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('file', type=local_paths.local)
  parser.add_argument(
      '--table', action='store_true',
      help='print the tables without compiling anything',
  )
  arguments = parser.parse_args()
  lines = []
  if arguments.file.exists():
    lines = list(map(json.loads, arguments.file.read_text().splitlines()))
  found = {Cell(**line['cell']): line for line in lines}
  cells = [
      Cell(task, topology, size) for task, size, topology in
      itertools.product(('train', 'rank'), reversed(HEADS), TOPOLOGIES)
  ]
  for cell in () if arguments.table else cells:
    if cell in found:
      continue
    facts = cell.compile() | {'cell': dataclasses.asdict(cell)}
    with arguments.file.open('a') as f:
      f.write(json.dumps(facts) + '\n')
    found[cell] = facts
    print(cell, 'fits' if facts['fits'] else 'does not fit', flush=True)
  _write_tables(found)


def _write_tables(found: dict[Cell, dict]) -> None:
  for task in ('train', 'rank'):
    print(
        f'\n{task}\n\n| size | slice | rows | mesh | GiB | of | compiled, CPU s'
        ' | step, ms, at least | '
        + (
            'chip-hours, at least' if task == 'train' else
            'candidates/s, at most'
        )
        + ' |\n|' + ' --- |' * 9
    )
    for size, topology in itertools.product(HEADS, TOPOLOGIES):
      facts = found.get(Cell(task, topology, size))
      if facts:
        print(_row(size, facts))


def _row(size: str, facts: dict) -> str:
  memory = facts['memory']
  cells = [
      size, facts['google_name'], f'{facts["batch_size"]}',
      f'{facts["data_parallel"]} x {facts["model_parallel"]}',
      '?' if memory['total'] is None else f'{memory["total"] / GIB:.2f}',
      f'{memory["usable"] / GIB:.1f}', f'{facts["compile_cpu_seconds"]:.0f}',
  ]
  if facts['fits']:
    cells += [
        report.milliseconds(facts['step_seconds_at_least']),
        f'{facts["chip_hours_at_least"]:.1f}' if facts['task'] == 'train' else
        f'{facts["rows_per_second_at_most"]:,.0f}',
    ]
  else:
    cells += ['does not fit', '']
  return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
  main()
