"""Chunks of candidates, and the ranked examples that are made of them."""

import itertools
import json

import demo_data
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import locks
from flipped_t5x import t5x_infer
import numpy as np
import pytest
import seqio
import tensorflow as tf

NAME = 'flipped_toy_score_Ask-score.jsonl-00000-of-00001'

# Two examples, of 2 and 3 options; 7's second option is right, 9's first. The
# second of each is scored by what follows.
CANDIDATES = [
    dict(example_id=e, option_index=o, is_correct=right, num_options=n,
         option=text, task='toy/a', template='Ask', score=score,
         checkpoint='c/1')
    for e, o, right, n, text, score in (
        (7, 0, False, 2, 'no', -2.5),
        (7, 1, True, 2, 'yés', -1.5),
        (9, 0, True, 3, 'a', -3.0),
        (9, 1, False, 3, 'b', -4.0),
        (9, 2, False, 3, 'c', -3.0),
    )
]
EXAMPLES = [
    {'task': 'toy/a', 'template': 'Ask', 'example_id': 7,
     'options': ['no', 'yés'], 'scores': [-2.5, -1.5], 'prediction': 1,
     'gold': 1, 'tied': False},
    {'task': 'toy/a', 'template': 'Ask', 'example_id': 9,
     'options': ['a', 'b', 'c'], 'scores': [-3.0, -4.0, -3.0], 'prediction': 0,
     'gold': 0, 'tied': True},
]


def write_chunk(folder, number, candidates, mode='score', checkpoint='c/1'):
  """Writes a chunk as `t5x.infer` does: padded tokens are there, too."""
  names = ('example_id', 'option_index', 'is_correct', 'num_options', 'option',
           'task', 'template')
  dataset = tf.data.Dataset.from_tensor_slices({
      **{name: [c[name] for c in candidates] for name in names},
      'inputs': np.zeros((len(candidates), 5), np.int32),
  })
  scores = [np.float32(c['score']) for c in candidates]
  t5x_infer.write_candidates(
      str(folder / f'{NAME}-chunk{number:05}'), (scores, {}), dataset, mode,
      None, checkpoint=checkpoint,
  )


@pytest.fixture
def tmp_dir(tmp_path):
  folder = tmp_path / 'tmp'
  folder.mkdir()
  (folder / 'input.ckpt.index').write_bytes(b'x')
  (folder / f'{NAME}-chunk00000.COMPLETED').write_bytes(b'')
  return folder


def merge(tmp_dir, step=20):
  t5x_infer.merge_examples(str(tmp_dir.parent), NAME, str(tmp_dir), step)
  return list(files.read_lines(tmp_dir.parent / NAME))


def test_one_job_for_a_shard(tmp_dir):
  lock = tmp_dir.parent / '.tmp.lock'
  with (
      locks.held(lock, 'x'),  # Another process has it.
      pytest.raises(
          errors.UserError, match=f'{tmp_dir} is being written by process .*'
          ' choose another SHARD_ID or INFER_OUTPUT_DIR'
      ),
  ):
    write_chunk(tmp_dir, 0, CANDIDATES)
  assert not list(tmp_dir.glob('*chunk00000'))
  write_chunk(tmp_dir, 0, CANDIDATES)
  assert len(merge(tmp_dir)) == 2


# In the midst of an example, between two, one by one, all at once.
@pytest.mark.parametrize('cuts', ([1], [2], [3], [1, 2, 3, 4], []))
def test_any_cut_gives_the_same_examples(cuts, tmp_dir):
  bounds = [0, *cuts, len(CANDIDATES)]
  for number, (start, end) in enumerate(itertools.pairwise(bounds)):
    write_chunk(tmp_dir, number, CANDIDATES[start:end])
  assert merge(tmp_dir) == [
      e | {'checkpoint': 'c/1', 'step': 20} for e in EXAMPLES
  ]
  assert 'yés' in (tmp_dir.parent / NAME).read_text(encoding='utf-8')
  # T5X takes up from there what is no longer whole when it deletes the rest.
  assert not list(tmp_dir.glob('input.ckpt*'))


def test_scores_keep_all_their_digits(tmp_dir):
  scores = np.float32([-1 / 3, np.nextafter(np.float32(-1 / 3), np.float32(0))])
  write_chunk(tmp_dir, 0, [
      c | {'score': s} for c, s in zip(CANDIDATES[:2], scores, strict=True)
  ])
  example, = merge(tmp_dir)
  np.testing.assert_array_equal(np.float32(example['scores']), scores)
  assert (example['prediction'], example['tied']) == (1, False)


@pytest.mark.parametrize('chosen, message', (
    ([0, 1, 2, 3], 'example 9: an option is missing'),  # The last one.
    ([0, 1, 2, 4], 'example 9: an option is missing'),
    ([1, 2, 3, 4], 'example 7: an option is missing'),
    ([0, 1, 1, 2, 3, 4], 'example 7: an option appears twice'),
    ([0, 1, 2, 3, 4, 2, 3, 4], 'example 9: an option appears twice'),
    ([0, 1, 2, 3, 3], 'example 9: an option appears twice'),
))
def test_each_candidate_is_needed_once(chosen, message, tmp_dir):
  write_chunk(tmp_dir, 0, [CANDIDATES[i] for i in chosen])
  with pytest.raises(ValueError, match=message) as e:
    merge(tmp_dir)
  assert str(tmp_dir) in str(e.value)
  assert not (tmp_dir.parent / NAME).exists()
  assert list(tmp_dir.glob('input.ckpt*'))


def test_chunks_must_fit_together(tmp_dir):
  write_chunk(tmp_dir, 0, CANDIDATES[:2])
  write_chunk(tmp_dir, 2, CANDIDATES[2:])
  with pytest.raises(ValueError, match='chunk 1 is missing'):
    merge(tmp_dir)
  write_chunk(tmp_dir, 1, CANDIDATES[2:], checkpoint='c/2')
  (tmp_dir / f'{NAME}-chunk00002').unlink()
  with pytest.raises(ValueError, match="another checkpoint .*'c/1', 'c/2'"):
    merge(tmp_dir)
  path = tmp_dir / f'{NAME}-chunk00001'
  path.write_text(path.read_text()[:-9])
  with pytest.raises(ValueError, match='chunk00001, line 3: not JSON'):
    merge(tmp_dir)
  path.unlink()
  (tmp_dir / f'{NAME}-chunk00000').unlink()
  assert merge(tmp_dir) == []  # A shard without rows.


def test_only_scores_rank(tmp_dir):
  with pytest.raises(ValueError, match="infer.mode is 'predict'"):
    write_chunk(tmp_dir, 0, CANDIDATES, mode='predict')
  with pytest.raises(ValueError, match='zip'):  # As many as there are scores.
    t5x_infer.write_candidates(
        str(tmp_dir / 'chunk'), ([-1.0], {}),
        tf.data.Dataset.from_tensor_slices(
            {k: [v] * 2 for k, v in CANDIDATES[0].items()}
        ), 'score',
    )


@pytest.fixture(scope='module')
def task(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    patch.setenv('FLIPPED_T5X_VOCABULARY', str(demo_data.vocabulary()))
    yield seqio.get_mixture_or_task('flipped_tiny_kind_score_Where')


@pytest.mark.parametrize('number', (1, 5, 12, 14))
def test_no_example_is_in_two_shards(number, task):
  seen = []
  for i in range(number):
    candidates = task.get_dataset(
        {'inputs': 56, 'targets': 20}, 'eval', shuffle=False,
        shard_info=seqio.ShardInfo(i, number),
    )
    examples = t5x_infer.rank_candidates(
        {**json.loads(json.dumps(c, cls=seqio.TensorAndNumpyEncoder)),
         'score': -float(c['option_index'])}
        for c in candidates.as_numpy_iterator()
    )
    for e in examples:
      assert e['options'] == ['magazine', 'shop', 'paper', 'network']
      assert (e['task'], e['template']) == ('tiny_kind', 'Where')
      # Rows are of the kinds 0, 1, 2, 3, 0, ...
      assert e['gold'] == e['example_id'] % 4 and e['prediction'] == 0
    seen += [e['example_id'] for e in examples]
  assert sorted(seen) == list(range(12))
