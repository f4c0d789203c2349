"""libtpu as a compiler, on a machine without a TPU."""

import importlib.metadata
import importlib.util
import os
import pathlib

from flipped_t5x import errors
from flipped_t5x.engine import libtpu_flags
from flipped_t5x.precompile import topologies
import jax
from jax.experimental import topologies as jax_topologies

_ENVIRONMENT = {
    # Nothing runs on a TPU here, so other processes may use libtpu meanwhile.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    # Without it libtpu asks the metadata server of a TPU machine.
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v4-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}


def prepare() -> None:
  """Makes this process one that compiles for TPUs and computes on the host.

  Call it before JAX looks for devices: JAX then loads libtpu, which reads its
  flags only once.

  Raises:
    MissingPackage: libtpu is missing, or of another version than JAX wants.
    RuntimeError: libtpu was loaded before, without its flags.
  """
  _check_version()
  if not libtpu_flags.are_set() and _is_loaded():
    raise RuntimeError(
        'libtpu was loaded without the flags that it needs, and would crash:'
        ' compile before JAX looks for devices, or in a process of its own'
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  libtpu_flags.set_defaults()
  jax.config.update('jax_platforms', 'cpu')


def _check_version() -> None:
  """MissingPackage where the installed JAX cannot work with libtpu."""
  jax_version = importlib.metadata.version('jax')
  cure = f'pip install "flipped_t5x[tpu]", or "jax[tpu]=={jax_version}"'
  if importlib.util.find_spec('libtpu') is None:
    raise errors.MissingPackage(f'libtpu is not installed: {cure}')
  wanted = next(
      (
          requirement.split(';')[0].removeprefix('libtpu').strip()
          for requirement in importlib.metadata.requires('jax') or ()
          if requirement.startswith('libtpu')
      ),
      '',
  )
  have = importlib.metadata.version('libtpu')
  prefix = wanted.removeprefix('==').removesuffix('*').removesuffix('.')
  if wanted.startswith('==') and not f'{have}.'.startswith(f'{prefix}.'):
    raise errors.MissingPackage(
        f'libtpu is {have}, where JAX {jax_version} wants {wanted}: {cure}'
    )


def devices(topology: topologies.Topology) -> list[jax.Device]:
  """The devices of a slice, for which programs can be compiled.

  Args:
    topology: the slice.

  Returns:
    As many devices as JAX would find on the slice.

  Raises:
    UserError: libtpu does not know such a slice.
  """
  # On a v4, as on the machine itself, the two cores of a chip are one device.
  options = {}
  if topology.chip.name == 'v4':
    options['chip_config_name'] = 'megacore'
  try:
    found = jax_topologies.get_topology_desc(
        topology.name, platform='tpu', **options
    ).devices
  except jax.errors.JaxRuntimeError as e:
    if 'INVALID_ARGUMENT' not in str(e):
      raise
    raise errors.UserError(
        f'--topology {topology.name}: libtpu does not know it: {e}; shapes of'
        f' {topology.chip.name} are {", ".join(topology.chip.shapes)}'
    ) from e
  return list(found)


def _is_loaded() -> bool:
  maps = pathlib.Path('/proc/self/maps')  # libtpu is for Linux alone.
  return maps.exists() and 'libtpu.so' in maps.read_text()
