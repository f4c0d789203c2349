"""Published figures: they fit our tasks, and bad lines are named."""

import collections
import importlib.util
import pathlib

from flipped_t5x.evaluation import suites
from flipped_t5x.reports import published
from flipped_t5x.tasks import catalog
import pytest

HEADER = 'benchmark,task,metric,model,shots,value,source\n'
GOOD = 'nlp,piqa,accuracy,A,0,50.5,"a table, 3"\n'


@pytest.fixture(autouse=True)
def shipped_catalog(monkeypatch):
  monkeypatch.delenv('FLIPPED_T5X_CATALOG', raising=False)


def own(tmp_path, text):
  path = tmp_path / 'published.csv'
  path.write_text(text, encoding='utf-8')
  return path


def test_every_figure_is_of_a_task_or_a_group():
  counts = collections.Counter()
  for figure in published.read():
    suite = suites.get(figure.benchmark)
    assert suite.name == figure.benchmark and figure.source
    names = {g['name'] for g in suites.groups(suite, {})}
    if figure.is_claim:
      # "Up to" speaks of the best set of words, which is no group.
      assert figure.task in {*names, 'best of the pairs'}
      continue
    counts[figure.benchmark, figure.column] += 1
    if figure.benchmark == 'nlp':
      assert catalog.dataset(figure.task).role == 'nlp_eval'
    else:
      assert figure.task in names
      assert figure.column in published.lookup('bigbench', figure.task)
  # No table is complete: nobody printed piqa, arc, openbookqa with these, nor
  # code_line_description.
  assert counts == {
      **{('nlp', m): 11 for m in published.columns('nlp')},
      **{('bigbench', m): 13 for m in published.columns('bigbench')},
  }
  assert len(published.columns('nlp')) == 5
  assert len(published.columns('bigbench')) == 4


def test_default_columns_are_published():
  for benchmark, names in published.DEFAULT_COLUMNS.items():
    found = published.columns(benchmark)
    assert list(names) == found[:len(names)]
    for name in names:
      assert any(
          f.column == name and f.benchmark == benchmark
          for f in published.read()
      )
  assert suites.SUITES.keys() == {'seen', *published.DEFAULT_COLUMNS}
  assert published.columns(None) == []


def test_lookup():
  rte = published.lookup('nlp', 'super_glue/rte')
  assert rte['FLIPPED-3B'].value == pytest.approx(0.7105)
  assert rte['FLIPPED-3B'].measured == 'accuracy, mean over templates'
  assert '2305.14045' in rte['T0-11B'].source
  # By the catalog's name or by the group's.
  for name in ('hindu_knowledge', 'bigbench/hindu_knowledge'):
    found = published.lookup('bigbench', name)
    assert found['GPT-3-175B'].value == pytest.approx(0.3257)
    assert found['GPT-3-175B (3-shot)'].value == pytest.approx(0.5829)
    assert found['GPT-3-175B (3-shot)'].shots == 3
  assert published.lookup('bigbench', 'logical_deduction')
  for benchmark, task, metric in (
      ('nlp', 'super_glue/rte', 'macro_f1'),  # Never accuracy for macro-F1.
      ('nlp', 'piqa', 'accuracy'),
      ('nlp', 'hindu_knowledge', 'accuracy'),
      ('bigbench', 'bigbench/logical_deduction/five_objects', 'accuracy'),
      ('bigbench', 'average of 14', 'accuracy'),  # Only claims.
      (None, 'super_glue/rte', 'accuracy'),
  ):
    assert published.lookup(benchmark, task, metric) == {}


def test_claims_are_differences():
  claims = {
      (f.benchmark, f.task, f.model): f.value
      for name in suites.SUITES for f in published.claims(name)
  }
  assert len(claims) == 5
  assert claims[
      'bigbench', 'average of 14', 'FLIPPED-11B minus T0-11B'
  ] == pytest.approx(0.084)
  assert all(abs(v) <= 0.2 for v in claims.values())


def test_read(tmp_path):
  path = own(tmp_path, (
      HEADER + GOOD + 'bigbench,mean of 14,macro-F1,B minus A,3,-1.5,b\n'
  ))
  first, second = published.read(path)
  assert first == published.Figure(
      'nlp', 'piqa', 'accuracy', 'accuracy', 'A', 0, 0.505, 'a table, 3'
  )
  assert second.is_claim and not first.is_claim
  assert (second.task, second.metric) == ('average of 14', 'macro_f1')
  assert second.value == pytest.approx(-0.015)
  assert (first.column, second.column) == ('A', 'B minus A (3-shot)')


@pytest.mark.parametrize('line, message', (
    ('mlp,piqa,accuracy,B,0,50,s', "benchmark 'mlp' is not one of .'nlp'"),
    ('nlp,piqa,F1,B,0,50,s', "metric 'F1' is not one of"),
    ('nlp,piqa,accuracy,B,0,many,s', "value 'many' is not a number"),
    ('nlp,piqa,accuracy,B,few,50,s', "shots 'few' is not a number"),
    ('nlp,piqa,accuracy,B,-1,50,s', 'shots -1 is below 0'),
    ('nlp,piqa,accuracy,B,0,nan,s', "value 'nan' is not in percent"),
    ('nlp,piqa,accuracy,B,0,101,s', "value '101' is not in percent"),
    ('nlp,piqa,accuracy,B,0,-3,s', "value '-3' is not in percent"),
    ('nlp,piqa,accuracy,B,0,50', 'more or fewer values'),
    ('nlp,piqa,accuracy,B,0,50,s,t', 'more or fewer values'),
    ('nlp,piqa,accuracy,B,0,50,', 'the source is missing'),
    ('nlp,piqa,accuracy,A,0,51,s', 'piqa, A appears twice'),
))
def test_bad_lines_are_named(tmp_path, line, message):
  path = own(tmp_path, HEADER + GOOD + line + '\n')
  with pytest.raises(ValueError, match=rf'published\.csv, line 3: {message}'):
    published.read(path)


def test_other_columns(tmp_path):
  path = own(tmp_path, 'task,value\npiqa,3\n')
  with pytest.raises(ValueError, match=r"columns \['task', 'value'\], not"):
    published.read(path)


def test_the_file_is_installed(monkeypatch):
  setuptools = pytest.importorskip('setuptools')
  arguments = {}
  monkeypatch.setattr(setuptools, 'setup', lambda **k: arguments.update(k))
  folder = pathlib.Path(__file__).parents[2]
  spec = importlib.util.spec_from_file_location(
      'setup_file', folder / 'setup.py'
  )
  spec.loader.exec_module(importlib.util.module_from_spec(spec))
  patterns = arguments['package_data']['flipped_t5x.reports']
  assert any(published.RESULTS.match(pattern) for pattern in patterns)
