"""Evaluation: its files, interruptions, gaps and damage."""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import commands
import demo_data
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import ranking
from flipped_t5x.cli import main
from flipped_t5x.evaluation import evaluate
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.inference import model as model_lib
from flipped_t5x.prompts import templates
from flipped_t5x.tasks import batches
from flipped_t5x.weights import tensors
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_run
import xla_flags

NAME = 'results_tiny.json'

# argv: data folder, the number of the write that never ends, arguments.
_SCRIPT = """
import os, pathlib, signal, sys
import pytest
import demo_data
from flipped_t5x.cli import main
from flipped_t5x.evaluation import evaluate
from flipped_t5x.evaluation import scored_examples

demo_data.install(pathlib.Path(sys.argv[1]), pytest.MonkeyPatch())
evaluate.CHUNK_ROWS = 5
write, writes = scored_examples.pq.write_table, []

def write_or_die(table, path, **kwargs):
  writes.append(path)
  if len(writes) == int(sys.argv[2]):
    path.write_bytes(b'PAR1 half of it')
    os.kill(os.getpid(), signal.SIGKILL)
  write(table, path, **kwargs)

scored_examples.pq.write_table = write_or_die
sys.exit(main.main(sys.argv[3:]))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(folder, patch)
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    patch.setattr(evaluate, 'CHUNK_ROWS', 5)
    yield folder


@pytest.fixture(scope='module')
def run(folder, make_params):
  return tiny_run.write(folder / 'run', make_params(demo_data.NETWORK, 3))


@pytest.fixture(scope='module')
def model(run):
  return model_lib.load(run)


def open_task(model, name):
  return batches.open_candidates(name, model.vocabulary.path, 32, 16)


@pytest.fixture(scope='module')
def tasks(model):
  return {name: open_task(model, name) for name in demo_data.ROWS}


def evaluated(model, tasks, path, **kwargs):
  path.parent.mkdir(exist_ok=True)
  return evaluate.evaluate(
      model, tasks, path, checkpoint='there', batch_size=16, **kwargs
  )


@pytest.fixture(scope='module')
def whole(model, tasks, tmp_path_factory):
  """Results that nothing interrupted, and their folder."""
  path = tmp_path_factory.mktemp('whole') / NAME
  return evaluated(model, tasks, path), path.parent


def test_files(whole):
  results, folder = whole
  written = commands.contents(folder)
  assert set(written) == {
      NAME, 'results_tiny/tiny_mood.parquet', 'results_tiny/tiny_kind.parquet',
  }
  assert json.loads(written[NAME]) == json.loads(json.dumps(results))
  # 10 rows in 3 templates of 2 options; 12 rows in 2 templates of 4.
  counted = {
      name: (task['candidates'], task['encoder_passes'])
      for name, task in results['tasks'].items()
  }
  assert counted == {'tiny_mood': (60, 60), 'tiny_kind': (96, 96)}
  for name, task in results['tasks'].items():
    path = folder / task['scores']['file']
    assert path.name == f'{name}.parquet'
    assert files.sha256(path.read_bytes()) == task['scores']['sha256']
    table = pq.read_table(path)
    assert table.schema.equals(scored_examples.SCHEMA)
    assert list(dict.fromkeys(table['template'].to_pylist())) == list(
        task['templates']
    )


def test_numbers_are_those_of_the_plain_way(whole, model, tasks):
  results, folder = whole
  for name, task in tasks.items():
    examples = scored_examples.read(folder / f'results_tiny/{name}.parquet')
    for template, stored in examples.items():
      found = batches.open_candidates(
          name, model.vocabulary.path, 32, 16
      ).read(template)
      scores = model.score(found.inputs, found.targets, batch_size=16)
      np.testing.assert_allclose(
          np.concatenate(stored.scores), scores, atol=1e-5, rtol=1e-6
      )
      ranked = ranking.rank(
          scores, found.example_id, found.option_index, found.is_correct
      )
      for field in dataclasses.fields(ranking.Predictions):
        np.testing.assert_array_equal(
            getattr(stored.ranked, field.name), getattr(ranked, field.name)
        )
      shown = results['tasks'][name]['templates'][template]
      assert shown['accuracy'] == np.mean(ranked.prediction == ranked.gold)
      assert np.sum(shown['confusion']) == len(task.numbers)
      assert found.options == [o for texts in stored.options for o in texts]


def test_settings_and_digest(whole, model, run):
  results, _ = whole
  assert results['checkpoint'] == {
      'path': 'there', 'step': 7, 'sha256': tensors.digest(model.params),
      'sha256_of_vocabulary': files.sha256(
          model.vocabulary.path.read_bytes()
      ),
  }
  assert (results['suite'], results['groups'], results['missing']) == (
      None, [], {}
  )
  assert results['format'] == 'flipped' and results['step'] == 7
  assert results['settings']['MIXTURE'] == demo_data.MIXTURE
  for task in results['tasks'].values():
    for metric in ('accuracy', 'macro_f1'):
      values = task[metric]
      assert set(values) == {'mean', 'median', 'std', 'low', 'high'}
      assert values['low'] <= values['mean'] <= values['high']
    bins = task['calibration']['bins']
    prompts = sum(t['examples'] for t in task['templates'].values())
    assert sum(b['count'] for b in bins) == prompts


class Stop(Exception):
  pass


@pytest.mark.parametrize('at, done', (
    (1, 0),  # In the first chunk of 2.
    (2, 1),
    (4, 3),
    (5, 4),  # In the last chunk of the last task, of 3.
    (6, 5),  # In the files of whole tasks.
    (7, 5),
))
def test_resumes_where_it_was(
    at, done, model, tasks, whole, tmp_path, monkeypatch
):
  write, writes = scored_examples.pq.write_table, []

  def write_or_stop(table, path, **kwargs):
    writes.append(path)
    if len(writes) == at:
      raise Stop
    write(table, path, **kwargs)

  monkeypatch.setattr(scored_examples.pq, 'write_table', write_or_stop)
  with pytest.raises(Stop):
    evaluated(model, tasks, tmp_path / NAME)
  assert not (tmp_path / NAME).exists()
  parts = (tmp_path / 'results_tiny/.progress').glob('*/*.parquet')
  assert len([*parts]) == done

  read = []
  read_rows = batches.CandidateSource.read

  def count(self, template, numbers):
    read.append((template, *numbers))
    return read_rows(self, template, numbers)

  monkeypatch.setattr(batches.CandidateSource, 'read', count)
  evaluated(model, tasks, tmp_path / NAME)
  assert commands.contents(tmp_path) == commands.contents(whole[1])
  # Nothing that was done is read again, and nothing twice.
  assert len(read) == len(set(read)) == sum((3, 3, 2, 2, 2)[done:])


def test_interrupted_by_hand(model, tasks, whole, tmp_path, monkeypatch):
  score, calls = evaluate.scoring.encode_once, []

  def interrupt(*args, **kwargs):
    calls.append(1)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return score(*args, **kwargs)

  monkeypatch.setattr(evaluate.scoring, 'encode_once', interrupt)
  with pytest.raises(KeyboardInterrupt, match='run the same command again'):
    evaluated(model, tasks, tmp_path / NAME)
  evaluated(model, tasks, tmp_path / NAME)
  assert len(calls) == 3 + 3
  assert commands.contents(tmp_path) == commands.contents(whole[1])


def test_other_settings_are_not_mixed(
    model, tasks, whole, tmp_path, monkeypatch, capsys
):
  def stop(*args, **kwargs):
    raise Stop

  other = dataclasses.replace(
      model, params={**model.params, 'token_embedder': {
          'embedding': model.params['token_embedder']['embedding'] * 1.5,
      }}
  )
  with monkeypatch.context() as patch:
    patch.setattr(evaluate, '_finish', stop)
    with pytest.raises(Stop):
      evaluated(other, tasks, tmp_path / NAME)
  assert 'discarded' not in capsys.readouterr().err
  evaluated(model, tasks, tmp_path / NAME)
  printed = capsys.readouterr().err
  assert printed.count('differs in checkpoint is discarded') == 2
  assert commands.contents(tmp_path) == commands.contents(whole[1])


def test_damaged_chunk_is_scored_again(
    model, tasks, whole, tmp_path, monkeypatch, capsys
):
  def stop(*args, **kwargs):
    raise Stop

  with monkeypatch.context() as patch:
    patch.setattr(evaluate, '_finish', stop)
    with pytest.raises(Stop):
      evaluated(model, tasks, tmp_path / NAME)
  part = tmp_path / 'results_tiny/.progress/tiny_kind/00001.parquet'
  part.write_bytes(part.read_bytes()[:100])
  evaluated(model, tasks, tmp_path / NAME)
  assert f'{part} is damaged' in capsys.readouterr().err
  assert commands.contents(tmp_path) == commands.contents(whole[1])


@pytest.mark.process
@pytest.mark.slow
def test_killed(folder, run, tmp_path, capsys):
  arguments = [
      'eval', str(run), '--batch_size', '16', '--output', str(tmp_path / NAME)
  ]
  assert main.main(arguments) == 0
  expected = commands.contents(tmp_path)
  for path in (tmp_path / NAME, *tmp_path.rglob('*.parquet')):
    path.unlink()

  killed = subprocess.run(
      [sys.executable, '-c', _SCRIPT, str(folder), '4', *arguments],
      env={
          **os.environ,
          'PYTHONPATH': str(pathlib.Path(__file__).parents[1] / 'helpers'),
          'XLA_FLAGS': xla_flags.QUICK,  # Compared with this process.
      },
      capture_output=True, text=True, check=False,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  written = commands.contents(tmp_path)
  assert NAME not in written
  assert len([n for n in written if n.endswith('.parquet')]) == 3
  capsys.readouterr()
  assert main.main(arguments) == 0
  assert commands.contents(tmp_path) == expected
  assert '\n156 encoder passes\n' in capsys.readouterr().out


def test_two_at_once(run, model, tasks, tmp_path, capsys, monkeypatch):
  """The second one ends at once, and the first as if it had been alone."""
  path = tmp_path / NAME
  second = ['eval', str(run), '--output', str(path)]
  score, statuses = evaluate._score_all, []

  def score_and_start_another(*args):
    monkeypatch.setattr(model_lib, 'load', None)  # It is not even loaded.
    statuses.append(main.main(second))
    score(*args)

  monkeypatch.setattr(evaluate, '_score_all', score_and_start_another)
  first = evaluated(model, tasks, path)
  assert statuses == [1]
  error = capsys.readouterr().err
  message = f'flipped-t5x: {path} is being written by process {os.getpid()} on '
  assert message in error and 'or give another --output\n' in error
  assert json.loads(path.read_text()) == json.loads(json.dumps(first))
  assert not list(tmp_path.rglob('.*'))


def test_a_full_disk_names_the_file(model, tasks, tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
  try:
    with pytest.raises(OSError, match=(
        rf'^{tmp_path}/\S+[.]parquet could not be written: .*File too large'
    )):
      evaluated(model, tasks, tmp_path / NAME)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert not (tmp_path / NAME).exists()
  assert not list(tmp_path.rglob('*.parquet*'))


def test_scores_of_another_evaluation(model, tasks, tmp_path, monkeypatch):
  """Where a disk has no locks, no file of results mixes two evaluations."""
  other = dataclasses.replace(model, step=8, params=jax.tree.map(
      lambda a: a * 1.01, model.params
  ))
  monkeypatch.setattr(evaluate, 'alone', lambda _: contextlib.nullcontext())
  score, path = evaluate._score_all, tmp_path / NAME

  def score_between(*args):
    monkeypatch.setattr(evaluate, '_score_all', score)
    score(*args)
    evaluated(other, tasks, path)

  monkeypatch.setattr(evaluate, '_score_all', score_between)
  with pytest.raises(errors.UserError, match='another evaluation has written'):
    evaluated(model, tasks, path)
  results = json.loads(path.read_text())
  assert results['checkpoint']['sha256'] == tensors.digest(other.params)
  for task in results['tasks'].values():
    content = (tmp_path / task['scores']['file']).read_bytes()
    assert files.sha256(content) == task['scores']['sha256']


def never(name):
  return templates.Template(
      name, 'never', '{% if text == "" %}{{text}} ||| {{answer_choices[label]}}'
      '{% endif %}', 'a ||| b ||| c ||| d',
  )


def with_template(task, template, only=False):
  templates_ = {} if only else dict(task.templates)
  return dataclasses.replace(
      task, templates={**templates_, template.name: template}
  )


def test_template_that_no_row_fits(model, tasks, whole, tmp_path, capsys):
  task = with_template(tasks['tiny_mood'], never('tiny_mood'))
  found = evaluated(
      model, {'tiny_mood': task}, tmp_path / NAME
  )['tasks']['tiny_mood']
  reason = 'no row fits it, 10 template does not apply'
  assert found['unfit'] == {'never': reason}
  assert f'tiny_mood "never" has no numbers: {reason}' in (
      capsys.readouterr().err
  )
  expected = whole[0]['tasks']['tiny_mood']
  assert found['templates'] == expected['templates']
  assert found['accuracy'] == expected['accuracy']
  assert 'never' not in scored_examples.read(
      tmp_path / 'results_tiny/tiny_mood.parquet'
  )


def test_task_that_no_row_fits(model, tasks, whole, tmp_path):
  empty = with_template(tasks['tiny_kind'], never('tiny_kind'), only=True)
  both = {'tiny_mood': tasks['tiny_mood'], 'tiny_kind': empty}
  results = evaluated(model, both, tmp_path / NAME)
  assert list(results['tasks']) == ['tiny_mood']
  assert results['missing'] == {
      'tiny_kind': 'no template has a row that fits it: "never": no row fits'
      ' it, 12 template does not apply'
  }
  assert results['tasks']['tiny_mood'] == whole[0]['tasks']['tiny_mood']
  with pytest.raises(ValueError, match='^tiny_kind: no template has a row'):
    evaluated(model, {'tiny_kind': empty}, tmp_path / 'none' / NAME)


def test_shared_texts_are_encoded_once(model, tasks, whole, tmp_path):
  """Templates of the same places and options differ in their targets alone."""
  task = tasks['tiny_mood']
  twin = templates.Template(
      'tiny_mood', 'Twin', '{{text}} The review of it is |||'
      ' {{answer_choices[label]}}', 'negative ||| positive',
  )
  results = evaluated(
      model, {'tiny_mood': with_template(task, twin)}, tmp_path / NAME
  )
  found = results['tasks']['tiny_mood']
  assert (found['candidates'], found['encoder_passes']) == (80, 60)
  for name, values in whole[0]['tasks']['tiny_mood']['templates'].items():
    assert found['templates'][name] == values


def test_weights_that_are_damaged(model, tasks, tmp_path):
  scale = model.params['decoder']['decoder_norm']['scale'] * np.nan
  decoder = {**model.params['decoder'], 'decoder_norm': {'scale': scale}}
  damaged = dataclasses.replace(
      model, params={**model.params, 'decoder': decoder}
  )
  with pytest.raises(
      ValueError, match='^tiny_mood "Enjoy": example 0: a score is not finite'
  ):
    evaluated(damaged, tasks, tmp_path / NAME)


def test_names_of_files():
  names = evaluate._file_names(['a/b', 'a_b', 'A b', 'ARC-1.1'])
  assert list(names.values()) == ['a_b', 'a_b-2', 'A_b-3', 'ARC-1.1']


def test_candidates_in_pieces_are_those_of_the_whole(model):
  task = batches.open_candidates(
      'tiny_mood', model.vocabulary.path, 16, 32, split='train'
  )
  whole = task.read('Mood')
  assert whole.counts == {'no label': 1, 'truncated': 118}
  pieces = [
      task.read('Mood', task.numbers[start : start + 7])
      for start in range(0, 60, 7)
  ]
  for field in ('inputs', 'targets', 'options', 'example_id', 'is_correct'):
    together = [value for p in pieces for value in getattr(p, field)]
    assert together == list(getattr(whole, field))
  assert set(whole.options) == {'negative', 'positive'}
  for reason, number in whole.counts.items():
    assert sum(p.counts.get(reason, 0) for p in pieces) == number
