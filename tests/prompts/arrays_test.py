"""Tests of prompts/arrays.py: arrays by hand, and nothing lost on the way."""

from flipped_t5x.prompts import arrays as arrays_lib
import numpy as np
import pytest

TARGETS = np.array([[5, 6, 1, 7, 1, 0], [8, 1, 0, 0, 0, 0]], np.int32)
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]], np.int32)


def candidates(n, seed=0):
  """Tokens of n candidates of random lengths, no two alike."""
  rng = np.random.default_rng(seed)
  return [
      [[*rng.integers(2, 99, rng.integers(0, most)), 1000 + i, 1]
       for i in range(n)]
      for most in (70, 40)
  ]


@pytest.mark.parametrize('n', (1, 7, 8, 100))
@pytest.mark.parametrize('batch_size', (1, 7, 256))
@pytest.mark.parametrize('multiple', (1, 16, 64))
def test_score_batches_hold_every_candidate_once(n, batch_size, multiple):
  inputs, targets = candidates(n)
  seen, full = [], []
  for chosen, batch in arrays_lib.score_batches(
      inputs, targets, batch_size, multiple
  ):
    assert 1 <= len(chosen) <= batch_size
    encoder = batch['encoder_input_tokens']
    target = batch['decoder_target_tokens']
    for arrays, sequences in ((encoder, inputs), (target, targets)):
      assert len(arrays) == batch_size
      longest = max(len(sequences[i]) for i in chosen)
      assert arrays.shape[1] == -(-longest // multiple) * multiple
      for row, i in enumerate(chosen):
        tokens = arrays[row][arrays[row] != 0]
        np.testing.assert_array_equal(tokens, sequences[i])
        np.testing.assert_array_equal(arrays[row, : len(tokens)], tokens)
      assert not arrays[len(chosen) :].any()
    np.testing.assert_array_equal(
        batch['decoder_input_tokens'][:, 1:], target[:, :-1]
    )
    assert not batch['decoder_input_tokens'][:, 0].any()
    np.testing.assert_array_equal(batch['decoder_loss_weights'], target != 0)
    seen.extend(chosen)
    full.append(len(chosen) == batch_size)
  assert sorted(seen) == list(range(n))
  assert all(full[:-1])


@pytest.mark.parametrize('n, most', ((96, 2), (3000, 1.3)))
def test_score_batches_hold_like_lengths(n, most):
  inputs, targets = candidates(n)
  computed = real = 0
  for chosen, batch in arrays_lib.score_batches(inputs, targets, 32):
    for name, sequences in (
        ('encoder_input_tokens', inputs), ('decoder_target_tokens', targets)
    ):
      computed += batch[name].size
      real += sum(len(sequences[i]) for i in chosen)
  assert computed < most * real


def test_score_batches_names_and_types():
  inputs, targets = candidates(3)
  for chosen, batch in arrays_lib.score_batches(inputs, targets, 2, 16):
    assert chosen.dtype.kind == 'i'
    assert {k: v.dtype.name for k, v in batch.items()} == {
        'encoder_input_tokens': 'int32',
        'decoder_input_tokens': 'int32',
        'decoder_target_tokens': 'int32',
        'decoder_loss_weights': 'float32',
    }


def test_shift_right_by_hand():
  np.testing.assert_array_equal(
      arrays_lib.shift_right(TARGETS), [[0, 5, 6, 1, 7, 1], [0, 8, 1, 0, 0, 0]]
  )
  # Packed: each example starts with 0, and nothing runs into the padding.
  shifted = arrays_lib.shift_right(TARGETS, SEGMENTS)
  np.testing.assert_array_equal(
      shifted, [[0, 5, 6, 0, 7, 0], [0, 8, 0, 0, 0, 0]]
  )
  assert shifted.dtype == np.int32


@pytest.mark.parametrize('segments, averaging, expected', (
    (None, 'example', [[1 / 5] * 5 + [0], [1 / 2] * 2 + [0] * 4]),
    (None, 'token', [[1] * 5 + [0], [1] * 2 + [0] * 4]),
    (SEGMENTS, 'example',
     [[1 / 3] * 3 + [1 / 2] * 2 + [0], [1 / 2] * 2 + [0] * 4]),
    (SEGMENTS, 'token', [[1] * 5 + [0], [1] * 2 + [0] * 4]),
))
def test_loss_weights_by_hand(segments, averaging, expected):
  weights = arrays_lib.loss_weights(TARGETS, segments, averaging)
  assert weights.dtype == np.float32
  np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_loss_weights_of_padding_alone():
  empty = np.zeros((2, 3), np.int32)
  for segments in (None, empty):
    for averaging in arrays_lib.AVERAGINGS:
      np.testing.assert_array_equal(
          arrays_lib.loss_weights(empty, segments, averaging), 0
      )


def test_check_averaging():
  for averaging in ('example', 'token'):
    arrays_lib.check_averaging(averaging)
  with pytest.raises(ValueError, match="'tokens' is not one of .*'token'"):
    arrays_lib.check_averaging('tokens')


def test_training_batch_of_padded_pairs():
  inputs, wrong_inputs = np.array([[[3, 4, 1], [5, 1, 0]],
                                   [[3, 9, 1], [6, 1, 0]]], np.int32)
  batch = arrays_lib.training_batch(
      {'inputs': inputs, 'wrong_inputs': wrong_inputs, 'targets': TARGETS},
      'example',
  )
  expected = {
      'encoder_input_tokens': inputs,
      'wrong_encoder_input_tokens': wrong_inputs,
      'decoder_input_tokens': arrays_lib.shift_right(TARGETS),
      'decoder_target_tokens': TARGETS,
      'decoder_loss_weights': arrays_lib.loss_weights(TARGETS, None, 'example'),
  }
  assert batch.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(batch[name], array)
    assert batch[name].dtype == array.dtype, name


def test_training_batch_with_wrong_targets():
  inputs = np.array([[3, 4, 1], [5, 1, 0]], np.int32)
  wrong_targets = np.array([[2, 1, 4, 5, 3, 1], [7, 9, 1, 0, 0, 0]], np.int32)
  wrong_segments = np.array([[1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0]], np.int32)
  pairs = {
      'inputs': inputs, 'targets': TARGETS, 'wrong_targets': wrong_targets
  }
  batch = arrays_lib.training_batch(pairs, 'example')
  expected = {
      'encoder_input_tokens': inputs,
      'decoder_input_tokens': arrays_lib.shift_right(TARGETS),
      'decoder_target_tokens': TARGETS,
      'decoder_loss_weights': arrays_lib.loss_weights(TARGETS, None, 'example'),
      'wrong_decoder_input_tokens': [[0, 2, 1, 4, 5, 3], [0, 7, 9, 1, 0, 0]],
      'wrong_decoder_target_tokens': wrong_targets,
      'wrong_decoder_loss_weights': (
          [[1 / 6] * 6, [1 / 3] * 3 + [0] * 3]
      ),
  }
  assert batch.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_allclose(batch[name], array, rtol=1e-6)
  # Packed, each side by its own segments.
  packed = arrays_lib.training_batch(pairs | {
      f'{name}_{suffix}': segments
      for name, segments in (
          ('inputs', np.ones_like(inputs)), ('targets', SEGMENTS),
          ('wrong_targets', wrong_segments),
      )
      for suffix in ('segment_ids', 'positions')
  }, 'example')
  assert packed.keys() == expected.keys() | {
      f'{side}_{suffix}'
      for side in ('encoder', 'decoder', 'wrong_decoder')
      for suffix in ('segment_ids', 'positions')
  }
  np.testing.assert_array_equal(
      packed['wrong_decoder_segment_ids'], wrong_segments
  )
  np.testing.assert_array_equal(
      packed['wrong_decoder_input_tokens'],
      [[0, 2, 0, 4, 5, 3], [0, 7, 9, 0, 0, 0]],
  )
  np.testing.assert_allclose(
      packed['wrong_decoder_loss_weights'],
      [[1 / 2] * 2 + [1 / 4] * 4, [1 / 3] * 3 + [0] * 3],
  )
  np.testing.assert_array_equal(
      packed['decoder_loss_weights'],
      arrays_lib.loss_weights(TARGETS, SEGMENTS, 'example'),
  )


def test_training_batch_of_packed_pairs():
  pairs = {}
  for i, name in enumerate(('inputs', 'wrong_inputs', 'targets')):
    pairs[name] = TARGETS if name == 'targets' else TARGETS + 10 * i + 10
    pairs[f'{name}_segment_ids'] = SEGMENTS * [[1], [i + 1]]
    pairs[f'{name}_positions'] = np.arange(12).reshape(2, 6) + i
  pairs = {k: v.astype(np.int32) for k, v in pairs.items()}
  segments = pairs['targets_segment_ids']
  expected = {
      f'{new}_{suffix}': pairs[f'{old}_{suffix}']
      for new, old in (
          ('encoder', 'inputs'), ('wrong_encoder', 'wrong_inputs'),
          ('decoder', 'targets'),
      )
      for suffix in ('segment_ids', 'positions')
  } | {
      'encoder_input_tokens': pairs['inputs'],
      'wrong_encoder_input_tokens': pairs['wrong_inputs'],
      'decoder_input_tokens': arrays_lib.shift_right(TARGETS, segments),
      'decoder_target_tokens': TARGETS,
      'decoder_loss_weights': arrays_lib.loss_weights(
          TARGETS, segments, 'token'
      ),
  }
  batch = arrays_lib.training_batch(pairs, 'token')
  assert batch.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(batch[name], array)
    assert batch[name].dtype == array.dtype, name


def test_candidates_of_examples():
  examples = [
      {'inputs': [3, 1], 'targets': [4, 1], 'example_id': 7,
       'option_index': i, 'is_correct': i == 1}
      for i in range(2)
  ]
  got = arrays_lib.Candidates.from_examples(
      examples, {'truncated': 2, 'no label': 0, 'b': 1}, {'split': 'test'}
  )
  assert got.inputs == [[3, 1], [3, 1]] and got.targets == [[4, 1], [4, 1]]
  assert got.example_id.tolist() == [7, 7]
  assert got.option_index.tolist() == [0, 1]
  assert got.is_correct.tolist() == [False, True]
  assert got.is_correct.dtype == bool
  assert list(got.counts.items()) == [('b', 1), ('truncated', 2)]
