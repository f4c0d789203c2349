"""Grain pipelines of the catalog: order, shares, going on, candidates."""

import collections
import itertools
import json
import re

import demo_data
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
import numpy as np
import pytest

LENGTHS = (56, 32)


@pytest.fixture(autouse=True, scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    yield


def make(mixture=demo_data.MIXTURE, batch_size=8, seed=1, **kwargs):
  return batches.TrainBatches(
      mixture, demo_data.vocabulary(), batch_size, *LENGTHS, seed=seed, **kwargs
  )


def take(iterator, number):
  return list(itertools.islice(iterator, number))


def same(ours, theirs):
  return all(
      a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
      for a, b in zip(ours, theirs, strict=True)
  )


def texts(batch_list):
  """The encoder side of each row of unpacked batches."""
  vocabulary = tokenization.load_vocabulary(demo_data.vocabulary())
  return [
      vocabulary.decode(row)
      for batch in batch_list
      for row in batch['encoder_input_tokens']
  ]


def numbers(batch_list):
  """The number of the dataset's row in each row of unpacked batches."""
  return [
      int(re.search(r' of train (\d+) is', text)[1])
      for text in texts(batch_list)
  ]


OPEN = {'open_rows': 24, 'packed_target_length': 48}


@pytest.mark.parametrize('kwargs', (
    {'pack': True}, {'pack': False}, {'pack': True, **OPEN},
), ids=('packed', 'not packed', 'open rows'))
def test_seeds_and_states(kwargs):
  iterator = make(**kwargs)
  first = take(iterator, 7)
  position = iterator.get_state()
  assert isinstance(position, bytes) and len(position) < 20_000
  second = take(iterator, 30)  # Into the next epoch.
  assert same(take(make(**kwargs), 7), first)
  assert not same(take(make(**kwargs, seed=2), 7), first)
  resumed = make(**kwargs)
  resumed.set_state(position)
  assert same(take(resumed, 30), second)
  # Also back, in an iterator that has gone on.
  iterator.set_state(position)
  assert same(take(iterator, 3), second[:3])


def joined_rows(parts):
  """Batches of rows, from the parts that several hosts have made."""
  return [
      {k: np.concatenate([part[k] for part in batch]) for k in batch[0]}
      for batch in zip(*parts, strict=True)
  ]


def host(number, count, **kwargs):
  """The batches of one of several hosts, each with as many rows."""
  iterator = make(num_shards=4, **kwargs)
  rows = iterator.batch_size // count
  iterator.select(range(number * rows, (number + 1) * rows))
  return iterator


@pytest.mark.parametrize('pack', (True, False))
def test_any_number_of_hosts_reads_the_same_batches(pack):
  whole = take(make(num_shards=4, pack=pack), 4)
  assert not same(whole, take(make(pack=pack), 4))
  # Of 8, each uses half of the rows of a shard.
  for count in (2, 8):
    parts = [take(host(i, count, pack=pack), 4) for i in range(count)]
    assert all(len(p['decoder_target_tokens']) == 8 // count for p in parts[0])
    assert same(joined_rows(parts), whole)


def test_shards_only_change_the_order_of_rows():
  whole = take(make(pack=False), 20)
  for num_shards in (2, 4):
    shards = take(make(pack=False, num_shards=num_shards), 20)
    for ours, theirs in zip(shards, whole, strict=True):
      assert not same([ours], [theirs])
      assert sorted(texts([ours])) == sorted(texts([theirs]))


def test_rows_in_any_places():
  """As where a mesh gives a host rows that are not one after the other."""
  whole = take(make(num_shards=4), 3)
  iterator = make(num_shards=4)
  rows = [0, 1, 5]
  iterator.select(rows)
  chosen = [{k: a[rows] for k, a in batch.items()} for batch in whole]
  assert same(take(iterator, 3), chosen)
  # Neither shard 1 nor shard 3 is read.
  assert list(json.loads(iterator.get_state())['shards']) == ['0', '2']


@pytest.mark.parametrize('kwargs', (
    {'pack': True}, {'pack': False}, {'pack': True, **OPEN},
), ids=('packed', 'not packed', 'open rows'))
def test_going_on_with_other_hosts(kwargs):
  hosts = [host(i, 2, **kwargs) for i in range(2)]
  for iterator in hosts:
    take(iterator, 5)
  states = [iterator.get_state() for iterator in hosts]
  rest = joined_rows([take(iterator, 4) for iterator in hosts])
  for count in (1, 4):
    resumed = [host(i, count, **kwargs) for i in range(count)]
    for iterator in resumed:
      iterator.set_state(*states)
    assert same(joined_rows([take(i, 4) for i in resumed]), rest)


def test_positions_of_runs_from_before_there_were_shards():
  iterator = make()
  take(iterator, 5)
  state = json.loads(iterator.get_state())['shards']['0']
  rest = take(iterator, 3)
  resumed = make()
  resumed.set_state(json.dumps(state).encode())
  assert same(take(resumed, 3), rest)


def test_positions_that_do_not_fit():
  with pytest.raises(ValueError, match='DATA_SHARDS = 2, but .* one of 4'):
    make(num_shards=2).set_state(make(num_shards=4).get_state())
  with pytest.raises(ValueError, match=r"no shard 2, only \['0', '1'\]"):
    make(num_shards=4).set_state(host(0, 2).get_state())


@pytest.mark.parametrize('num_shards', (3, 16, 0))
def test_shards_that_do_not_divide_the_batch(num_shards):
  with pytest.raises(
      ValueError,
      match=rf'DATA_SHARDS = {num_shards} does not .* = 8; \[1, 2, 4, 8\] do',
  ):
    make(num_shards=num_shards)


def test_each_row_once_an_epoch():
  batch_list = take(make('tiny_kind', 12, pack=False), 30)
  epochs = [numbers(batch_list[i : i + 10]) for i in (0, 10, 20)]
  assert all(sorted(epoch) == list(range(120)) for epoch in epochs)
  # In another order and with other draws each time.
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
  assert epochs[0] != sorted(epochs[0])
  drawn = [
      dict(zip(epoch, texts(batch_list[i : i + 10]), strict=True))
      for epoch, i in zip(epochs, (0, 10, 20), strict=True)
  ]
  assert 20 < sum(drawn[0][i] != drawn[1][i] for i in range(120)) < 100


def test_shares_and_endless():
  rows = texts(take(make(pack=False, batch_size=20), 90))
  moods = sum(
      bool(re.search('output: (no|yes|negative|positive|sad|happy)$', text))
      for text in rows
  )
  # 60 of 180 rows; for the one that is dropped another is drawn.
  assert moods / len(rows) == pytest.approx(60 / 180, abs=0.002)


def test_arrays():
  batch = next(make(pack=True))
  segments = batch['decoder_segment_ids']
  assert batch['encoder_input_tokens'].shape == (8, 56)
  assert batch['wrong_encoder_input_tokens'].shape == (8, 56)
  assert batch['decoder_target_tokens'].shape == (8, 32)
  assert batch['decoder_loss_weights'].dtype == np.float32
  for side in ('encoder', 'wrong_encoder'):
    tokens = batch[f'{side}_input_tokens']
    ids = batch[f'{side}_segment_ids']
    np.testing.assert_array_equal(tokens > 0, ids > 0)
    np.testing.assert_array_equal(ids.max(axis=1), segments.max(axis=1))
  np.testing.assert_allclose(
      batch['decoder_loss_weights'].sum(axis=1), segments.max(axis=1), 1e-6
  )


@pytest.mark.parametrize('kwargs', ({}, OPEN | {'packed_target_length': 96}),
                         ids=('', 'open rows'))
def test_packing_loses_nothing(kwargs):
  # Twice the lengths, so that rows hold two pairs and more.
  iterator = batches.TrainBatches(
      'tiny_kind', demo_data.vocabulary(), 8, 112, 64, seed=1, pack=True,
      **kwargs,
  )
  packed = collections.Counter()
  for batch in take(iterator, 40):
    for row, ids in zip(
        batch['encoder_input_tokens'], batch['encoder_segment_ids'], strict=True
    ):
      assert ids.max() >= 1
      packed.update(
          tuple(map(int, row[ids == i])) for i in range(1, ids.max() + 1)
      )
  total = sum(packed.values())
  assert total > 40 * 8 * 1.4
  plain = collections.Counter(
      tuple(map(int, row[row > 0]))
      for batch in take(make('tiny_kind', 1, pack=False), total + 100)
      for row in batch['encoder_input_tokens']
  )
  # A few pairs are still in open rows; every one that came is one of those.
  assert packed <= plain


def test_more_open_rows_have_less_padding():
  """Of the same examples, in rows whose sides are full at the same time."""
  shares = []
  for kwargs in ({}, {'open_rows': 64}, {
      'open_rows': 64, 'packed_input_length': 120, 'packed_target_length': 66,
  }):
    some = take(make(**kwargs), 32)
    sides = [
        np.concatenate([batch[f'{side}_segment_ids'] > 0 for batch in some])
        for side in ('encoder', 'wrong_encoder', 'decoder')
    ]
    shares.append(np.concatenate(sides, axis=1).mean())
  assert shares == sorted(shares) and len(set(shares)) == 3, shares
  shape = some[0]['encoder_input_tokens'].shape
  assert shape == some[0]['wrong_encoder_positions'].shape == (8, 120)
  assert some[0]['decoder_target_tokens'].shape == (8, 66)


@pytest.mark.parametrize('kwargs, message', (
    ({'open_rows': 4, 'pack': False}, 'OPEN_ROWS = 4 needs PACK = True'),
    ({'open_rows': 0}, 'OPEN_ROWS = 0 needs .* at least one row'),
    ({'packed_target_length': 31},
     'PACKED_TARGET_LENGTH = 31 .* least TARGET_LENGTH = 32'),
    ({'packed_input_length': 80, 'pack': False},
     'PACKED_INPUT_LENGTH = 80 needs PACK = True'),
), ids=('open rows', 'no rows', 'short', 'not packed'))
def test_bad_packing(kwargs, message):
  with pytest.raises(ValueError, match=message):
    make(**kwargs)


def test_drops_are_counted():
  iterator = make('tiny_mood', 59, pack=False)
  take(iterator, 3)
  # It reads some rows ahead.
  assert 3 <= iterator.counts['tiny_mood']['no label'] <= 3 + 512 // 60 + 2
  assert iterator.counts['tiny_mood']['truncated'] == 0


@pytest.mark.parametrize('num_shards, open_rows', (
    (1, None), (2, None), (4, None), (1, 64), (2, 32),
))
def test_packing_keeps_the_shares_of_the_mixture(
    num_shards, open_rows, tmp_path, monkeypatch
):
  lines = ['name,templates,train,test,eval_split,fields']
  for name, words in (('short', 1), ('long', 14)):
    (tmp_path / f'{name}.yaml').write_text(
        TAKES_AN_OPTION.replace('mine', name)
    )
    (tmp_path / name).mkdir()
    (tmp_path / name / 'train.jsonl').write_text(''.join(
        json.dumps({'text': ' '.join(['film'] * words), 'label': i % 2}) + '\n'
        for i in range(50)
    ))
    lines.append(f'{name},file:{name}.yaml,50,50,test,text label')
  (tmp_path / 'own.csv').write_text('\n'.join(lines))
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(tmp_path / 'own.csv'))
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{tmp_path}/')
  iterator = batches.TrainBatches(
      'short,long', demo_data.vocabulary(), 8, 80, 80, seed=3, pack=True,
      num_shards=num_shards, open_rows=open_rows,
  )
  drawn = collections.Counter()
  for batch in take(iterator, 50):
    for segments in batch['encoder_segment_ids']:
      lengths = np.bincount(segments)[1:]
      drawn.update('long' if n > 25 else 'short' for n in lengths)
  # Of 0.5; what is still in open rows is a part of a percent.
  assert drawn.total() > 800
  share = drawn['short'] / drawn.total()
  assert share == pytest.approx(0.5, abs=0.05), drawn


TAKES_AN_OPTION = """\
dataset: mine
templates:
  1: !Template
    name: Else
    answer_choices: no ||| yes
    jinja: 'Is it {{text}}? |||{% if label == 1 %} yes{% else %} no{% endif %}'
    metadata: !TemplateMetadata {metrics: [Accuracy]}
"""


def own(tmp_path, monkeypatch, labels):
  """A dataset of one's own whose template takes an option for any label."""
  (tmp_path / 'mine.yaml').write_text(TAKES_AN_OPTION)
  (tmp_path / 'mine').mkdir()
  for split in ('train', 'test'):
    (tmp_path / 'mine' / f'{split}.jsonl').write_text(''.join(
        json.dumps({'text': f'film {i}', 'label': label}) + '\n'
        for i, label in enumerate(labels)
    ))
  (tmp_path / 'own.csv').write_text(
      'name,templates,train,test,eval_split,fields\n'
      f'mine,file:mine.yaml,{len(labels)},{len(labels)},test,text label\n'
  )
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(tmp_path / 'own.csv'))
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{tmp_path}/')


def test_rows_without_a_label(tmp_path, monkeypatch):
  own(tmp_path, monkeypatch, ['', 1, None, 0, -1, '-1'])
  train = make('mine', pack=False)
  take(train, 3)
  # Each epoch of 6 rows has 4 without a label, for each of which others are
  # drawn until one has a label: 8 on average.
  drops = train.counts['mine']['no label']
  assert drops >= 3 * 8 and set(train.counts['mine']) <= {
      'no label', 'truncated'
  }
  found = batches.open_candidates('mine', demo_data.vocabulary(), 56, 20)
  candidates = found.read('Else')
  assert candidates.counts['no label'] == 4
  assert sorted(set(candidates.example_id)) == [1, 3]
  assert list(candidates.is_correct) == [False, True, True, False]


def test_training_rows_that_all_lack_a_label(tmp_path, monkeypatch):
  own(tmp_path, monkeypatch, ['', None, -1])
  with pytest.raises(catalog.NoLabels, match="^mine: no row .*'train' has a"):
    make('mine')


def test_nothing_but_drops():
  message = r"tiny_mood: 1000 rows .* dropped: {.*'label too long': \d+"
  with pytest.raises(ValueError, match=message):
    next(batches.TrainBatches(
        'tiny_mood', demo_data.vocabulary(), 4, 3, 32, seed=0
    ))


def test_direct_has_no_wrong_side():
  iterator = make('direct_tiny_mixture', format='direct')
  batch = next(iterator)
  assert batch['encoder_input_tokens'].shape == (8, 56)
  assert not [name for name in batch if name.startswith('wrong_')]


def direct(unlikelihood_weight, **kwargs):
  return make(
      'direct_tiny_mixture', format='direct',
      unlikelihood_weight=unlikelihood_weight, **kwargs,
  )


def test_lambda_adds_wrong_labels_to_direct():
  plain = take(make('direct_tiny_mixture', format='direct', pack=False), 20)
  zero, three = (take(direct(w, pack=False), 20) for w in (0.0, 3.0))
  # Without unlikelihood it is what it was; with it all draws are the same.
  assert same(plain, zero)
  assert same(plain, [
      {k: a for k, a in batch.items() if not k.startswith('wrong_')}
      for batch in three
  ])
  assert three[0].keys() - plain[0].keys() == {
      f'wrong_decoder_{n}'
      for n in ('input_tokens', 'target_tokens', 'loss_weights')
  }
  vocabulary = tokenization.load_vocabulary(demo_data.vocabulary())
  labels = collections.Counter(
      tuple(
          vocabulary.decode(batch[f'{wrong}decoder_target_tokens'][row])
          for wrong in ('', 'wrong_')
      )
      for batch in three for row in range(8)
  )
  assert all(right != wrong for right, wrong in labels)
  # All 12 + 12 of tiny_kind, and 2 a template of tiny_mood.
  assert len(labels) == 24 + 6


def test_right_and_wrong_labels_are_packed_together():
  packed = take(direct(1.0, pack=True), 30)
  sides = {
      'encoder': 'input_tokens', 'decoder': 'target_tokens',
      'wrong_decoder': 'target_tokens',
  }

  def example(batch, row, segment=None):
    """The three sequences of an example; `segment` says which, if packed."""
    found = []
    for side, name in sides.items():
      tokens = batch[f'{side}_{name}'][row]
      if segment:
        tokens = tokens[batch[f'{side}_segment_ids'][row] == segment]
      found.append(tuple(map(int, tokens[tokens > 0])))
    return tuple(found)

  plain = collections.Counter(
      example(batch, row)
      for batch in take(direct(1.0, pack=False), 90) for row in range(8)
  )
  seen = collections.Counter(
      example(batch, row, segment)
      for batch in packed for row in range(8)
      for segment in range(1, batch['decoder_segment_ids'][row].max() + 1)
  )
  assert seen.total() > 30 * 8 * 1.2
  assert seen <= plain
  for side in ('', 'wrong_'):
    np.testing.assert_allclose(
        packed[0][f'{side}decoder_loss_weights'].sum(axis=1),
        packed[0]['decoder_segment_ids'].max(axis=1), 1e-6,
    )


def test_lambda_changes_nothing_where_inputs_are_wrong():
  assert same(take(make(unlikelihood_weight=3.0), 5), take(make(), 5))


def test_bad_rows_are_named(tmp_path):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(tmp_path, patch)
    path = demo_data.local_file(tmp_path, 'tiny_kind', 'train')
    lines = path.read_text().splitlines()
    lines[41] = lines[41].replace('"label": 1', '"label": 9')
    path.write_text('\n'.join(lines) + '\n')
    with pytest.raises(ValueError, match='tiny_kind: train row 42: tiny'):
      take(make('tiny_kind'), 20)


def test_unknown_names():
  with pytest.raises(ValueError, match="'flipped_tiny_mixture'"):
    make('flipped_tiny_mixtur')
  with pytest.raises(ValueError, match="not of the format 'channel'"):
    make('direct_tiny_mixture', format='channel')
  with pytest.raises(ValueError, match="'flip'.*'flipped'"):
    make(format='flip')
  with pytest.raises(ValueError, match="'tokens' is not one of"):
    make(averaging='tokens')


def candidates(name, template, **kwargs):
  return batches.open_candidates(
      name, demo_data.vocabulary(), *LENGTHS, **kwargs
  ).read(template)


def test_candidates_are_complete_and_in_order():
  vocabulary = tokenization.load_vocabulary(demo_data.vocabulary())
  found = candidates('tiny_kind', 'Where')
  rows = demo_data.rows('tiny_kind')['test']
  assert len(found.inputs) == len(found.targets) == 12 * 4
  assert list(found.example_id) == [i for i in range(12) for _ in range(4)]
  assert list(found.option_index) == [0, 1, 2, 3] * 12
  assert list(found.is_correct) == [
      row['label'] == option for row in rows for option in range(4)
  ]
  options = ('magazine', 'shop', 'paper', 'network')
  for number, tokens in enumerate(found.inputs):
    row, option = divmod(number, 4)
    assert vocabulary.decode(tokens) == (
        f'input: {rows[row]["text"]} <extra_id_0> output: {options[option]}'
    )
  assert len(set(map(tuple, found.targets))) == 1
  assert not found.counts


def test_limit_of_candidates():
  sample = candidates('tiny_kind', 'Kind', limit=5)
  rows = sample.example_id[::4]
  assert len(set(rows)) == 5 and len(sample.inputs) == 20
  assert list(rows) == sorted(rows) and max(rows) < 12
  # The same rows in every template, each with all of its options.
  again = candidates('tiny_kind', 'Where', limit=5)
  np.testing.assert_array_equal(again.example_id, np.repeat(rows, 4))
  whole = candidates('tiny_kind', 'Kind')
  chosen = np.isin(whole.example_id, rows)
  assert list(itertools.compress(whole.inputs, chosen)) == list(sample.inputs)
  assert len(candidates('tiny_mood', 'Mood', limit=99).inputs) == 20


def test_counts_of_candidates():
  found = batches.open_candidates(
      'tiny_mood', demo_data.vocabulary(), 16, 32, split='train'
  ).read('Mood')
  assert found.counts == {'no label': 1, 'truncated': 118}
  assert 7 not in found.example_id
  assert set(catalog.dataset('tiny_mood').load_templates()) == {
      'Enjoy', 'Mood', 'Guess'
  }
