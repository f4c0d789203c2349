"""Scored examples, by hand and read back; the digest of weights."""

from flipped_t5x.evaluation import scored_examples
from flipped_t5x.prompts import arrays
from flipped_t5x.weights import tensors
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def candidates(ids, options, gold):
  """As a source makes them: options of each example in order."""
  return arrays.Candidates.from_examples(
      [
          {'inputs': [3, 1], 'targets': [4, 1], 'example_id': i,
           'option_index': n, 'is_correct': n == right, 'option': option}
          for i, texts, right in zip(ids, options, gold, strict=True)
          for n, option in enumerate(texts)
      ], {}, {},
  )


@pytest.fixture
def rows():
  two = candidates([4, 9], [['no', 'yes'], ['a', 'b', 'ç|||']], [1, 0])
  one = candidates([4], [['bad', 'good']], [0])
  return scored_examples.join([
      scored_examples.table('B', two, [-2.5, -1, -3, -2, -2]),
      scored_examples.table('A', one, [-1, -1]),
  ], ['B', 'A'])


def test_table_by_hand(rows):
  assert rows.to_pydict() == {
      'template': ['B', 'B', 'A'],
      'example_id': [4, 9, 4],
      'options': [['no', 'yes'], ['a', 'b', 'ç|||'], ['bad', 'good']],
      'scores': [[-2.5, -1], [-3, -2, -2], [-1, -1]],
      'prediction': [1, 1, 0],
      'gold': [1, 0, 0],
      'tied': [False, True, True],
  }


def test_candidates_in_any_order(rows):
  two = candidates([9, 4], [['a', 'b', 'ç|||'], ['no', 'yes']], [0, 1])
  found = scored_examples.table('B', two, [-3, -2, -2, -2.5, -1])
  assert found.equals(rows.slice(0, 2))


def test_columns_of_the_file(rows, tmp_path):
  path = tmp_path / 'x.parquet'
  scored_examples.write(rows, path)
  schema = pq.read_schema(path)
  assert {f.name: str(f.type).replace('element', 'item') for f in schema} == {
      'template': 'string', 'example_id': 'int32',
      'options': 'list<item: string>', 'scores': 'list<item: float>',
      'prediction': 'int32', 'gold': 'int32', 'tied': 'bool',
  }
  assert not schema.metadata
  assert pq.read_table(path).to_pydict() == rows.to_pydict()
  assert [p.name for p in tmp_path.iterdir()] == ['x.parquet']


def test_read(rows, tmp_path):
  scored_examples.write(rows, tmp_path / 'x.parquet')
  found = scored_examples.read(tmp_path / 'x.parquet')
  assert list(found) == ['B', 'A']
  ranked = found['B'].ranked
  assert ranked.example_id.tolist() == [4, 9]
  assert ranked.prediction.tolist() == [1, 1]
  assert ranked.gold.tolist() == [1, 0]
  assert ranked.num_options.tolist() == [2, 3]
  assert ranked.tied.tolist() == [False, True]
  assert [s.tolist() for s in found['B'].scores] == [[-2.5, -1], [-3, -2, -2]]
  assert [s.tolist() for s in found['A'].scores] == [[-1, -1]]
  assert found['A'].ranked.num_options.tolist() == [2]
  assert found['A'].options == [['bad', 'good']]


def test_parts_are_joined_in_order(rows):
  more = scored_examples.table(
      'A', candidates([12, 10], [['x', 'y']] * 2, [0, 1]), [-1, -2, -3, -4]
  )
  joined = scored_examples.join([more, rows], ['A', 'B', 'without rows'])
  assert joined['template'].to_pylist() == ['A', 'A', 'A', 'B', 'B']
  assert joined['example_id'].to_pylist() == [4, 10, 12, 4, 9]
  assert joined['gold'].to_pylist() == [0, 1, 0, 1, 0]
  assert scored_examples.join([], ['A']).num_rows == 0


def test_same_rows_are_the_same_bytes(rows, tmp_path):
  one, other = tmp_path / '1.parquet', tmp_path / '2.parquet'
  scored_examples.write(rows, one)
  # Whatever pieces they come in.
  pieces = scored_examples.join([rows.slice(2), rows.slice(0, 2)], ['B', 'A'])
  scored_examples.write(pieces, other)
  assert one.read_bytes() == other.read_bytes()


def test_about(rows, tmp_path):
  path = tmp_path / 'x.parquet'
  scored_examples.write(rows, path, {'counts': {'B': {'no label': 2}}})
  assert scored_examples.read_about(path) == {'counts': {'B': {'no label': 2}}}
  assert list(scored_examples.read(path)) == ['B', 'A']


def test_damaged_files(rows, tmp_path):
  path = tmp_path / 'x.parquet'
  scored_examples.write(rows, path, {})
  path.write_bytes(path.read_bytes()[:-9])
  for read in (scored_examples.read, scored_examples.read_about):
    with pytest.raises(ValueError, match=f'{path} is damaged'):
      read(path)
  pq.write_table(pa.table({'a': [1]}), path)
  with pytest.raises(ValueError, match='not a file of .*a: int64'):
    scored_examples.read(path)
  with pytest.raises(FileNotFoundError):
    scored_examples.read(tmp_path / 'none.parquet')


@pytest.mark.parametrize('score', (np.nan, -np.inf))
def test_score_that_is_not_finite(score):
  with pytest.raises(ValueError, match='"B": example 4: a score is not finite'):
    scored_examples.table('B', candidates([4], [['a', 'b']], [0]), [score, 0])


def test_digest_of_weights():
  first = {'b': {'x': jnp.arange(6.0)}, 'a': jnp.ones((2, 3), jnp.bfloat16)}
  digest = tensors.digest(first)
  assert len(digest) == 64
  again = {'a': np.asarray(first['a']), 'b': {'x': np.arange(6.0, dtype='f')}}
  assert tensors.digest(again) == digest
  for other in (
      first | {'a': jnp.ones((3, 2), jnp.bfloat16)},
      first | {'a': jnp.ones((2, 3))},
      first | {'b': {'x': jnp.arange(6.0).at[3].add(1e-6)}},
      {'a': first['a'], 'b': {'y': first['b']['x']}},
      {'a': first['a']},
  ):
    assert tensors.digest(other) != digest
