"""The feature converter, packed and not, on small data."""

import demo_data
from flipped_t5x import feature_converters
from flipped_t5x.prompts import arrays
from flipped_t5x.tasks import registry
import numpy as np
import pytest

LENGTHS = {'inputs': 56, 'wrong_inputs': 56, 'targets': 20}
DIRECT = {'inputs': 40, 'targets': 10, 'wrong_targets': 10}
SIDES = ('encoder', 'wrong_encoder', 'decoder')


@pytest.fixture(autouse=True, scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    yield


@pytest.fixture
def task():
  return registry.train_task('tiny_kind', demo_data.vocabulary())


def read(task, lengths=LENGTHS):
  dataset = task.get_dataset(lengths, 'train', shuffle=False, seed=5)
  return list(dataset.as_numpy_iterator())


def convert(task, pack, averaging='example', lengths=LENGTHS):
  converter = feature_converters.FlippedFeatureConverter(
      pack=pack, averaging=averaging
  )
  if pack:
    lengths = {k: 2 * n for k, n in lengths.items()}
  dataset = converter(
      task.get_dataset(lengths, 'train', shuffle=False, seed=5), lengths
  )
  rows = list(dataset.as_numpy_iterator())
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


@pytest.fixture
def direct():
  return registry.train_task('tiny_kind', demo_data.vocabulary(), 'direct')


@pytest.mark.parametrize('averaging', arrays.AVERAGINGS)
@pytest.mark.parametrize('name, lengths', (
    ('task', LENGTHS), ('direct', DIRECT),
    # Without a length for wrong labels there are none.
    ('direct', {k: DIRECT[k] for k in ('inputs', 'targets')}),
))
def test_unpacked_is_the_same_as_in_the_other_engine(
    name, lengths, averaging, request
):
  task = request.getfixturevalue(name)
  pairs = read(task, lengths)
  padded = {
      k: np.array([np.pad(p[k], (0, n - len(p[k]))) for p in pairs], np.int32)
      for k, n in lengths.items()
  }
  expected = arrays.training_batch(padded, averaging)
  # A length of what the task has not is no harm: one gin file for all.
  more = {'wrong_targets' if name == 'task' else 'wrong_inputs': 56}
  converted = convert(task, False, averaging, lengths | more)
  assert converted.keys() == expected.keys()
  for name, values in expected.items():
    assert converted[name].dtype == values.dtype, name
    np.testing.assert_array_equal(converted[name], values, name)


def test_packed(task):
  pairs = [tuple(tuple(map(int, p[k])) for k in LENGTHS) for p in read(task)]
  packed = convert(task, pack=True)
  assert len(packed) == 5 + 6
  rows = len(packed['decoder_target_tokens'])
  assert 120 / 4 < rows < 120 / 1.4  # There are 2 pairs a row or so.
  for name, values in packed.items():
    length = 2 * LENGTHS['targets' if name.startswith('decoder') else 'inputs']
    assert values.shape == (rows, length), name
    is_float = name == 'decoder_loss_weights'
    assert values.dtype == (np.float32 if is_float else np.int32), name
  unpacked = []
  for row in range(rows):
    segments = {s: packed[f'{s}_segment_ids'][row] for s in SIDES}
    number = segments['decoder'].max()
    for segment in range(1, number + 1):
      example = []
      for side, name in zip(
          SIDES,
          ('encoder_input_tokens', 'wrong_encoder_input_tokens',
           'decoder_target_tokens'), strict=True,
      ):
        mine = segments[side] == segment
        example.append(tuple(map(int, packed[name][row][mine])))
        assert list(packed[f'{side}_positions'][row][mine]) == list(
            range(mine.sum())
        )
      unpacked.append(tuple(example))
      mine = segments['decoder'] == segment
      # Teacher forcing starts anew in each example.
      assert tuple(packed['decoder_input_tokens'][row][mine]) == (
          0, *example[2][:-1]
      )
      np.testing.assert_allclose(
          packed['decoder_loss_weights'][row][mine], 1 / len(example[2])
      )
    np.testing.assert_allclose(
        packed['decoder_loss_weights'][row].sum(), number, rtol=1e-6
    )
  assert sorted(unpacked) == sorted(pairs)


def test_packed_with_wrong_targets(direct):
  pairs = [
      tuple(tuple(map(int, p[k])) for k in DIRECT) for p in read(direct, DIRECT)
  ]
  packed = convert(direct, True, lengths=DIRECT)
  sides = {
      'encoder': 'input_tokens', 'decoder': 'target_tokens',
      'wrong_decoder': 'target_tokens',
  }
  assert packed.keys() == {
      'encoder_input_tokens', *(
          f'{side}_{n}' for side in ('decoder', 'wrong_decoder')
          for n in ('input_tokens', 'target_tokens', 'loss_weights')
      ), *(f'{s}_{n}' for s in sides for n in ('segment_ids', 'positions')),
  }
  unpacked, rows = [], len(packed['decoder_target_tokens'])
  assert 120 / 4 < rows < 120 / 1.4
  for row in range(rows):
    for segment in range(1, packed['decoder_segment_ids'][row].max() + 1):
      example = []
      for side, name in sides.items():
        mine = packed[f'{side}_segment_ids'][row] == segment
        tokens = tuple(map(int, packed[f'{side}_{name}'][row][mine]))
        example.append(tokens)
        if side != 'encoder':
          assert tuple(packed[f'{side}_input_tokens'][row][mine]) == (
              0, *tokens[:-1]
          )
          np.testing.assert_allclose(
              packed[f'{side}_loss_weights'][row][mine], 1 / len(tokens)
          )
      unpacked.append(tuple(example))
  assert sorted(unpacked) == sorted(pairs)


def test_no_wrong_side():
  task, *_ = registry.score_tasks('tiny_mood', demo_data.vocabulary()).values()
  converter = feature_converters.FlippedFeatureConverter(pack=False)
  lengths = {k: n for k, n in LENGTHS.items() if k != 'wrong_inputs'}
  dataset = task.get_dataset(lengths, 'test', shuffle=False)
  for given in (LENGTHS, lengths):
    example = next(converter(dataset, given).as_numpy_iterator())
    assert example.keys() == converter.get_model_feature_lengths(lengths).keys()
    assert not [name for name in example if name.startswith('wrong_')]
    assert example['decoder_loss_weights'].sum() == pytest.approx(1)


def test_unknown_averaging():
  with pytest.raises(ValueError, match="'tokens' is not one of"):
    feature_converters.FlippedFeatureConverter(averaging='tokens')
