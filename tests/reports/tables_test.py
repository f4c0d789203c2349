"""Tables of a report: label words and confusion matrices."""

import evaluated_runs as runs
from flipped_t5x.reports import tables
import pytest
import report_page


def test_label_words(tmp_path):
  tasks = {'words': runs.task(
      {'T': 30, 'U': 20, 'V': 10},
      label_words={'U': ['agree', 'disagree'], 'V': ['up', 'down']},
  )}
  path = runs.write(tmp_path / 'x', tasks)
  report_page.show(path)
  page = report_page.read(tmp_path / 'x' / 'report.html')
  row = page.rows('Label words')['words']
  assert row['own words'] == '0.750' and row['sets of words'] == '2'
  assert row['other words'] == '0.375±0.125'
  assert row['worst'] == '0.250 (up/down)'
  assert row['best'] == '0.500 (agree/disagree)'
  assert (tmp_path / 'x' / 'labels_accuracy.png').is_file()


@pytest.mark.parametrize('others', (
    {'T': None}, {'T': None, 'T (a/b)': None}, {'T': ['a', 'b']},
    {'T': None, 'U': None, 'V': ['a', 'b']},
))
def test_templates_that_are_not_of_label_words(others):
  templates = {
      name: {'accuracy': 0.5, **({'label_words': words} if words else {})}
      for name, words in others.items()
  }
  assert tables.label_words({'templates': templates}, 'accuracy') is None


def test_too_many_options_for_a_matrix(tmp_path):
  tasks = {
      'many': runs.task({'A': 30}, num_options=11),
      'ten': runs.task({'A': 30}, num_options=10),
  }
  report_page.show(runs.write(tmp_path / 'x', tasks))
  page = report_page.read(tmp_path / 'x' / 'report.html')
  assert 'Confusion matrix of ten' in page.tables
  assert 'Confusion matrix of many' not in page.tables
  assert 'Not shown because of too many options: many.' in page.texts


def test_templates_that_no_row_fits_are_named(tmp_path):
  path = runs.write(tmp_path / 'x', runs.TASKS)
  runs.change(
      path, 'tasks', 'hellaswag', 'unfit', value={'Odd': 'no row fits it'}
  )
  report_page.show(path)
  page = report_page.read(tmp_path / 'x' / 'report.html')
  row = page.rows('Templates of hellaswag')['Odd']
  assert row['accuracy'] == '–'
  assert row['dropped or truncated'] == 'no row fits it'
