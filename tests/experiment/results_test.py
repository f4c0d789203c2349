"""The experiment's results: means, spreads, tests, and what is compared."""

import experiment_runs
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.experiment import results as results_lib
import pytest

ACCURACIES = experiment_runs.accuracies(0.4)
OTHER_TEMPLATES = ACCURACIES | {'vader_source': {'e (x)': 0.1}}
KNOWN, NEW = 'sentiment: new wordings', 'sentiment: new words'


@pytest.fixture
def examples(tmp_path):
  """[(score of a, score of b, gold), ...] -> examples by template."""

  def make(rows):
    scored_examples.write(experiment_runs.scores(rows), tmp_path / 'x.parquet')
    return scored_examples.read(tmp_path / 'x.parquet')

  return make


def test_summary_by_hand():
  summary = results_lib.summarize(experiment_runs.three_methods())
  flipped = summary['methods']['flipped']
  # In two wordings 0.6 and 0.8 with seed 0, 0.7 and 0.9 with seed 1.
  assert flipped['runs']['0'][NEW] == pytest.approx(0.7)
  assert flipped['runs']['1'][NEW] == pytest.approx(0.8)
  assert flipped['columns'][NEW]['mean'] == pytest.approx(0.75)
  # Sample standard deviation of 0.7 and 0.8.
  assert flipped['columns'][NEW]['std'] == pytest.approx(0.1 / 2**0.5)
  assert flipped['columns'][KNOWN]['mean'] == pytest.approx(0.55)
  # The mean over wordings.
  assert flipped['words'][NEW].keys() == {'c/d'}
  assert flipped['words'][NEW]['c/d']['mean'] == pytest.approx(0.75)
  assert summary['settings'] == {
      'TRAIN_STEPS': 4, 'BATCH_SIZE': 2, 'SEED': 0
  }


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'step': 3}, 'step is 3 and 4'),
        ({'settings': {'TRAIN_STEPS': 9}}, r'.* is (9|None) and (4|2)'),
        ({'network': {'emb_dim': 9}}, 'network is .*9.* and .*8'),
        (
            {'tasks': experiment_runs.results(OTHER_TEMPLATES)['tasks']},
            r'vader_source "a/b \(x\)" is None and \(10, 0.6\)',
        ),
    ),
)
def test_runs_that_cannot_be_compared(changes, message):
  runs = {
      'flipped': {0: experiment_runs.results(ACCURACIES)},
      'direct': {2: experiment_runs.results(ACCURACIES, **changes)},
  }
  with pytest.raises(
      ValueError, match=f'^direct/2 and flipped/0 cannot be compared: {message}'
  ):
    results_lib.check_alike(runs)


def test_paired_tests(examples):
  right = examples([(1, 0, 0), (0, 1, 1)] * 20)
  wrong = examples([(0, 1, 0), (1, 0, 1)] * 20)

  def run(known, new):
    columns = dict.fromkeys(results_lib.COLUMNS, known)
    return columns | {NEW: new}

  tests = results_lib.paired_tests({
      ('flipped', 0): run(right, right),
      ('direct', 0): run(right, wrong),
      ('channel', 0): run(wrong, wrong),
      ('direct', 1): run(wrong, wrong),  # Without a FLIPPED of its seed.
  })
  found = {(t['method'], t['column']): t for t in tests}
  number = len(results_lib.COLUMNS) + len(results_lib.WORDS)
  assert len(tests) == len(found) == 2 * number
  assert {t['seed'] for t in tests} == {0}
  for (method, column), expected in {
      ('direct', KNOWN): 0, ('direct', NEW): 1,
      ('direct', f'{NEW}, minus known'): 1,
      # As bad with known words: new ones cost it nothing.
      ('channel', KNOWN): 1, ('channel', f'{NEW}, minus known'): 0,
  }.items():
    test = found[method, column]
    assert test['difference'] == test['low'] == test['high'] == expected
    assert test['p'] < 0.001 if expected else test['p'] == 1
    assert test['p'] <= test['holm'] <= 1


def test_explanations_by_hand(examples):
  # b is preferred by 10, whatever the text is; without that, all are right.
  rows = [(1, 10, 0), (0, 11, 1), (2, 11, 0), (0, 12, 1)]
  found = results_lib.explanations({('direct', 0): {NEW: examples(rows)}})
  assert found == [{
      'method': 'direct', 'seed': 0, 'column': NEW, 'accuracy': 0.5,
      'most_frequent': 1.0, 'right_most_frequent': 0.5,
      'without_preference': 1.0,
  }]


def write_run(folder, method, base, **changes):
  experiment_runs.write(
      folder, f'results_{method}_experiment_eval.json',
      experiment_runs.results(experiment_runs.accuracies(base), **changes),
      [(1, 0, 0)],
  )


def test_curves_are_means_over_seeds(tmp_path):
  for seed, base in ((0, 0.3), (1, 0.5)):
    folder = tmp_path / 'flipped' / str(seed)
    write_run(folder, 'flipped', base)
    experiment_runs.write(
        folder / 'steps', '2.json',
        experiment_runs.results(experiment_runs.accuracies(base - 0.2), step=2),
        [(1, 0, 0)],
    )
  # Of these only the last step is evaluated.
  write_run(tmp_path / 'flipped' / '2', 'flipped', 0.9)
  write_run(tmp_path / 'direct' / '0', 'direct', 0.9)
  curves = results_lib.curves(
      results_lib.find(tmp_path, ['flipped', 'direct'])
  )
  assert list(curves) == ['flipped']
  assert list(curves['flipped']) == ['2', '4']
  # 0.1, 0.3, 0.3 and 0.5.
  assert curves['flipped']['2'][KNOWN] == pytest.approx(0.3)
  assert curves['flipped']['4'][KNOWN] == pytest.approx(0.5)


def test_the_starting_point(tmp_path):
  write_run(tmp_path / 'start', 'flipped', 0.2)
  write_run(tmp_path / 'start', 'direct', 0.4, format='direct')
  start = results_lib.start(tmp_path)
  assert start['flipped'][KNOWN] == pytest.approx(0.3)
  assert start['direct'][KNOWN] == pytest.approx(0.5)
