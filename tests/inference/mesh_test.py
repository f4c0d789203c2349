"""Ranking, guessing and evaluating on meshes of eight virtual devices."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import demo_data
from flipped_t5x import network as network_lib
from flipped_t5x.cli import main
from flipped_t5x.engine import checkpoints
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.inference import model as model_lib
from flipped_t5x.weights import lora_files
from flipped_t5x.weights import model_files
from flipped_t5x.weights import run_config
from flipped_t5x.weights import tensors
import jax
import numpy as np
import pytest
import xla_flags

NETWORK = network_lib.T5Config(
    vocab_size=208, emb_dim=16, num_heads=4, num_encoder_layers=2,
    num_decoder_layers=1, head_dim=4, mlp_dim=24,
)
OTHERS = {
    'five_heads': {'num_heads': 5},
    'odd_units': {'mlp_dim': 30},
    'odd_vocabulary': {'vocab_size': 206},
}
MESHES = {'8x1': 1, '4x2': 2, '2x4': 4}
ALL = {'alone': None, **MESHES}
# Variant -> folder, type.
VARIANTS = {
    'float': ('apart', None),
    'scanned': ('scanned', None),
    'int8': ('scanned', 'int8'),  # Taken apart: see `low_memory_jit.py`.
    'adapters': ('adapters', 'int8'),
}
EVALUATED = (
    *(('float', mesh) for mesh in MESHES), ('scanned', '4x2'), ('int8', '2x4'),
)
TEXTS = ('A warm film.', 'A dull film.', 'The mayor spoke.')
_SCRIPT = """
import pathlib, sys
import pytest
import demo_data
demo_data.install(pathlib.Path(sys.argv[1]), pytest.MonkeyPatch())
import mesh_test
mesh_test.use_all(pathlib.Path(sys.argv[1]))
"""


def use_all(folder):
  """Writes what is found on one device and on the meshes, as JSON."""
  found = {
      f'{variant}, {mesh}': use(folder / path, dtype, number)
      for variant, (path, dtype) in VARIANTS.items()
      for mesh, number in ALL.items()
  }
  for variant, mesh in {**dict.fromkeys(EVALUATED), **{
      (variant, 'alone'): None for variant, _ in EVALUATED
  }}:
    path, dtype = VARIANTS[variant]
    number = ALL[mesh]
    assert not main.main([
        'eval', str(folder / path), '--limit=4',
        f'--output={folder}/{variant}_{mesh}.json',
        *([f'--dtype={dtype}'] if dtype else ()),
        *([f'--model_parallel={number}'] if number else ()),
    ])
  (folder / 'found.json').write_text(json.dumps(found))
  model_lib._placed = None  # No weight is read.
  (folder / 'errors.json').write_text(json.dumps({
      **{name: error(folder / name, 4) for name in OTHERS},
      'devices': error(folder / 'apart', 3), 'none': error(folder / 'apart', 0),
      'heads': error(folder / 'apart', 8),
  }))


def use(path, dtype, model_parallel):
  """What a model says, and the bytes that it has on each device."""
  model = model_lib.load(path, dtype=dtype, model_parallel=model_parallel)
  # A batch size that the devices do not divide.
  explained = model.explain_batch([
      {'input': text, 'instruction': 'What is it?', 'options': ['movie', 'cat']}
      for text in TEXTS
  ], batch_size=3, progress=False)
  asked = [{'input': text, 'output': 'yes'} for text in TEXTS]
  guessed = [
      model.guess_batch(asked, beams, 6, progress=False)
      for beams in {'apart': (1,), 'scanned': (2,)}.get(path.name, ())
  ]
  held = dict.fromkeys(map(str, jax.devices()), 0)
  for array in jax.tree.leaves(model.params):
    for shard in array.addressable_shards:
      held[str(shard.device)] += shard.data.nbytes
  return {
      'options': [e.options for e in explained],
      'log_probs': [e.log_probs.tolist() for e in explained],
      'guesses': [[g.tokens for g in some] for some in guessed],
      'guessed': [[g.log_prob for g in some] for some in guessed],
      'whole': sum(a.nbytes for a in jax.tree.leaves(model.params)),
      'held': list(held.values()),
  }


def error(path, model_parallel):
  with pytest.raises(ValueError) as raised:
    model_lib.load(path, model_parallel=model_parallel)
  return str(raised.value)


def write(path, network, params):
  """A run of the demo's data."""
  settings = {'MIXTURE': demo_data.MIXTURE, 'MAX_FIELD_CHARS': None}
  checkpoints.prepare(
      path, run_config.RunConfig(network, 'flipped', 32, 16, settings),
      demo_data.vocabulary(),
  )
  saver = checkpoints.Checkpoints(path)
  saver.save(1, {'params': params, 'step': np.int32(1)}, b'')
  saver.close()


@pytest.fixture(scope='module')
def folder(tmp_path_factory, make_params):
  """Runs, and what `use_all` has found."""
  folder = tmp_path_factory.mktemp('meshes')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(folder, patch)
    params = make_params(NETWORK, 3)
    write(folder / 'apart', NETWORK, params)
    stacked = tensors.stacked(tensors.from_arrays(params))
    write(
        folder / 'scanned', dataclasses.replace(NETWORK, scan_layers=True),
        tensors.tree({name: t.read() for name, t in stacked.items()}),
    )
    adapted = dataclasses.replace(
        NETWORK, lora_rank=2, lora_alpha=4.0, lora_targets=('query', 'wo')
    )
    (folder / 'adapters').mkdir()
    lora_files.write(
        folder / 'adapters', adapted,
        tensors.from_arrays(make_params(adapted, 5)), str(folder / 'apart'),
    )
    for name, sizes in OTHERS.items():
      other = dataclasses.replace(NETWORK, **sizes)
      write(folder / name, other, make_params(other, 1))
    subprocess.run(
        [sys.executable, '-c', _SCRIPT, folder], check=True, timeout=1200,
        cwd=os.path.dirname(__file__), env=os.environ | {
            'PYTHONPATH': str(pathlib.Path(__file__).parents[1] / 'helpers'),
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': (
                f'{xla_flags.QUICK} --xla_force_host_platform_device_count=8'
            ),
        },
    )
  return folder


@pytest.fixture(scope='module')
def found(folder):
  return json.loads((folder / 'found.json').read_text())


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize('variant', VARIANTS)
def test_as_on_one_device(found, variant, mesh):
  alone, ours = found[f'{variant}, alone'], found[f'{variant}, {mesh}']
  for name in ('options', 'guesses'):
    assert ours[name] == alone[name]
  for name in ('log_probs', 'guessed'):
    np.testing.assert_allclose(ours[name], alone[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('variant', VARIANTS)
def test_weights_are_divided(found, variant):
  """The norms and A of adapters are on all devices, the rest is divided."""
  whole, held = (found[f'{variant}, alone'][k] for k in ('whole', 'held'))
  assert held == [whole] + [0] * 7
  for mesh, number in MESHES.items():
    held = set(found[f'{variant}, {mesh}']['held'])
    assert len(held) == 1
    assert whole / number <= held.pop() < 1.35 * whole / number


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('variant, mesh', EVALUATED)
def test_evaluation(folder, variant, mesh):
  alone, ours = (
      json.loads((folder / f'{variant}_{name}.json').read_text())
      for name in ('alone', mesh)
  )
  assert alone['tasks'].keys() == ours['tasks'].keys()
  assert alone['checkpoint'] == ours['checkpoint']
  for task, results in ours['tasks'].items():
    expected = alone['tasks'][task]
    for name in ('accuracy', 'macro_f1', 'ties', 'encoder_passes'):
      assert results[name] == expected[name]
    one, other = (
        scored_examples.read(folder / content['tasks'][task]['scores']['file'])
        for content in (alone, ours)
    )
    assert one.keys() == other.keys()
    for template, examples in one.items():
      np.testing.assert_allclose(
          np.concatenate(other[template].scores),
          np.concatenate(examples.scores), rtol=0, atol=1e-5,
      )


@pytest.mark.slow
@pytest.mark.process
def test_sizes_that_do_not_divide(folder):
  errors = json.loads((folder / 'errors.json').read_text())
  assert errors['devices'] == (
      'model_parallel = 3 does not divide the 8 devices; [1, 2, 4, 8] do'
  )
  assert errors['none'].startswith('model_parallel = 0 does not divide the 8')
  for name, number, what, fit in (
      ('five_heads', 4, '5 heads', [1]),
      ('odd_units', 4, '30 feed-forward units', [1, 2]),
      ('odd_vocabulary', 4, '206 rows of the embedding', [1, 2]),
      ('heads', 8, '4 heads', [1, 2, 4]),
  ):
    assert errors[name].startswith(
        f'model_parallel = {number} does not divide the {what} of the network;'
        f' {fit} divide'
    )


def test_one_device(tiny_run, monkeypatch, capsys):
  """With a single device there is no mesh, and 1 alone divides it."""
  model = model_lib.load(tiny_run, model_parallel=1)
  assert model.partitioner is model_lib.load(tiny_run).partitioner
  monkeypatch.setattr(model_files, 'open', None)  # Nothing is opened.
  assert main.main([
      'rank', f'--checkpoint={tiny_run}', '--model_parallel=2', '--input=a',
      '--instruction=b', '--options=c,d',
  ]) == 1
  assert capsys.readouterr().err == (
      'flipped-t5x: model_parallel = 2 does not divide the 1 devices; [1] do\n'
  )
