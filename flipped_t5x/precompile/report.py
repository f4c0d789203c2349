"""What `flipped-t5x precompile` found, as data and as text."""

from collections.abc import Mapping
import dataclasses
import textwrap
from typing import Any

from flipped_t5x import roofline
from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import topologies

_GIB = 2**30
_QUICK = (
    '; --quick: the program that will run has less traffic with the memory'
)
# Macros of the gin files that a run with these settings needs.
_MACROS = {
    'BATCH_SIZE': 'batch_size', 'INPUT_LENGTH': 'input_length',
    'TARGET_LENGTH': 'target_length', 'MODEL_PARALLEL': 'model_parallel',
    'SHARD_PARAMS_OVER_DATA': 'shard_params_over_data',
    'NUM_MICROBATCHES': 'num_microbatches',
    'NUM_LOGIT_CHUNKS': 'num_logit_chunks',
}


def facts(
    topology: topologies.Topology,
    step: compile_step.Step,
    compiled: compile_step.Compiled,
    estimate: roofline.Estimate | None,
    steps: int,
    quick: bool,
) -> dict[str, Any]:
  """All that is known of a compiled step, as JSON has it.

  Args:
    topology: the slice.
    step: the step.
    compiled: what the compiler made of it.
    estimate: of its time; None where the compiler refused.
    steps: of the run whose cost is told.
    quick: whether it was compiled with less optimization.

  Returns:
    Bytes and FLOPs are of one device where the name does not say otherwise.
  """
  found = {
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
      'memory': {
          name: getattr(compiled, name) for name in
          ('arguments', 'output', 'temporaries', 'code', 'total', 'usable')
      },
  }
  if estimate is None:
    return found
  low, high = estimate.least_seconds, estimate.most_seconds
  return found | {
      'model_flops_all': estimate.model_flops,
      'recomputed_flops_all': estimate.recomputed_flops,
      'device_flops': estimate.device_flops,
      'hbm_bytes': estimate.hbm_bytes,
      'collectives': list(estimate.collectives),
      'seconds': estimate.parts,
      'bound': estimate.bound,
      'step_seconds': low,
      'step_seconds_without_overlap': high,
      'utilisation': estimate.utilisation(low),
      'utilisation_without_overlap': estimate.utilisation(high),
      'steps': steps,
      'chip_hours': estimate.chip_hours(low, steps),
      'chip_hours_without_overlap': estimate.chip_hours(high, steps),
      'rows_per_second': step.batch_size / low,
      'peak_flops': estimate.peak_flops,
      'assumptions': list(roofline.ASSUMPTIONS),
  }


def write(found: Mapping[str, Any]) -> None:
  """Prints one step's facts, and what was tried where it does not fit."""
  print(_headline(found))
  print(_settings(found))
  unit = 'chip' if found['devices_per_chip'] == 1 else 'core'
  memory = found['memory']
  print(f'\nMemory of each {unit}, GiB')
  for name, text in (
      ('arguments', 'weights, optimizer state, batch'),
      ('output', 'output that replaces no argument'),
      ('temporaries', 'temporaries'),
      ('code', 'program'),
      ('total', 'together'),
      ('usable', 'usable'),
  ):
    if memory[name] is not None:
      print(f'  {text:<34}{memory[name] / _GIB:8.2f}')
  if 'seconds' in found:
    _write_costs(found, unit)
  if found['fits'] and found['task'] == 'train':
    print('Train so with:\n  ' + ' '.join(_overrides(found)))
  if not found['fits']:
    _write_tried(found.get('tried', ()))


def _headline(found: Mapping[str, Any]) -> str:
  return (
      f'{found["task"]}ing step of {found["parameters"] / 1e6:,.0f} million'
      f' parameters: {"fits" if found["fits"] else "DOES NOT FIT"}'
      f' {found["topology"]} ({found["google_name"]}, {found["chips"]} chips)\n'
      f'compiled in {found["compile_seconds"]:.0f} s'
      f' ({found["compile_cpu_seconds"]:.0f} CPU seconds)'
      + (_QUICK if found['quick'] else '')
  )


def _settings(found: Mapping[str, Any]) -> str:
  network = found['network']
  rows = 'pairs' if found['wrong_side'] else 'rows'
  text = (
      f'{found["batch_size"]} '
      f'{rows if found["task"] == "train" else "candidates"} of'
      f' {found["input_length"]} + {found["target_length"]} tokens, mesh'
      f' {found["data_parallel"]} x {found["model_parallel"]} (data x model),'
      ' weights over ' + (
          'both' if found['shard_params_over_data'] else 'model alone'
      ) + f', {"" if network["scan_layers"] else "un"}scanned'
  )
  if found['task'] == 'train':
    text += (
        f', remat {network["remat_policy"]}, {found["num_microbatches"]}'
        f' microbatch{"es" if found["num_microbatches"] > 1 else ""}'
    )
  return text


def _overrides(found: Mapping[str, Any]) -> list[str]:
  """`--gin.NAME=VALUE` of all that decides about memory and time."""
  values = {name: found[key] for name, key in _MACROS.items()}
  values['SCAN_LAYERS'] = found['network']['scan_layers']
  values['REMAT_POLICY'] = f'"\'{found["network"]["remat_policy"]}\'"'
  return [f'--gin.{name}={value}' for name, value in values.items()]


def _write_costs(found: Mapping[str, Any], unit: str) -> None:
  again = found['recomputed_flops_all'] / found['model_flops_all']
  devices = found['chips'] * found['devices_per_chip']
  computed = found['device_flops'] * devices
  print(
      f'\nFLOPs of a step: {found["model_flops_all"]:.3g} by formula,'
      f' {again:.0%} of them a second time to save memory; the program has'
      f' {computed:.3g} on all devices'
  )
  print(f'\nCollectives of a step, for each {unit}')
  print('  kind                among    count      GB sent       ms')
  for c in found['collectives']:
    print(
        f'  {c["kind"]:<18}{c["group_size"]:>7}{c["count"]:>9}'
        f'{c["bytes"] / 1e9:>13.3f}{c["seconds"] * 1e3:>9.1f}'
    )
  print('\nTime of a step, estimated, ms')
  for name, text in (
      ('compute', f'products, {found["device_flops"]:.3g} FLOP'),
      ('memory', f'memory, {found["hbm_bytes"] / 1e9:.1f} GB'),
      ('collectives', 'collectives'),
  ):
    print(f'  {text:<34}{found["seconds"][name] * 1e3:8.1f}')
  low, high = found['step_seconds'], found['step_seconds_without_overlap']
  print(
      f'  {"at least, if all overlap":<34}{low * 1e3:8.1f}'
      f'   ({found["utilisation"]:.0%} of peak is of use)'
  )
  print(
      f'  {"if nothing overlaps":<34}{high * 1e3:8.1f}'
      f'   ({found["utilisation_without_overlap"]:.0%})'
  )
  if found['task'] == 'train':
    print(
        f'{found["steps"]:,} steps: {found["chip_hours"]:.1f} to'
        f' {found["chip_hours_without_overlap"]:.1f} chip-hours'
    )
  else:
    print(f'at most {found["rows_per_second"]:,.0f} candidates/s')
  print('Assumed:')
  for assumption in found['assumptions']:
    print(textwrap.fill(
        assumption, 78, initial_indent='  - ', subsequent_indent='    '
    ))


def _write_tried(tried) -> None:
  for t in tried:
    needs = 'unknown' if t['total'] is None else f'{t["total"] / _GIB:.2f} GiB'
    print(
        f'\n{"Fits" if t["fits"] else "Does not fit"} with {t["change"]}:'
        f' {needs} of {t["usable"] / _GIB:.2f} (compiled).', end=''
    )
  print()
  if not any(t['fits'] for t in tried):
    print(
        'None of the changes that were compiled fits; --max_compilations tries'
        ' more.'
    )


def write_search(found: Mapping[str, Any]) -> None:
  """Prints a table of what fits, and what does not."""
  rows = [
      (f['change'], f'{f["memory"]["total"] / _GIB:.2f}',
       f'{f["step_seconds"] * 1e3:.3g}',
       f'{f["step_seconds_without_overlap"] * 1e3:.3g}', f['bound'],
       f'{f["compile_seconds"]:.0f}')
      for f in found['fit']
  ]
  titles = ('fits with', 'GiB', 'ms, least', 'ms, most', 'bound', 'compiled, s')
  if rows:
    table = (titles, *rows)
    widths = [max(map(len, c)) for c in zip(*table, strict=True)]
    for row in table:
      print('  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)))
  else:
    print('nothing that was compiled fits')
  for f in found['do_not_fit']:
    total = f['memory']['total']
    needs = '' if total is None else f': {total / _GIB:.2f} GiB'
    print(f'does not fit: {f["change"]}{needs}')
  for text in found['not_tried']:
    print(f'not tried, for --max_compilations: {text}')
