"""Tests of cli/precompile.py with a stand-in for the compiler."""

import dataclasses
import json

from flipped_t5x import partitioning
from flipped_t5x.cli import main
from flipped_t5x.engine import optimizers
from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import flops
from flipped_t5x.precompile import report
from flipped_t5x.precompile import tpu_compiler
from flipped_t5x.weights import tensors
import jax
import numpy as np
import pytest

GIB = 2**30
DEMO = '--size demo --topology v4:2x2x1 --batch_size 16 '
TEXT = '  %r = f32[8] all-reduce(%x)\n'


@pytest.fixture
def precompile(monkeypatch, capsys):
  """(flags, needed) -> status, JSON, messages, and the steps compiled."""
  monkeypatch.setattr(tpu_compiler, 'prepare', lambda: None)

  def run(flags, needed=lambda step: GIB):
    steps = []

    def stand_in(topology, step, optimizer, quick=False):
      del optimizer, quick
      steps.append(step)
      total = needed(step)
      usable = topology.chip.usable_bytes
      return compile_step.Compiled(
          arguments=GIB, usable=usable, parameters=10, seconds=1.0,
          cpu_seconds=1.0, output=0, temporaries=0, code=0, total=total,
          text=TEXT if total <= usable else None,
      )

    monkeypatch.setattr(compile_step, 'compile_step', stand_in)
    try:
      status = main.main(['precompile', '--json', *flags.split()])
    except SystemExit as e:
      status = e.code
    out, err = capsys.readouterr()
    return status, json.loads(out), err, steps

  return run


def rows_at_once(step):
  """Two GiB for each row that is in memory at once."""
  return 2 * step.batch_size // step.num_microbatches * GIB


def test_defaults_of_a_size(precompile):
  status, facts, err, (step,) = precompile(DEMO + '--steps 7')
  assert not status and not err and facts['fits'] and facts['steps'] == 7
  assert step.task == 'train' and step.batch_size == 16
  # The fewest devices for one copy, and what large models need.
  assert step.model_parallel == 1 and step.shard_params_over_data
  assert step.network.scan_layers and step.network.remat_policy == 'full'
  assert facts['collectives'] == {'all-reduce': 1}


def test_flags_go_before_defaults(precompile):
  _, _, _, (step,) = precompile(
      DEMO + '--model_parallel 2 --remat_policy minimal --num_microbatches 4'
      ' --no-shard_params_over_data --target_length 8'
  )
  assert step.model_parallel == 2 and step.num_microbatches == 4
  assert step.network.remat_policy == 'minimal' and step.target_length == 8
  assert not step.shard_params_over_data


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16', 'int8'))
def test_types_of_weights_to_rank_with(precompile, dtype):
  _, facts, _, (step,) = precompile(f'{DEMO} --task rank --dtype {dtype}')
  assert step.weights_dtype == facts['weights_dtype'] == dtype
  assert step.network.int8_weights == (dtype == 'int8')
  # What is lowered: matrices, and their scales, which are few.
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  _, (_, params, _) = compile_step._function(partitioner, step, None)
  matrix = params['encoder']['encoder']['mlp']['wo']['kernel']
  assert matrix.dtype == dtype and matrix.shape == (256, 3, 128)
  sizes = [a.dtype.itemsize * a.size for a in jax.tree.leaves(params)]
  count = sum(map(np.prod, tensors.shapes(dataclasses.replace(
      step.network, int8_weights=False
  )).values()))
  width = {'float32': 4, 'bfloat16': 2, 'int8': 1}[dtype]
  assert sum(sizes) == pytest.approx(width * count, rel=0.06)


def test_training_adapters_of_int8_weights(precompile):
  _, facts, _, (step,) = precompile(f'{DEMO} --lora --dtype int8')
  assert step.network.int8_weights and step.network.lora_rank == 8
  assert facts['model_flops'] < 0.8 * flops.train_step(
      step.network.without_adapters(), 16, 128, 32
  )
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  _, (state, _) = compile_step._function(
      partitioner, step, optimizers.adafactor(1e-3)
  )
  trained = sum(a.size for a in jax.tree.leaves(state['params']))
  frozen = state['frozen']['encoder']['encoder']['mlp']['wo']['kernel']
  assert frozen.dtype == 'int8'
  assert trained < sum(a.size for a in jax.tree.leaves(state['frozen'])) / 10


@pytest.mark.parametrize('flags, message', (
    ('--dtype int8', 'int8 cannot be trained, but adapters of them can'),
    ('--dtype bfloat16', 'bfloat16: training keeps weights in float32'),
    ('--dtype bfloat16 --lora', 'bfloat16: training keeps weights in float32'),
), ids=('int8', 'bfloat16', 'adapters'))
def test_types_that_cannot_be_trained(capsys, flags, message):
  assert main.main(['precompile', *DEMO.split(), *flags.split()]) == 1
  assert message in capsys.readouterr().err


def test_packed_rows_may_be_longer(precompile):
  overrides = '--gin.PACK=True --gin.PACKED_TARGET_LENGTH=48'
  _, facts, _, (step,) = precompile(f'{DEMO} {overrides}')
  assert step.packed and (step.input_length, step.target_length) == (128, 48)
  assert '--gin.PACKED_TARGET_LENGTH=48' in report._overrides(facts)
  _, _, _, (step,) = precompile(f'{DEMO} {overrides} --task rank')
  assert step.target_length == 32


def test_what_does_not_fit_is_changed_until_it_does(precompile):
  status, facts, err, steps = precompile(DEMO, rows_at_once)
  assert status == 1 and not facts['fits']
  assert [t['fits'] for t in facts['tried']] == [False] * (
      len(steps) - 2
  ) + [True]
  assert err.count('does not fit; trying ') == len(steps) - 1
  assert rows_at_once(steps[-1]) < 30.75 * GIB


def test_number_of_compilations(precompile):
  status, facts, _, steps = precompile(
      DEMO + '--max_compilations 2', lambda step: 99 * GIB
  )
  assert status == 1 and len(facts['tried']) == 2 and len(steps) == 3
  assert not any(t['fits'] for t in facts['tried'])


def test_search(precompile):
  status, found, err, steps = precompile(
      DEMO + '--search --max_compilations 100', rows_at_once
  )
  assert not status and not found['not_tried']
  assert len(steps) == len(found['fit'] + found['do_not_fit'])
  assert err.count('compiling ') == len(steps)
  # Meshes of the demo's two heads, with each policy: one that fits of each.
  settings = [
      (f['model_parallel'], f['network']['remat_policy']) for f in found['fit']
  ]
  assert sorted(settings) == sorted(
      (n, policy) for n in (1, 2) for policy in ('full', 'minimal', 'none')
  )
  # The least is repeated with 'none', the most with 'full'.
  assert [policy for _, policy in settings] == (
      ['none'] * 2 + ['minimal'] * 2 + ['full'] * 2
  )


def test_search_in_which_nothing_fits(precompile):
  status, found, _, _ = precompile(
      DEMO + '--search --max_compilations 2', lambda step: 99 * GIB
  )
  assert status == 1 and not found['fit'] and found['not_tried']


def test_program_is_written(precompile, tmp_path):
  precompile(f'{DEMO} --hlo {tmp_path}/program')
  assert (tmp_path / 'program').read_text() == TEXT
