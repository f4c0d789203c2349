"""Reports of what T5X and SeqIO write."""

import json
import shutil

import demo_data
from etils import epath
import evaluated_runs
from flipped_t5x import gin_config
from flipped_t5x import ranking
from flipped_t5x import t5x_infer
from flipped_t5x.cli import main
from flipped_t5x.evaluation import summary
from flipped_t5x.evaluation import t5x_results
from flipped_t5x.reports import report
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
import numpy as np
import pytest
import seqio

STEP = 20
LENGTHS = {'inputs': 56, 'targets': 20}
CONFIG = r"""from __gin__ import dynamic_registration
import __main__ as infer_script

# Macros:
# ==============================================================================
CHECKPOINT_PATH = \
    'gs://bucket/a_long_name_of_a_run/checkpoint_20'
FORMAT = 'flipped'
INPUT_LENGTH = 56
LAMBDA = 3.0
MIXTURE = 'tiny'
MODEL = @models.FlippedModel()
SPLIT = 'eval'
TASK_FEATURE_LENGTHS = \
    {'inputs': %INPUT_LENGTH,
     'targets': %TARGET_LENGTH}

# Parameters for infer_script.infer:
# ==============================================================================
infer_script.infer.mode = 'score'
"""


def score(example_id, option_index):
  """Invented scores of a candidate, with ties now and then."""
  return float(-((example_id * 7 + option_index * 5) % 3))


@pytest.fixture(scope='module', autouse=True)
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(tmp_path_factory.mktemp('data'), patch)
    patch.setenv('FLIPPED_T5X_VOCABULARY', str(demo_data.vocabulary()))
    yield


@pytest.fixture(scope='module')
def tasks():
  return [
      seqio.get_mixture_or_task(f'flipped_{name}_score_{template}')
      for name in demo_data.ROWS
      for template in catalog.dataset(name).template_names()
  ]


@pytest.fixture(scope='module')
def expected():
  """What the embedded engine makes of the same scores."""
  results = {}
  for name in sorted(demo_data.ROWS):
    ranked, options = {}, {}
    for template in sorted(catalog.dataset(name).template_names()):
      found = batches.open_candidates(
          name, demo_data.vocabulary(), *LENGTHS.values()
      ).read(template)
      ranked[template] = ranking.rank(
          [score(*p) for p in zip(
              found.example_id, found.option_index, strict=True
          )],
          found.example_id, found.option_index, found.is_correct,
      )
      options[template] = evaluated_runs.options_of(found)
    results[name] = summary.summarize(
        ranked, {key: {} for key in ranked}, options
    )
  return results


@pytest.fixture(scope='module')
def inferred(tmp_path_factory, tasks):
  """A folder of `t5x.infer`, of three shards."""
  folder = tmp_path_factory.mktemp('inferred')
  (folder / 'config.gin').write_text(CONFIG)
  for task in tasks:
    for i in range(3):
      chunks = folder / f'tmp-{task.name}-{i:05}-of-00003'
      chunks.mkdir()
      name = f'{task.name}-score.jsonl-{i:05}-of-00003'
      dataset = task.get_dataset(
          LENGTHS, 'eval', shuffle=False, shard_info=seqio.ShardInfo(i, 3)
      )
      scores = [
          score(int(c['example_id']), int(c['option_index']))
          for c in dataset.as_numpy_iterator()
      ]
      t5x_infer.write_candidates(
          str(chunks / f'{name}-chunk00000'), (scores, {}), dataset, 'score',
          checkpoint='gs://bucket/a_long_name_of_a_run/checkpoint_20',
      )
      t5x_infer.merge_examples(str(folder), name, str(chunks), STEP)
      shutil.rmtree(chunks)
      (folder / f'{name}.COMPLETED').write_text('')
  return folder


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory, tasks):
  """A folder of `t5x.eval`, of the steps 10 and 20."""
  folder = tmp_path_factory.mktemp('evaluated')
  (folder / 'config.gin').write_text(CONFIG.replace('infer', 'eval'))
  (folder / 'inference_eval').mkdir()
  for task in tasks:
    evaluator = seqio.Evaluator(
        task.name, seqio.EncDecFeatureConverter(pack=False), 'eval',
        use_cached=False, sequence_length=LENGTHS,
        logger_cls=[seqio.JSONLogger],
        log_dir=str(folder / 'inference_eval'),
    )
    places = [
        (int(c['example_id']), int(c['option_index']))
        for c in task.get_dataset(
            LENGTHS, 'eval', shuffle=False
        ).as_numpy_iterator()
    ]
    for step in (10, STEP):

      def score_all(dataset, unused_lengths=None, step=step, places=places):
        indices = [int(i) for i, _ in dataset.enumerate().as_numpy_iterator()]
        sign = 1 if step == STEP else -1
        return [(i, np.float32(sign * score(*places[i]))) for i in indices]

      metrics, _ = evaluator.evaluate(
          compute_metrics=True, score_fn=score_all, step=step
      )
      metrics.result()
  return folder


@pytest.fixture
def copies(inferred, evaluated, tmp_path):
  shutil.copytree(inferred, tmp_path / 'inferred')
  shutil.copytree(evaluated, tmp_path / 'evaluated')
  return tmp_path


def without_what_t5x_lacks(task):
  for values in task['templates'].values():
    assert values.pop('counts') in (None, {})
  return {k: v for k, v in task.items() if k != 'data'}


@pytest.mark.slow
@pytest.mark.parametrize('which', ('inferred', 'evaluated'))
def test_results_are_the_embedded_engines(which, copies, expected, capsys):
  folder = copies / which
  assert main.main(['report', str(folder)]) == 0
  shown = capsys.readouterr().out
  results = json.loads((folder / 'results.json').read_text())
  assert list(results['tasks']) == list(expected)
  for name, task in results['tasks'].items():
    theirs = json.loads(json.dumps(expected[name]))
    assert without_what_t5x_lacks(task) == without_what_t5x_lacks(theirs)
  assert any(t['ties'] for t in results['tasks'].values())
  assert results['step'] == STEP and results['mixture'] == 'tiny'
  assert 'step 20, eval split' in shown
  text = (folder / 'report.md').read_text()
  for name, task in results['tasks'].items():
    accuracy = f'{task["accuracy"]["mean"]:.3f}'
    assert name in shown and accuracy in shown
    assert f'### {name}' in text and accuracy in text
    assert all(f'| {t} |' in text for t in task['templates'])
  # The macros of the run, and nothing about a training that is not there.
  assert '| LAMBDA | `3.0` |' in text
  assert '| CHECKPOINT_PATH | `gs://bucket/a_long_name_of_a_run' in text
  assert 'losses.png' not in text and '## Training' not in text
  assert (folder / 'accuracy.png').read_bytes().startswith(b'\x89PNG')
  # Again, from the files, not from what was made of them.
  (folder / 'results.json').write_text('{}')
  report.write(folder)
  assert json.loads((folder / 'results.json').read_text())['step'] == STEP


def test_macros():
  assert gin_config.macros_of(CONFIG) == {
      'CHECKPOINT_PATH': 'gs://bucket/a_long_name_of_a_run/checkpoint_20',
      'FORMAT': 'flipped',
      'INPUT_LENGTH': 56,
      'LAMBDA': 3.0,
      'MIXTURE': 'tiny',
      'MODEL': '@models.FlippedModel()',
      'SPLIT': 'eval',
      'TASK_FEATURE_LENGTHS': (
          "{'inputs': %INPUT_LENGTH,\n     'targets': %TARGET_LENGTH}"
      ),
  }


KIND = 'flipped_tiny_kind_score_Kind'
SHARD = f'{KIND}-score.jsonl-00001-of-00003'


def change(path, **values):
  """Changes the last line of a file of JSON lines."""
  *lines, last = path.read_text().splitlines()
  lines.append(json.dumps(json.loads(last) | values))
  path.write_text('\n'.join(lines) + '\n')


def to_direct(path):
  for shard in list(path.parent.glob(f'{KIND}-*')):
    shutil.copy(shard, path.parent / shard.name.replace('flipped', 'direct'))


def empty(path):
  for shard in path.parent.glob(f'{KIND}-*'):
    shard.write_text('')


def test_majority_goes_by_the_text(tmp_path):
  """In multiple choice, the right option may always have the same number."""
  path = tmp_path / f'{KIND}-score.jsonl-00000-of-00001'
  texts = [['a', 'b'], ['c', 'b'], ['d', 'e'], ['b', 'f']]
  path.write_text(''.join(
      json.dumps({
          'task': 'sciq', 'template': 'A', 'example_id': i, 'options': options,
          'scores': [0, -1], 'prediction': 0, 'gold': 1, 'tied': False,
          'step': 3,
      }) + '\n'
      for i, options in enumerate(texts)
  ))
  path.with_name(f'{path.name}.COMPLETED').write_text('')
  found = t5x_results.read(epath.Path(tmp_path))['tasks']['sciq']
  assert found['majority_accuracy'] == 0.5  # Always b; it went by number: 1.0.
  assert found['accuracy']['mean'] == 0


@pytest.mark.slow
@pytest.mark.parametrize('damage, message', (
    (lambda p: p.unlink(), f'{SHARD} is missing'),
    (lambda p: (p.parent / f'{SHARD}.COMPLETED').unlink(),
     f'{SHARD}.COMPLETED is missing'),
    (lambda p: [f.unlink() for f in p.parent.glob(f'{SHARD}*')],
     f'{SHARD} is missing'),
    (lambda p: p.parent.joinpath(f'{p.name}.COMPLETED').rename(
        p.parent / f'tmp-{KIND}-00001-of-00003'
    ), f'tmp-{KIND}-00001-of-00003: t5x.infer has not finished'),
    (lambda p: p.rename(str(p).replace('of-00003', 'of-00002')),
     f'{KIND} has files of 00002 and of 00003 shards'),
    (lambda p: change(p, step=10), 'different checkpoints: .*20.*, .*10'),
    (lambda p: change(p, checkpoint='c'), 'different checkpoints'),
    (lambda p: change(p, example_id=0), f'{KIND}: example 0 appears twice'),
    (lambda p: p.write_text(p.read_text()[:-3]), f'{SHARD}, line 4: not JSON'),
    (empty, f'{KIND}: no row fits'),
    (to_direct, '"Kind" appears twice'),
))
def test_a_folder_of_infer_that_is_not_whole(damage, message, copies, capsys):
  folder = copies / 'inferred'
  damage(folder / SHARD)
  assert main.main(['report', str(folder)]) == 1
  with pytest.raises(ValueError, match=message):
    t5x_results.read(folder)
  assert str(folder) in capsys.readouterr().err
  assert not (folder / 'report.md').exists()


def test_an_inference_that_was_repeated(copies):
  folder = copies / 'inferred'
  whole = t5x_results.read(folder)
  for path in list(folder.glob('*.COMPLETED')):
    task, shard = path.name.removesuffix('.COMPLETED').split('-score.jsonl-')
    (folder / f'tmp-{task}-{shard}').mkdir()
  assert t5x_results.read(folder) == whole


def candidate(example_id, option_index, score):
  """A line of `inference_eval`; option 1 is right."""
  return {
      'score': score,
      'input': {
          'task': 'mood', 'template': 'Mood', 'example_id': example_id,
          'option_index': option_index, 'num_options': 2,
          'is_correct': option_index == 1, 'option': 'bad good'.split()[
              option_index
          ],
      },
  }


def write_lines(path, lines):
  path.parent.mkdir(exist_ok=True)
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


# Example 0 is right, 1 is wrong, and in 2 both options score the same.
CANDIDATES = [
    candidate(0, 0, -2.0), candidate(0, 1, -1.0),
    candidate(1, 0, -1.0), candidate(1, 1, -3.0),
    candidate(2, 0, -1.5), candidate(2, 1, -1.5),
]


def check_by_hand(results):
  assert list(results['tasks']) == ['mood'] and results['step'] == 30
  template = results['tasks']['mood']['templates']['Mood']
  assert template['accuracy'] == pytest.approx(1 / 3)
  assert template['confusion'] == [[0, 0], [2, 1]]
  assert template['examples'] == 3 and template['ties'] == 1
  assert template['counts'] is None
  assert 'calibration' not in results['tasks']['mood']


def test_eval_by_hand(tmp_path):
  folder = tmp_path / 'inference_eval'
  write_lines(folder / 'x-000030.jsonl', CANDIDATES)
  write_lines(folder / 'x-000040.jsonl', CANDIDATES[:2])
  write_lines(
      folder / 'x-metrics.jsonl',
      [{'step': 30, 'examples': 3}, {'step': 40, 'examples': 1}],
  )
  assert t5x_results.found_in(tmp_path)
  (folder / 'x-000040.jsonl').unlink()  # A step that is not complete.
  check_by_hand(t5x_results.read(tmp_path))
  write_lines(folder / 'x-000030.jsonl', CANDIDATES[:4])
  with pytest.raises(ValueError, match='2 examples; x-metrics.jsonl says 3'):
    t5x_results.read(tmp_path)


def test_infer_by_hand(tmp_path):
  examples = t5x_infer.rank_candidates(
      {**line['input'], 'score': line['score']} for line in CANDIDATES
  )
  for shard, lines in enumerate((examples[2:], examples[:2])):
    name = f'x-score.jsonl-{shard:05}-of-00002'
    write_lines(tmp_path / name, [
        line | {'checkpoint': 'c', 'step': 30} for line in lines
    ])
    (tmp_path / f'{name}.COMPLETED').touch()
  (tmp_path / 'config.gin').write_text(CONFIG)
  results = t5x_results.read(tmp_path)
  check_by_hand(results)
  assert (results['mixture'], results['format']) == ('tiny', 'flipped')
  assert results['tasks']['mood']['data'] == {'split': 'eval'}
  (tmp_path / f'{name}.COMPLETED').unlink()
  with pytest.raises(ValueError, match=f'{name}.COMPLETED is missing'):
    t5x_results.read(tmp_path)


def test_a_run_that_has_just_begun(tmp_path):
  (tmp_path / f'tmp-{KIND}-00000-of-00001').mkdir()
  with pytest.raises(ValueError, match='has not finished'):
    report.write(tmp_path)


def cut(path):
  path.write_text(''.join(path.read_text().splitlines(True)[:-1]))


def cut_example(path):
  path.write_text(''.join(path.read_text().splitlines(True)[:-4]))


@pytest.mark.slow
@pytest.mark.parametrize('damage, message', (
    (cut, 'example 11: an option is missing'),
    (cut_example, f'11 examples; {KIND}-metrics.jsonl says 12 for step 20'),
    (lambda p: p.write_text(p.read_text()[:-3]), 'line 48: not JSON'),
    (lambda p: p.write_text(p.read_text().replace('"option"', '"other"')),
     "line 1: 'option' is a required property"),
    (lambda p: [f.unlink() for f in p.parent.glob(f'{KIND}-0*')],
     f'no step has a TASK-STEP.jsonl of every .*{KIND}.*write_n_results'),
    (lambda p: [f.unlink() for f in p.parent.glob('*.jsonl')], 'no step'),
))
def test_a_folder_of_eval_that_is_not_whole(damage, message, copies):
  folder = copies / 'evaluated'
  damage(folder / 'inference_eval' / f'{KIND}-000020.jsonl')
  with pytest.raises(ValueError, match=message):
    t5x_results.read(folder)


@pytest.mark.slow
def test_the_newest_step_that_all_tasks_have(copies):
  folder = copies / 'evaluated'
  (folder / 'inference_eval' / f'{KIND}-000020.jsonl').unlink()
  (folder / 'config.gin').unlink()
  results = t5x_results.read(folder)
  assert results['step'] == 10 and results['settings'] == {}
  assert results['tasks']['tiny_kind']['data'] == {'split': 'eval'}
