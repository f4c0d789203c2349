"""A report that several tests read."""

import evaluated_runs
import pytest
import report_page


@pytest.fixture(scope='session')
def shown(tmp_path_factory):
  """The report of `evaluated_runs.write_nlp`: its folder, what was printed."""
  folder = evaluated_runs.write_nlp(tmp_path_factory.mktemp('runs') / 'first')
  return folder, report_page.show(folder / 'results_nlp.json')
