"""Tests of evaluation/suites.py: groups and averages, and what is missing."""

import types
from unittest import mock

import evaluated_runs
from flipped_t5x.evaluation import evaluate
from flipped_t5x.evaluation import suites
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
import numpy as np
import pytest

COMPLETION = ('super_glue/copa', 'hellaswag', 'story_cloze/2016')
DEDUCTION = 'bigbench/logical_deduction'
COMBINATIONS = 'bigbench/conceptual_combinations'


@pytest.fixture(autouse=True)
def shipped_catalog(monkeypatch):
  monkeypatch.delenv('FLIPPED_T5X_CATALOG', raising=False)


def of_role(role):
  return [d.name for d in catalog.catalog().values() if d.role == role]


def result(accuracy, macro_f1=0.25, examples=10, **more):
  return {
      'examples': examples,
      'accuracy': {'mean': accuracy, 'median': 0.9, 'std': 0.1},
      'macro_f1': {'mean': macro_f1, 'median': 0.9, 'std': 0.1},
      'random_accuracy': 0.5, 'majority_accuracy': 0.6,
      'majority_macro_f1': 0.3, 'templates': {}, **more,
  }


def groups(name, tasks, missing=()):
  """The groups by name, and the last one."""
  found = suites.groups(suites.get(name), tasks, missing)
  by_name = {g['name']: g for g in found}
  assert len(by_name) == len(found)
  return by_name, found[-1]


def test_get():
  for name, suite in suites.SUITES.items():
    assert suites.get(name) is suite and suite.name == name
    if suite.mixture:
      assert of_role(suite.mixture)
  with pytest.raises(ValueError, match="no suite 'bigbnch'; nearest: bigbench"):
    suites.get('bigbnch')


def test_nlp_by_hand():
  names = of_role('nlp_eval')
  # 0.30, 0.31, ... in the catalog's order; anli's are the first three.
  tasks = {n: result(0.3 + i / 100, 0.2) for i, n in enumerate(names)}
  found, last = groups('nlp', tasks)
  assert {name: len(g['tasks']) for name, g in found.items()} == {
      'natural language inference': 5, 'coreference': 2, 'word sense': 1,
      'sentence completion': 3, 'multiple-choice QA': 3,
      'average of 12, anli as one': 14, 'average of 14': 14,
  }
  assert all(g['missing'] == [] for g in found.values())
  inference = found['natural language inference']
  assert inference['accuracy'] == pytest.approx(0.32)
  # By macro-F1 are inference, wsc and wic; by accuracy the other seven.
  assert inference['metric'] == pytest.approx(0.2)
  assert found['coreference']['metric'] == pytest.approx((0.2 + 0.36) / 2)
  assert last['accuracy'] == pytest.approx(0.365)
  others = 0.36 + sum(0.3 + i / 100 for i in range(8, 14))
  assert last['metric'] == pytest.approx((7 * 0.2 + others) / 14)
  assert found['average of 12, anli as one']['accuracy'] == pytest.approx(
      (0.31 + sum(0.3 + i / 100 for i in range(3, 14))) / 12
  )
  baselines = ('random_accuracy', 'majority_accuracy', 'majority_macro_f1')
  for key, value in zip(baselines, (0.5, 0.6, 0.3), strict=True):
    assert (last[key], inference[key]) == pytest.approx((value, value))


def test_what_is_missing_is_listed():
  tasks = {
      'hellaswag': result(0.5), 'anli/r3': result(0.4),
      'super_glue/copa': result(0.7),
  }
  # A task is missing whether or not the caller says so.
  for missing in ((), ('story_cloze/2016', 'piqa')):
    found, last = groups('nlp', tasks, missing)
    completion = found['sentence completion']
    assert completion['tasks'] == list(COMPLETION[:2])
    assert completion['missing'] == ['story_cloze/2016']
    assert completion['accuracy'] == pytest.approx(0.6)
    nothing = found['multiple-choice QA']
    assert nothing['tasks'] == [] and len(nothing['missing']) == 3
    assert nothing['accuracy'] is nothing['metric'] is None
    assert nothing['random_accuracy'] is None
    assert last['name'] == 'average of 14'
    assert len(last['tasks']) == 3 and len(last['missing']) == 11
    assert last['accuracy'] == pytest.approx(1.6 / 3)
    assert found['average of 12, anli as one']['accuracy'] == (
        pytest.approx(1.6 / 3)
    )
  _, last = groups('nlp', {}, of_role('nlp_eval'))
  assert last['accuracy'] is None and len(last['missing']) == 14


def test_results_say_cluster_and_metric():
  ours = result(0.4, 0.1, cluster='word sense', metric='macro-F1')
  plain = result(0.6, 0.2)
  found, last = groups('seen', {'my/set': ours, 'piqa': plain, 'x': plain})
  assert {n: g['metric'] for n, g in found.items()} == {
      'word sense': 0.1, 'multiple-choice QA': 0.6, 'other': 0.6,
      'average of 3': pytest.approx(1.3 / 3),
  }
  assert last['missing'] == []
  _, last = groups('seen', {'piqa': plain}, ['imdb'])
  assert (last['name'], last['missing']) == ('average of 2', ['imdb'])
  assert suites.groups(suites.get('seen'), {}) == []
  bad = {'piqa': result(0.4, metric='F1')}
  with pytest.raises(ValueError, match="piqa: metric 'F1' is not one of"):
    groups('seen', bad)


def test_older_results_have_no_baselines():
  task = result(0.4)
  del task['random_accuracy'], task['majority_macro_f1']
  _, last = groups('seen', {'piqa': task})
  assert last['random_accuracy'] is last['majority_macro_f1'] is None
  assert last['majority_accuracy'] == 0.6


def test_bigbench_is_pooled_both_ways():
  tasks = {n: result(0.5, examples=40) for n in of_role('bigbench_eval')}
  for name, accuracy, examples in (
      ('three', 0.9, 300), ('five', 0.5, 500), ('seven', 0.1, 700),
  ):
    tasks[f'{DEDUCTION}/{name}_objects'] = result(accuracy, examples=examples)
  found, last = groups('bigbench', tasks)
  assert len(found) == 15 and last['name'] == 'average of 14'
  deduction = found['logical_deduction']
  assert len(deduction['tasks']) == 3
  assert deduction['accuracy'] == pytest.approx(0.5)
  # 270 + 250 + 70 of 1,500.
  assert deduction['accuracy_pooled'] == pytest.approx(590 / 1500)
  assert len(found['conceptual_combinations']['tasks']) == 6
  assert last['accuracy'] == pytest.approx(0.5)
  assert last['accuracy_pooled'] == pytest.approx(
      (13 * 0.5 + 590 / 1500) / 14
  )
  assert len(last['tasks']) == 21


def test_bigbench_with_gaps():
  tasks = {
      f'{COMBINATIONS}/homonyms': result(0.9, examples=9),
      f'{COMBINATIONS}/contradictions': result(0.4, examples=16),
      'bigbench/winowhy': result(0.5, examples=2865),
  }
  found, last = groups('bigbench', tasks)
  combinations = found['conceptual_combinations']
  assert len(combinations['tasks']) == 2 and len(combinations['missing']) == 4
  assert combinations['accuracy'] == pytest.approx(0.65)
  assert combinations['accuracy_pooled'] == pytest.approx((8.1 + 6.4) / 25)
  assert found['logical_deduction']['accuracy_pooled'] is None
  # Each of the 14 weighs the same, with 2,865 examples or 25.
  assert last['accuracy'] == pytest.approx((0.65 + 0.5) / 2)
  assert last['accuracy_pooled'] == pytest.approx((14.5 / 25 + 0.5) / 2)
  assert len(last['tasks']) == 3 and len(last['missing']) == 18


def label_result(name, values):
  """Results whose templates have the catalog's names and label words."""
  source = candidates(name)
  assert len(source.templates) == 21 and len(source.label_words) == 20
  templates = {}
  for template, value in zip(source.templates, values, strict=True):
    templates[template] = {'accuracy': 0.5, 'macro_f1': value}
    if template in source.label_words:
      templates[template]['label_words'] = source.label_words[template]
  return result(0.5, float(np.mean(values)), templates=templates)


def candidates(name):
  """The templates of a dataset; no rows are read."""
  dataset = catalog.dataset(name)
  return batches.CandidateSource(
      dataset, 'test', dataset.load_templates(), (), None, {}, 'flipped'
  )


def test_label_words_by_hand():
  cb, rte = 'label_generalization/cb', 'label_generalization/rte'
  tasks = {
      # Other words: ten times 0.2, 0.4 each: deviations of 0.1.
      cb: label_result(cb, [0.9] + [0.2, 0.4] * 10),
      rte: label_result(rte, [0.6] + [0.7] * 19 + [0.5]),
  }
  found, last = groups('label_generalization', tasks)
  one = found[cb]
  assert one['original'] == 0.9
  assert one['others'] == pytest.approx(
      {'mean': 0.3, 'std': 0.1, 'min': 0.2, 'max': 0.4, 'number': 20}
  )
  assert one['drop'] == pytest.approx(0.6)
  assert one['metric'] == pytest.approx((0.9 + 6) / 21)  # Over all sets.
  assert found[rte]['drop'] == pytest.approx(-0.09)  # A gain.
  assert found['label_generalization/imdb']['original'] is None
  assert found['label_generalization/imdb']['others']['mean'] is None
  assert last['name'] == 'average of 5' and len(last['missing']) == 3
  assert last['original'] == pytest.approx(0.75)
  assert last['others']['mean'] == pytest.approx((0.3 + 0.69) / 2)
  assert last['others']['min'] == pytest.approx(0.35)
  assert last['drop'] == pytest.approx((0.6 - 0.09) / 2)


def test_label_words_without_the_original():
  name = 'label_generalization/paws'
  task = label_result(name, [0.9] + [0.2] * 20)
  del task['templates']['Meaning']
  found, _ = groups('label_generalization', {name: task})
  assert found[name]['original'] is found[name]['drop'] is None
  assert found[name]['others']['number'] == 20


def test_label_words_are_in_the_results(tmp_path):
  source = candidates('label_generalization/cb')
  own, two, *_ = source.templates
  assert source.label_words[two] == ('agree', 'disagree', 'unsure')
  table = evaluated_runs.table(evaluated_runs.Task(
      {own: [True, False], two: [False, False]}, gold=[0, 1], num_options=3
  ))
  chunks = types.SimpleNamespace(read=lambda: ([table], []))
  task = mock.Mock(
      templates=source.templates, label_words=source.label_words, origin={}
  )
  results = evaluate._finish(task, chunks, tmp_path / 'x.parquet')
  templates = results['templates']
  assert templates.keys() == {own, two}
  assert templates[two]['label_words'] == ['agree', 'disagree', 'unsure']
  assert 'label_words' not in templates[own]
