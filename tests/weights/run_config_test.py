"""What `config.json` of a run may be."""

import dataclasses
import json

from flipped_t5x import errors
from flipped_t5x.weights import run_config
import pytest


@pytest.fixture
def folder(tmp_path, tiny_network):
  run_config.RunConfig(
      tiny_network, 'flipped', 48, 32, {'SEED': 0}
  ).write(tmp_path)
  return tmp_path


def change(folder, change_fields):
  path = folder / 'config.json'
  fields = json.loads(path.read_text())
  change_fields(fields)
  path.write_text(json.dumps(fields))


def test_is_read_as_it_was_written(folder, tiny_network):
  found = run_config.RunConfig.read(folder)
  assert dataclasses.astuple(found) == dataclasses.astuple(
      run_config.RunConfig(tiny_network, 'flipped', 48, 32, {'SEED': 0})
  )
  # Runs from before these settings existed.
  change(folder, lambda f: [
      f['network'].pop(name) for name in ('scan_layers', 'remat_policy')
  ])
  assert run_config.RunConfig.read(folder) == found


@pytest.mark.parametrize('change_fields, message', (
    (lambda f: f.pop('settings'), 'config.json: settings is missing'),
    (lambda f: f.update(extra=1), 'config.json: extra is not known'),
    (lambda f: f['network'].pop('emb_dim'), 'network: emb_dim is missing'),
    (lambda f: f['network'].update(depth=3), 'network: depth is not known'),
    (lambda f: f.update(network=None), 'network is None, which is no dict'),
    (lambda f: f.update(settings=[]), r'settings is \[\], which is no dict'),
    (lambda f: f.update(input_length='48'), "input_length is '48'"),
    (lambda f: f['network'].update(num_heads=2.0), 'num_heads is 2.0'),
    (lambda f: f['network'].update(num_heads=True), 'num_heads is True'),
    (lambda f: f['network'].update(mlp_activations='relu'), "is 'relu'"),
    (lambda f: f['network'].update(mlp_activations=[['a']]),
     r"config.json: network: mlp_activations \['a'\] is no activation"),
    (lambda f: f['network'].update(mlp_activations=['gelo']), "'gelo' is no"),
    (lambda f: f['network'].update(mlp_activations=['glu']), "'glu' is no"),
    (lambda f: f['network'].update(mlp_activations=['mish']), "'mish' is no"),
    (lambda f: f['network'].update(dtype='float33'), "dtype 'float33' is no"),
    # NumPy knows these.
    (lambda f: f['network'].update(dtype='M8[s]'), r"dtype 'M8\[s\]' is no"),
    (lambda f: f['network'].update(dtype='(2'), r"dtype '\(2' is no"),
    (lambda f: f['network'].update(dtype='\ud800'), 'not JSON: .*ud800'),
    (lambda f: f.update(format='\ud800'), 'config.json: not JSON: .*ud800'),
    (lambda f: f.update(format='x'), "config.json: unknown format 'x'"),
    (lambda f: f.update(input_length=0), 'config.json: input_length is 0'),
    (lambda f: f.update(target_length=10**18), 'target_length is 10000'),
    (lambda f: f['settings'].update(MAX_FIELD_CHARS='9'),
     "config.json: MAX_FIELD_CHARS is '9'; it must be a whole number"),
))
def test_other_fields(change_fields, message, folder):
  change(folder, change_fields)
  with pytest.raises(errors.UserError, match=message):
    run_config.RunConfig.read(folder)
