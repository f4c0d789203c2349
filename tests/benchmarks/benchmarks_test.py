"""Benchmarks: their sides agree, and what they measure is kept."""

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
import tiny_run

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
  monkeypatch.setattr(rows, 'recipe', lambda size, lora: recipe)
  monkeypatch.setattr(sides, 'CPU_SIZES', (64,))
  monkeypatch.setenv('OMP_NUM_THREADS', '1')
  path = tmp_path / 'results.json'
  argv = [
      'train_step.py', '--mixture', demo_data.MIXTURE, '--vocabulary',
      str(demo_data.vocabulary()), '--batch_size', '4', '--rounds', '1',
      '--threads', '1', '--sides', 'ours,peer', '--json', str(path),
  ]
  monkeypatch.setattr('sys.argv', argv)
  train_step.main()
  first, = json.loads(path.read_text())['rounds']
  assert 'round 1 of 1: peer, ' in capsys.readouterr().err
  # The same command with more rounds goes on.
  monkeypatch.setattr('sys.argv', [*argv, '--rounds', '2'])
  train_step.main()
  results = json.loads(path.read_text())
  assert results['rounds'][0] == first
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


def test_rank_step_end_to_end(load, recipe, monkeypatch, tmp_path):
  sides, rows = load('sides'), load('rows')
  rank_step = load('rank_step')
  monkeypatch.setattr(rows, 'recipe', lambda size: recipe)
  monkeypatch.setattr(sides, 'CPU_SIZES', (64,))
  monkeypatch.setenv('OMP_NUM_THREADS', '1')
  path = tmp_path / 'results.json'
  results = rank_step.measure(argparse.Namespace(
      size='tiny', datasets='tiny_kind', vocabulary=demo_data.vocabulary(),
      rows=4, templates=None, dtype='float32', batch_size=4,
      length_multiple=8, peer_prompts=[2], threads=1, rounds=1,
      sides='ours,ours int8,peer', apart=True, scan_layers=True, weights=None,
      json=path,
  ))
  names = ['ours', 'ours int8', 'peer, 2 prompts']
  assert [*results['sides']] == names
  assert results['datasets'].keys() == {'tiny_kind'}
  differences = results['differences']
  # In int8 the scores are about the same, but not the same.
  assert differences['ours'] == 0 < differences['peer, 2 prompts'] < 1e-3
  assert 1e-3 < differences['ours int8'] < 1
  results, = json.loads(path.read_text())['rounds']
  ours, int8, peer = (results[f'{name}, tiny_kind'] for name in names)
  assert ours['examples'] == peer['examples'] == 4 * 2  # In two templates.
  assert 0 < ours['needed'] <= ours['computed'] == int8['computed']
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
      batch_size=4, rounds=1, json=None,
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
        'mine', 'ours.Ranker', source=pathlib.Path('no-such-folder'),
        dtype='float32', batch_size=1,
    )


def test_adapters_alone_are_trained(load, recipe, batches):
  """Of int8 weights that are drawn, not read."""
  ours, rows = load('ours'), load('rows')
  trainer = ours.Trainer(
      dataclasses.replace(
          NETWORK, lora_rank=4, lora_alpha=8.0, lora_targets=('query', 'wo'),
      ),
      'float32', **OBJECTIVE, microbatches=2, weights_dtype='int8',
      scan_layers=True, remat_policy='full',
  )
  numbers = trainer.parameters()
  # Query of three attention blocks, the last matrix of two layers.
  assert numbers['trained'] == 4 * (3 * (128 + 128) + 2 * (128 + 128))
  assert numbers['all'] > 20 * numbers['trained']
  before, = trainer.loss(batches[0])
  trainer.run(batches)
  after, = trainer.loss(batches[0])
  assert 1e-3 < abs(after - before) < 10
  # As large as they are in a network that is initialized.
  drawn = load('random_weights').tensors(NETWORK)
  assert rows.recipe('xxl', lora=True).network.lora_rank == 8
  for name, deviation in (
      ('token_embedder/embedding', 1.0),
      ('encoder/layers_0/attention/key/kernel', 128**-0.5),
      ('encoder/layers_0/attention/query/kernel', (128 * 64) ** -0.5),
  ):
    values = drawn[name].read().astype(np.float32)
    assert values.std() == pytest.approx(deviation, rel=0.05)


def test_record_goes_on(load, tmp_path, capsys):
  record = load('record')
  arguments = argparse.Namespace(
      size='small', rounds=2, json=tmp_path / 'results.json'
  )
  kept = record.Record(arguments)
  kept.facts['losses'] = {'ours': [2.5]}
  kept.add(0, 'ours', {'seconds': 1.5}, 1.5)
  assert capsys.readouterr().err.endswith('round 1 of 2: ours, 1.5 s\n')
  again = record.Record(arguments)
  assert again.has(0, 'ours') and not again.has(0, 'peer')
  assert not again.is_done(['ours'])
  again.add(1, 'ours', {'seconds': 2.5}, 2.5)
  again.write({'sides': 1})
  done = record.Record(arguments)
  assert done.is_done(['ours']) and not done.is_done(['ours', 'peer'])
  assert [r['ours']['seconds'] for r in done.rounds] == [1.5, 2.5]
  assert done.facts == {'sides': 1}
  with pytest.raises(ValueError, match=r'other settings \(--size small\)'):
    record.Record(argparse.Namespace(**vars(arguments) | {'size': 'xl'}))
  arguments.json.write_text('[1]')
  with pytest.raises(ValueError, match='has no rounds of a benchmark'):
    record.Record(arguments)


@pytest.mark.parametrize('name, argv', [
    ('encode_once', ['--rounds=0']),
    ('few_rows', ['--rows=16,0']),
    ('few_rows', ['--test_rows=0']),
    ('int8', ['compare', '--rows=0']),
    ('numerics', ['--batch_size=-4']),
    ('packing', ['--batches=0']),
    ('rank_step', ['--peer_prompts=0']),
    ('rank_step', ['--rounds=0']),
    ('start', ['--model=none', '--rounds=0']),
    ('train_step', ['--threads=0']),
    ('train_step', ['--rounds=1.5']),
])
def test_nothing_to_measure_is_refused(load, monkeypatch, capsys, name, argv):
  monkeypatch.setattr('sys.argv', [name, *argv])
  with pytest.raises(SystemExit, match='2'):
    load(name).main()
  flag, value = argv[-1].split('=')
  *_, value = value.split(',')
  assert f'argument {flag}: {value}: an' in capsys.readouterr().err


def test_microbatches_that_do_not_divide(load, monkeypatch):
  monkeypatch.setattr('sys.argv', ['', '--batch_size=5', '--microbatches=2'])
  with pytest.raises(SystemExit, match=r'--microbatches 2 .* --batch_size 5'):
    load('train_step').main()


def test_int8_compares_types(load, make_params, tmp_path):
  run = tiny_run.write(tmp_path / 'run', make_params(demo_data.NETWORK, seed=3))
  path = tmp_path / 'results.json'
  results = load('int8').compare_types(argparse.Namespace(
      model=str(run), vocabulary=None, mixture='tiny_kind', format='flipped',
      rows=3, dtypes='float32,int8', batch_size=8, length_multiple=16,
      json=path,
  ))
  assert json.loads(path.read_text()) == results
  exact, rounded = results
  assert exact['dtype'] == 'float32' and exact['same_best'] == 1
  assert exact['prompts'] == rounded['prompts'] == 3 * 2  # In two templates.
  assert exact['largest_difference'] == exact['mean_difference'] == 0
  assert 0 < rounded['mean_difference'] < rounded['largest_difference'] < 0.5
  assert 0 <= rounded['accuracy'] <= 1 and rounded['same_best'] >= 0.5


@pytest.mark.process
def test_int8_memory(load, tmp_path):
  path = tmp_path / 'results.json'
  write, convert, *ranks = load('int8').measure_memory(argparse.Namespace(
      size='tiny', folder=tmp_path, dtypes='int8,bfloat16', keep=False,
      vocabulary=str(demo_data.vocabulary()), json=path,
  ))
  assert json.loads(path.read_text()) == [write, convert, *ranks]
  # Both embeddings are most of it; in int8 each row has a scale as well.
  assert write['parameters'] > 2 * 32128 * 16
  assert write['bytes'] == 2 * write['parameters']
  assert convert['bytes'] < 0.7 * write['bytes']
  assert convert['largest'] == 2 * 32128 * 16
  assert [rank['dtype'] for rank in ranks] == ['int8', 'bfloat16']
  for rank in ranks:
    assert rank['best'] in ('Yes', 'No')
    assert 5e7 < rank['load_peak'] <= rank['peak'] < 4e9
  assert [file.name for file in tmp_path.iterdir()] == ['results.json']


@pytest.mark.process
def test_start_end_to_end(
    load, tiny_run, monkeypatch, tmp_path, capsys  # The fixture, a run.
):
  start = load('start')
  root = pathlib.Path(start.__file__).parents[1]
  monkeypatch.chdir(root)
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'flipped_t5x').symlink_to(root / 'flipped_t5x')

  def run(model, *flags):
    monkeypatch.setattr('sys.argv', ['start', f'--model={model}', *flags])
    start.main()
    return capsys.readouterr().out

  flags = (f'--beside={other}', '--rounds=1', f'--json={tmp_path / "x.json"}')
  table = run(tiny_run, *flags)
  assert table.count('cold') == table.count('warm') == table.count('%') == 2
  results, = json.loads((tmp_path / 'x.json').read_text())['rounds']
  assert len(results) == 2
  for found in results.values():
    assert list(found) == ['cold', 'warm']
    assert all(0.2 < t < 60 for times in found.values() for t in times)
  assert run(tiny_run, *flags) == table  # Of the file.
  with pytest.raises(SystemExit, match='start.py: .*no checkpoint'):
    run(tmp_path, '--rounds=1')
  with pytest.raises(SystemExit, match='2'):
    run(tiny_run, f'--beside={root}')
  assert 'is this checkout' in capsys.readouterr().err
  # It is the other checkout that is run.
  (tmp_path / 'flipped_t5x').mkdir()
  (tmp_path / 'flipped_t5x' / '__init__.py').write_text('raise Exception("me")')
  with pytest.raises(SystemExit, match='(?s)start.py: .*Exception: me'):
    run(tiny_run, f'--beside={tmp_path}', '--rounds=1')


def test_packing_by_settings(load, recipe, monkeypatch):
  monkeypatch.setattr(load('rows'), 'recipe', lambda size: recipe)
  usual, more_rows, longer, _ = load('packing').measure(argparse.Namespace(
      size='tiny', mixture=demo_data.MIXTURE, batch_size=4, batches=30,
      input_length=112, target_length=64,
      vocabulary=demo_data.vocabulary(),
  ))
  assert usual['open_rows'] == 4 and usual['target_length'] == 64
  assert more_rows['open_rows'] == 64 and longer['target_length'] == 96
  assert usual['pairs_per_row'] < more_rows['pairs_per_row']
  for found in (usual, more_rows, longer):
    assert 0.3 < found['needed'] < max(found['encoder'], found['decoder']) < 1
