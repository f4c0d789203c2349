"""Where weights and batches are placed, in training and in use: data x model.

Weights and activations have T5X's logical axes (`network/layers.py`), and rules
map those to the axes of the mesh, as in T5X. Heads, feed-forward layers and the
vocabulary are divided over `model`; the batch is divided over `data`, and so is
the other axis of every matrix with `shard_params_over_data`. Then no device
holds a whole weight, and the weights of each layer are gathered when the layer
runs (Rajbhandari et al. 2019, arXiv 1910.02054; Xu et al. 2021, arXiv
2105.04663).
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
from typing import Any

from flax import core
from flax import traverse_util
from flax.linen import partitioning as nn_partitioning
from flipped_t5x import errors
from flipped_t5x import network as network_lib
import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp

Rules = tuple[tuple[str, str | None], ...]


class Partitioner:
  """A mesh, and what lies where on it."""

  def __init__(
      self,
      model_parallel: int = 1,
      shard_params_over_data: bool = False,
      rules: Sequence[tuple[str, str | None]] | None = None,
      devices: Sequence[jax.Device] | None = None,
      setting: str = 'MODEL_PARALLEL',
  ):
    """Makes the mesh.

    Args:
      model_parallel: devices that share one copy of the weights; the others
        divide the batch.
      shard_params_over_data: whether weights are divided over `data`, too.
      rules: logical axis -> mesh axis, the first that is free being taken; None
        for the standard ones.
      devices: of the mesh; None for all there are, on all hosts.
      setting: what the user calls `model_parallel`, for messages.

    Raises:
      UserError: the devices cannot be divided so.
    """
    devices = jax.devices() if devices is None else list(devices)
    if model_parallel < 1 or len(devices) % model_parallel:
      fit = [n for n in range(1, len(devices) + 1) if not len(devices) % n]
      raise errors.UserError(
          f'{setting} = {model_parallel} does not divide the {len(devices)}'
          f' devices; {fit} do'
      )
    self._setting = setting
    self.mesh = jax.sharding.Mesh(
        mesh_utils.create_device_mesh(
            (len(devices) // model_parallel, model_parallel), devices,
            allow_split_physical_axes=True,
        ),
        ('data', 'model'),
    )
    self.rules = tuple(rules or standard_rules(shard_params_over_data))
    self.replicated = jax.sharding.NamedSharding(
        self.mesh, jax.sharding.PartitionSpec()
    )
    self.batch_sharding = self.sharding(('batch',))

  @property
  def shape(self) -> Mapping[str, int]:
    """Mesh axis -> devices along it."""
    return dict(self.mesh.shape)

  @contextlib.contextmanager
  def active(self) -> Iterator[None]:
    """Within it the layers' constraints hold, and jitted programs see the mesh.

    Not for use inside of a function that is being traced.
    """
    with jax.set_mesh(self.mesh), nn_partitioning.axis_rules(self.rules):
      yield

  def sharding(self, axes: Sequence[str | None]) -> jax.sharding.NamedSharding:
    """That of an array with these logical axes."""
    return jax.sharding.NamedSharding(
        self.mesh,
        nn_partitioning.logical_to_mesh_axes(tuple(axes), self.rules),
    )

  def abstract_params(self, model: network_lib.Transformer) -> Any:
    """Weights as `jax.ShapeDtypeStruct`s with their shardings.

    Args:
      model: the network.

    Returns:
      The tree of weights.

    Raises:
      UserError: an axis of the mesh does not divide that of a weight.
    """
    with nn_partitioning.axis_rules(()):
      variables = jax.eval_shape(lambda: init_variables(model, 0))
    names = core.unfreeze(
        nn_partitioning.get_axis_names(variables['params_axes'])
    )

    def place(path, tensor, axes):
      sharding = self.sharding(axes)
      try:
        sharding.shard_shape(tensor.shape)
      except ValueError as e:
        raise errors.UserError(
            f'{"/".join(k.key for k in path)} {list(tensor.shape)}, axes'
            f' {tuple(axes)}, cannot be divided over a mesh of {self.shape}:'
            f' change {self._setting}, or SHARD_PARAMS_OVER_DATA'
        ) from e
      return jax.ShapeDtypeStruct(tensor.shape, tensor.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, variables['params'], names)

  def param_shardings(
      self, network: network_lib.T5Config
  ) -> Mapping[str, jax.sharding.NamedSharding]:
    """Name of a weight -> where it lies; see `abstract_params` for errors."""
    params = self.abstract_params(network_lib.Transformer(network))
    flat = traverse_util.flatten_dict(params, sep='/')
    return {name: weight.sharding for name, weight in flat.items()}

  def place_batch(self, rows: Any) -> Any:
    """The global batch, of which each host has its rows in the hosts' order.

    Args:
      rows: a tree of arrays [rows, ...] of this host.

    Returns:
      A tree of `jax.Array`s.
    """
    return jax.make_array_from_process_local_data(self.batch_sharding, rows)

  def padded(self, rows: int) -> int:
    """A number of rows, rounded up so that the data axis divides it."""
    return -(-rows // self.shape['data']) * self.shape['data']

  def check_network(self, network: network_lib.T5Config) -> None:
    """UserError where the mesh does not divide a network, with what would."""
    model = self.shape['model']
    sizes = {
        what: size for what, axis, size in (
            ('heads', 'heads', network.num_heads),
            ('feed-forward units', 'mlp', network.mlp_dim),
            ('rows of the embedding', 'vocab', network.vocab_size),
        ) if self.sharding((axis,)).spec == jax.sharding.PartitionSpec('model')
    }
    for what, size in sizes.items():
      if size % model:
        fit = [
            n for n in range(1, self.mesh.size + 1)
            if not any(k % n for k in (self.mesh.size, *sizes.values()))
        ]
        raise errors.UserError(
            f'{self._setting} = {model} does not divide the {size} {what} of'
            f' the network; {fit} divide all that has to be divided, and the'
            ' devices, too'
        )

  def check(
      self,
      network: network_lib.T5Config,
      batch_size: int,
      num_microbatches: int = 1,
  ) -> None:
    """UserError where sizes do not divide, with what would work."""
    self.check_network(network)
    data = self.shape['data']
    if batch_size % (data * num_microbatches):
      one = data * num_microbatches
      less = batch_size // one * one
      near = sorted({less or one, less + one})
      raise errors.UserError(
          f'BATCH_SIZE = {batch_size} cannot be divided into {num_microbatches}'
          f' microbatches over {data} devices along data; {near} could, or'
          f' another NUM_MICROBATCHES or {self._setting}'
      )


class OneDevice:
  """Stands for a `Partitioner` where JAX's default device does everything.

  Then no program knows of a mesh.
  """

  shape: Mapping[str, int] = {'data': 1, 'model': 1}

  def active(self) -> contextlib.AbstractContextManager[None]:
    """See `Partitioner`."""
    return contextlib.nullcontext()

  def param_shardings(
      self, network: network_lib.T5Config
  ) -> Mapping[str, None]:
    """See `Partitioner`; None is the default device."""
    return collections.defaultdict(lambda: None)

  def place_batch(self, rows: Any) -> Any:
    """The arrays themselves: a program puts its arguments on the device."""
    return rows

  def padded(self, rows: int) -> int:
    """See `Partitioner`."""
    return rows

  def check_network(self, network: network_lib.T5Config) -> None:
    """See `Partitioner`."""


ONE_DEVICE = OneDevice()
Placement = Partitioner | OneDevice


def of_this_host(
    model_parallel: int | None, setting: str
) -> Placement:
  """Where a trained model is to lie: on devices of this host alone.

  Args:
    model_parallel: devices that share one copy of the weights, the others
      dividing batches; None for JAX's default device alone.
    setting: what the user calls `model_parallel`, for messages.

  Raises:
    UserError: the devices cannot be divided so.
  """
  if model_parallel is None:
    return ONE_DEVICE
  mesh = Partitioner(
      model_parallel, devices=jax.local_devices(), setting=setting
  )
  return mesh if mesh.mesh.size > 1 else ONE_DEVICE


def standard_rules(shard_params_over_data: bool) -> Rules:
  """Logical axis -> mesh axis: T5X's, in one or two dimensions of parameters.

  `batch` comes first: in an activation it takes `data`, which then is not free
  for `embed`; in a weight there is no `batch`.
  """
  return (
      ('batch', 'data'),
      ('vocab', 'model'),
      ('heads', 'model'),
      ('joined_kv', 'model'),
      ('mlp', 'model'),
      ('embed', 'data' if shard_params_over_data else None),
      ('kv', None),
      ('length', None),
      ('layers', None),
      ('lora', None),
      ('relpos_buckets', None),
  )


def init_variables(model: network_lib.Transformer, seed: int) -> Any:
  """Random weights and their axes."""
  tokens = jnp.ones((1, 1), jnp.int32)
  return model.init(
      {'params': jax.random.key(seed)}, tokens, tokens, tokens,
      enable_dropout=False,
  )
