"""Settings that are chosen from rows and models."""

import json
import os

import demo_catalog
from flipped_t5x import gin_config
from flipped_t5x.fine_tuning import plan
from flipped_t5x.weights import convert
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


@pytest.mark.parametrize('memory, asked, lora', (
    (23, None, True), (24, None, False), (23, False, False), (24, True, True),
))
def test_adapters_where_weights_take_half_of_the_memory(
    memory, asked, lora, dataset, tiny_run, tmp_path, monkeypatch
):
  """12 bytes for each weight: itself, its gradient and its update."""
  found = model_files.open(tiny_run)
  number = found.nbytes // 4  # They are stored in float32.
  monkeypatch.setattr(plan, '_memory', lambda: memory * number)
  made = plan.make(
      [dataset], tmp_path / 'run', 'some model', found, found.vocabulary,
      lora=asked,
  )
  path = tmp_path / 'run.gin'
  path.write_text(made.gin_text())
  macros = gin_config.parse([str(path)], ['LORA_RANK = 4'] if lora else [])
  assert macros.get('LORA_RANK') == (4 if lora else None)
  assert macros['LEARNING_RATE'] == pytest.approx(5e-3 if lora else 5e-4)
  if asked is None:
    assert f'{number:,} weights' in made.why
    assert ('more than half' if lora else 'at most half') in made.why
  else:
    assert made.why == ('--lora was given' if lora else '--no-lora was given')
  assert all(len(line) <= 80 for line in path.read_text().splitlines()[:10])


@pytest.mark.parametrize('dtype', ('bfloat16', 'int8'))
def test_weights_are_counted_not_their_bytes(
    dtype, dataset, tiny_run, tmp_path, monkeypatch
):
  """Stored in fewer bytes, they are trained in as many; int8 are not."""
  found = model_files.open(tiny_run)
  number = found.nbytes // 4
  made = tmp_path / 'made'
  convert.convert(tiny_run, made, to='native', dtype=dtype)
  monkeypatch.setattr(plan, '_memory', lambda: 23 * number)
  found = model_files.open(made)
  assert found.nbytes < 3 * number
  planned = plan.make(
      [dataset], tmp_path / 'run', 'some model', found, found.vocabulary
  )
  assert planned.lora
  assert ('int8 cannot' if dtype == 'int8' else 'more than') in planned.why


def test_memory_is_that_of_the_smallest_device(monkeypatch):
  class Device:

    def __init__(self, limit):
      self.limit = limit

    def memory_stats(self):
      return {'bytes_limit': self.limit} if self.limit else None

  def memory_with(*limits):
    monkeypatch.setattr(
        plan.jax, 'local_devices', lambda: map(Device, limits)
    )
    return plan._memory()

  assert memory_with(5, 3, 4) == 3
  assert memory_with(None) > 2**28  # Of the machine.


@pytest.mark.parametrize('texts, memory', (
    (('123\n', None), 123), ((None, '4567\n'), 4567), (('300\n', '200\n'), 200),
    (('max\n', None), None), ((None, f'{2**63 - 4096}\n'), None),
    ((None, None), None),
))
def test_the_limit_of_a_container(texts, memory, tmp_path, monkeypatch):
  paths = [tmp_path / 'memory.max', tmp_path / 'limit_in_bytes']
  monkeypatch.setattr(plan, '_CGROUP_LIMITS', paths)
  for path, text in zip(paths, texts, strict=True):
    if text:
      path.write_text(text)
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  assert plan._memory() == (memory or machine)
