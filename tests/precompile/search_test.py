"""Tests of precompile/search.py: what divides, and the order of changes."""

import dataclasses

from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import search
from flipped_t5x.precompile import topologies
import pytest

GIB = 2**30


@pytest.fixture
def step(tiny_network):
  """240 pairs, 12 heads."""
  network = dataclasses.replace(
      tiny_network, num_heads=12, remat_policy='minimal'
  )
  return compile_step.Step(
      task='train', network=network, batch_size=240, input_length=384,
      target_length=64, model_parallel=4, shard_params_over_data=True,
  )


def refused(total, arguments=0.5, usable=30):
  return compile_step.Compiled(
      arguments=int(arguments * GIB), usable=usable * GIB, parameters=1,
      seconds=1.0, cpu_seconds=1.0,
      total=None if total is None else int(total * GIB),
  )


@pytest.mark.parametrize('name, batch_size, heads, expected', (
    # 64 = data x model, where data divides 240: 16, 8, 4, 2, 1.
    ('v4:4x4x4', 240, 64, [4, 8, 16, 32, 64]),
    ('v4:4x4x4', 240, 12, [4]),
    ('v4:4x4x4', 240, 6, []),
    ('v4:4x4x4', 256, 6, [1, 2]),
    ('v5p:2x4x4', 240, 6, [2]),
    # Two devices a chip.
    ('v3:2x2', 240, 12, [1, 2, 4]),
))
def test_meshes(step, name, batch_size, heads, expected):
  network = dataclasses.replace(step.network, num_heads=heads)
  step = dataclasses.replace(step, batch_size=batch_size, network=network)
  topology = topologies.topology(name)
  assert search.meshes(topology, step) == expected


def test_microbatches(step):
  topology = topologies.topology('v4:4x4x4')
  # 16 devices along data: 15 pairs each.
  assert search.microbatches(topology, step) == [1, 3, 5, 15]
  rank = dataclasses.replace(step, task='rank')
  assert search.microbatches(topology, rank) == [1]


@pytest.mark.parametrize('total, arguments, expected', (
    # Of 59 GiB that depend on the rows at most 28.5 may remain.
    (60, 0.5, [3, 5, 15]), (100, 0.5, [5, 15]), (200, 0.5, [15]),
    (600, 0.5, []), (None, 0.5, [3, 5, 15]),
    # Weights, gradients and their sums alone are too much.
    (60, 10, []),
))
def test_enough_microbatches(step, total, arguments, expected):
  topology = topologies.topology('v4:4x4x4')
  assert search.enough_microbatches(
      topology, step, refused(total, arguments)
  ) == expected


def test_changes_are_small_first(step):
  topology = topologies.topology('v4:4x4x4')
  step = dataclasses.replace(step, shard_params_over_data=False)
  found = list(search.changes(topology, step, refused(60)))
  assert [c.text for c in found[:5]] == [
      '--num_microbatches 3',
      '--num_microbatches 5',
      '--remat_policy full',
      '--num_microbatches 15 --remat_policy full',
      '--shard_params_over_data',
  ]
  # 12 heads allow no other mesh on this slice; on 128 chips 8 divide no heads.
  assert len(found) == 5
  first, both = found[0].step, found[3].step
  assert (first.num_microbatches, first.network) == (3, step.network)
  assert (both.num_microbatches, both.network.remat_policy) == (15, 'full')
  assert dataclasses.replace(first, num_microbatches=1) == step


def test_changes_end_in_larger_slices(step):
  network = dataclasses.replace(step.network, num_heads=64, remat_policy='full')
  step = dataclasses.replace(step, network=network)
  topology = topologies.topology('v4:4x4x4')
  found = list(search.changes(topology, step, refused(60, 10)))
  assert [(c.topology.name, c.step.model_parallel) for c in found[:6]] == [
      ('v4:4x4x4', 8), ('v4:4x4x4', 16), ('v4:4x4x4', 32), ('v4:4x4x4', 64),
      ('v4:4x4x8', 8), ('v4:4x4x8', 16),
  ]
  assert found[4].text.startswith('--topology v4:4x4x8 --model_parallel 8 ')
  # 64 / 8 = 8 devices along data, 30 pairs each.
  assert found[0].step.num_microbatches == 30
  for change in found:
    assert not change.step.batch_size % (
        change.topology.num_devices // change.step.model_parallel
        * change.step.num_microbatches
    )


def test_ranking_has_smaller_batches(step):
  topology = topologies.topology('v4:4x4x4')
  rank = dataclasses.replace(step, task='rank')
  found = list(search.changes(topology, rank, refused(100)))
  # 29.5 of 99.5 GiB: less than a third of the rows, in multiples of 16.
  assert [c.step.batch_size for c in found[:2]] == [48, 16]
  assert found[0].text == '--batch_size 48'


def test_candidates_of_a_search(step):
  network = dataclasses.replace(step.network, num_heads=8)
  step = dataclasses.replace(step, network=network)
  topology = topologies.topology('v4:4x4x4')
  rows = list(search.candidates(topology, step))
  assert [
      (r[0].step.model_parallel, r[0].step.network.remat_policy) for r in rows
  ] == [(n, p) for n in (4, 8) for p in ('none', 'minimal', 'full')]
  assert [c.step.num_microbatches for c in rows[0]] == [1, 3, 5, 15]
  rank = dataclasses.replace(step, task='rank')
  rows = list(search.candidates(topology, rank))
  assert [[c.text for c in row] for row in rows] == [
      ['--model_parallel 4'], ['--model_parallel 8']
  ]


def test_a_search_prefers_few_flops_then_microbatches_then_collectives():
  def facts(seconds, number, **collectives):
    return {
        'step_seconds_at_least': seconds, 'num_microbatches': number,
        'collectives': collectives,
    }

  best, second, third, last = (
      facts(1.0, 4, gather=9), facts(1.5, 1, gather=3, reduce=4),
      facts(1.5, 1, gather=8), facts(1.5, 2),
  )
  assert sorted([last, third, best, second], key=search.preference) == [
      best, second, third, last
  ]
