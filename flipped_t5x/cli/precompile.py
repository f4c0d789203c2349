"""Compile a training or ranking step for a TPU slice, without the slice.

Says whether it fits the memory, what it communicates, and how long a step takes
at least. Status 1 if it does not fit; then with the smallest change that does.
Needs libtpu: pip install "flipped_t5x[tpu]".

Example:
  flipped-t5x precompile --topology v4:4x4x4 --size xxl
  flipped-t5x precompile --topology v5e:4x4 --size large --task rank
  flipped-t5x precompile --topology v4:2x2x2 --size xl --search
  flipped-t5x precompile --topology v4:4x4x4 --gin_file=runs/train.gin \\
    --gin_file=models/t5_1_1_xl.gin --gin_file=methods/flipped.gin \\
    --gin.MODEL_PARALLEL=4 --gin.SCAN_LAYERS=True
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x import network as network_lib
from flipped_t5x import roofline
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
# With --size alone: what large models need.
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
      help='a T5 1.1 with the settings of runs/train.gin, with scanned layers,'
      ' all recomputed, and weights divided over all devices if they can be',
  )
  what.add_argument(
      '--gin_file', action='append',
      help='instead, the files that train is given, with its --gin. overrides',
  )
  parser.add_argument('--task', choices=('train', 'rank'), default='train')
  for flag, text in (
      ('batch_size', 'pairs of a training step, candidates of a ranking step'),
      ('input_length', 'encoder tokens'),
      ('target_length', 'decoder tokens'),
      ('model_parallel', 'devices that share one copy of the activations;'
       ' by default with --size the fewest that divide heads and batch'),
      ('num_microbatches', 'parts of a batch that are in memory one by one'),
      ('num_logit_chunks', 'pieces in which logits are made, and made again'),
  ):
    parser.add_argument(f'--{flag}', type=int, metavar='N', help=text)
  parser.add_argument('--remat_policy', choices=search.POLICIES)
  parser.add_argument(
      '--shard_params_over_data', action=argparse.BooleanOptionalAction,
      help='divide weights over the data axis of the mesh, too',
  )
  parser.add_argument(
      '--steps', type=int, help='of the run whose cost is told; by default the'
      " gin files', 5,000"
  )
  parser.add_argument(
      '--search', action='store_true',
      help='compile all meshes, with as few microbatches as fit, and list those'
      ' that fit, the fastest first',
  )
  parser.add_argument(
      '--max_compilations', type=int, default=6, metavar='N',
      help='how many other settings to try in all, by default 6; a large model'
      ' takes minutes each',
  )
  parser.add_argument(
      '--quick', action='store_true',
      help='optimize less, which takes half of the time or less: nearly the'
      ' same memory, but not the program that will run',
  )
  parser.add_argument(
      '--hlo', type=pathlib.Path, metavar='FILE',
      help='write the text of the compiled program',
  )
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(arguments: argparse.Namespace) -> None:
  topology = topologies.topology(arguments.topology)
  tpu_compiler.prepare()
  step, optimizer, steps = _settings(arguments, topology)
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
  files, overrides = arguments.gin_file, list(arguments.gin_overrides)
  if arguments.size:
    files = ['runs/demo.gin'] if arguments.size == 'demo' else [
        'runs/train.gin', f'models/t5_1_1_{arguments.size}.gin',
        'methods/flipped.gin',
    ]
    defaults = _DEFAULTS | {'MODEL_DIR': '', 'VOCABULARY': ''}
    overrides = [f'{n} = {v!r}' for n, v in defaults.items()] + overrides
  given = {
      flag: getattr(arguments, flag) for flag in _FLAGS
      if getattr(arguments, flag) is not None
  }
  for flag, value in given.items():
    if not isinstance(value, str) and not isinstance(value, bool) and value < 1:
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
  step = compile_step.Step(
      task=arguments.task,
      network=gin.get_configurable(network_lib.T5Config)(),
      unlikelihood_weight=macros['LAMBDA'],
      eps=macros['EPS'],
      wrong_side=formats.wrong_side(macros['FORMAT'], bool(macros['LAMBDA'])),
      packed=macros['PACK'],
      **{
          flag: macros[name] for flag, name in _FLAGS.items()
          if flag != 'remat_policy'
      },
  )
  if arguments.size and 'model_parallel' not in given:
    fit = search.meshes(topology, step)
    step = dataclasses.replace(step, model_parallel=fit[0] if fit else 1)
  if arguments.size and 'shard_params_over_data' not in given:
    data = topology.num_devices // step.model_parallel
    step = dataclasses.replace(
        step, shard_params_over_data=not step.network.emb_dim % data
    )
  optimizer = gin.get_configurable(optimizers.adafactor)()
  return step, optimizer, arguments.steps or macros['TRAIN_STEPS']


def _one(arguments, topology, step, optimizer, steps) -> dict[str, Any]:
  """Compiles what is asked for and, where it does not fit, changes of it."""
  compiled = compile_step.compile_step(
      topology, step, optimizer, arguments.quick
  )
  if arguments.hlo and compiled.text is not None:
    arguments.hlo.write_text(compiled.text)
  found = _facts(topology, step, compiled, steps, arguments.quick)
  if compiled.fits:
    return found
  found['tried'] = []
  for change in search.changes(topology, step, compiled):
    if len(found['tried']) == arguments.max_compilations:
      break
    _say(f'does not fit; trying {change.text}')
    other = compile_step.compile_step(
        change.topology, change.step, optimizer, arguments.quick
    )
    found['tried'].append({
        'change': change.text, 'fits': other.fits, 'total': other.total,
        'usable': other.usable,
    })
    if other.fits:
      break
  return found


def _search(arguments, topology, step, optimizer, steps) -> dict[str, Any]:
  """Compiles what fits; see `precompile_search.candidates`."""
  found = {'fit': [], 'do_not_fit': [], 'not_tried': []}
  left = arguments.max_compilations
  for row in search.candidates(topology, step):
    row = list(row)
    while row:
      change = row.pop(0)
      if not left:
        found['not_tried'].append(change.text)
        break
      left -= 1
      _say(f'compiling {change.text}')
      compiled = compile_step.compile_step(
          topology, change.step, optimizer, arguments.quick
      )
      facts = _facts(
          topology, change.step, compiled, steps, arguments.quick
      )
      facts['change'] = change.text
      if compiled.fits:
        found['fit'].append(facts)
        break
      found['do_not_fit'].append(facts)
      enough = search.enough_microbatches(
          topology, change.step, compiled
      )
      row = [c for c in row if c.step.num_microbatches in enough]
  if not (found['fit'] or found['do_not_fit'] or found['not_tried']):
    compile_step.compile_step(topology, step, optimizer)  # Says what would work.
  found['fit'].sort(key=lambda facts: facts['step_seconds'])
  return found


def _facts(topology, step, compiled, steps, quick) -> dict[str, Any]:
  """All that is known, for --json."""
  estimate = None
  if compiled.text is not None:
    estimate = roofline.estimate(topology, step, compiled)
  return report.facts(
      topology, step, compiled, estimate, steps, quick
  )


def _say(message: str) -> None:
  print(message, file=sys.stderr, flush=True)
