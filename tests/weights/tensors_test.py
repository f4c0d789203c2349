"""Lazy tensors: stacking, comparing, and what is read when."""

import dataclasses
import random

from flax import traverse_util
from flipped_t5x import network as network_lib
from flipped_t5x.weights import tensors
import jax
import ml_dtypes
import numpy as np
import pytest

KERNEL = 'encoder/encoder/mlp/wo/kernel'


@pytest.fixture
def reads():
  """Names in the order in which they were read."""
  return []


@pytest.fixture
def stacks(tiny_params, reads):
  """The tiny network's tensors, stacked; says in `reads` what is read."""

  def watched(name, tensor):

    def read():
      reads.append(name)
      return tensor.read()

    return dataclasses.replace(tensor, read=read)

  stacked = tensors.stacked(tensors.from_arrays(tiny_params))
  return {name: watched(name, tensor) for name, tensor in stacked.items()}


def values(tree):
  return {name: tensor.read() for name, tensor in tree.items()}


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype, name
    np.testing.assert_array_equal(found[name], array, name)


def test_stacked_and_apart_again(tiny_params, stacks):
  apart = values(tensors.from_arrays(tiny_params))
  assert stacks[KERNEL].shape == (24, 2, 16)
  out = 'decoder/decoder/self_attention/out/kernel'
  assert stacks[out].shape == (16, 1, 16)
  np.testing.assert_array_equal(
      stacks[KERNEL].read()[:, 1], apart['encoder/layers_1/mlp/wo/kernel']
  )
  assert tensors.is_stacked(stacks) and not tensors.is_stacked(apart)
  assert_equal(values(tensors.unstacked(stacks)), apart)
  for name, tensor in tensors.unstacked(stacks).items():
    assert tensor.shape == apart[name].shape
  # What is stacked already stays so, and so does what is apart.
  assert_equal(values(tensors.stacked(stacks)), values(stacks))
  assert_equal(
      values(tensors.unstacked(tensors.from_arrays(tiny_params))), apart
  )


def test_a_stack_is_read_once(stacks, reads):
  apart = tensors.unstacked(stacks)
  assert not reads
  values(apart)
  assert reads == list(stacks)
  # In another order it is read more often, and right.
  names = list(apart)
  random.Random(0).shuffle(names)
  expected = values(apart)
  assert_equal(values({n: apart[n] for n in names}),
               {n: expected[n] for n in names})
  reads.clear()
  # A second time, too.
  first, second = (f'encoder/layers_{i}/mlp/wo/kernel' for i in range(2))
  for name in (first, first, second, second):
    np.testing.assert_array_equal(apart[name].read(), expected[name])
  assert reads == [KERNEL, KERNEL]


def test_a_layer_is_no_view_of_its_stack(stacks):
  layer = tensors.unstacked(stacks)['encoder/layers_0/mlp/wo/kernel'].read()
  assert layer.base is None and layer.flags.c_contiguous


def test_layers_that_do_not_stack(tiny_params):
  apart = tensors.from_arrays(tiny_params)
  name = 'encoder/layers_0/mlp/wo/kernel'
  with pytest.raises(ValueError, match=f'{name} is missing'):
    tensors.stacked({n: t for n, t in apart.items() if n != name})
  other = f'{name.replace("_0", "_1")}'
  with pytest.raises(
      ValueError, match=r'layers_1/mlp/wo/kernel is bfloat16\[24, 16\], whereas'
  ):
    tensors.stacked({**apart, other: apart[other].astype(ml_dtypes.bfloat16)})


def test_types_and_transposes():
  array = np.array([[1, 2, 3], [4, 5, 1 + 2**-10]], np.float32)
  tensor = tensors.from_arrays({'a': array})['a']
  assert tensor.nbytes == 24
  rounded = tensor.T.astype('bfloat16')
  assert (rounded.shape, rounded.dtype.name) == ((3, 2), 'bfloat16')
  assert rounded.nbytes == 12
  np.testing.assert_array_equal(
      rounded.read().astype(np.float32), [[1, 4], [2, 5], [3, 1]]
  )
  # A tensor stays one.
  assert tensors.from_arrays({'b': {'c': tensor}}) == {'b/c': tensor}


@pytest.mark.parametrize('scan', (False, True))
@pytest.mark.parametrize('tied', (False, True))
def test_shapes_are_those_of_the_network(tiny_network, scan, tied):
  config = dataclasses.replace(
      tiny_network, scan_layers=scan, logits_via_embedding=tied,
      mlp_activations=('relu',) if tied else ('gelu', 'linear'), head_dim=12,
  )
  tokens = np.ones((1, 1), np.int32)
  params = jax.eval_shape(lambda: network_lib.Transformer(config).init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  ))['params']
  flat = traverse_util.flatten_dict(params, sep='/')
  assert tensors.shapes(config) == {n: a.shape for n, a in flat.items()}


def test_differences():
  found = tensors.from_arrays({'a': np.ones((2, 3)), 'b': np.ones(1)})
  assert not tensors.differences(found, {'a': (2, 3), 'b': (1,)})
  assert tensors.differences(found, {'a': (3, 2), 'c': (1,)}) == (
      'c is missing; b is not in the network; a is (2, 3) where the network has'
      ' (3, 2)'
  )
  wanted = {f'layer_{i}': (1,) for i in range(7)}
  assert tensors.differences({}, wanted).endswith('layer_4 is missing; 2 more')
