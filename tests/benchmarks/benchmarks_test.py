"""The sides of train_step.py, rank_step.py, encode_once.py agree."""

import argparse
import dataclasses
import importlib
import json
import pathlib

import demo_data
from flipped_t5x.precompile import flops
from flipped_t5x.prompts import arrays
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import tensors
import numpy as np
import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]
OBJECTIVE = {
    'unlikelihood_weight': 3.0, 'eps': 0.01, 'learning_rate': 1e-3,
    'max_gradient_norm': 0.5,
}
# As wide as Optax's Adafactor has a matrix before it factors its moments.
NETWORK = dataclasses.replace(
    demo_data.NETWORK, emb_dim=128, num_heads=2, head_dim=64, mlp_dim=128,
    dropout_rate=0.0,
)


@pytest.fixture(scope='module')
def load():
  """Name -> a module of benchmarks/, and theirs of others, too."""
  folder = pathlib.Path(__file__).parents[2] / 'benchmarks'
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(folder))
    yield importlib.import_module


@pytest.fixture(scope='module', autouse=True)
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory, make_params):
  """Weights in Hugging Face's form."""
  path = tmp_path_factory.mktemp('weights')
  params = make_params(NETWORK, seed=5)
  hf_checkpoints.write(path, NETWORK, tensors.from_arrays(params), None)
  return path


@pytest.fixture
def recipe(load):
  return load('rows').Recipe(NETWORK, 112, 64, OBJECTIVE)


@pytest.fixture
def batches(load, recipe):
  return load('rows').packed_pairs(
      demo_data.MIXTURE, demo_data.vocabulary(), recipe, 4, 3
  )


def test_unpacked_pairs_are_those_of_the_rows(load, recipe, batches):
  rows = load('rows')
  pairs = rows.unpacked(batches[0])
  assert len(pairs) > 4  # Or nothing would be packed.
  for name, tokens in (
      ('inputs', 'encoder_input_tokens'),
      ('wrong_inputs', 'wrong_encoder_input_tokens'),
      ('targets', 'decoder_target_tokens'),
  ):
    joined = [token for pair in pairs for token in pair[name]]
    np.testing.assert_array_equal(
        joined, batches[0][tokens][batches[0][tokens] > 0]
    )
  for pair in pairs:
    assert pair['inputs'] != pair['wrong_inputs']
    assert pair['targets'][-1] == pair['inputs'][-1] == 1


def test_losses_and_updates_are_the_same(load, folder, batches):
  pairs = [load('rows').unpacked(batch) for batch in batches]
  ours = load('ours').Trainer(folder, 'float32', **OBJECTIVE, microbatches=2)
  peers = {
      microbatches: load('peer_t5').Trainer(
          folder, 'float32', 1, **OBJECTIVE, microbatches=microbatches
      )
      for microbatches in (1, 3)
  }
  before, = ours.loss(batches[0])
  for peer in peers.values():
    assert peer.loss(pairs[0]) == pytest.approx([before], rel=1e-5)
  # Three updates, so that clipping and both of Adafactor's moments show.
  for batch, some in zip(batches, pairs, strict=True):
    _, shapes = ours.run([batch])
    assert shapes == [(8, 8, 112, 64)]
    after, = ours.loss(batches[0])
    for microbatches, peer in peers.items():
      _, shapes = peer.run([some])
      assert len(shapes) == microbatches
      assert sum(rows for rows, *_ in shapes) == 2 * len(some)
      assert peer.loss(pairs[0]) == pytest.approx([after], rel=1e-4)
  assert abs(after - before) > 0.1


def test_scores_are_the_same(load, folder, recipe):
  ours, peer_t5 = load('ours'), load('peer_t5')
  tasks = load('rows').candidates(
      ','.join(demo_data.ROWS), demo_data.vocabulary(), recipe, 5, 1
  )
  assert [len(task['inputs']) for task in tasks.values()] == [10, 20]
  expected = ours.Ranker(folder, 'float32', batch_size=4)
  for rows in (1, 3, 16):
    peer = peer_t5.Ranker(folder, 'float32', 1, rows=rows)
    scores = peer.scores([*tasks.values()])
    np.testing.assert_allclose(
        expected.scores([*tasks.values()]), scores, atol=1e-3
    )
    assert len(set(scores)) == 30
    _, shapes = peer.run([tasks['tiny_kind']])
    # Four labels, one after another, of five rows.
    assert [n for n, *_ in shapes] == {
        1: [1] * 20, 3: [3] * 4 + [2] * 4, 16: [5] * 4
    }[rows]
  first = load('rows').first(tasks['tiny_kind'], 2)
  assert len(first['inputs']) == 8 and len(set(first['rows'])) == 2


@pytest.mark.t5x
def test_t5x_sides(load, folder, recipe, batches):
  ours, rows = load('ours'), load('rows')
  settings = OBJECTIVE | {'microbatches': 2}
  trainers = [
      side(folder, 'float32', **settings)
      for side in (ours.Trainer, ours.T5xTrainer)
  ]
  tasks = [*rows.candidates(
      'tiny_kind', demo_data.vocabulary(), recipe, 5, 1
  ).values()]
  np.testing.assert_allclose(*(t.loss(batches[0]) for t in trainers), rtol=1e-5)
  losses = []
  for trainer in trainers:
    trainer.run(batches[:1])
    losses.append(trainer.loss(batches[0]))
  # T5X averages its microbatches, however many examples they have.
  np.testing.assert_allclose(*losses, rtol=1e-2)
  np.testing.assert_allclose(
      ours.Ranker(folder, 'float32', batch_size=4).scores(tasks),
      ours.T5xRanker(
          folder, 'float32', input_length=112, target_length=64
      ).scores(tasks),
      atol=1e-3,
  )


def test_train_step_end_to_end(load, recipe, monkeypatch, tmp_path, capsys):
  sides, rows = load('sides'), load('rows')
  train_step = load('train_step')
  monkeypatch.setattr(rows, 'recipe', lambda size: recipe)
  monkeypatch.setattr(sides, 'CPU_SIZES', (64,))
  monkeypatch.setenv('OMP_NUM_THREADS', '1')
  path = tmp_path / 'results.json'
  monkeypatch.setattr('sys.argv', [
      'train_step.py', '--mixture', demo_data.MIXTURE, '--vocabulary',
      str(demo_data.vocabulary()), '--batch_size', '4', '--rounds', '2',
      '--threads', '1', '--sides', 'ours,peer', '--json', str(path),
  ])
  train_step.main()
  results = json.loads(path.read_text())
  assert [*results['sides']] == ['ours', 'peer']
  assert len(results['rounds']) == 2
  faster = []
  for result in results['rounds']:
    ours, peer = result['ours'], result['peer']
    assert ours['examples'] == peer['examples'] > 4
    assert ours['needed'] == peer['needed'] < min(
        ours['computed'], peer['computed']
    )
    faster.append(peer['seconds'] / ours['seconds'])
    for side in (ours, peer):
      assert side['peak'] > 0
      assert 50e6 < side['memory'] < 8e9
  assert results['ours_is_faster_by']['peer']['max'] == pytest.approx(
      max(faster)
  )
  assert 'memory, GiB' in capsys.readouterr().out


def test_rank_step_end_to_end(load, recipe, monkeypatch, capsys):
  sides, rows = load('sides'), load('rows')
  rank_step = load('rank_step')
  monkeypatch.setattr(rows, 'recipe', lambda size: recipe)
  monkeypatch.setattr(sides, 'CPU_SIZES', (64,))
  monkeypatch.setenv('OMP_NUM_THREADS', '1')
  results = rank_step.measure(argparse.Namespace(
      size='tiny', datasets='tiny_kind', vocabulary=demo_data.vocabulary(),
      rows=4, templates=None, dtype='float32', batch_size=4,
      length_multiple=8, peer_prompts='2', threads=1, rounds=1,
      sides='ours,peer',
  ))
  assert [*results['sides']] == ['ours', 'peer, 2 prompts']
  assert results['datasets'].keys() == {'tiny_kind'}
  ours, peer = results['rounds'][0]['tiny_kind'].values()
  assert ours['examples'] == peer['examples'] == 4 * 2  # In two templates.
  assert 0 < ours['needed'] <= ours['computed']
  assert ours['needed'] <= peer['needed'] <= peer['computed']


def test_prompts_share_inputs(load, recipe):
  """By hand: a row in two templates, in one of them beside another."""
  rows, rank_step = load('rows'), load('rank_step')
  task = rows._task([
      arrays.Candidates(
          inputs, targets, np.array(example, np.int32),
          np.array(option, np.int32), np.zeros(len(inputs), bool), {},
      )
      for inputs, targets, example, option in (
          ([[5, 1], [6, 1]], [[7, 8, 1]] * 2, [3, 3], [0, 1]),
          ([[5, 1], [6, 1], [9, 1]], [[4, 1]] * 3, [3, 3, 4], [0, 1, 0]),
      )
  ])
  assert task['rows'] == [3, 3, 3, 3, 4]
  assert task['prompts'] == [0, 0, 1, 1, 2]
  assert rows.first(task, 1)['prompts'] == [0, 0, 1, 1]
  once, plain = (
      rows.forward(recipe.network, rank_step._lengths(task, once=o))
      for o in (True, False)
  )
  # Two of five inputs need not be read again.
  assert plain - once == 2 * flops.encoder(recipe.network, 2).total


def test_encode_once_end_to_end(load, recipe, monkeypatch):
  monkeypatch.setattr(load('rows'), 'recipe', lambda size: recipe)
  results = load('encode_once').measure(argparse.Namespace(
      size='tiny', dataset='tiny_kind', vocabulary=demo_data.vocabulary(),
      rows=3, templates=2, methods='flipped,direct', dtype='float32',
      batch_size=4, rounds=1,
  ))
  flipped, direct = results['methods'].values()
  assert flipped['candidates'] == direct['candidates'] >= 3 * 4
  assert flipped['encoder_passes'] <= flipped['candidates']
  # One prompt for the four options.
  assert direct['encoder_passes'] == direct['candidates'] / 4
  assert direct['faster_by']['median'] > 0


def test_sides_that_differ_or_fail(load):
  sides = load('sides')
  sides.check_equal({'ours': [1.0, 2.0], 'peer': [1.0, 2.0005]}, 1e-3)
  for wrong in (2.01, float('nan')):
    with pytest.raises(RuntimeError, match='ours and peer differ .* number 2'):
      sides.check_equal({'ours': [1.0, 2.0], 'peer': [1.0, wrong]}, 1e-3)
  with pytest.raises(ValueError, match="--sides them: .'them'"):
    sides.installed({'ours': ('ours.Trainer', {})}, 'them')
  with pytest.raises(RuntimeError, match='(?s)mine: Traceback.*no-such-folder'):
    sides.Side(
        'mine', 'ours.Ranker', folder=pathlib.Path('no-such-folder'),
        dtype='float32', batch_size=1,
    )
