"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) of linear layers.

Beside the matrix W of a layer, [in, out], lie A, [in, rank], and B,
[rank, out]; the layer computes x W + (alpha / rank) x A B. Only A and B are
trained. B begins as zero, so that the adapted network begins as the network it
adapts. A begins as in PEFT: uniform within 1 / sqrt(in).
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import traverse_util
import jax

A, B = 'lora_a', 'lora_b'


@dataclasses.dataclass(frozen=True)
class Lora:
  """The adapters of a network.

  Attributes:
    rank: columns of A and rows of B; 0 for none.
    alpha: see the module.
    targets: the names of the layers that have adapters.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]

  def rank_of(self, name: str | None) -> int:
    """The rank of the adapter of a layer; 0 if it has none."""
    return self.rank if name in self.targets else 0

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


NONE = Lora(0, 0.0, ())


def init_a(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
  """The initial values of A."""
  bound = shape[0] ** -0.5
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def is_adapter(name: str) -> bool:
  """Whether a weight, by its path, is A or B."""
  return name.endswith((f'/{A}', f'/{B}'))


def split(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """The weights that are trained, and those that are frozen.

  Args:
    params: a tree of weights.

  Returns:
    Two trees. Without adapters, all weights are trained.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  trained = {n: w for n, w in flat.items() if is_adapter(n)} or flat
  frozen = {n: w for n, w in flat.items() if n not in trained}
  return _tree(trained), _tree(frozen)


def joined(*trees: Mapping[str, Any]) -> dict[str, Any]:
  """One tree of the weights of several."""
  flat: dict[str, Any] = {}
  for tree in trees:
    flat |= traverse_util.flatten_dict(tree, sep='/')
  return _tree(flat)


def _tree(flat: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(dict(flat), sep='/')
