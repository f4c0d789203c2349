"""Tests of precompile/topologies.py: names, sizes, bandwidth of groups by hand."""

import math

from flipped_t5x.precompile import topologies
import numpy as np
import pytest


@pytest.mark.parametrize('name, google_name, chips, devices', (
    ('v2:4x4', 'v2-32', 16, 32),
    ('v3:8x8', 'v3-128', 64, 128),
    ('v3:32x32', 'v3-2048', 1024, 2048),
    ('v4:4x4x4', 'v4-128', 64, 64),
    ('v5e:16x16', 'v5e-256', 256, 256),
    ('v5p:2x4x4', 'v5p-64', 32, 32),
    ('v6e:2x4', 'v6e-8', 8, 8),
))
def test_sizes(name, google_name, chips, devices):
  topology = topologies.topology(name)
  assert topology.google_name == google_name
  assert (topology.num_chips, topology.num_devices) == (chips, devices)


@pytest.mark.parametrize('name', (
    'v4', 'v7:4x4', 'v4:4x4x', 'v4:0x4x4', 'v4-128', 'V4:4x4x4', '',
))
def test_unknown_names_list_the_known(name):
  with pytest.raises(ValueError, match='is not known') as e:
    topologies.topology(name)
  for chip in topologies.CHIPS:
    assert f'\n{chip}:' in str(e.value)
  assert ' v4:4x4x4 ' in str(e.value) and repr(name) in str(e.value)


def test_axes_are_those_of_the_generation():
  with pytest.raises(ValueError, match='v4 have 3 axes: 2x2x1, '):
    topologies.topology('v4:8x8')
  with pytest.raises(ValueError, match='v5e have 2 axes: 2x2, '):
    topologies.topology('v5e:4x4x4')


def test_usual_shapes_are_topologies_and_grow():
  for chip in topologies.CHIPS.values():
    slices = [topologies.topology(f'{chip.name}:{s}') for s in chip.shapes]
    sizes = [s.num_chips for s in slices]
    assert sizes == sorted(set(sizes))
    for small, large in zip(slices, slices[1:], strict=False):
      assert topologies.larger(small) == large
    assert topologies.larger(slices[-1]) is None
    # A program gets nearly all that its part of the chip has.
    share = chip.usable_bytes * chip.devices / chip.hbm_bytes
    assert 0.9 < share < 1.01


def grid(*shape):
  return np.stack(np.meshgrid(*map(range, shape), indexing='ij'), -1).reshape(
      -1, len(shape)
  )


@pytest.mark.parametrize('chips, links', (
    (grid(4, 1, 1), 2),  # All around one axis.
    (grid(1, 4, 4), 4),  # And around two.
    (grid(4, 4, 4), 6),
    (grid(2, 1, 1), 1),  # Half of an axis: no way around.
    (grid(3, 4, 1), 3),
    ([[0, 0, 0], [2, 0, 0]], 1),
))
def test_bandwidth_of_groups_of_a_cube(chips, links):
  cube = topologies.topology('v4:4x4x4')
  expected = links * cube.chip.link_bandwidth
  assert cube.group_bandwidth(np.array(chips)) == expected


@pytest.mark.parametrize('name, rings', (
    ('v4:4x4x4', (True, True, True)), ('v4:4x4x8', (True, True, True)),
    ('v4:2x4x4', (False, False, False)), ('v5p:8x8x8', (True, True, True)),
    ('v5e:8x16', (False, True)), ('v3:16x32', (False, True)),
    ('v3:8x8', (False, False)), ('v2:16x16', (True, True)),
))
def test_rings(name, rings):
  topology = topologies.topology(name)
  assert tuple(topology.is_ring(i) for i in range(len(rings))) == rings


def test_bandwidth_without_rings():
  host = topologies.topology('v4:2x2x1')
  assert host.group_bandwidth(grid(2, 2, 1)) == 2 * host.chip.link_bandwidth
  # Both cores of each chip of a row share the one way.
  square = topologies.topology('v3:4x4')
  chips = np.repeat(np.pad(grid(4), ((0, 0), (0, 2))), 2, axis=0)
  assert square.group_bandwidth(chips) == square.chip.link_bandwidth / 2
  assert square.group_bandwidth(chips[:2]) == math.inf


def test_bandwidth_of_permutations():
  pod = topologies.topology('v5e:16x16')
  chips = grid(16, 16)
  link = pod.chip.link_bandwidth

  def shifted(by):
    return pod.permutation_bandwidth(chips, (chips + by) % 16)

  assert shifted([1, 0]) == shifted([0, 15]) == 2 * link
  assert shifted([2, 0]) == shifted([1, 15]) == link
  assert shifted([2, 1]) == pytest.approx(2 / 3 * link)
  assert shifted([0, 0]) == math.inf
  # From one end to the other there are three links here, else one.
  row = topologies.topology('v5e:4x4')
  chips = np.pad(grid(4), ((0, 0), (0, 2)))
  assert row.permutation_bandwidth(chips, np.roll(chips, -1, axis=0)) == (
      pytest.approx(2 * link / ((1 + 1 + 1 + 3) / 4))
  )
  # Two cores share the links of a chip.
  cores = topologies.topology('v3:32x32')
  chips = grid(32, 32)
  assert cores.permutation_bandwidth(chips, (chips + 1) % 32) == (
      cores.chip.link_bandwidth / 2
  )
