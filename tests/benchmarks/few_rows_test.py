"""few_rows.py: its tables, its peer, and the way through the commands."""

import importlib
import json
import pathlib
import sys

import demo_data
import pytest


@pytest.fixture(scope='module')
def few_rows():
  folder = pathlib.Path(__file__).parents[2] / 'benchmarks'
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(folder))
    yield importlib.import_module('few_rows')


@pytest.fixture(name='tiny_task')
def fixture_tiny_task(few_rows, tmp_path, monkeypatch):
  data = tmp_path / 'data'
  data.mkdir()
  demo_data.install(data, monkeypatch)
  task = few_rows.Task('tiny_kind', ('film', 'ware', 'news', 'tweet'), 'Kind?')
  monkeypatch.setitem(few_rows.TASKS, 'tiny', task)
  return task


def test_small_tables_are_parts_of_large_ones(few_rows, tiny_task):
  small, large = (
      few_rows._texts(tiny_task, 'train', number, seed=0) for number in (5, 50)
  )
  assert small == large[:5]
  assert {label for _, label in large} == set(tiny_task.words)
  assert few_rows._texts(tiny_task, 'train', 5, seed=1) != small


def test_peer(few_rows):
  table = [('a good film', 'yes'), ('a dull film', 'no')] * 3
  texts = ['good', 'dull', 'so good']
  assert few_rows.peer(table, texts) == ['yes', 'no', 'yes']
  assert few_rows.peer(table[:1], texts) == ['yes'] * 3


@pytest.mark.slow
@pytest.mark.process
def test_end_to_end(
    few_rows, tiny_task, tiny_run, tiny_vocabulary_path, tmp_path, monkeypatch,
    capfd,
):
  monkeypatch.setenv('FLIPPED_T5X_VOCABULARY', str(tiny_vocabulary_path))
  output = tmp_path / 'few'
  command = [
      'few_rows.py', '--tasks=tiny', '--rows=40', '--test_rows=10',
      f'--model={tiny_run}', f'--output={output}',
  ]
  train = (
      '--train=--gin.TRAIN_STEPS=2 --gin.WARMUP_STEPS=1'
      ' --gin.CHECKPOINT_PERIOD=2'
  )
  monkeypatch.setattr(sys, 'argv', [*command, train])
  few_rows.main()
  header, line = (x.split() for x in capfd.readouterr().out.splitlines())
  shown = dict(zip(
      ('task', 'rows', 'before', 'after', 'peer', 'frequent', 'step'), line,
      strict=False,
  ))
  assert header[:2] == ['task', 'rows']
  found = json.loads((output / 'tiny_40_0/found.json').read_text())['results']
  assert shown['step'] == str(found['step']) == '2'
  for name in ('before', 'after', 'peer'):
    assert shown[name] == f'{found[name]:.3f}'
    assert 0 <= found[name] <= 1 and round(10 * found[name], 6) % 1 == 0
  # It is not done again, and not with other settings.
  monkeypatch.setattr(few_rows, '_flipped_t5x', None)
  few_rows.main()
  assert line == capfd.readouterr().out.splitlines()[1].split()
  monkeypatch.setattr(sys, 'argv', command)
  with pytest.raises(SystemExit, match='give another --output'):
    few_rows.main()
