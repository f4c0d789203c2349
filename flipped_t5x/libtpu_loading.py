"""Keeps JAX from loading libtpu where there is no TPU.

Wherever libtpu is installed, JAX initializes it when it looks for devices. On a
machine without a TPU that may print screens of errors, and ends in the device
that would have been taken anyway.
"""

import glob
import importlib.metadata
import importlib.util
import os
import pathlib
import sys

_GOOGLE = '0x1ae0'  # The PCI vendor that JAX looks for, too.
_PLATFORMS = 'JAX_PLATFORMS'


def avoid() -> None:
  """Leaves TPUs out of what JAX looks for, if there is none.

  Call it before JAX looks for devices. It changes nothing where the user has
  chosen the platforms, where libtpu is missing, or where a device may be a TPU.
  """
  if (
      _PLATFORMS in os.environ
      or 'JAX_FORCE_TPU_INIT' in os.environ
      or importlib.util.find_spec('libtpu') is None
      or may_have_tpu()
  ):
    return
  platforms = _others()
  if platforms is None:
    return
  jax = sys.modules.get('jax')
  if jax is None:
    os.environ[_PLATFORMS] = platforms
  elif not jax.config.jax_platforms:
    jax.config.update('jax_platforms', platforms)


def may_have_tpu() -> bool:
  """Whether a PCI or device file may be that of a TPU."""
  if glob.glob('/dev/accel*') or glob.glob('/dev/vfio/*'):
    return True
  return any(
      pathlib.Path(path).read_text().strip() == _GOOGLE
      and _is_accelerator(pathlib.Path(path).with_name('class'))
      for path in glob.glob('/sys/bus/pci/devices/*/vendor')
  )


def _is_accelerator(path: pathlib.Path) -> bool:
  """Whether a PCI class is not that of a disk (01) or a network card (02).

  Virtual machines of Google have these from the same vendor.
  """
  return not path.read_text().strip().startswith(('0x01', '0x02'))


def _others() -> str | None:
  """The platforms that JAX would try besides; None if that is not known."""
  plugins = {
      point.name for point in importlib.metadata.entry_points(
          group='jax_plugins'
      )
  }
  if any(not name.startswith('xla_cuda') for name in plugins):
    return None
  has_gpu = any(map(os.path.exists, ('/dev/nvidia0', '/dev/nvidiactl')))
  return 'cuda,cpu' if plugins and has_gpu else 'cpu'
