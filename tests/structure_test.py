"""Damaged results, logs and scores end in one message that names the file."""

import json
import random
import shutil

import evaluated_runs as runs
from flipped_t5x import errors
from flipped_t5x import structure
from flipped_t5x.cli import main
from flipped_t5x.evaluation import scored_examples
import mutations
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two runs with everything that reports read; never change it."""
  folder = tmp_path_factory.mktemp('evaluated')
  words = runs.task({'own': 30, 'other': 20})
  object.__setattr__(words, 'label_words', {'other': ['ja', 'nein']})
  tasks = {**runs.TASKS, 'words': words}
  for name in ('first', 'second'):
    runs.write(folder / name, tasks, 'nlp', missing={'anli/r1': 'gone'})
    (folder / name / 'metrics.jsonl').write_text(
        ''.join(json.dumps(line) + '\n' for line in runs.LOG)
    )
  write_t5x(folder)
  return folder


def write_t5x(folder):
  """What `t5x.infer` and `t5x.eval` leave, of two rows of one template."""
  inferred, evaluated = folder / 'infer', folder / 'eval'
  place = {'task': 'rte', 'template': 'A'}
  scores = [[0.0, -1.0], [-1.0, 0.0]]
  (evaluated / 'inference_eval').mkdir(parents=True)
  inferred.mkdir()
  for path in (inferred, evaluated):
    (path / 'config.gin').write_text("FORMAT = 'flipped'\nSPLIT = 'eval'\n")
  lines(folder / INFERRED, [
      {**place, 'example_id': i, 'options': ['a', 'b'], 'scores': scores[i],
       'prediction': i, 'gold': 0, 'tied': False, 'checkpoint': 'x', 'step': 7}
      for i in range(2)
  ])
  (folder / f'{INFERRED}.COMPLETED').write_text('')
  lines(folder / EVALUATED, [
      {'input': {**place, 'example_id': i, 'option': 'ab'[n],
                 'option_index': n, 'num_options': 2, 'is_correct': n == 0},
       'score': scores[i][n]}
      for i in range(2) for n in range(2)
  ])
  lines(folder / METRICS, [{'step': 7, 'examples': 2}])


def lines(path, objects):
  path.write_text(''.join(json.dumps(line) + '\n' for line in objects))


INFERRED = 'infer/rte_score-score.jsonl-00000-of-00001'
EVALUATED = 'eval/inference_eval/rte_score-000007.jsonl'
METRICS = 'eval/inference_eval/rte_score-metrics.jsonl'
RESULTS = 'second/results_nlp.json'
LOG = 'second/metrics.jsonl'
SCORES = 'second/results_nlp/hellaswag.parquet'


def report(folder, name, capsys):
  """The status of reports that read a file, and the error; no traceback."""
  if name.startswith('second'):
    status = main.main([
        'report', str(folder / 'first/results_nlp.json'), str(folder / RESULTS),
        '--output', str(folder / 'compared'),
    ]) or main.main([
        'report', str(folder / RESULTS), '--output', str(folder / 'alone'),
    ])
  else:
    status = main.main([
        'report', str(folder / name.split('/')[0]),
        '--output', str(folder / 'alone'),
    ])
  error = capsys.readouterr().err
  assert 'Traceback' not in error and 'a fault of' not in error, error
  return status, error


@pytest.mark.parametrize('keys, value, message', (
    (('step',), ..., "'step' is a required property"),
    (('step',), '7', "step: '7' is not of type 'integer', 'null'"),
    (('tasks', 'hellaswag', 'accuracy', 'mean'), None,
     "tasks.hellaswag.accuracy.mean: None is not of type 'number'"),
    (('tasks', 'hellaswag', 'accuracy', 'mean'), float('nan'),
     "tasks.hellaswag.accuracy.mean: nan is not of type 'number'"),
    (('tasks', 'hellaswag', 'accuracy', 'high'), ...,
     "tasks.hellaswag.accuracy: 'high' is a dependency of 'low'"),
    (('tasks', 'hellaswag', 'examples'), True,
     "tasks.hellaswag.examples: True is not of type 'integer'"),
    (('tasks', 'hellaswag', 'options'), [],
     r'tasks.hellaswag.options: \[\] should be non-empty'),
    (('tasks', 'hellaswag', 'templates', 'C', 'confusion'), [[1, 2]],
     r"tasks\['hellaswag'\].templates\['C'\].confusion: .* not square"),
    (('tasks', 'hellaswag', 'calibration', 'bins'), [],
     'tasks.hellaswag.calibration.bins: .* does not contain'),
    (('network', 'emb_dim'), 'wide',
     "network.emb_dim: 'wide' is not of type 'integer'"),
    (('groups', 0, 'missing'), None, 'groups\\[0\\].missing: None is not of'),
    (('checkpoint',), [], "checkpoint: \\[\\] is not of type 'object'"),
))
def test_a_field_is_named(keys, value, message, folder, tmp_path):
  path = tmp_path / 'results.json'
  results = json.loads((folder / RESULTS).read_text())
  inner = results
  for key in keys[:-1]:
    inner = inner[key]
  if value is ...:
    del inner[keys[-1]]
  else:
    inner[keys[-1]] = value
  path.write_text(json.dumps(results))
  with pytest.raises(
      errors.UserError,
      match=f'^{path}: {message}.*; evaluate the run again, or copy the file',
  ):
    structure.read_results(path)


@pytest.mark.parametrize('content, message', (
    (b'', 'not JSON'), (b'{"a": "\xff"}', "not JSON: 'utf-8' codec"),
    (b'[' * 100_000, 'not JSON: nested too deeply'),
    (b'{"tasks":' + b'[' * 300 + b']' * 300 + b'}', 'it has no|nested too'),
    (b'{"tasks": {"a": {}}, "step": 1}', 'is a required property'),
))
def test_files_that_are_not_results(content, message, tmp_path):
  path = tmp_path / 'results.json'
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match=f'^{path}: .*({message})'):
    structure.read_results(path)


@pytest.mark.parametrize('line, message', (
    ('{"loss": 1}', "'step' is a required property"),
    ('{"step": 2, "loss": null}', "loss: None is not of type 'number'"),
    ('{"step": 2, "loss": NaN}', "loss: nan is not of type 'number'"),
    ('{"step": 2.5}', "step: 2.5 is not of type 'integer'"),
    ('', 'not JSON'), ('\udcff', "not JSON: 'utf-8' codec"),
))
def test_lines_of_a_log(line, message, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(
      f'{{"step": 1}}\n{line}\n'.encode('utf-8', 'surrogateescape')
  )
  with pytest.raises(errors.UserError, match=f'^{path}, line 2: {message}'):
    structure.read_log(path)


def test_the_last_line_of_a_log_that_was_not_written_whole(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2, "lo')
  assert structure.read_log(path, complete=True) == [{'step': 1}]


def scored(**changed):
  """A file's columns: two rows of a template, with something changed."""
  columns = {
      'template': ['A', 'A'], 'example_id': [0, 1],
      'options': [['a', 'b'], ['a']], 'scores': [[0.0, -1.0], [0.0]],
      'prediction': [0, 0], 'gold': [1, 0], 'tied': [False, False],
  } | changed
  return pa.table(columns, scored_examples.SCHEMA)


@pytest.mark.parametrize('changed, message', (
    ({'gold': [2, 0]}, 'a gold is not one of the options'),
    ({'prediction': [0, -1]}, 'a prediction is not one of the options'),
    ({'scores': [[0.0], [0.0]]}, 'an example has not one score for each'),
    ({'scores': [[0.0, float('nan')], [0.0]]}, 'a score is not finite'),
    ({'options': [['a', None], ['a']]}, 'values are missing'),
    ({'tied': [None, True]}, 'values are missing'),
    ({'template': ['A', 'B', 'A'], 'example_id': [0, 0, 1],
      'options': [['a']] * 3, 'scores': [[0.0]] * 3, 'prediction': [0] * 3,
      'gold': [0] * 3, 'tied': [False] * 3}, 'of a template are not together'),
))
def test_scored_examples_that_cannot_be(changed, message, tmp_path):
  path = tmp_path / 'x.parquet'
  pq.write_table(scored(), path)
  assert scored_examples.read_table(path).num_rows == 2
  pq.write_table(scored(**changed), path)
  with pytest.raises(
      errors.UserError,
      match=f'^{path} is damaged: .*{message}.*; evaluate again, or copy',
  ):
    scored_examples.read(path)


def test_a_changed_bit_of_scored_examples(tmp_path):
  """Every bit counts: it is noticed, or what is read is the same."""
  path = tmp_path / 'x.parquet'
  scored_examples.write(scored(), path, {})
  content, noticed = path.read_bytes(), 0
  for at in range(0, 8 * len(content), 37):
    changed = bytearray(content)
    changed[at // 8] ^= 1 << at % 8
    path.write_bytes(changed)
    try:
      found = scored_examples.read_table(path)
      scored_examples.read_about(path)
    except errors.UserError as e:
      assert str(path) in str(e)
      noticed += 1
    else:
      assert found.to_pydict() == scored().to_pydict(), at
  assert noticed > len(content) * 8 / 37 / 4


@pytest.mark.slow
@pytest.mark.parametrize('name', (
    RESULTS, LOG, SCORES, INFERRED, EVALUATED, METRICS, 'infer/config.gin',
    'eval/config.gin',
))
def test_reports_of_damaged_files(name, folder, tmp_path, capsys, request):
  number = request.config.getoption('--mutations')
  whole, outcomes = tmp_path / 'whole', set()
  shutil.copytree(folder, whole)
  for seed in range(number):
    rng = random.Random(f'{name} {seed}')
    shutil.copy(folder / name, whole / name)
    mutations.mutate_file(whole / name, rng)
    status, error = report(whole, name, capsys)
    outcomes.add(status)
    written = [
        path.name for place in ('compared', 'alone')
        if (whole / place).exists() for path in (whole / place).iterdir()
    ]
    if status:
      assert str(whole / name.split('/')[0]) in error, (seed, error)
    assert not any('unfinished' in n or n.endswith('.lock') for n in written)
    shutil.rmtree(whole / 'compared', ignore_errors=True)
    shutil.rmtree(whole / 'alone', ignore_errors=True)
  assert 1 in outcomes or name.endswith('.gin')
