"""libtpu is loaded where a TPU may be, or where it is asked for."""

import os
import pathlib
import subprocess
import sys

from flipped_t5x import libtpu_loading
import jax
import pytest

_SCRIPT = """
import os, sys
from flipped_t5x import libtpu_loading
libtpu_loading.may_have_tpu = lambda: sys.argv[1] == 'tpu'
libtpu_loading.avoid()
import jax
jax.devices()
print('libtpu.so' in open('/proc/self/maps').read())
"""


@pytest.mark.libtpu
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize('machine, variables, loaded', (
    ('none', {}, False),
    ('none', {'JAX_PLATFORMS': ''}, True),
    ('tpu', {}, True),
))
def test_loading(machine, variables, loaded):
  environment = {k: v for k, v in os.environ.items() if k != 'JAX_PLATFORMS'}
  printed = subprocess.run(
      [sys.executable, '-c', _SCRIPT, machine], env=environment | variables,
      capture_output=True, text=True, check=True,
  ).stdout
  assert printed.strip() == str(loaded)


@pytest.fixture
def chosen(monkeypatch):
  """The platforms after `avoid`, JAX being imported or not."""
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setattr(libtpu_loading, 'may_have_tpu', lambda: False)
  monkeypatch.setattr(
      libtpu_loading.importlib.util, 'find_spec', lambda name: name
  )
  monkeypatch.setattr(
      libtpu_loading.importlib.metadata, 'entry_points', lambda group: []
  )
  before = jax.config.jax_platforms
  yield lambda: os.environ.get('JAX_PLATFORMS') or jax.config.jax_platforms
  jax.config.update('jax_platforms', before)


def test_jax_is_imported_already(chosen):
  jax.config.update('jax_platforms', None)
  libtpu_loading.avoid()
  assert 'JAX_PLATFORMS' not in os.environ
  assert chosen() == 'cpu'
  jax.config.update('jax_platforms', 'tpu,cpu')  # As JAX does on a TPU VM.
  libtpu_loading.avoid()
  assert chosen() == 'tpu,cpu'


@pytest.mark.parametrize('plugins, devices, platforms', (
    ((), (), 'cpu'),
    (('xla_cuda13',), (), 'cpu'),
    (('xla_cuda13',), ('/dev/nvidia0',), 'cuda,cpu'),
    (('rocm',), ('/dev/kfd',), None),
))
def test_other_platforms_stay(
    chosen, monkeypatch, plugins, devices, platforms
):
  points = [type('Point', (), {'name': name}) for name in plugins]
  monkeypatch.setattr(
      libtpu_loading.importlib.metadata, 'entry_points', lambda group: points
  )
  monkeypatch.setattr(os.path, 'exists', lambda path: path in devices)
  monkeypatch.delitem(sys.modules, 'jax')
  libtpu_loading.avoid()
  assert os.environ.pop('JAX_PLATFORMS', None) == platforms


@pytest.mark.parametrize('pci_class, found', (
    ('0x010802', False),  # A disk.
    ('0x020000', False),  # A network card.
    ('0x120000', True),
    ('0xff0000', True),
))
@pytest.mark.parametrize('vendor', ('0x1ae0', '0x8086'))
def test_pci(tmp_path, monkeypatch, pci_class, found, vendor):
  (tmp_path / 'vendor').write_text(f'{vendor}\n')
  (tmp_path / 'class').write_text(f'{pci_class}\n')
  files = {'/sys/bus/pci/devices/*/vendor': [str(tmp_path / 'vendor')]}
  monkeypatch.setattr(
      libtpu_loading.glob, 'glob', lambda pattern: files.get(pattern, [])
  )
  assert libtpu_loading.may_have_tpu() == (found and vendor == '0x1ae0')


@pytest.mark.parametrize('path', ('/dev/accel0', '/dev/vfio/0'))
def test_device_files(monkeypatch, path):
  monkeypatch.setattr(
      libtpu_loading.glob, 'glob',
      lambda pattern: [path] if pathlib.Path(path).match(pattern) else [],
  )
  assert libtpu_loading.may_have_tpu()
