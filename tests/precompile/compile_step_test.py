"""Tests of precompile/compile_step.py and the command; most need libtpu."""

import contextlib
import dataclasses
import io
import json
import pathlib
import subprocess
import sys

from flipped_t5x import network as network_lib
from flipped_t5x.cli import main
from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import flops
from flipped_t5x.precompile import search
from flipped_t5x.precompile import topologies
from flipped_t5x.precompile import tpu_compiler
import jax
import jax.numpy as jnp
import numpy as np
import pytest

P = jax.sharding.PartitionSpec
GIB = 2**30
HOST = topologies.topology('v4:2x2x1')


@pytest.fixture(scope='module')
def network():
  """Small."""
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
  assert compile_step.needed_bytes(message) == (needed and int(needed))


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


def own_process(function, *arguments):
  """What a function of this file returns in a process of its own.

  libtpu reads its flags when it is loaded, which here JAX may have done; and
  what goes wrong in it ends the process.
  """
  code = '; '.join((
      'import json, sys',
      'sys.path.insert(0, sys.argv[1])',
      'import compile_step_test',
      'function = getattr(compile_step_test, sys.argv[2])',
      'print("\\n" + json.dumps(function(*json.loads(sys.argv[3]))))',
  ))
  done = subprocess.run(
      [
          sys.executable, '-c', code, str(pathlib.Path(__file__).parent),
          function.__name__, json.dumps(arguments),
      ],
      capture_output=True, text=True, check=False,
  )
  assert not done.returncode, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def commands(argvs):
  """[status, stdout, stderr] of each `flipped-t5x precompile`."""
  found = []
  for argv in argvs:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      try:
        status = main.main(['precompile', *argv])
      except SystemExit as e:
        status = e.code
    found.append([status, out.getvalue(), err.getvalue()])
  return found


BAD = (
    ('v4:4x4x4 --size xl --model_parallel 3',
     'MODEL_PARALLEL = 3 does not divide the 64 devices; [1, 2, 4, 8, '),
    ('v4:4x4x4 --size xl --model_parallel 64',
     'MODEL_PARALLEL = 64 does not divide the 32 heads of the network; [1, 2,'),
    ('v4:4x4x4 --size xl --model_parallel 2', '240 cannot be divided into 1'),
    ('v4:4x4x4 --size xl --num_microbatches 2', '[224, 256] could'),
    ('v4:4x4x4 --size xl --num_microbatches 0', '--num_microbatches 0: at lea'),
    ('v4:3x3x3 --size xl', '--topology v4:3x3x3: libtpu does not know it: '),
    ('v4:4x4x4 --gin_file models/t5_1_1_xl.gin', 'a run, a model and a method'),
)


@pytest.mark.libtpu
@pytest.mark.process
@pytest.mark.slow
def test_what_does_not_divide_is_not_compiled():
  argvs = [['--topology', *flags.split()] for flags, _ in BAD]
  for (flags, expected), (status, out, err) in zip(
      BAD, own_process(commands, argvs), strict=True
  ):
    assert status == 1 and not out, flags
    assert expected in err, flags


def load_libtpu_and_prepare():
  """What `prepare` says where libtpu has been loaded before."""
  tpu_compiler.devices(HOST)
  try:
    tpu_compiler.prepare()
  except RuntimeError as e:
    return str(e)
  return None


@pytest.mark.libtpu
@pytest.mark.process
@pytest.mark.slow
def test_flags_that_come_too_late_are_an_error(monkeypatch):
  monkeypatch.delenv('LIBTPU_INIT_ARGS', raising=False)
  monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  assert 'in a process of its own' in own_process(load_libtpu_and_prepare)


PROGRAM = """
%all-reduce-scatter.clone (input.1: bf16[8,16]) -> bf16[4,16] {
  %all-reduce.3 = f32[8,16]{1,0:T(8,128)} all-reduce(%input.1), channel_id=4
  ROOT %slice = f32[4,16]{1,0} dynamic-slice(%all-reduce.3, %zero, %zero)
}
%body (x: bf16[8,16]) -> bf16[8,16] {
  %all-reduce.1 = (bf16[8,16]{1,0:S(3)}, f32[]) all-reduce(%x, %y)
  ROOT %part = bf16[8,16] get-tuple-element(%all-reduce.1), index=0
}
ENTRY %main (c: f32[8,16]) -> f32[4,16] {
  %permute-start = (f32[8], u32[]{:S(2)}) collective-permute-start(%c)
  %permute-done = f32[8] collective-permute-done(%permute-start)
  %all-gather-start.2 = f32[16] all-gather-start(%c)
  %all-gather-done.2 = f32[16] all-gather-done(%all-gather-start.2)
  %all-gather.7 = f32[16]{0} all-gather(%c), metadata={op_name="a/all-gather"}
  ROOT %f = f32[4,16] fusion(%permute-done), calls=%all-reduce-scatter.clone
}
"""


def test_collectives_are_counted_once():
  assert compile_step.count_collectives(PROGRAM) == {
      'all-gather': 2, 'all-reduce': 1, 'reduce-scatter': 1,
      'collective-permute': 1,
  }
  assert not compile_step.count_collectives('ENTRY %main () -> f32[] {}')


def loop_of_collectives():
  """The collectives of a TPU's program that has one of each kind in a loop."""
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
  return compile_step.count_collectives(loop.lower(x, w).compile().as_text())


@pytest.mark.libtpu
@pytest.mark.process
def test_collectives_of_a_tpus_loop():
  assert own_process(loop_of_collectives) == {
      'all-gather': 1, 'reduce-scatter': 1, 'all-reduce': 1,
      'collective-permute': 1,
  }


# The demo's T5: 3 + 2 layers of 2 heads.
SMALL = '--size demo --quick --json '
RUNS = {
    'train': SMALL + '--topology v4:2x2x1 --model_parallel 2 --batch_size 16'
    ' --num_microbatches 2',
    'rank': SMALL + '--topology v4:2x2x1 --model_parallel 2 --batch_size 16'
    ' --task rank',
    'refused': SMALL + '--topology v5e:2x2 --model_parallel 1 --task rank'
    f' --batch_size {2**18}',
    'search': SMALL + '--topology v4:2x2x1 --task rank --search',
}


@pytest.fixture(scope='module')
def found():
  """Name -> status, what was found, and messages."""
  argvs = [flags.split() for flags in RUNS.values()]
  return {
      name: (status, json.loads(out), err) for name, (status, out, err) in
      zip(RUNS, own_process(commands, argvs), strict=True)
  }


@pytest.mark.libtpu
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize('task', ('train', 'rank'))
def test_a_small_step(found, task):
  status, facts, _ = found[task]
  memory = facts['memory']
  assert status == 0 and facts['fits']
  assert memory['total'] < memory['usable'] == int(30.75 * GIB)
  # Weights in float32, a quarter on each chip; rows of a tile have 128 columns,
  # and some are half empty.
  layer = 4 * 128 * 128 + 3 * 128 * 256
  weights = 3 * layer + 2 * (layer + 4 * 128 * 128) + 2 * 2048 * 128
  assert weights < facts['parameters'] < 1.01 * weights
  assert weights < memory['arguments'] < 2 * weights
  network = network_lib.T5Config(**facts['network'])
  assert network.scan_layers and network.remat_policy == 'full'
  sizes = network, 16, 128, 32
  if task == 'rank':
    needed, again = flops.rank_step(*sizes), 0
  else:
    needed, again = flops.train_step(*sizes), flops.recomputed(*sizes)
    # What is returned replaces what was given, but for a few numbers.
    assert memory['output'] < weights / 10
  assert facts['model_flops'] == needed
  assert facts['recomputed_flops'] == again
  assert facts['collectives']
  seconds = facts['step_seconds_at_least']
  assert seconds == (needed + again) / (4 * 275e12)
  assert facts['chip_hours_at_least'] == pytest.approx(
      seconds * facts['steps'] * 4 / 3600
  )
  assert facts['rows_per_second_at_most'] == 16 / seconds


@pytest.mark.libtpu
@pytest.mark.process
@pytest.mark.slow
def test_a_refused_step_ends_with_what_fits(found):
  status, facts, err = found['refused']
  assert status == 1 and err.startswith('does not fit; trying --batch_size ')
  memory = facts['memory']
  assert not facts['fits'] and facts['collectives'] is None
  assert memory['total'] > memory['usable'] == int(15.75 * GIB)
  assert memory['temporaries'] is None
  # The batch is most of the arguments: four arrays of int32 or float32.
  assert memory['arguments'] > 2**18 // 4 * (128 + 3 * 32) * 4
  *others, last = facts['tried']
  assert last['fits'] and last['total'] <= last['usable']
  assert not any(t['fits'] for t in others)
  assert last['change'].startswith('--batch_size ')


@pytest.mark.libtpu
@pytest.mark.process
@pytest.mark.slow
def test_search_lists_what_fits_best_first(found):
  status, facts, _ = found['search']
  assert status == 0 and not facts['do_not_fit'] and not facts['not_tried']
  # 2 heads.
  assert sorted(f['model_parallel'] for f in facts['fit']) == [1, 2]
  assert facts['fit'] == sorted(facts['fit'], key=search.preference)


@pytest.mark.libtpu
@pytest.mark.process
@pytest.mark.slow
def test_three_billion_parameters_train_on_64_chips():
  (status, out, err), = own_process(
      commands, [['--topology', 'v4:4x4x4', '--size', 'xl', '--quick']]
  )
  assert status == 0 and not err
  assert out.startswith(
      'training step of 2,850 million parameters: fits v4:4x4x4 (v4-128,'
      ' 64 chips)\n'
  )
  for part in (
      '240 pairs of 384 + 64 tokens, mesh 16 x 4 (data x model)',
      'Memory of each chip in GiB', 'Collective instructions', '  all-reduce  ',
      'FLOPs of a step, by formula', 'these take at least 1',
      '5,000 steps take at least 1', ' --gin.MODEL_PARALLEL=4 ',
      '--gin.REMAT_POLICY="\'full\'"',
  ):
    assert part in out


@pytest.mark.parametrize('changed', (
    {}, {'packed': True}, {'wrong_side': None}, {'wrong_side': 'wrong_targets'}
))
def test_batches_are_the_engines(network, changed):
  step = compile_step.Step(
      task='train', network=network, batch_size=16, input_length=24,
      target_length=8, **changed,
  )
  batch = compile_step.one_row(step)
  sides = {'encoder': 24, 'decoder': 8}
  if step.wrong_side:
    wrong = 'encoder' if step.wrong_side == 'wrong_inputs' else 'decoder'
    sides[f'wrong_{wrong}'] = sides[wrong]
  expected = {f'{s}_input_tokens': n for s, n in sides.items()} | {
      f'{s}_{name}': n for s, n in sides.items() if s.endswith('decoder')
      for name in ('target_tokens', 'loss_weights')
  }
  if step.packed:
    expected |= {
        f'{s}_{kind}': n for s, n in sides.items()
        for kind in ('segment_ids', 'positions')
    }
  assert {name: a.shape for name, a in batch.items()} == {
      name: (1, n) for name, n in expected.items()
  }
  ranked = compile_step.one_row(dataclasses.replace(step, task='rank'))
  assert set(ranked) == {
      n for n in expected if 'wrong' not in n and 'tokens' in n
  } | {'decoder_loss_weights'}
