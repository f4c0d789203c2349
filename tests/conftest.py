"""What several tests need: a tiny vocabulary, a tiny network, a tiny run."""

import pathlib
import random

from flipped_t5x import features
from flipped_t5x import network as network_lib
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import train
import jax
import optax
import pytest

WORDS = (
    'a the old red small dog cat river film music house review question answer'
    ' was is not very good bad likes hates sees under over near does this that'
    ' yes no true false positive negative input output it so they said'
).split()


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
  features.train_vocabulary(tiny_sentences, 200, path)
  return path


@pytest.fixture(scope='session')
def tiny_vocabulary(tiny_vocabulary_path) -> features.SentencePiece:
  """The vocabulary of `tiny_vocabulary_path`."""
  return features.load_vocabulary(tiny_vocabulary_path)


@pytest.fixture(scope='session')
def tiny_network() -> network_lib.T5Config:
  """Two layers a side; more ids than `tiny_vocabulary`, as usual with T5."""
  return network_lib.T5Config(
      vocab_size=208, emb_dim=16, num_heads=2, num_encoder_layers=2,
      num_decoder_layers=2, head_dim=8, mlp_dim=24,
  )


@pytest.fixture(scope='session')
def tiny_run(
    tmp_path_factory, tiny_network, tiny_vocabulary_path
) -> pathlib.Path:
  """A run folder with random weights at steps 1 and 2; never change it."""
  folder = tmp_path_factory.mktemp('runs') / 'tiny'
  checkpoints.prepare(
      folder,
      checkpoints.RunConfig(tiny_network, 'flipped', 48, 32, {'SEED': 0}),
      tiny_vocabulary_path,
  )
  model = network_lib.Transformer(tiny_network)
  saver = checkpoints.Checkpoints(folder)
  for step in (1, 2):
    state = jax.jit(
        lambda seed=step: train.init_state(model, optax.sgd(0.1), seed)
    )()
    saver.save(step, state, b'')
  saver.close()
  return folder
