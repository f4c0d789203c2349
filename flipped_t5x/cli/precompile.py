"""Compile a training or ranking step for a TPU slice, without the slice.

Says whether the step fits the memory, which collectives its program has, and
how long it takes at least. If it does not fit, the status is 1, and the command
looks for the smallest change with which it does. Needs libtpu: pip install
"flipped_t5x[tpu]".

Example:
  flipped-t5x precompile --topology v4:4x4x4 --size xxl
  flipped-t5x precompile --topology v5e:4x4 --size large --task rank
  flipped-t5x precompile --topology v5e:2x2 --size xxl --task rank --dtype int8
  flipped-t5x precompile --topology v5p:2x2x1 --size xxl --lora --dtype int8
  flipped-t5x precompile --topology v4:2x2x2 --size xl --search
  flipped-t5x precompile --topology v4:4x4x4 --gin_file=runs/train.gin \\
    --gin_file=models/t5_1_1_xl.gin --gin_file=methods/flipped.gin \\
    --gin.MODEL_PARALLEL=4 --gin.SCAN_LAYERS=True
"""

import argparse
from collections.abc import Mapping
import dataclasses
import itertools
import json
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import gin_config
from flipped_t5x import network as network_lib
from flipped_t5x.cli import local_paths
from flipped_t5x.engine import optimizers
from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import report
from flipped_t5x.precompile import search
from flipped_t5x.precompile import topologies
from flipped_t5x.precompile import tpu_compiler
from flipped_t5x.prompts import formats
import gin
import optax

_SIZES = ('demo', 'small', 'base', 'large', 'xl', 'xxl')
# What a macro of the gin files is called here.
_FLAGS = {
    'batch_size': 'BATCH_SIZE', 'input_length': 'INPUT_LENGTH',
    'target_length': 'TARGET_LENGTH', 'model_parallel': 'MODEL_PARALLEL',
    'shard_params_over_data': 'SHARD_PARAMS_OVER_DATA',
    'num_microbatches': 'NUM_MICROBATCHES',
    'num_logit_chunks': 'NUM_LOGIT_CHUNKS', 'remat_policy': 'REMAT_POLICY',
}
# What large models need; defaults of --size.
_DEFAULTS = {
    'SCAN_LAYERS': True, 'REMAT_POLICY': 'full', 'SHARD_PARAMS_OVER_DATA': True,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--topology', required=True, metavar='NAME',
      help='the slice: generation and chips along each axis, as v4:4x4x4 (which'
      ' Google calls v4-128, for its cores) or v5e:16x16',
  )
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument(
      '--size', choices=_SIZES,
      help='a T5 1.1 with the settings of runs/train.gin, but scanned layers,'
      ' full recomputation, and weights divided over all devices if possible',
  )
  what.add_argument(
      '--gin_file', action='append',
      help='instead of --size, a file that train is given, with its --gin.'
      ' overrides; may be repeated',
  )
  parser.add_argument(
      '--task', choices=('train', 'rank'), default='train',
      help='the step to compile, by default that of training',
  )
  _add_settings(parser)
  _add_compilation(parser)
  parser.add_argument(
      '--steps', type=int, metavar='N', help='the number of steps of the run'
      ' whose cost is printed; by default that of the gin files, 5,000',
  )
  parser.add_argument(
      '--hlo', type=local_paths.local, metavar='FILE',
      help='write the text of the compiled program',
  )
  parser.add_argument('--json', action='store_true', help='print JSON')


def _add_settings(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that stand for macros of the gin files."""
  for flag, text in (
      ('batch_size', 'pairs of a training step, candidates of a ranking step'),
      ('input_length', 'encoder tokens'),
      ('target_length', 'decoder tokens'),
      ('model_parallel', 'devices that share one copy of the weights; by'
       ' default with --size the fewest that divide heads and batch'),
      ('num_microbatches', 'parts of a batch that are in memory one by one'),
      ('num_logit_chunks', 'pieces in which training makes the logits'),
  ):
    parser.add_argument(f'--{flag}', type=int, metavar='N', help=text)
  parser.add_argument(
      '--remat_policy', choices=search.POLICIES,
      help='what the backward pass computes again: nothing (none), attention'
      ' (minimal) or nearly all (full)',
  )
  parser.add_argument(
      '--dtype', choices=('float32', 'bfloat16', 'int8'), default='float32',
      help='the type of the weights of a ranking step, as for rank --dtype;'
      ' training has float32, or with adapters also int8',
  )
  parser.add_argument(
      '--lora', action='store_true',
      help='with the adapters of adapters/lora.gin, which alone are trained',
  )
  parser.add_argument(
      '--shard_params_over_data', action=argparse.BooleanOptionalAction,
      help='divide weights over the data axis of the mesh, too',
  )


def _add_compilation(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say what is compiled, and how well."""
  parser.add_argument(
      '--search', action='store_true',
      help='compile each mesh and remat policy with as few microbatches as fit,'
      ' and list what fits: fewest FLOPs first, then fewest microbatches, then'
      ' fewest collectives',
  )
  parser.add_argument(
      '--max_compilations', type=int, default=6, metavar='N',
      help='how many other settings to try, by default 6; for a large model'
      ' each takes minutes',
  )
  parser.add_argument(
      '--quick', action='store_true',
      help='optimize less, which takes half of the time or less; memory is'
      ' nearly the same, but it is not the program that will run',
  )


def run(arguments: argparse.Namespace) -> None:
  local_paths.check_writable(arguments.hlo)
  topology = topologies.topology(arguments.topology)
  step, optimizer, steps = _settings(arguments, topology)
  tpu_compiler.prepare()
  if arguments.search:
    found = _search(arguments, topology, step, optimizer, steps)
    fits = bool(found['fit'])
  else:
    found = _one(arguments, topology, step, optimizer, steps)
    fits = found['fits']
  if arguments.json:
    print(json.dumps(found, indent=2))
  elif arguments.search:
    report.write_search(found)
  else:
    report.write(found)
  if not fits:
    sys.exit(1)


def _settings(
    arguments: argparse.Namespace, topology: topologies.Topology
) -> tuple[compile_step.Step, optax.GradientTransformation, int]:
  """The step that is asked for, its optimizer, and the steps of a run."""
  given = {
      flag: getattr(arguments, flag) for flag in _FLAGS
      if getattr(arguments, flag) is not None
  }
  macros = _macros(arguments, given)
  network = gin.get_configurable(network_lib.T5Config)()
  _check_dtype(arguments, network)
  step = compile_step.Step(
      task=arguments.task,
      network=dataclasses.replace(
          network, int8_weights=arguments.dtype == 'int8'
      ),
      weights_dtype=arguments.dtype,
      unlikelihood_weight=macros['LAMBDA'],
      eps=macros['EPS'],
      wrong_side=formats.wrong_side(macros['FORMAT'], bool(macros['LAMBDA'])),
      packed=macros['PACK'],
      **_sizes(arguments.task, macros),
  )
  if arguments.size and 'model_parallel' not in given:
    possible = search.meshes(topology, step)
    step = dataclasses.replace(
        step, model_parallel=possible[0] if possible else 1
    )
  if arguments.size and 'shard_params_over_data' not in given:
    data = topology.num_devices // step.model_parallel
    step = dataclasses.replace(
        step, shard_params_over_data=not step.network.emb_dim % data
    )
  optimizer = gin.get_configurable(optimizers.adafactor)()
  return step, optimizer, arguments.steps or macros['TRAIN_STEPS']


def _sizes(task: str, macros: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a step that macros give; packed rows may be longer."""
  sizes = {
      flag: macros[name] for flag, name in _FLAGS.items()
      if flag != 'remat_policy'
  }
  if task == 'train' and macros['PACK']:
    for name in ('INPUT_LENGTH', 'TARGET_LENGTH'):
      if longer := macros.get(f'PACKED_{name}'):
        sizes[name.lower()] = longer
  return sizes


def _check_dtype(
    arguments: argparse.Namespace, network: network_lib.T5Config
) -> None:
  """UserError if weights of the type that is asked for cannot be trained."""
  if arguments.task == 'rank' or arguments.dtype == 'float32':
    return
  if arguments.dtype == 'bfloat16':
    raise errors.UserError(
        '--dtype bfloat16: training keeps weights in float32, and int8 ones'
        ' that adapters adapt; --task rank has other types'
    )
  if not network.lora.rank:
    raise errors.UserError(
        '--dtype int8: weights in int8 cannot be trained, but adapters of them'
        ' can, with --lora; --task rank ranks with them'
    )


def _macros(
    arguments: argparse.Namespace, given: Mapping[str, Any]
) -> dict[str, Any]:
  """The macros of the gin files, with those that the flags override.

  Args:
    arguments: the command's arguments.
    given: flag -> value of those of `_FLAGS` that are given.

  Returns:
    Macro -> value.

  Raises:
    UserError: a value is below 1, or the files lack a macro.
  """
  files, overrides = arguments.gin_file, list(arguments.gin_overrides)
  if arguments.size:
    files = ['runs/scratch.gin'] if arguments.size == 'demo' else [
        'runs/train.gin', f'models/t5_1_1_{arguments.size}.gin',
        'methods/flipped.gin',
    ]
  if arguments.lora:
    files = [*files, 'adapters/lora.gin']
  if arguments.size:
    defaults = _DEFAULTS | {'MODEL_DIR': 'none'}
    overrides = [f'{n} = {v!r}' for n, v in defaults.items()] + overrides
  for flag, value in given.items():
    if not isinstance(value, str | bool) and value < 1:
      raise errors.UserError(f'--{flag} {value}: at least 1 is needed')
  overrides += [f'{_FLAGS[flag]} = {value!r}' for flag, value in given.items()]
  macros = gin_config.parse(files, overrides)
  needed = {*_FLAGS.values(), 'LAMBDA', 'EPS', 'FORMAT', 'PACK', 'TRAIN_STEPS'}
  if missing := sorted(needed - macros.keys()):
    raise errors.UserError(
        f'--gin_file={" ".join(files)}: no {", ".join(missing)}; a run, a model'
        ' and a method are needed: runs/train.gin, models/t5_1_1_xl.gin,'
        ' methods/flipped.gin'
    )
  return macros


def _one(
    arguments: argparse.Namespace,
    topology: topologies.Topology,
    step: compile_step.Step,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> dict[str, Any]:
  """Compiles what is asked for and, where it does not fit, changes of it."""
  quick = arguments.quick
  compiled = compile_step.compile_step(topology, step, optimizer, quick)
  if arguments.hlo and compiled.text is not None:
    files.write(arguments.hlo, compiled.text)
  found = report.facts(topology, step, compiled, steps, quick)
  if compiled.fits:
    return found
  found['tried'] = []
  changes = search.changes(topology, step, compiled)
  for change in itertools.islice(changes, arguments.max_compilations):
    _notify(f'does not fit; trying {change.text}')
    other = compile_step.compile_step(
        change.topology, change.step, optimizer, quick
    )
    found['tried'].append({
        'change': change.text, 'fits': other.fits, 'total': other.total,
        'usable': other.usable,
    })
    if other.fits:
      break
  return found


def _search(
    arguments: argparse.Namespace,
    topology: topologies.Topology,
    step: compile_step.Step,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> dict[str, Any]:
  """Compiles what may fit, and sorts what does; see `search.candidates`."""
  quick = arguments.quick
  found = {'fit': [], 'do_not_fit': [], 'not_tried': []}
  for row in search.candidates(topology, step):
    while row:
      change, *row = row
      compilations = len(found['fit']) + len(found['do_not_fit'])
      if compilations >= arguments.max_compilations:
        found['not_tried'].append(change.text)
        break
      _notify(f'compiling {change.text}')
      compiled = compile_step.compile_step(
          topology, change.step, optimizer, quick
      )
      facts = report.facts(topology, change.step, compiled, steps, quick)
      facts['change'] = change.text
      if compiled.fits:
        found['fit'].append(facts)
        break
      found['do_not_fit'].append(facts)
      enough = search.enough_microbatches(topology, change.step, compiled)
      row = [c for c in row if c.step.num_microbatches in enough]
  if not any(found.values()):
    # No mesh divides the slice: this fails with what would.
    compile_step.compile_step(topology, step, optimizer)
  found['fit'].sort(key=search.preference)
  return found


def _notify(message: str) -> None:
  print(message, file=sys.stderr, flush=True)
