"""Two small invented datasets, their templates, and a mixture of them.

`install` makes the catalog consist of them; `write_gin` is a run over them.
"""

from collections.abc import Sequence
import functools
import json
import os
import pathlib
import random
import subprocess
import sys

from flipped_t5x import features
from flipped_t5x import network
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks import sources
import jax

MIXTURE = 'tiny_mixture'
VOCAB_SIZE = 205
NETWORK = network.T5Config(
    vocab_size=VOCAB_SIZE, emb_dim=16, num_heads=2, num_encoder_layers=1,
    num_decoder_layers=1, head_dim=8, mlp_dim=32,
)
_GIN = """
include 'runs/demo.gin'
MODEL_DIR = '{model_dir}'
MIXTURE = '{mixture}'
VOCAB_SIZE = {vocab_size}
TRAIN_STEPS = 40
CHECKPOINT_PERIOD = 20
LOG_PERIOD = 5
KEEP = None
BATCH_SIZE = 4
INPUT_LENGTH = 32
TARGET_LENGTH = 16
DROPOUT_RATE = 0.1
optimizers.adafactor.learning_rate = 1e-2
network.T5Config:
  emb_dim = 16
  num_heads = 2
  num_encoder_layers = 1
  num_decoder_layers = 1
  head_dim = 8
  mlp_dim = 32
"""

# argv: data folder, what to do after step 20 ('', 'slow', 'full'), arguments.
_SCRIPT = """
import pathlib, resource, sys, time
import pytest
import demo_data
from flipped_t5x.cli import main
from flipped_t5x.engine import train

demo_data.install(pathlib.Path(sys.argv[1]), pytest.MonkeyPatch())
num_examples, steps = train.num_examples, []

def after_step(batch):
  steps.append(1)
  if len(steps) > 20:
    if sys.argv[2] == 'slow':
      time.sleep(0.1)
    if sys.argv[2] == 'full':
      resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, 2_500))
  return num_examples(batch)

train.num_examples = after_step
sys.exit(main.main(sys.argv[3:]))
"""

# Rows by split; one training row of tiny_mood has no label.
ROWS = {
    'tiny_mood': {'train': 60, 'validation': 6, 'test': 10},
    'tiny_kind': {'train': 120, 'validation': 6, 'test': 12},
}
_MOODS = (
    ('dull', 'bad', 'slow', 'boring', 'awful'),
    ('warm', 'good', 'clever', 'funny', 'lovely'),
)
_KINDS = ('film', 'kettle', 'mayor', 'breakfast')
_TEMPLATES = {
    'tiny_mood': (
        ('Enjoy', 'no ||| yes', 'Did the reviewer enjoy it? {{text}}'),
        ('Mood', 'negative ||| positive', '{{text}} The mood of it is'),
        ('Guess', 'sad ||| happy',
         'Text: {{text}}\nGuess: {{["sad", "happy"] | choice}}?'),
    ),
    'tiny_kind': (
        ('Kind', 'movie ||| product ||| news ||| tweet',
         'What kind of text is this? {{text}}'),
        ('Where', 'magazine ||| shop ||| paper ||| network',
         '{{text}} Where would you read this?'),
    ),
}


def cache_compilations(folder: pathlib.Path, patch) -> None:
  """Compiles each function once for all tests and their subprocesses."""
  for name, value in (
      ('jax_compilation_cache_dir', str(folder)),
      ('jax_persistent_cache_min_compile_time_secs', 0),
      ('jax_persistent_cache_min_entry_size_bytes', 0),
  ):
    patch.setenv(name.upper(), str(value))
    jax.config.update(name, value)


def install(folder: pathlib.Path, patch) -> None:
  """Writes the data into a folder and makes the catalog consist of them.

  Args:
    folder: becomes the data folder.
    patch: a `pytest.MonkeyPatch`.
  """
  datasets = {}
  for name, splits in ROWS.items():
    templates = folder / f'{name}.yaml'
    templates.write_text(_yaml(name))
    datasets[name] = catalog.Dataset(
        name, 'tiny', f'file:{templates}', splits, 'accuracy'
    )
    if not (folder / name).exists():
      sources.write_splits(folder / name, rows(name))
  patch.setenv('FLIPPED_T5X_DATA', str(folder))
  patch.setattr(catalog, 'catalog', lambda: datasets)
  patch.setitem(sources.SOURCES, 'tiny', _Source())
  patch.setitem(mixtures.MIXTURES, MIXTURE, mixtures.Mixture(tuple(ROWS)))
  path = vocabulary()
  if not path.exists():
    path.write_bytes(_vocabulary_bytes())


def write_gin(path: pathlib.Path, model_dir: pathlib.Path) -> str:
  """Writes a gin file of 40 steps with dropout; returns its path."""
  path.write_text(_GIN.format(
      model_dir=model_dir, mixture=MIXTURE, vocab_size=VOCAB_SIZE
  ))
  return str(path)


def start(
    folder: pathlib.Path, arguments: Sequence[str], after_20: str = ''
) -> subprocess.Popen:
  """Runs `flipped-t5x ARGUMENTS` over the data in another process.

  Args:
    folder: where `install` has put the data.
    arguments: of the command.
    after_20: what to do after 20 steps: 'slow' or, no room on disk, 'full'.

  Returns:
    The process; both of its outputs are in `stdout`.
  """
  return subprocess.Popen(
      [sys.executable, '-c', _SCRIPT, str(folder), after_20, *arguments],
      env=dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parent)),
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )


def vocabulary() -> pathlib.Path:
  """A SentencePiece model of the data's words, of `VOCAB_SIZE` ids."""
  return sources.data_folder() / 'tiny.model'


def rows(name: str) -> dict[str, list[dict[str, object]]]:
  """Split -> the rows of a dataset; every text is another."""
  rng = random.Random(name)
  splits = {}
  for split, number in ROWS[name].items():
    splits[split] = []
    for i in range(number):
      kind, mood = i % 4, i // 4 % 2
      words = ' '.join(rng.choices(_MOODS[mood], k=2))
      text = f'The {_KINDS[kind]} of {split} {i} is {words}.'
      label = mood if name == 'tiny_mood' else kind
      splits[split].append({'text': text, 'label': label})
  if name == 'tiny_mood':
    splits['train'][7]['label'] = -1
  return splits


class _Source:
  """Rows that `install` has written."""

  def open(self, name: str, split: str) -> sources.Jsonl:
    return sources.Jsonl(sources.data_folder() / name / f'{split}.jsonl')


def _yaml(name: str) -> str:
  """Promptsource's form; JSON is YAML."""
  entries = ''.join(
      f'  {i}: !Template\n'
      f'    answer_choices: {json.dumps(choices)}\n'
      f'    jinja: {json.dumps(jinja + " ||| {{answer_choices[label]}}")}\n'
      '    metadata: !TemplateMetadata {metrics: [Accuracy]}\n'
      f'    name: {title}\n'
      for i, (title, choices, jinja) in enumerate(_TEMPLATES[name])
  )
  return f'dataset: {name}\ntemplates:\n{entries}'


@functools.cache
def _vocabulary_bytes() -> bytes:
  texts = [r['text'] for name in ROWS for r in rows(name)['train']]
  for templates in _TEMPLATES.values():
    for _, choices, jinja in templates:
      texts += [f'input: output: {choices} {jinja}'] * 20
  path = sources.data_folder() / f'{os.getpid()}.model'
  features.train_vocabulary(texts, VOCAB_SIZE, path)
  content = path.read_bytes()
  path.unlink()
  return content
