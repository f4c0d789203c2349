"""What `flipped-t5x precompile` finds out about a step, as data and as text."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flipped_t5x import terminal
from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import topologies

_GIB = 2**30
# Macros of the gin files that a run with these settings needs.
_MACROS = {
    'BATCH_SIZE': 'batch_size', 'INPUT_LENGTH': 'input_length',
    'TARGET_LENGTH': 'target_length', 'MODEL_PARALLEL': 'model_parallel',
    'SHARD_PARAMS_OVER_DATA': 'shard_params_over_data',
    'NUM_MICROBATCHES': 'num_microbatches',
    'NUM_LOGIT_CHUNKS': 'num_logit_chunks',
}
_MEMORY = {
    'arguments': 'weights, optimizer state, batch',
    'output': 'output that replaces no argument',
    'temporaries': 'temporaries',
    'code': 'program',
    'total': 'together',
    'usable': 'usable',
}


def facts(
    topology: topologies.Topology,
    step: compile_step.Step,
    compiled: compile_step.Compiled,
    steps: int,
    quick: bool,
) -> dict[str, Any]:
  """All that is known of a compiled step, as `--json` prints it.

  The time of a step is a lower bound: that of its FLOPs at the peak of all
  chips. What follows from it is a lower bound, too, or an upper bound of speed.

  Args:
    topology: the slice it was compiled for.
    step: the step that was compiled.
    compiled: what the compiler made of it.
    steps: the number of steps of the run whose cost is printed.
    quick: whether it was compiled with less optimization.

  Returns:
    Name -> value. Memory is in bytes of one device, FLOPs are those of all
    devices together. `collectives` is None where the compiler refused the step.
  """
  seconds = (step.model_flops + step.recomputed_flops) / topology.peak_flops
  return {
      'fits': compiled.fits,
      'quick': quick,
      'parameters': compiled.parameters,
      'topology': topology.name,
      'google_name': topology.google_name,
      'chips': topology.num_chips,
      'devices_per_chip': topology.chip.devices,
      'data_parallel': topology.num_devices // step.model_parallel,
      **dataclasses.asdict(step),
      'compile_seconds': compiled.seconds,
      'compile_cpu_seconds': compiled.cpu_seconds,
      'memory': {name: getattr(compiled, name) for name in _MEMORY},
      'collectives': None if compiled.text is None else (
          compile_step.count_collectives(compiled.text)
      ),
      'model_flops': step.model_flops,
      'recomputed_flops': step.recomputed_flops,
      'chip_peak_flops': topology.chip.peak_flops,
      'step_seconds_at_least': seconds,
      'rows_per_second_at_most': step.batch_size / seconds,
      'steps': steps,
      'chip_hours_at_least': seconds * steps * topology.num_chips / 3600,
  }


def write(found: Mapping[str, Any]) -> None:
  """Prints one step's facts, and what was tried if it does not fit.

  Args:
    found: the facts, with the other settings that were tried as `tried`.
  """
  print(_headline(found))
  print(_settings(found))
  _write_memory(found)
  if found['collectives'] is not None:
    _write_collectives(found['collectives'])
  if not found['fits']:
    _write_tried(found.get('tried', ()))
    return
  _write_costs(found)
  if found['task'] == 'train':
    print('\nTrain with these settings:\n  ' + ' '.join(_overrides(found)))
    if found['weights_dtype'] == 'int8':
      print('and with int8 weights as INITIAL_CHECKPOINT_PATH.')


def _headline(found: Mapping[str, Any]) -> str:
  text = (
      f'{found["task"]}ing step of {found["parameters"] / 1e6:,.0f} million'
      f' parameters: {"fits" if found["fits"] else "DOES NOT FIT"}'
      f' {found["topology"]} ({found["google_name"]}, {found["chips"]} chips)\n'
      f'compiled in {found["compile_seconds"]:.0f} s'
      f' ({found["compile_cpu_seconds"]:.0f} CPU seconds)'
  )
  if found['quick']:
    text += '; with --quick, so this is not the program that will run'
  return text


def _settings(found: Mapping[str, Any]) -> str:
  network = found['network']
  if found['task'] == 'rank':
    rows = 'candidates'
  else:
    rows = 'pairs' if found['wrong_side'] else 'rows'
  axes = 'both axes' if found['shard_params_over_data'] else 'the model axis'
  parts = [
      f'{found["batch_size"]} {rows} of {found["input_length"]} +'
      f' {found["target_length"]} tokens',
      f'mesh {found["data_parallel"]} x {found["model_parallel"]} (data x'
      ' model)',
      f'weights divided over {axes}',
      f'layers {"" if network["scan_layers"] else "not "}scanned',
      f'weights in {found["weights_dtype"]}',
  ]
  if network['lora_rank']:
    parts.append(f'adapters of rank {network["lora_rank"]}')
  if found['task'] == 'train':
    number = found['num_microbatches']
    parts += [
        f'remat policy {network["remat_policy"]}',
        f'{number} microbatch{"es" if number > 1 else ""}',
    ]
  return ', '.join(parts)


def _write_memory(found: Mapping[str, Any]) -> None:
  unit = 'chip' if found['devices_per_chip'] == 1 else 'core'
  print(f'\nMemory of each {unit} in GiB, as the compiler counts it')
  for name, text in _MEMORY.items():
    if found['memory'][name] is not None:
      print(f'  {text:<34}{found["memory"][name] / _GIB:8.2f}')


def _write_collectives(collectives: Mapping[str, int]) -> None:
  print(
      '\nCollective instructions of the program; one in the body of a loop'
      ' counts once'
  )
  for kind, count in collectives.items():
    print(f'  {kind:<34}{count:8}')
  if not collectives:
    print('  none')


def _write_costs(found: Mapping[str, Any]) -> None:
  needed, again = found['model_flops'], found['recomputed_flops']
  print(
      f'\nFLOPs of a step, by formula: {needed:.3g}'
      + (f', and {again:.3g} a second time to save memory' if again else '')
  )
  print(
      f'At the peak of {found["chips"]} chips,'
      f' {found["chip_peak_flops"] / 1e12:g} TFLOP/s each, these take at least'
      f' {milliseconds(found["step_seconds_at_least"])} ms.'
  )
  if found['task'] == 'train':
    print(
        f'{found["steps"]:,} steps take at least'
        f' {found["chip_hours_at_least"]:,.2f} chip-hours.'
    )
  else:
    print(
        f'That is at most {found["rows_per_second_at_most"]:,.0f} candidates/s.'
    )
  print('A real step takes longer: no program is at the peak all the time.')


def milliseconds(seconds: float) -> str:
  """A time in milliseconds, with three digits or more."""
  value = seconds * 1e3
  return f'{value:,.0f}' if value >= 1000 else f'{value:.3g}'


def _overrides(found: Mapping[str, Any]) -> list[str]:
  """`--gin.NAME=VALUE` of all that decides about memory and time."""
  values = {}
  for name, key in _MACROS.items():
    is_longer = found['packed'] and name.endswith('_LENGTH')
    values[f'PACKED_{name}' if is_longer else name] = found[key]
  values['SCAN_LAYERS'] = found['network']['scan_layers']
  values['REMAT_POLICY'] = f'"\'{found["network"]["remat_policy"]}\'"'
  adapters = []
  if found['network']['lora_rank']:
    adapters.append('--gin_file=adapters/lora.gin')
  return adapters + [f'--gin.{name}={value}' for name, value in values.items()]


def _write_tried(tried: Sequence[Mapping[str, Any]]) -> None:
  print()
  for t in tried:
    needs = 'unknown' if t['total'] is None else f'{t["total"] / _GIB:.2f} GiB'
    print(
        f'{"Fits" if t["fits"] else "Does not fit"} with {t["change"]}:'
        f' {needs} of {t["usable"] / _GIB:.2f} (compiled).'
    )
  if not any(t['fits'] for t in tried):
    print(
        'None of the changes that were compiled fits; --max_compilations tries'
        ' more.'
    )


def write_search(found: Mapping[str, Any]) -> None:
  """Prints a table of the settings that fit, and lists those that do not.

  Args:
    found: the facts of settings that `fit`, of those that `do_not_fit`, and the
      texts of those that were `not_tried`.
  """
  titles = ('fits with', 'GiB', 'ms, at least', 'collectives', 'compiled, s')
  rows = [
      (
          f['change'], f'{f["memory"]["total"] / _GIB:.2f}',
          milliseconds(f['step_seconds_at_least']),
          str(sum(f['collectives'].values())), f'{f["compile_seconds"]:.0f}',
      )
      for f in found['fit']
  ]
  if rows:
    print(terminal.aligned([titles, *rows]))
  else:
    print('nothing that was compiled fits')
  for f in found['do_not_fit']:
    total = f['memory']['total']
    needs = '' if total is None else f': {total / _GIB:.2f} GiB'
    print(f'does not fit: {f["change"]}{needs}')
  for text in found['not_tried']:
    print(f'not tried, for --max_compilations: {text}')
