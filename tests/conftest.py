"""What several tests need: a tiny vocabulary, a tiny network, a tiny run."""

import importlib.util
import os
import pathlib
import random

from flax import traverse_util
from flipped_t5x import libtpu_loading
from flipped_t5x import network as network_lib
from flipped_t5x.engine import checkpoints
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import run_config
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla_flags

WORDS = (
    'a the old red small dog cat river film music house review question answer'
    ' was is not very good bad likes hates sees under over near does this that'
    ' yes no true false positive negative input output it so they said'
).split()


# Mark -> the module that its tests need, and how it is had.
NEEDED = {
    't5x': ('t5x', 'see docs/t5x.md'),
    'torch': ('torch', "pip install -c constraints.txt -e '.[torch]'"),
    'lm_eval': ('lm_eval', "pip install -c constraints.txt -e '.[lm-eval]'"),
    'libtpu': ('libtpu', "pip install -c constraints.txt -e '.[tpu]'"),
    'serve': ('gradio', "pip install -c constraints.txt -e '.[serve]'"),
    'notebook': (
        'nbclient', "pip install -c constraints.txt -e '.[notebook]'"
    ),
}


def pytest_addoption(parser):
  for name, number, what in (
      ('mutations', 200, 'damaged copies of each file'),
      ('kills', 20, 'campaigns: times that each command is killed'),
      ('pairs', 3, 'campaigns: times that each command is started twice'),
      ('disks', 12, 'campaigns: sizes of disks that are too small'),
      ('seconds', 60, 'campaigns: how long users ask'),
  ):
    parser.addoption(f'--{name}', type=int, default=number, help=what)
  parser.addoption('--model', help='campaigns: what users ask, not a tiny run')


def pytest_configure():
  """Compiles faster in this process; those that tests start are as always."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XLA_FLAGS', xla_flags.QUICK)
    libtpu_loading.avoid()
    jax.devices()  # Flags are read here, once.
  # Nothing is kept in the user's data folder, by processes of tests neither.
  os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
  jax.config.update('jax_enable_compilation_cache', False)


def pytest_collection_modifyitems(items):
  """Skips what is marked as needing a module that is not installed."""
  for mark, (module, install) in NEEDED.items():
    if importlib.util.find_spec(module) is None:
      for item in items:
        if item.get_closest_marker(mark):
          item.add_marker(pytest.mark.skip(
              reason=f'{module} is not installed: {install}'
          ))


def sentence(rng: random.Random, num_words: int) -> str:
  """Words in any order that look like a sentence."""
  words = ' '.join(rng.choice(WORDS) for _ in range(num_words))
  return words.capitalize() + rng.choice('.?!:')


@pytest.fixture(scope='session')
def tiny_sentences() -> list[str]:
  """80 invented sentences of 4 to 15 words, always the same."""
  rng = random.Random(7)
  return [sentence(rng, rng.randint(4, 15)) for _ in range(80)]


@pytest.fixture(scope='session')
def tiny_vocabulary_path(tmp_path_factory, tiny_sentences) -> pathlib.Path:
  """A SentencePiece model of 200 ids, the 100 sentinels counted in."""
  path = tmp_path_factory.mktemp('vocabulary') / 'tiny.model'
  tokenization.train_vocabulary(tiny_sentences, 200, path)
  return path


@pytest.fixture(scope='session')
def tiny_vocabulary(tiny_vocabulary_path) -> tokenization.SentencePiece:
  """The vocabulary of `tiny_vocabulary_path`."""
  return tokenization.load_vocabulary(tiny_vocabulary_path)


@pytest.fixture(scope='session')
def tiny_network() -> network_lib.T5Config:
  """More ids than `tiny_vocabulary` has, as is usual with T5."""
  return network_lib.T5Config(
      vocab_size=208, emb_dim=16, num_heads=2, num_encoder_layers=2,
      num_decoder_layers=1, head_dim=8, mlp_dim=24,
  )


def random_params(config: network_lib.T5Config, seed: int) -> dict:
  """Weights of about the initial size; no scale is 1, no bias small."""
  tokens = np.ones((1, 1), np.int32)
  shapes = jax.eval_shape(lambda: network_lib.Transformer(config).init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  ))['params']
  rng = np.random.default_rng(seed)
  params = {}
  shapes = traverse_util.flatten_dict(shapes, sep='/')
  for name, leaf in sorted(shapes.items()):
    values = rng.normal(size=leaf.shape)
    if name.endswith('kernel'):
      values /= np.sqrt(leaf.shape[0])
    if 'query' in name:
      values /= np.sqrt(config.head_dim)
    if name.endswith('scale'):
      values = 1 + 0.2 * values
    params[name] = jnp.asarray(values, jnp.float32)
  return traverse_util.unflatten_dict(params, sep='/')


@pytest.fixture(scope='session')
def make_params():
  """(config, seed) -> random weights."""
  return random_params


@pytest.fixture(scope='session')
def tiny_params(tiny_network) -> dict:
  """Random weights of `tiny_network`."""
  return random_params(tiny_network, seed=2)


@pytest.fixture(scope='session')
def tiny_run(
    tmp_path_factory, tiny_network, tiny_params, tiny_vocabulary_path
) -> pathlib.Path:
  """A run folder with checkpoints 1 and 2 (`tiny_params`); never change it."""
  folder = tmp_path_factory.mktemp('runs') / 'tiny'
  checkpoints.prepare(
      folder,
      run_config.RunConfig(tiny_network, 'flipped', 48, 32, {'SEED': 0}),
      tiny_vocabulary_path,
  )
  saver = checkpoints.Checkpoints(folder)
  for step, params in ((1, random_params(tiny_network, 1)), (2, tiny_params)):
    saver.save(step, {'params': params, 'step': np.int32(step)}, b'')
  saver.close()
  return folder
