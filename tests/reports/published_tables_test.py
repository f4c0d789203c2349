"""Our results beside published numbers."""

import json
import re

import evaluated_runs as runs
from flipped_t5x.reports import published
from flipped_t5x.reports import published_tables
import pytest
import report_page


def test_published_numbers(shown):
  folder, _ = shown
  page = report_page.read(folder / 'report_nlp.html')
  rows = page.rows('Beside published numbers')
  theirs = published.lookup('nlp', 'super_glue/rte')
  row = rows['super_glue/rte']
  assert row['ours'] == '62.50'
  columns = {c.partition(' [')[0]: cell for c, cell in row.items()}
  for name, figure in theirs.items():
    value, difference = re.fullmatch(
        r'([\d.]+) \(([+−][\d.]+)\)', columns[name]
    ).groups()
    assert float(value) == pytest.approx(100 * figure.value)
    assert float(difference.replace('−', '-')) == pytest.approx(
        62.5 - 100 * figure.value
    )
  # What is not there has no difference, and is in no mean.
  assert rows['super_glue/cb']['ours'] == 'not evaluated'
  assert '(' not in rows['super_glue/cb']['FLIPPED-3B [1]']
  mean, = (r for name, r in rows.items() if name.startswith('mean of 2'))
  assert mean['ours'] == '43.75'
  sources = {f.source for f in theirs.values()}
  assert sources <= set(page.texts)
  size, = (t for t in page.texts if 'published numbers are of' in t)
  assert '3 to 175 billion' in size and 'say nothing about the method' in size
  claims = [f for f in published.read() if f.is_claim and f.benchmark == 'nlp']
  assert sum(f.column in t for f in claims for t in page.texts) == len(claims)


def test_published_numbers_of_groups(tmp_path):
  tasks = {
      f'bigbench/{name}': runs.task({'BIG-bench': right}, cluster=cluster)
      for name, right, cluster in (
          ('logical_deduction/three_objects', 30, 'logical_deduction'),
          ('logical_deduction/five_objects', 20, 'logical_deduction'),
          ('winowhy', 10, 'winowhy'),
      )
  }
  path = runs.write(tmp_path / 'x', tasks, 'bigbench')
  report_page.show(path)
  page = report_page.read(tmp_path / 'x' / 'report_bigbench.html')
  rows = page.rows('Beside published numbers')
  assert rows['logical_deduction']['ours'] == '62.50 (2 of 3)'
  assert rows['logical_deduction']['95 % interval'] == '–'
  assert rows['winowhy']['ours'] == '25.00'
  assert rows['winowhy']['95 % interval'] != '–'
  assert 'bigbench/winowhy' not in rows
  assert not [name for name in rows if name.startswith('mean of')]
  assert page.rows('Groups and averages')['logical_deduction']['tasks'] == (
      '2 of 3 tasks'
  )


def test_nothing_is_published_of_other_tasks(tmp_path):
  path = runs.write(tmp_path / 'x', runs.TASKS)
  results = json.loads(path.read_text())
  assert published_tables.section(results) is None
