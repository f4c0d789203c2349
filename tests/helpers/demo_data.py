"""Two small invented datasets, their templates, and a mixture of them.

`install` adds them to the catalog, as datasets of one's own are added;
`write_gin` is a run over them.
"""

from collections.abc import Sequence
import functools
import json
import os
import pathlib
import random
import subprocess
import sys

from flipped_t5x import files
from flipped_t5x import network
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import mixtures
import jax
import xla_flags

MIXTURE = 'flipped_tiny_mixture'  # Its twins, `direct_` and so on, exist too.
VOCAB_SIZE = 205
NETWORK = network.T5Config(
    vocab_size=VOCAB_SIZE, emb_dim=16, num_heads=2, num_encoder_layers=1,
    num_decoder_layers=1, head_dim=8, mlp_dim=32,
)
_GIN = """
include 'runs/scratch.gin'
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
  """Writes the data into a folder and adds them to the catalog.

  Args:
    folder: becomes the data folder.
    patch: a `pytest.MonkeyPatch`.
  """
  lines = ['name,templates,train,validation,test,eval_split,fields']
  for name, splits in ROWS.items():
    _write(folder / f'{name}.yaml', _yaml(name))
    sizes = ','.join(map(str, splits.values()))
    lines.append(f'{name},file:{name}.yaml,{sizes},test,text label')
    for split, split_rows in rows(name).items():
      path = local_file(folder, name, split)
      if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(json.dumps(r) + '\n' for r in split_rows))
  own = folder / 'catalog.csv'
  _write(own, '\n'.join(lines) + '\n')
  patch.setenv('FLIPPED_T5X_DATA', str(folder))
  patch.setenv('FLIPPED_T5X_CATALOG', str(own))
  patch.setenv('FLIPPED_T5X_SOURCES', 'local')
  patch.setitem(
      mixtures._EXPLICIT, MIXTURE.removeprefix('flipped_'), tuple(ROWS)
  )
  path = vocabulary()
  if not path.exists():
    path.write_bytes(_vocabulary_bytes())


def _write(path: pathlib.Path, text: str) -> None:
  # Not again: other processes may be reading it.
  if not path.exists() or path.read_text() != text:
    path.write_text(text)


def local_file(folder: pathlib.Path, name: str, split: str) -> pathlib.Path:
  """Where `install` writes the rows of a split."""
  return folder / 'local' / name / f'{split}.jsonl'


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
      env={
          **os.environ,
          'PYTHONPATH': str(pathlib.Path(__file__).parent),
          'XLA_FLAGS': xla_flags.QUICK,  # Compared with this process.
      },
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )


def vocabulary() -> pathlib.Path:
  """A SentencePiece model of the data's words, of `VOCAB_SIZE` ids."""
  return files.data_folder() / 'tiny.model'


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
  path = files.data_folder() / f'{os.getpid()}.model'
  tokenization.train_vocabulary(texts, VOCAB_SIZE, path)
  content = path.read_bytes()
  path.unlink()
  return content
