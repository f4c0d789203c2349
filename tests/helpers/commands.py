"""Commands that campaigns stop, start twice, and run where there is no room.

Each writes into a folder of its own, and has a result that can be compared:
what must be the same however often the command was stopped before.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import demo_data
import evaluated_runs
from flipped_t5x.evaluation import evaluate
from flipped_t5x.weights import model_files
from flipped_t5x.weights import tensors
import jax
import numpy as np
import orbax.checkpoint as ocp
import tiny_run
import xla_flags

CHUNK_ROWS = 5
# argv: data folder, arguments. It says when everything is imported, and waits.
_SCRIPT = """
import importlib, pathlib, sys
import pytest
import commands, demo_data
from flipped_t5x.cli import main
from flipped_t5x.evaluation import evaluate

evaluate.CHUNK_ROWS = commands.CHUNK_ROWS
demo_data.install(pathlib.Path(sys.argv[1]), pytest.MonkeyPatch())
importlib.import_module(f'flipped_t5x.cli.{main.COMMANDS[sys.argv[2]][0]}')
print('ready', flush=True)
sys.stdin.readline()
sys.exit(main.main(sys.argv[2:]))
"""
# What a command may leave beside its files while it runs.
_PASSING = ('.unfinished-', '.lock', '.progress', 'orbax-checkpoint-tmp',
            '.parts-')


@dataclasses.dataclass(frozen=True)
class Command:
  """A command that writes into a folder.

  Attributes:
    arguments: folder -> its arguments.
    result: folder -> JSON and bytes that are the same whenever it is done.
    again: whether it may be run where it is done already.
  """

  arguments: Callable[[pathlib.Path], Sequence[str]]
  result: Callable[[pathlib.Path], Mapping[str, Any]]
  again: bool = True


def prepare(
    data: pathlib.Path, params: Any
) -> tuple[dict[str, Command], pathlib.Path]:
  """Writes what the commands read.

  Args:
    data: where `demo_data.install` has put the data.
    params: weights of `demo_data.NETWORK`.

  Returns:
    Name -> command; and a run that can be evaluated.
  """
  run = tiny_run.write(data / 'run', params)
  first, second = (
      evaluated_runs.write(data / name, evaluated_runs.TASKS)
      for name in ('first', 'second')
  )
  table = data / 'table.csv'
  table.write_text('text\n' + ''.join(
      f'The film of row {i} is dull.\n' for i in range(30)
  ))
  query = ['--checkpoint', str(run), '--instruction', '{{input}} Is it good?',
           '--option', 'no', '--option', 'yes']
  found = {
      'train': Command(_train, trained),
      'eval': Command(lambda folder: [
          'eval', str(run), '--batch_size', '16',
          '--output', str(folder / 'results_tiny.json'),
      ], contents),
      'report': Command(lambda folder: [
          'report', str(first), str(second), '--output', str(folder / 'out'),
      ], contents),
      'rank a table': Command(lambda folder: [
          'rank', *query, '--table', str(table), '--text', 'text',
          '--output_file', str(folder / 'labelled.csv'),
      ], contents),
      'explain': Command(lambda folder: [
          'explain', *query, '--input', 'The film is dull.',
          '--plot', str(folder / 'plot.png'),
          '--output_file', str(folder / 'explained.txt'),
      ], contents),
      'inspect': Command(lambda folder: [
          'inspect', demo_data.MIXTURE, '--vocabulary', str(run),
          '--plot', str(folder / 'plot.png'), '--json',
      ], contents),
  }
  for kind in ('hf', 'native', 't5x'):
    found[f'convert to {kind}'] = Command(
        lambda folder, kind=kind: [
            'convert', str(run), str(folder / 'converted'), '--to', kind,
        ], converted, again=False,
    )
  return found, run


def _train(folder: pathlib.Path) -> list[str]:
  gin_file = demo_data.write_gin(folder / 'run.gin', folder / 'run')
  return ['train', f'--gin_file={gin_file}']


def trained(folder: pathlib.Path) -> dict[str, Any]:
  """Every bit of a run's checkpoints, its log without times, its settings."""
  run = folder / 'run'
  config = json.loads((run / 'config.json').read_text())
  del config['settings']['MODEL_DIR']
  found = {
      'config.json': config,
      'data.json': json.loads((run / 'data.json').read_text()),
      'vocabulary': (run / 'sentencepiece.model').read_bytes(),
      'log': log(run),
      'steps': sorted(p.name for p in (run / 'checkpoints').iterdir()),
  }
  for step in found['steps']:
    found |= {
        f'{step}: {name}': values.tobytes()
        for name, values in state(run, step).items()
    }
  return found


def state(run: pathlib.Path, step: int | str) -> dict[str, np.ndarray]:
  """Name -> array of all that a checkpoint holds: weights, optimizer, step."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(run / 'checkpoints' / str(step) / 'state')
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


def log(run: pathlib.Path) -> list[dict[str, float]]:
  """The lines of a run's log, without the speed."""
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  return [
      {k: v for k, v in json.loads(line).items() if 'per_second' not in k}
      for line in lines
  ]


def converted(folder: pathlib.Path) -> dict[str, Any]:
  """Every bit of the weights, and what stands beside them."""
  opened = model_files.open(folder / 'converted')
  return {
      **{
          name: tensor.read().tobytes()
          for name, tensor in tensors.unstacked(opened.tensors).items()
      },
      'vocabulary': opened.vocabulary.read_bytes(),
      'rest': [opened.kind, opened.format, opened.step, str(opened.network)],
      'files': sorted(p.name for p in (folder / 'converted').iterdir()),
  }


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Path -> content of all files below a folder."""
  return {
      str(p.relative_to(folder)): p.read_bytes()
      for p in sorted(folder.rglob('*')) if p.is_file()
  }


def left_over(folder: pathlib.Path) -> list[str]:
  """What a command that is done should not leave."""
  return [
      str(p) for p in folder.rglob('*') if any(w in p.name for w in _PASSING)
  ]


def start(
    data: pathlib.Path, arguments: Sequence[str], *before: str
) -> subprocess.Popen:
  """Starts a command that waits for `go` once everything is imported.

  Args:
    data: where `demo_data.install` has put the data.
    arguments: of the command.
    *before: what starts the process, such as `unshare`.

  Returns:
    The process; both of its outputs are in `stdout`.
  """
  return subprocess.Popen(
      [*before, sys.executable, '-c', _SCRIPT, str(data), *arguments],
      env={
          **os.environ,
          'PYTHONPATH': str(pathlib.Path(__file__).parent),
          'XLA_FLAGS': xla_flags.QUICK,
      },
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True, errors='replace',
  )


def go(*processes: subprocess.Popen) -> None:
  """Lets processes go on, together, once all of them are ready."""
  for process in processes:
    line = process.stdout.readline()
    while line and line != 'ready\n':
      line = process.stdout.readline()
    assert line, process.wait()
  for process in processes:
    process.stdin.write('\n')
    process.stdin.flush()


def finish(process: subprocess.Popen, seconds: float = 300) -> str:
  """Waits for a process; returns its output, which has no traceback."""
  output, _ = process.communicate(timeout=seconds)
  assert 'Traceback' not in output and 'a fault of' not in output, output
  return output


def in_this_process(patch: Any) -> None:
  """Makes commands do here what they do in processes of `start`."""
  patch.setattr(evaluate, 'CHUNK_ROWS', CHUNK_ROWS)
