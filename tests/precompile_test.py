"""Tests of precompile.py and its command; most of them compile with libtpu."""

import dataclasses
import importlib.util
import json
import sys

from flipped_t5x import flops
from flipped_t5x import hlo
from flipped_t5x import hlo_collectives
from flipped_t5x import hlo_costs
from flipped_t5x import network as network_lib
from flipped_t5x import roofline
from flipped_t5x import tpu_topologies
from flipped_t5x.cli import main
from flipped_t5x.engine import optimizers
from flipped_t5x.engine import precompile
from flipped_t5x.engine import tpu_compiler
import jax
import jax.numpy as jnp
import numpy as np
import pytest

P = jax.sharding.PartitionSpec
GIB = 2**30
HOST = tpu_topologies.topology('v4:2x2x1')

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='libtpu is not installed: pip install "flipped_t5x[tpu]"',
)


@pytest.fixture(scope='module')
def network():
  """Small, but not so small that products are no products on a TPU."""
  return network_lib.T5Config(
      vocab_size=512, emb_dim=128, num_heads=4, num_encoder_layers=3,
      num_decoder_layers=2, head_dim=32, mlp_dim=256, scan_layers=True,
      remat_policy='full', dtype='bfloat16',
  )


def run(capsys, *argv):
  """The command's status and what it prints."""
  try:
    status = main.main(['precompile', *argv])
  except SystemExit as e:
    status = e.code
  return status, *capsys.readouterr()


@pytest.mark.parametrize('message, needed', (
    ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required'
     ' for HLO temporaries (95.31G) exceeds available HBM (30.75G).',
     95.31 * GIB),
    ('Ran out of memory in memory space hbm. Used 512.00M of 15.48G hbm.',
     GIB / 2),
    ('Ran out of memory in memory space vmem.', None),
))
def test_needed_bytes(message, needed):
  assert precompile.needed_bytes(message) == (needed and int(needed))


@pytest.mark.parametrize('argv, expected', (
    (['v7:2x2'], "--topology 'v7:2x2' is not known; known are\nv2:2x2 "),
    (['v4:4x4'], 'the slices of a v4 have 3 axes: 2x2x1'),
))
def test_bad_topology(capsys, argv, expected):
  status, out, err = run(capsys, '--size', 'xl', '--topology', *argv)
  assert status == 1 and not out and expected in err


def test_missing_libtpu(capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  status, out, err = run(capsys, '--size', 'xl', '--topology', 'v4:4x4x4')
  assert status == 1 and not out
  assert 'libtpu is not installed: pip install "flipped_t5x[tpu]"' in err


def test_wrong_libtpu(capsys, monkeypatch, tmp_path):
  (tmp_path / 'libtpu').mkdir()
  (tmp_path / 'libtpu/__init__.py').write_text('')
  facts = tmp_path / 'libtpu-0.0.4.dist-info'
  facts.mkdir()
  (facts / 'METADATA').write_text('Name: libtpu\nVersion: 0.0.4\n')
  monkeypatch.syspath_prepend(tmp_path)
  status, out, err = run(capsys, '--size', 'xl', '--topology', 'v4:4x4x4')
  assert status == 1 and not out
  assert 'libtpu is 0.0.4, where JAX ' in err and 'wants ==0.0.' in err
  assert f'"jax[tpu]=={jax.__version__}"' in err


@needs_libtpu
def test_gin_files_that_are_not_a_run(capsys):
  status, out, err = run(
      capsys, '--topology', 'v4:4x4x4', '--gin_file', 'models/t5_1_1_xl.gin'
  )
  assert status == 1 and not out and 'a run, a model and a method' in err


@needs_libtpu
@pytest.mark.parametrize('argv, expected', (
    (['v4:4x4x4', '--model_parallel', '3'],
     'MODEL_PARALLEL = 3 does not divide the 64 devices; [1, 2, 4, 8, '),
    (['v4:4x4x4', '--model_parallel', '64'],
     'MODEL_PARALLEL = 64 does not divide the 32 heads of the network; [1, 2,'),
    (['v4:4x4x4', '--model_parallel', '2'], '240 cannot be divided into 1'),
    (['v4:4x4x4', '--num_microbatches', '2'], '[224, 256] could'),
    (['v4:4x4x4', '--num_microbatches', '0'], '--num_microbatches 0: at least'),
    (['v4:3x3x3'], '--topology v4:3x3x3: libtpu does not know it: '),
))
def test_what_does_not_divide_is_not_compiled(capsys, argv, expected):
  status, out, err = run(capsys, '--size', 'xl', '--topology', *argv)
  assert status == 1 and not out and expected in err


@needs_libtpu
def test_collectives_and_loops_of_a_tpus_program():
  """A program whose collectives are written out, five times in a loop."""
  tpu_compiler.prepare()
  mesh = jax.sharding.Mesh(
      np.array(tpu_compiler.devices(HOST)).reshape(2, 2), ('a', 'b')
  )

  def body(x, w):
    x = jax.lax.all_gather(x, 'b', axis=1, tiled=True)
    x = jax.lax.psum_scatter(x @ w, 'b', scatter_dimension=1, tiled=True)
    x = jax.lax.psum(x, 'a')
    return jax.lax.ppermute(x, 'a', [(0, 1), (1, 0)]), None

  @jax.jit
  @jax.shard_map(
      mesh=mesh, in_specs=(P(None, 'b'), P()), out_specs=P(None, 'b'),
      check_vma=False,
  )
  def loop(x, w):
    return jax.lax.scan(body, x, w)[0]

  x = jax.ShapeDtypeStruct((512, 1024), jnp.bfloat16)
  w = jax.ShapeDtypeStruct((5, 1024, 1024), jnp.bfloat16)
  program = hlo.parse(loop.lower(x, w).compile().as_text())
  assert hlo_costs.matmul_flops(program) == 5 * 2 * 512 * 1024 * 1024
  found = hlo_collectives.totals(hlo_collectives.collectives(program, 4))
  size = 512 * 1024 * 2
  assert {c['kind']: (c['count'], c['bytes']) for c in found} == {
      'all-gather': (5, 5 * size / 2),
      'all-reduce': (5, 5 * size / 2),
      'reduce-scatter': (5, 5 * size / 2),
      'collective-permute': (5, 5 * size / 2),
  }
  assert {c['group_size'] for c in found} == {2}
  # All matrices, at least, come from the main memory.
  assert hlo_costs.hbm_bytes(program) > 5 * 1024 * 1024 * 2


@needs_libtpu
@pytest.mark.parametrize('task', ('train', 'rank'))
def test_a_small_step(network, task):
  tpu_compiler.prepare()
  step = precompile.Step(
      task=task, network=network, batch_size=16, input_length=128,
      target_length=32, model_parallel=2, shard_params_over_data=True,
      num_microbatches=2,
  )
  optimizer = optimizers.adafactor(1e-3)
  compiled = precompile.compile_step(HOST, step, optimizer, quick=True)
  assert compiled.fits and compiled.total < compiled.usable
  assert compiled.usable == int(30.75 * GIB)
  # Weights in float32, a quarter on each chip; rows of a tile have 128 columns,
  # and some are half empty.
  layer = 4 * 128 * 128 + 3 * 128 * 256
  weights = 3 * layer + 2 * (layer + 4 * 128 * 128) + 2 * 512 * 128
  assert weights < compiled.arguments < 2 * weights
  assert compiled.coordinates.shape == (4, 3)
  assert len(np.unique(compiled.coordinates, axis=0)) == 4
  estimate = roofline.estimate(HOST, step, compiled)
  sizes = network, 16, 128, 32
  if task == 'rank':
    assert estimate.model_flops == flops.rank_step(*sizes)
    assert estimate.recomputed_flops == 0
  else:
    # What is returned replaces what was given, but for a few numbers.
    assert compiled.output < weights / 10
    assert estimate.model_flops == flops.train_step(*sizes)
    assert estimate.recomputed_flops == flops.recomputed(*sizes)
  # Nothing is computed on two devices, nothing is left out.
  assert 4 * estimate.device_flops == pytest.approx(
      estimate.model_flops + estimate.recomputed_flops, rel=0.05
  )
  assert estimate.compute_seconds == estimate.device_flops / 275e12
  assert estimate.hbm_seconds == estimate.hbm_bytes / 1200e9
  assert estimate.least_seconds == max(estimate.parts.values())
  assert estimate.most_seconds == sum(estimate.parts.values())
  assert estimate.collective_seconds == pytest.approx(
      sum(c['seconds'] for c in estimate.collectives)
  )
  share = estimate.utilisation(estimate.least_seconds)
  assert 0 < share < 1
  assert estimate.chip_hours(0.5, 7200) == 4
  assert share * 4 * 275e12 * estimate.least_seconds == pytest.approx(
      estimate.model_flops
  )


@needs_libtpu
def test_a_refused_step_ends_with_what_fits(capsys):
  argv = (
      '--topology', 'v5e:2x2', '--size', 'demo', '--task', 'rank', '--quick',
      '--model_parallel', '1', '--batch_size', str(2**18), '--json',
  )
  status, out, err = run(capsys, *argv)
  assert status == 1 and '\ndoes not fit; trying' in f'\n{err}'
  found = json.loads(out)
  assert not found['fits']
  memory = found['memory']
  assert memory['total'] > memory['usable'] == int(15.75 * GIB)
  assert memory['temporaries'] is None and 'seconds' not in found
  # The batch is most of the arguments: five arrays of int32 and float32.
  assert memory['arguments'] > 2**18 // 4 * (128 + 3 * 32) * 4
  *others, last = found['tried']
  assert last['fits'] and last['total'] <= memory['usable']
  assert not any(t['fits'] for t in others)
  assert last['change'].startswith('--batch_size ')


@needs_libtpu
def test_search_lists_what_fits_best_first(capsys):
  status, out, _ = run(
      capsys, '--topology', 'v4:2x2x1', '--size', 'demo', '--task', 'rank',
      '--search', '--quick', '--json',
  )
  found = json.loads(out)
  assert status == 0 and not found['do_not_fit'] and not found['not_tried']
  # 2 heads.
  assert sorted(f['model_parallel'] for f in found['fit']) == [1, 2]
  times = [f['step_seconds'] for f in found['fit']]
  assert times == sorted(times)


@needs_libtpu
def test_three_billion_parameters_train_on_64_chips(capsys):
  status, out, _ = run(
      capsys, '--topology', 'v4:4x4x4', '--size', 'xl', '--quick'
  )
  assert status == 0
  assert out.startswith(
      'training step of 2,850 million parameters: fits v4:4x4x4 (v4-128,'
      ' 64 chips)\n'
  )
  for part in (
      '240 pairs of 384 + 64 tokens, mesh 16 x 4 (data x model)',
      'Memory of each chip', 'FLOPs of a step', 'all-reduce', 'at least',
      '5,000 steps: ', 'Assumed:', ' --gin.MODEL_PARALLEL=4 ',
      '--gin.REMAT_POLICY="\'full\'"',
  ):
    assert part in out


@pytest.mark.parametrize('changed', ({}, {'packed': True}, {'paired': False}))
def test_batches_are_the_engines(network, changed):
  step = precompile.Step(
      task='train', network=network, batch_size=16, input_length=24,
      target_length=8, **changed,
  )
  batch = precompile.one_row(step)
  sides = {'encoder': 24, 'decoder': 8}
  if step.paired:
    sides['wrong_encoder'] = 24
  expected = {
      'decoder_input_tokens': 8, 'decoder_target_tokens': 8,
      'decoder_loss_weights': 8,
  } | {f'{s}_input_tokens': n for s, n in sides.items()}
  if step.packed:
    expected |= {
        f'{s}_{kind}': n for s, n in sides.items()
        for kind in ('segment_ids', 'positions')
    }
  assert {name: a.shape for name, a in batch.items()} == {
      name: (1, n) for name, n in expected.items()
  }
  ranked = precompile.one_row(dataclasses.replace(step, task='rank'))
  assert set(ranked) == {
      n for n in expected if 'wrong' not in n and 'tokens' in n
  } | {'decoder_loss_weights'}
