"""Settings that are chosen from rows and models."""

import json

import demo_catalog
from flipped_t5x import gin_config
from flipped_t5x.fine_tuning import plan
from flipped_t5x.weights import model_files
import pytest


@pytest.mark.parametrize('rows, steps', (
    (10, 125), (250, 125), (500, 250), (2_500, 1_250), (15_000, 1_250),
    (50_000, 3_125),
))
def test_steps(rows, steps):
  """2,000 examples of few rows; 8 of each; 20,000, or each row once."""
  assert plan.num_steps(rows) == steps


@pytest.fixture(name='dataset')
def fixture_dataset(tmp_path, monkeypatch):
  """A dataset of 100 texts of 20 words, and one of 70 words."""
  demo_catalog.isolate(tmp_path, monkeypatch)
  folder = tmp_path / 'mine'
  texts = [' '.join(['dog'] * (70 if i == 7 else 20)) for i in range(101)]
  (folder / 'pets').mkdir(parents=True)
  for split in ('train', 'test'):
    (folder / 'pets' / f'{split}.jsonl').write_text(''.join(
        json.dumps({'text': text, 'label': i % 2}) + '\n'
        for i, text in enumerate(texts)
    ))
  (folder / 'templates.yaml').write_text("""\
dataset: pets
templates:
  a: !Template
    name: good
    jinja: "{{text}} a good dog? ||| {{answer_choices[label]}}"
    answer_choices: bad ||| good
    metadata: !TemplateMetadata
      metrics: [Accuracy]
""")
  (folder / 'catalog.csv').write_text(
      'name,templates,eval_split,fields,label\n'
      'pets,file:templates.yaml,test,text label,label\n'
  )
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(folder / 'catalog.csv'))
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{folder}/,local')
  return 'pets'


def test_gin_file(dataset, tiny_run, tmp_path):
  found = model_files.open(tiny_run)
  made = plan.make(
      [dataset], tmp_path / 'run', 'some model', found, found.vocabulary
  )
  assert made.rows == 101
  path = tmp_path / 'run.gin'
  path.write_text(made.gin_text())
  macros = gin_config.parse([str(path)], [])
  assert macros['MODEL_DIR'] == str(tmp_path / 'run')
  assert macros['INITIAL_CHECKPOINT_PATH'] == 'some model'
  assert macros['MIXTURE'] == 'pets' and macros['FORMAT'] == 'flipped'
  assert macros['EMB_DIM'] == found.network.emb_dim
  assert macros['LEARNING_RATE'] == 5e-4
  # 99 % of the inputs have fewer than 48 tokens; the longest is not among them.
  assert macros['INPUT_LENGTH'] <= 64
  assert macros['TARGET_LENGTH'] % 16 == 0
  assert macros['CHECKPOINT_PERIOD'] * 5 == macros['TRAIN_STEPS'] == 125
