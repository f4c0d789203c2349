"""Tests of precompile/topologies.py: names, sizes and peaks."""

import itertools

from flipped_t5x.precompile import topologies
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
    for small, large in itertools.pairwise(slices):
      assert topologies.larger(small) == large
    assert topologies.larger(slices[-1]) is None


def test_peak_is_that_of_all_chips():
  # A chip of a v3 is two devices, but has one peak.
  assert topologies.topology('v3:2x2').peak_flops == 4 * 123e12
  assert topologies.topology('v4:4x4x4').peak_flops == 64 * 275e12
