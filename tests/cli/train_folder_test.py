"""train FOLDER --from MODEL, and rank --task: a table of one's own."""

import csv
import json

from flipped_t5x.cli import main
from flipped_t5x.evaluation import evaluate
from flipped_t5x.fine_tuning import best_step
from flipped_t5x.network import adapters
from flipped_t5x.weights import t5x_checkpoints
import pytest

WORDS = ('old', 'red', 'small', 'very', 'good', 'bad', 'big', 'new')
ROWS = [
    {'review': f'The {a} {b} dog {i}.', 'stars': str(i % 2)}
    for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
]
SHORT = [
    '--gin.TRAIN_STEPS=8', '--gin.WARMUP_STEPS=1', '--gin.CHECKPOINT_PERIOD=2',
    '--gin.LOG_PERIOD=2',
]

SHORTER = ['--gin.TRAIN_STEPS=4', '--gin.BATCH_SIZE=4', *SHORT[1:]]


@pytest.fixture(name='folder')
def fixture_folder(tmp_path, monkeypatch, tiny_vocabulary_path, capsys):
  """A folder that `new` has written, as the current folder's `reviews`."""
  monkeypatch.chdir(tmp_path)
  for name in ('CATALOG', 'SOURCES'):  # Set by the command, so undone at last.
    monkeypatch.setenv(f'FLIPPED_T5X_{name}', '')
  with open('reviews.csv', 'w', newline='', encoding='utf-8') as f:
    writer = csv.DictWriter(f, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
  assert main.main([
      'new', 'reviews.csv', '--text', 'review', '--label', 'stars', '--labels',
      '0=bad,1=good', '--vocabulary', str(tiny_vocabulary_path),
      '--instruction', 'a good dog?',
  ]) == 0
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', '')
  capsys.readouterr()
  return tmp_path / 'reviews'


@pytest.mark.slow
def test_from_a_table_to_predictions(folder, tiny_run, capsys, monkeypatch):
  monkeypatch.setattr(best_step, 'FEWEST', 1)
  train = ['train', 'reviews', '--from', str(tiny_run), *SHORT]
  assert main.main(train) == 0, capsys.readouterr().err
  printed = capsys.readouterr().out
  run = folder / 'run'
  before, after = (
      json.loads((run / f'{name}.json').read_text())
      for name in ('before', 'after')
  )
  assert before['step'] == 2 and before['limit'] == after['limit']
  assert before['input_length'] == after['input_length']
  # The best of the evaluated steps is the one that is kept.
  found = {
      int(path.stem): json.loads(path.read_text())['tasks']['reviews'][
          'accuracy']['mean']
      for path in (run / 'validation').glob('*.json')
  }
  best = min(s for s in found if found[s] == max(found.values()))
  assert [p.name for p in (run / 'checkpoints').iterdir()] == [str(best)]
  assert after['step'] == best
  assert f'step {best}: accuracy {found[best]:.3f} on validation' in printed
  assert (run / 'report_comparison.html').is_file()
  majority = f'{after["tasks"]["reviews"]["majority_accuracy"]:.3f}'
  rows = [r for r in printed.splitlines() if r.startswith('reviews  ')]
  assert any(majority in r for r in rows) and ' majority ' in printed
  # Again: nothing is trained or scored again.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluate, '_score', None)
    assert main.main(['train', 'reviews', *SHORT]) == 0
  # The table's columns and wording are those of the folder.
  assert main.main([
      'rank', '--checkpoint', 'reviews/run', '--task', 'reviews', '--table',
      'reviews.csv', '--output_file', 'labelled.csv',
  ]) == 0, capsys.readouterr().err
  with open('labelled.csv', newline='', encoding='utf-8') as f:
    labelled = list(csv.DictReader(f))
  assert [r['review'] for r in labelled] == [r['review'] for r in ROWS]
  assert {r['predicted_label'] for r in labelled} <= {'good', 'bad'}


@pytest.mark.slow
def test_adapters_killed_and_resumed(folder, tiny_run, capsys, monkeypatch):
  monkeypatch.setattr(best_step, 'FEWEST', 1)
  monkeypatch.setattr(best_step, 'PATIENCE', 9)  # All steps are trained.
  train = ['train', 'reviews', '--from', str(tiny_run), *SHORTER]
  whole = [*train, '--lora', '--output', 'whole']
  assert main.main(whole) == 0, capsys.readouterr().err
  assert 'Adapters (LoRA) alone are trained: --lora' in capsys.readouterr().out
  # Stopped before the first evaluation, and started again.
  evaluated = best_step.BestStep.after_save

  def stop(self, step, params):
    if step == 2:
      raise KeyboardInterrupt
    return evaluated(self, step, params)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(best_step.BestStep, 'after_save', stop)
    assert main.main([*train, '--lora']) == 130
  assert main.main(train) == 0, capsys.readouterr().err
  run = folder / 'run'
  for path in (folder.parent / 'whole' / 'validation').glob('*.json'):
    ours, theirs = (
        json.loads(p.read_text())['tasks']
        for p in (run / 'validation' / path.name, path)
    )
    assert ours == theirs, path.name
  # The best step's checkpoint has adapters alone.
  kept, = (run / 'checkpoints').iterdir()
  saved = t5x_checkpoints.shapes(kept)
  weights = {name for name in saved if name.startswith('params/')}
  assert weights and all(adapters.is_adapter(name) for name in weights)
  after = json.loads((run / 'after.json').read_text())
  assert after['settings']['LORA_RANK'] == 8
  assert 'network: lora_rank' in (run / 'report_comparison.md').read_text()
  capsys.readouterr()
  assert main.main([
      'rank', '--checkpoint', 'reviews/run', '--task', 'reviews', '--table',
      'reviews.csv', '--output_file', 'labelled.csv',
  ]) == 0, capsys.readouterr().err
  # What does not go together.
  capsys.readouterr()
  assert main.main([*train, '--no-lora']) == 1
  error = capsys.readouterr().err
  assert 'run.gin trains adapters, so --no-lora needs another --out' in error
  assert main.main(['train', 'reviews', '--from', 'reviews/run', '--output',
                    'again']) == 1
  error = capsys.readouterr().err
  assert 'reviews/run has adapters' in error and '--to native' in error
  assert not (folder.parent / 'again').exists()


@pytest.mark.slow
def test_adapters_of_int8_weights(folder, tiny_run, capsys, monkeypatch):
  """They are the only weights that can be trained, so they are."""
  monkeypatch.setattr(best_step, 'FEWEST', 1)
  assert main.main([
      'convert', str(tiny_run), 'int8', '--to', 'native', '--dtype', 'int8'
  ]) == 0
  train = ['train', 'reviews', '--from', 'int8', *SHORTER]
  assert main.main([*train, '--no-lora']) == 1
  assert 'int8 has int8 weights, which cannot be' in capsys.readouterr().err
  assert not (folder / 'run').exists()
  assert main.main(train) == 0, capsys.readouterr().err
  assert 'Adapters (LoRA) alone are trained: weights in int8' in (
      capsys.readouterr().out
  )
  assert (folder / 'run' / 'after.json').is_file()


@pytest.mark.slow
def test_few_rows_and_mistakes(folder, tiny_run, capsys, tmp_path):
  def fails(*argv):
    assert main.main(['train', *argv]) == 1
    return capsys.readouterr().err

  assert '--gin_file is needed, or a FOLDER' in fails()
  assert '--from needs a FOLDER' in fails('--from', 'x', '--gin_file=a.gin')
  assert '--gin_file does not go with a FOLDER' in fails(
      'reviews', '--gin_file=a.gin'
  )
  assert '--from is needed' in fails('reviews')
  assert 'catalog.csv is not found: `flipped-t5x new`' in fails(
      str(tmp_path), '--from', str(tiny_run)
  )
  assert not (folder / 'run').exists()
  # So few validation rows are no measure.
  assert main.main(
      ['train', 'reviews', '--from', str(tiny_run), '--gin.TRAIN_STEPS=2',
       '--gin.WARMUP_STEPS=1', '--gin.CHECKPOINT_PERIOD=1']
  ) == 0
  printed = capsys.readouterr().out
  assert 'fewer than 10 validation rows: the last step is kept' in printed
  assert json.loads((folder / 'run' / 'after.json').read_text())['step'] == 2
  assert not (folder / 'run' / 'validation').exists()
  assert 'so --from' in fails('reviews', '--from', 'pypi:other')


def test_a_damaged_task(folder, tiny_run, capsys):
  ask = [
      'rank', '--checkpoint', str(tiny_run), '--task', 'reviews', '--table',
      'reviews.csv', '--output_file', 'labelled.csv',
  ]
  path = folder / 'columns.json'
  for content, reason in (
      ('{"texts": "review", "label": "stars", "options": []}', 'texts'),
      ('{"label": "stars"}', 'texts'), ('{', 'JSON'), ('[]', ''),
  ):
    path.write_text(content)
    assert main.main(ask) == 1
    line, = capsys.readouterr().err.strip().splitlines()
    assert f'{path.relative_to(folder.parent)}' in line and reason in line
