"""Tests of precompile/report.py: facts and text, of a step without libtpu."""

import dataclasses

from flipped_t5x.precompile import compile_step
from flipped_t5x.precompile import report
from flipped_t5x.precompile import topologies
import pytest

GIB = 2**30
SLICE = topologies.topology('v3:2x2')  # Four chips, eight devices.
TEXT = """
%body (x: f32[8]) -> f32[8] {
  ROOT %all-reduce.1 = f32[8] all-reduce(%x)
}
"""


@pytest.fixture(name='step')
def step_(tiny_network):
  return compile_step.Step(
      task='train', network=tiny_network, batch_size=16, input_length=12,
      target_length=8, model_parallel=2, num_logit_chunks=2,
  )


FITS = compile_step.Compiled(
    arguments=3 * GIB, usable=15 * GIB, parameters=2_000_000, seconds=5.0,
    cpu_seconds=8.0, output=0, temporaries=4 * GIB, code=GIB, total=8 * GIB,
    text=TEXT,
)
REFUSED = dataclasses.replace(
    FITS, output=None, temporaries=None, code=None, total=20 * GIB, text=None
)


def facts(step, compiled=FITS, steps=1000):
  return report.facts(SLICE, step, compiled, steps, quick=False)


def test_facts_are_bounds_by_the_peak_of_all_chips(step):
  found = facts(step)
  assert found['recomputed_flops'] > 0  # The logits, for their chunks.
  # Peaks are those of chips, not of devices.
  seconds = (step.model_flops + step.recomputed_flops) / (4 * 123e12)
  assert found['step_seconds_at_least'] == pytest.approx(seconds)
  assert found['chip_hours_at_least'] == pytest.approx(
      seconds * 1000 * 4 / 3600
  )
  assert found['rows_per_second_at_most'] == pytest.approx(16 / seconds)
  assert found['collectives'] == {'all-reduce': 1}
  assert found['data_parallel'] == 4 and found['fits']


def test_a_step_that_fits(step, capsys):
  report.write(facts(step))
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == (
      'training step of 2 million parameters: fits v3:2x2 (v3-8, 4 chips)'
  )
  text = '\n'.join(' '.join(line.split()) for line in lines)
  for part in (
      'compiled in 5 s (8 CPU seconds)\n',
      '16 pairs of 12 + 8 tokens, mesh 4 x 2 (data x model)',
      'Memory of each core in GiB', '\ntogether 8.00\nusable 15.00\n',
      'one in the body of a loop counts once\nall-reduce 1\n',
      'At the peak of 4 chips, 123 TFLOP/s each, these take at least ',
      '\n1,000 steps take at least ', '--gin.MODEL_PARALLEL=2 ',
  ):
    assert part in text


def test_ranking_has_no_run_and_no_second_time(step, capsys):
  report.write(facts(dataclasses.replace(step, task='rank')))
  text = capsys.readouterr().out
  assert text.startswith('ranking step of ')
  assert '16 candidates of ' in text and 'That is at most ' in text
  for part in ('steps take', 'a second time', 'Train with', 'microbatch'):
    assert part not in text


def test_a_step_that_does_not_fit_has_no_time(step, capsys):
  found = facts(step, REFUSED)
  assert not found['fits'] and found['collectives'] is None
  found['tried'] = [
      {'change': '--num_microbatches 2', 'fits': False, 'total': None,
       'usable': 15 * GIB},
      {'change': '--num_microbatches 4', 'fits': True, 'total': 14 * GIB,
       'usable': 15 * GIB},
  ]
  report.write(found)
  text = capsys.readouterr().out
  assert 'DOES NOT FIT v3:2x2' in text
  assert 'Does not fit with --num_microbatches 2: unknown of 15.00' in text
  assert 'Fits with --num_microbatches 4: 14.00 GiB of 15.00' in text
  for part in ('at least', 'Collective', 'temporaries', 'Train with'):
    assert part not in text


def test_a_search(step, capsys):
  report.write_search({
      'fit': [facts(step) | {'change': '--model_parallel 2'}],
      'do_not_fit': [facts(step, REFUSED) | {'change': '--model_parallel 1'}],
      'not_tried': ['--model_parallel 4'],
  })
  titles, row, *others = capsys.readouterr().out.splitlines()
  assert titles.split()[-6:] == [
      'ms,', 'at', 'least', 'collectives', 'compiled,', 's'
  ]
  assert row.split()[:3] == ['--model_parallel', '2', '8.00']
  assert row.split()[-2:] == ['1', '5']
  assert others == [
      'does not fit: --model_parallel 1: 20.00 GiB',
      'not tried, for --max_compilations: --model_parallel 4',
  ]


@pytest.mark.parametrize('seconds, text', (
    (0.00012345, '0.123'), (0.0655, '65.5'), (1.2345, '1,234'),
))
def test_milliseconds(seconds, text):
  assert report.milliseconds(seconds) == text
