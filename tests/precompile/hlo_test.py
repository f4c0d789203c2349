"""Tests of hlo.py, hlo_runs.py, hlo_collectives.py, hlo_costs.py, by hand.

testdata/loop.hlo is cut down to what matters of the form that libtpu writes; it
runs on 4 devices. precompile_test.py compiles.
"""

import pathlib

from flipped_t5x import hlo
from flipped_t5x import hlo_collectives
from flipped_t5x import hlo_costs
from flipped_t5x import hlo_runs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

LOOP = (pathlib.Path(__file__).parents[1] / 'testdata/loop.hlo').read_text()


def test_parts_and_how_often_they_run():
  program = hlo.parse(LOOP)
  assert program.entry == 'main'
  assert hlo_runs.runs(program) == {
      'main': 1, 'condition': 4, 'body': 3, 'layer': 3, 'scatter_fusion': 1
  }
  loop = program.computations['main'].instructions['while']
  assert loop.opcode == 'while' and loop.called('body') == ['body']
  number, x, w = loop.arrays
  assert (number.dtype, number.dims, number.bytes) == ('s32', (), 4)
  assert (x.dims, x.memory_space, x.bytes) == ((8, 16), 3, 256)
  assert (w.dims, w.memory_space, w.bytes) == ((3, 16, 16), 0, 1536)
  assert program.computations['body'].root == 'tuple'


@pytest.mark.parametrize('start, limit, step, direction, trips', (
    (0, 3, 1, 'LT', 3), (0, 7, 2, 'LT', 4), (0, 7, 2, 'LE', 4),
    (0, 6, 2, 'LE', 4), (5, 0, -1, 'GT', 5), (5, 0, -2, 'GE', 3),
    (1, 9, 4, 'NE', 2), (3, 3, 1, 'LT', 0),
))
def test_trips_of_loops(start, limit, step, direction, trips):
  text = LOOP
  for name, old, new in (
      ('start', 0, start), ('limit', 3, limit), ('step', 1, step)
  ):
    line = f'%{name} = s32[]{{:T(128)}} constant('
    assert f'{line}{old})' in text
    text = text.replace(f'{line}{old})', f'{line}{new})')
  text = text.replace('direction=LT', f'direction={direction}')
  runs = hlo_runs.runs(hlo.parse(text))
  assert runs.get('body', 0) == trips
  assert runs['condition'] == trips + 1


def test_trips_that_xla_tells_are_taken():
  text = LOOP.replace(
      'body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"17"}}'
  )
  assert hlo_runs.runs(hlo.parse(text))['layer'] == 17


@pytest.mark.parametrize('old, new', (
    ('%limit = s32[]{:T(128)} constant(3)',
     '%limit = s32[]{:T(128)} add(%i.2, %i.2)'),
    ('add(%i.1, %step)', 'add(%i.1, %i.1)'),
    ('tuple(%start, %copy-done', 'tuple(%copy-done, %copy-done'),
    ('%step = s32[]{:T(128)} constant(1)',
     '%step = s32[]{:T(128)} constant(-1)'),
))
def test_a_loop_of_unknown_length_is_an_error(old, new):
  assert old in LOOP
  with pytest.raises(ValueError, match='%while.*how often it runs is unknown'):
    _ = hlo_runs.runs(hlo.parse(LOOP.replace(old, new)))


def counted(kept):
  return hlo_runs.runs(hlo.parse(f"""HloModule m

%body (p: (s32[], s32[])) -> (s32[], s32[]) {{
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  %two = s32[] constant(2)
  %j = s32[] add(%i, %two)
  ROOT %t = (s32[], s32[]) tuple(%j, {kept})
}}

%condition (p.1: (s32[], s32[])) -> pred[] {{
  %p.1 = (s32[], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n.1 = s32[] get-tuple-element(%p.1), index=1
  ROOT %lt = pred[] compare(%i.1, %n.1), direction=LT
}}

ENTRY %main (x: s32[]) -> (s32[], s32[]) {{
  %x = s32[] parameter(0)
  %zero = s32[] constant(0)
  %nine = s32[] constant(9)
  %start = (s32[], s32[]) tuple(%zero, %nine)
  ROOT %while = (s32[], s32[]) while(%start), condition=%condition, body=%body
}}
"""))


def test_a_limit_that_goes_around_must_stay():
  assert counted('%n')['body'] == 5
  with pytest.raises(ValueError, match='how often it runs is unknown'):
    counted('%j')


def test_what_is_no_program_is_an_error():
  with pytest.raises(ValueError, match='no ENTRY computation'):
    hlo.parse('HloModule jit_f\n')


def test_collectives_of_the_loop():
  found = hlo_collectives.collectives(hlo.parse(LOOP), 4)
  by_kind = {c.kind: c for c in found}
  assert len(found) == len(by_kind) == 3
  # 3 rounds of 2 S (n - 1) / n with S = 8 * 16 * 2 bytes and n = 2.
  reduced = by_kind['all-reduce']
  assert (reduced.runs, reduced.bytes) == (3, 3 * 256)
  assert reduced.groups.tolist() == [[0, 2], [1, 3]]
  assert reduced.name == 'jit(f)/while/body/dot'
  # A sum of which only a slice is used: S (n - 1) / n, S = 8 * 16 * 4.
  scattered = by_kind['reduce-scatter']
  assert (scattered.runs, scattered.bytes) == (1, 256)
  # Two devices keep what they have.
  permuted = by_kind['collective-permute']
  assert permuted.groups.tolist() == [[0, 1], [1, 0]]
  assert (permuted.runs, permuted.bytes) == (1, 512)
  assert hlo_collectives.totals(found) == [
      {'kind': 'all-reduce', 'group_size': 2, 'count': 3, 'bytes': 768},
      {'kind': 'collective-permute', 'group_size': 2, 'count': 1, 'bytes': 512},
      {'kind': 'reduce-scatter', 'group_size': 2, 'count': 1, 'bytes': 256},
  ]


def collective(line):
  """The only collective of a program of one line; %x is f32[4,8], 128 bytes."""
  return hlo_collectives.collectives(hlo.parse(f"""HloModule m

ENTRY %main (x: f32[4,8]) -> f32[4,8] {{
  %x = f32[4,8]{{1,0}} parameter(0)
  ROOT %y = {line}
}}
"""), 8)


@pytest.mark.parametrize('line, kind, sent', (
    ('f32[16,8]{1,0} all-gather(%x), GROUPS, dimensions={0}', 'all-gather',
     384),
    ('(f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), GROUPS',
     'all-gather', 384),
    ('f32[1,8]{1,0} reduce-scatter(%x), GROUPS', 'reduce-scatter', 96),
    ('f32[4,8]{1,0} all-reduce(%x), GROUPS', 'all-reduce', 192),
    ('(f32[4,8], f32[4,8]) all-reduce(%x, %x), GROUPS', 'all-reduce', 384),
    ('f32[4,8]{1,0} all-to-all(%x), GROUPS', 'all-to-all', 96),
))
def test_bytes_of_each_kind(line, kind, sent):
  line = line.replace('GROUPS', 'replica_groups=[2,4]<=[8]')
  found, = collective(line)
  assert (found.kind, found.bytes) == (kind, sent)


@pytest.mark.parametrize('groups, expected', (
    ('{{0,1},{2,3},{4,5},{6,7}}', [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ('{}', [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ('[4,2]<=[8]', [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ('[2,4]<=[4,2]T(1,0)', [[0, 2, 4, 6], [1, 3, 5, 7]]),
    ('[4,2]<=[2,2,2]T(2,1,0)', [[0, 4], [2, 6], [1, 5], [3, 7]]),
    ("mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ("mesh['a'=2,'b'=1,'c'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("mesh['a'=2,'b'=4] {'a','b'}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}",
     [[0, 2, 4, 6], [1, 3, 5, 7]]),
    # Halves of an axis of 8: the outer, the middle and the inner one.
    ("mesh['a'=8] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
    ("mesh['a'=8] {'a':(4)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
))
def test_forms_of_groups(groups, expected):
  found, = collective(f'f32[4,8] all-reduce(%x), replica_groups={groups}, a=b')
  assert found.groups.tolist() == expected


def test_groups_of_one_move_nothing():
  assert not collective('f32[4,8] all-reduce(%x), replica_groups=[8,1]<=[8]')


def test_unknown_groups_are_an_error():
  with pytest.raises(ValueError, match='unknown form of groups'):
    collective('f32[4,8] all-reduce(%x), replica_groups=<8>')


def test_flops_and_memory_of_the_loop():
  program = hlo.parse(LOOP)
  assert hlo_costs.matmul_flops(program) == 3 * 2 * 8 * 16 * 16
  by_hand = (
      256  # %a is read, and written to another memory.
      # Each round reads one of the three matrices and writes the product; the
      # sum reads it; its result and the other operand are in another memory.
      + 3 * (16 * 16 * 2 + 256 + 256)
      + 3 * 4 * 4  # i is read twice, 1 once, and i + 1 is written.
      + 4 * (4 + 4 + 1)  # Conditions.
      + 2 * 512  # The permutation.
      + 512 + 256  # The scatter.
  )
  assert hlo_costs.hbm_bytes(program) == by_hand


def product(left, right, out, attributes):
  return hlo_costs.matmul_flops(hlo.parse(f"""HloModule m

ENTRY %main (x: {left}, y: {right}) -> {out} {{
  %x = {left} parameter(0)
  %y = {right} parameter(1)
  ROOT %z = {out} convolution(%x, %y), {attributes}
}}
"""))


@pytest.mark.parametrize('left, right, out, attributes, multiplications', (
    # [5, 7] @ [7, 3]
    ('bf16[5,7]', 'bf16[7,3]', 'f32[5,3]', 'dim_labels=bf_io->bf', 5 * 7 * 3),
    # 6 x 3 products [4, 8] @ [8, 9], batches written as dilated windows.
    ('bf16[6,3,4,8]', 'bf16[6,3,9,8]', 'f32[6,3,4,9]',
     'window={size=6x3 stride=5x2 lhs_dilate=6x3},'
     ' dim_labels=01bf_01oi->01bf', 6 * 3 * 4 * 8 * 9),
    # [4, 3, 5] by [3, 2, 5] -> [4, 2]: both axes are contracted.
    ('bf16[3,4,5]', 'bf16[3,5,2]', 'f32[1,4,2]',
     'window={size=3}, dim_labels=0bf_0io->0bf', 3 * 4 * 5 * 2),
    # An outer product: of 5 positions of the kernel one meets the only element.
    ('f32[1,4,2]', 'f32[5,3,2]', 'f32[5,4,3]',
     'window={size=5 pad=4_4 rhs_reversal=1}, dim_labels=0bf_0oi->0bf',
     5 * 4 * 2 * 3),
    # A true convolution of 8 by 3 without padding.
    ('f32[1,8,2]', 'f32[3,2,4]', 'f32[1,6,4]',
     'window={size=3}, dim_labels=b0f_0io->b0f', 6 * 3 * 2 * 4),
))
def test_flops_of_products(left, right, out, attributes, multiplications):
  assert product(left, right, out, attributes) == 2 * multiplications


@pytest.mark.parametrize('line, moved', (
    ('f32[4,8] add(%x, %x)', 3 * 128),
    ('f32[4,8]{1,0:S(1)} negate(%x)', 128),
    ('f32[2,8] slice(%x), slice={[0:2], [0:8]}', 2 * 64),
    ('f32[4,8] bitcast(%x)', 0),
    ('((f32[4,8]), f32[2,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)', 64),
    ('f32[4,8] custom-call(), custom_call_target="AllocateBuffer"', 0),
))
def test_memory_of_instructions(line, moved):
  program = hlo.parse(f"""HloModule m

ENTRY %main (x: f32[4,8]) -> f32[4,8] {{
  %x = f32[4,8]{{1,0}} parameter(0)
  ROOT %y = {line}
}}
""")
  assert hlo_costs.hbm_bytes(program) == moved


def test_a_written_slice_counts_as_one():
  program = hlo.parse("""HloModule m

%write (p0: f32[4,8], p1: f32[1,8], p2: s32[]) -> f32[4,8] {
  %p0 = f32[4,8]{1,0} parameter(0)
  %p1 = f32[1,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %u = f32[4,8]{1,0} dynamic-update-slice(%p0, %p1, %p2, %p2)
}

ENTRY %main (x: f32[4,8], y: f32[1,8], i: s32[]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %y = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %z = f32[4,8]{1,0} fusion(%x, %y, %i), kind=kLoop, calls=%write
}
""")
  assert hlo_costs.hbm_bytes(program) == 32 + 32 + 4


def test_a_program_of_jax():
  """Loops in loops, as this machine's compiler writes them."""
  def f(x, w):
    def outer(x, w):
      return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ w), x), None
    return jax.lax.scan(outer, x, w)[0]

  x, w = np.ones((4, 8), np.float32), np.ones((3, 8, 8), np.float32)
  text = jax.jit(f).lower(x, w).compile().as_text()
  assert hlo_costs.matmul_flops(hlo.parse(text)) == 3 * 5 * 2 * 4 * 8 * 8
