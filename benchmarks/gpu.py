"""Everything that wants one GPU: parts with time limits, tables at the end.

Parts run one after the other, each as processes of its own. One that fails or
takes too long does not stop the next. What a part does not use of its time, the
later ones may use. A part's JSON is in the folder --output, as PART.json, and
what is printed at the end in gpu.txt.

Needs Python with JAX for CUDA, PyTorch and Transformers; what else is missing
is installed from --wheels, without a registry, into a temporary folder.
"""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

_HERE = pathlib.Path(__file__).resolve().parent
_COMMAND = ('-m', 'flipped_t5x.cli.main')
# In the data folder.
_PRETRAINED = 'models/flan_t5_small_titles-*'
_VOCABULARY = 'vocabularies/t5-*.model'
_SHOWN = 12  # Lines of the log of a part that failed.
_FACTS = """
import importlib.metadata, importlib.util, platform, sys
import jax
import flax, gin, grain, jsonschema, optax, orbax.checkpoint, sentencepiece
names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy',
         'torch', 'transformers')
print('Python', platform.python_version(), *(
    f'{d.metadata["Name"]} {d.version}' for n in names
    for d in importlib.metadata.distributions(name=n)))
print('JAX:', *jax.devices())
if importlib.util.find_spec('torch'):
  import torch
  cuda = torch.cuda.is_available()
  print('PyTorch:', torch.cuda.get_device_name() if cuda else 'no GPU')
else:
  print('PyTorch is not installed: it is left out')
sys.exit(jax.default_backend() == 'cpu')
"""


@dataclasses.dataclass(frozen=True)
class Part:
  """What is run for one table.

  Attributes:
    name: of the part.
    seconds: its share of the eight minutes.
    commands: arguments of Python, one command after the other.
  """

  name: str
  seconds: float
  commands: Sequence[Sequence[str]]


def parts(
    arguments: argparse.Namespace, work: pathlib.Path
) -> list[Part]:
  """All parts, those that are most wanted first.

  Args:
    arguments: the command line's.
    work: a folder for what is not kept.
  """
  out = arguments.output
  cores = str(len(os.sched_getaffinity(0)))
  rows = ['--threads', cores]
  found = arguments.vocabulary or next(_data(arguments).glob(_VOCABULARY), None)
  if found:
    rows += ['--vocabulary', str(found)]
  train = [*rows, *_flag('--mixture', arguments.mixture)]
  rank = [*rows, *_flag('--datasets', arguments.mixture)]
  wide = ['--dtype', 'bfloat16', '--batch_size', '8', '--microbatches', '1']
  wide += ['--scan_layers', '--steps', '2', '--apart']
  weights = ['--weights', str(work / 'weights')]
  # argparse takes the last value of a flag. PyTorch's products in bfloat16 take
  # minutes on a CPU that has no instructions for them.
  tiny = {
      'train': ['--size', 'demo', '--batch_size', '2', '--steps', '1',
                '--rounds', '1', '--peer_microbatches', '2', '--dtype',
                'float32'],
      'rank': ['--size', 'demo', '--rows', '2', '--templates', '1',
               '--batch_size', '8', '--dtype', 'float32'],
      'numerics': ['--size', 'demo', '--batch_size', '2'],
  } if arguments.tiny else {}

  def script(name, part, kind, *flags):
    return [
        str(_HERE / name), *flags, *tiny.get(kind, ()), '--json',
        str(out / f'{part}.json'),
    ]

  return [
      Part('numerics', 45, [script(
          'numerics.py', 'numerics', 'numerics', *train, '--size', 'small',
      )]),
      Part('train', 120, [script(
          'train_step.py', 'train', 'train', *train, *wide, *weights,
          '--size', 'xl',
          '--remat_policy', 'minimal', '--sides', 'ours,peer split',
          '--peer_microbatches', '8',
      )]),
      Part('rank', 105, [script(
          'rank_step.py', 'rank', 'rank', *rank, *weights, '--scan_layers',
          '--size', 'xl', '--dtype', 'bfloat16', '--sides',
          'ours,ours int8,peer', '--peer_prompts', '16',
          '--rows', '16', '--templates', '3', '--batch_size', '64',
          '--length_multiple', '64',
      )]),
      Part('lora', 70, [script(
          'train_step.py', 'lora', 'train', *train, *wide, '--size', 'xxl',
          '--remat_policy', 'full', '--lora', '--weights_dtype', 'int8',
      )]),
      Part('demo', 90, _demo(arguments, work / 'demo')),
      Part('int8', 30, [[
          str(_HERE / 'int8.py'), 'compare', '--model', str(work / 'demo'),
          '--mixture', arguments.mixture or 'vader_sentiment', '--rows',
          '4' if arguments.tiny else '20', '--length_multiple', '64',
          '--json', str(out / 'int8.json'),
      ]]),
  ]


def _flag(name: str, value: str | None) -> list[str]:
  return [] if value is None else [name, value]


def _demo(
    arguments: argparse.Namespace, run: pathlib.Path
) -> list[list[str]]:
  """Trains and evaluates as `make demo`; without its T5, from random weights.

  Args:
    arguments: the command line's.
    run: the folder of the run.
  """
  pretrained = not arguments.tiny and any(_data(arguments).glob(_PRETRAINED))
  train = [*_COMMAND, 'train', f'--gin.MODEL_DIR={str(run)!r}']
  if pretrained:
    train.append('--gin_file=runs/demo.gin')
  else:
    steps = 4 if arguments.tiny else 1000
    train += ['--gin_file=runs/scratch.gin', f'--gin.TRAIN_STEPS={steps}']
    train += ['--gin.WARMUP_STEPS=2'] if arguments.tiny else []
  if arguments.mixture:
    train.append(f'--gin.MIXTURE={arguments.mixture!r}')
  if arguments.vocabulary:
    train.append(f'--gin.VOCABULARY={str(arguments.vocabulary)!r}')
  results = str(run.with_name('demo.json'))
  evaluate = [
      *_COMMAND, 'eval', str(run), '--mixture',
      arguments.mixture or 'flipped_demo_eval',
      '--limit', '4' if arguments.tiny else '60', '--output', results,
  ]
  # Beside its results it writes the scores of all examples.
  copy = [
      '-c', 'import shutil, sys; shutil.copy(*sys.argv[1:])', results,
      str(arguments.output / 'demo.json'),
  ]
  return [train, evaluate, copy, [*_COMMAND, 'report', results]]


def _data(arguments: argparse.Namespace) -> pathlib.Path:
  return arguments.data or pathlib.Path(
      os.environ.get('FLIPPED_T5X_DATA', '~/.cache/flipped_t5x')
  ).expanduser()


def install(wheels: pathlib.Path | None, site: pathlib.Path) -> None:
  """Installs the project, and those wheels whose package is not here.

  Args:
    wheels: a folder, see `make gpu_files`.
    site: an empty folder, which is to be on PYTHONPATH.
  """
  missing = [
      wheel for wheel in sorted(wheels.glob('*.whl') if wheels else ())
      if not _is_installed(wheel.name.partition('-')[0])
  ]
  pip = [
      sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index',
      '--no-deps', '--no-compile', '--disable-pip-version-check',
      '--ignore-requires-python',  # promptsource says below 3.10.
      '--target', str(site),
  ]
  if missing:
    subprocess.run([*pip, *map(str, missing)], check=True)
  # The project as setup.py lays it out; pip would have to build it.
  package, root = site / 'flipped_t5x', _HERE.parent
  package.mkdir()
  for path in [*(root / 'flipped_t5x').iterdir(), root / 'tasks', root / 'gin']:
    (package / path.name).symlink_to(path)


def _is_installed(name: str) -> bool:
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    return bool(importlib.metadata.version(name))
  return False


def run(
    part: Part, until: float, environment: dict[str, str], work: pathlib.Path
) -> tuple[str, str]:
  """Runs a part; what became of it, and what it printed.

  Args:
    part: the part.
    until: when it must have ended, of `time.monotonic`.
    environment: of its processes.
    work: where its log is written.
  """
  start = time.monotonic()
  table, log = work / f'{part.name}.txt', work / f'{part.name}.log'
  status = ''
  with table.open('w') as out, log.open('w') as err:
    for command in part.commands:
      process = subprocess.Popen(
          [sys.executable, *command], stdout=out, stderr=err, env=environment,
          start_new_session=True,
      )
      try:
        code = process.wait(max(0.0, until - time.monotonic()))
        status = f'FAILED with status {code}' if code else ''
      except subprocess.TimeoutExpired:
        status = 'STOPPED: its time was up'
      finally:
        # Its sides are processes of the same session.
        with contextlib.suppress(ProcessLookupError):
          os.killpg(process.pid, signal.SIGKILL)
        process.wait()
      if status:
        break
  printed = table.read_text()
  if status:
    printed += '\n'.join(log.read_text().splitlines()[-_SHOWN:]) + '\n'
  seconds = time.monotonic() - start
  return f'{status or "done"} after {seconds:.0f} s', printed


def facts(environment: dict[str, str], tiny: bool) -> str:
  """The card, its driver, versions.

  Args:
    environment: of the process that imports JAX and PyTorch.
    tiny: whether a CPU is enough.

  Raises:
    RuntimeError: something cannot be imported, or JAX has no GPU.
  """
  try:
    card = subprocess.run(
        ['nvidia-smi', '--query-gpu=name,memory.total,driver_version',
         '--format=csv,noheader'],
        capture_output=True, text=True, check=True,
    ).stdout
  except (OSError, subprocess.CalledProcessError) as e:
    card = f'no card: nvidia-smi: {e}\n'
  done = subprocess.run(
      [sys.executable, '-c', _FACTS], capture_output=True, text=True,
      env=environment, check=False,
  )
  text = card + done.stdout
  if done.stdout.count('\n') != 3:
    raise RuntimeError(f'{text}{done.stderr}something is missing, see README')
  if done.returncode and not tiny:
    raise RuntimeError(f'{text}JAX has no GPU, which is needed without --tiny')
  return text


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for flag, text in (
      ('--output', 'for JSON and tables'),
      ('--wheels', 'wheels of what this machine lacks'),
      ('--data', 'the data folder, by default FLIPPED_T5X_DATA'),
      ('--vocabulary', 'a SentencePiece model; by default one is trained'),
  ):
    parser.add_argument(
        flag, type=lambda path: pathlib.Path(path).expanduser().absolute(),
        help=text, required=flag == '--output',
    )
  parser.add_argument('--mixture', help="datasets; by default the demo's")
  parser.add_argument('--minutes', type=float, default=8, help='for all parts')
  parser.add_argument('--parts', help='some of them, separated by commas')
  parser.add_argument('--tiny', action='store_true', help='also on a CPU')
  arguments = parser.parse_args()
  began = time.monotonic()
  arguments.output.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    (work / 'site').mkdir()
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(
            filter(None, (f'{work}/site', os.environ.get('PYTHONPATH')))
        ),
        'FLIPPED_T5X_DATA': str(_data(arguments)),
        # What one part compiles, the next need not.
        'JAX_COMPILATION_CACHE_DIR': f'{work}/compiled',
    }
    try:
      install(arguments.wheels, work / 'site')
      report = facts(environment, arguments.tiny)
    except (RuntimeError, subprocess.CalledProcessError) as e:
      sys.exit(f'gpu.py: {e}')
    print(report, flush=True)
    failed = _run_all(arguments, began, environment, work, report)
  sys.exit(bool(failed))


def _run_all(
    arguments: argparse.Namespace, began: float, environment: dict[str, str],
    work: pathlib.Path, report: str,
) -> list[str]:
  """Runs the parts and prints their tables; the names of those that failed."""
  chosen = parts(arguments, work)
  if arguments.parts:
    names = arguments.parts.split(',')
    if unknown := set(names) - {part.name for part in chosen}:
      sys.exit(f'--parts: no {sorted(unknown)}; {[p.name for p in chosen]}')
    chosen = [part for part in chosen if part.name in names]
  end = began + 60 * arguments.minutes
  whole = sum(part.seconds for part in chosen)
  until, failed = time.monotonic(), []
  scale = (end - until) / whole
  for part in chosen:
    until += part.seconds * scale
    print(f'{part.name} ...', flush=True)
    status, printed = run(part, until, environment, work)
    print(f'{part.name}: {status}', flush=True)
    report += f'\n== {part.name}: {status}\n{printed}'
    if not status.startswith('done'):
      failed.append(part.name)
    (arguments.output / 'gpu.txt').write_text(report)
  print(f'\n{report}\n{time.monotonic() - began:.0f} s in all')
  return failed


if __name__ == '__main__':
  main()
