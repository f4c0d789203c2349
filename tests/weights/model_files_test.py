"""One way to open a model, whichever program wrote it."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

from flipped_t5x import errors
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import model_files
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import tensors
import hf_tokenizer
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

EMBEDDING = 'token_embedder/embedding'


@pytest.fixture
def hf_folder(tiny_network, tiny_params, tiny_vocabulary_path, tmp_path):
  folder = tmp_path / 'hf'
  folder.mkdir()
  hf_checkpoints.write(
      folder, tiny_network, tensors.from_arrays(tiny_params),
      tiny_vocabulary_path,
  )
  return folder


def edit(path, **fields):
  """Changes a JSON file; None takes a field away."""
  content = json.loads(path.read_text()) | fields
  path.write_text(json.dumps(
      {name: value for name, value in content.items() if value is not None}
  ))


def assert_weights(files, params):
  expected = {n: t.read() for n, t in tensors.from_arrays(params).items()}
  assert files.tensors.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(files.tensors[name].read(), array, name)


def test_a_run(tiny_run, tiny_network, tiny_params, make_params):
  files = model_files.open(tiny_run)
  assert (files.kind, files.step, files.format) == ('native', 2, 'flipped')
  assert (files.input_length, files.target_length) == (48, 32)
  assert files.network == tiny_network and files.settings == {'SEED': 0}
  assert files.vocabulary == tiny_run / 'sentencepiece.model'
  assert pathlib.Path(files.path) == tiny_run
  assert_weights(files, tiny_params)
  for path, step in ((tiny_run / 'checkpoints' / '1', None), (tiny_run, 1)):
    files = model_files.open(path, step=step)
    assert files.step == 1 and pathlib.Path(files.path) == tiny_run
    assert files.vocabulary == tiny_run / 'sentencepiece.model'
    assert_weights(files, make_params(tiny_network, 1))


def test_a_hugging_face_folder(hf_folder, tiny_network, tiny_params):
  files = model_files.open(hf_folder)
  assert (files.kind, files.step, files.settings) == ('hf', None, {})
  # Nothing says otherwise: those of the published models.
  assert (files.format, files.input_length, files.target_length) == (
      'flipped', 384, 64
  )
  assert files.network == tiny_network
  assert files.vocabulary == hf_folder / 'spiece.model'
  assert_weights(files, tiny_params)
  fields = {'format': 'direct', 'input_length': 12, 'target_length': 7,
            'settings': {'LAMBDA': 0}, 'step': 9}
  (hf_folder / 'flipped_t5x.json').write_text(json.dumps(fields))
  files = model_files.open(hf_folder)
  assert fields == {name: getattr(files, name) for name in fields}
  for changed in ({'format': 'other'}, {'step': None}):
    edit(hf_folder / 'flipped_t5x.json', **changed)
    with pytest.raises(ValueError, match='other|flipped_t5x.json has'):
      model_files.open(hf_folder)
    edit(hf_folder / 'flipped_t5x.json', format='direct')
  for field, value in (
      ('format', ['flipped']), ('settings', None), ('step', '2'),
      ('input_length', 0), ('settings', {'MAX_FIELD_CHARS': 'x'}),
  ):
    path = hf_folder / 'flipped_t5x.json'
    path.write_text(json.dumps(fields | {field: value}))
    with pytest.raises(errors.UserError, match=f'^{path}: .*{field}|MAX_FIELD'):
      model_files.open(hf_folder)
  path.unlink()
  with pytest.raises(ValueError, match='a Hugging Face folder has no steps'):
    model_files.open(hf_folder, step=3)


@pytest.mark.parametrize('changed', (
    {}, {'mlp_activations': ('relu',), 'logits_via_embedding': True},
    {'scan_layers': True},
    {'head_dim': 12, 'num_heads': 4, 'scan_layers': True},
    {'num_encoder_layers': 11, 'num_decoder_layers': 3},
))
def test_sizes_of_a_t5x_checkpoint(
    changed, tiny_network, make_params, tmp_path
):
  """They are those of the network whose weights they are."""
  network = dataclasses.replace(tiny_network, **changed)
  params = make_params(network, 3)
  path = t5x_checkpoints.write(params, 70, tmp_path)
  for place in (path, tmp_path):
    files = model_files.open(place)
    assert (files.kind, files.step, files.network) == ('t5x', 70, network)
    assert files.vocabulary is None
    assert_weights(files, params)
  with pytest.raises(
      FileNotFoundError, match='no checkpoint of step 3; there are: 70'
  ):
    model_files.open(tmp_path, step=3)


def test_t5x_beside_a_configuration(tiny_run, tiny_params, tmp_path):
  """As `convert` writes it: what T5X does not know is beside it."""
  path = t5x_checkpoints.write(tiny_params, 70, tmp_path)
  for name in ('config.json', 'sentencepiece.model'):
    shutil.copyfile(tiny_run / name, tmp_path / name)
  for place in (path, tmp_path):
    files = model_files.open(place)
    assert (files.kind, files.step, files.input_length) == ('t5x', 70, 48)
    assert files.vocabulary == tmp_path / 'sentencepiece.model'


def test_layers_stacked_otherwise_than_the_configuration_says(
    tiny_run, tiny_network, tiny_params, tmp_path
):
  shutil.copyfile(tiny_run / 'config.json', tmp_path / 'config.json')
  stacks = tensors.stacked(tensors.from_arrays(tiny_params))
  t5x_checkpoints.write(stacks, 70, tmp_path)
  assert model_files.open(tmp_path).network == dataclasses.replace(
      tiny_network, scan_layers=True
  )


@pytest.mark.parametrize('changed, message', (
    ({EMBEDDING: None}, f'not the weights of a T5: {EMBEDDING} is missing'),
    ({'encoder/encoder/relpos_bias/rel_embedding': (2, 2, 32)},
     'each layer has its own position biases'),
    ({'decoder/layers_0/relpos_bias/rel_embedding': (2, 32)},
     'decoder/layers_0/relpos_bias/rel_embedding: each layer has'),
    ({'encoder/relpos_bias/rel_embedding': (2, 64)}, '64 buckets'),
    ({'encoder/layers_1/mlp/wo/kernel': (24, 17)},
     r'encoder/layers_1/mlp/wo/kernel is \(24, 17\) where the network has'),
    ({'encoder/layers_0/attention/query/bias': (16,)},
     'query/bias is not in the network'),
    ({'decoder/layers_0/mlp/wi_1/kernel': None}, 'wi_1/kernel is missing'),
))
def test_weights_of_another_network(tiny_params, tmp_path, changed, message):
  found = tensors.from_arrays(tiny_params)
  for name, shape in changed.items():
    found.pop(name, None)
    if shape:
      found |= tensors.from_arrays({name: np.ones(shape, np.float32)})
  path = t5x_checkpoints.write(found, 1, tmp_path)
  with pytest.raises(ValueError, match=f'{path}: .*{message}'):
    model_files.open(path)


@pytest.mark.parametrize('field, message', (
    ({'num_encoder_layers': 3}, 'encoder/layers_2/attention/query/kernel is m'),
    ({'num_encoder_layers': 1}, 'layers_1/attention/query/kernel is not in t'),
    ({'mlp_dim': 25}, r'wi_0/kernel is \(16, 24\) where the network has \(16,'),
))
def test_weights_of_another_configuration(tiny_run, tmp_path, field, message):
  run = tmp_path / 'run'
  shutil.copytree(tiny_run, run)
  network = json.loads((run / 'config.json').read_text())['network']
  edit(run / 'config.json', network=network | field)
  with pytest.raises(ValueError, match=f'{run}: the weights are.*{message}'):
    model_files.open(run)


def test_vocabularies(
    tiny_run, hf_folder, tiny_params, tiny_sentences, tmp_path
):
  path = t5x_checkpoints.write(tiny_params, 1, tmp_path)
  for given, found in (
      (tiny_run, tiny_run / 'sentencepiece.model'),
      (hf_folder, hf_folder / 'spiece.model'),
      (str(hf_folder / 'spiece.model'), hf_folder / 'spiece.model'),
  ):
    assert model_files.open(path, vocabulary=given).vocabulary == found
  for missing in (tmp_path / 'none.model', tmp_path):
    with pytest.raises(FileNotFoundError, match='no such vocabulary'):
      model_files.open(path, vocabulary=missing)
  large = tmp_path / 'large.model'
  tokenization.train_vocabulary(tiny_sentences, 209, large)
  for model in (path, tiny_run, hf_folder):
    with pytest.raises(
        ValueError, match=rf'{large} has 209 ids.*{EMBEDDING} of .* 208 rows'
    ):
      model_files.open(model, vocabulary=large)
  (tmp_path / 'no.model').write_text('no model')
  with pytest.raises(ValueError, match='no.model: not a SentencePiece model'):
    model_files.open(path, vocabulary=tmp_path / 'no.model')


def test_vocabulary_of_another_model(
    tiny_run, hf_folder, tiny_vocabulary_path, tiny_sentences, tmp_path
):
  """Of as many pieces. Notes of the training do not make it another."""
  model = sentencepiece_model_pb2.ModelProto.FromString(
      tiny_vocabulary_path.read_bytes()
  )
  model.trainer_spec.input[:] = ['elsewhere.txt']
  same, other = tmp_path / 'same.model', tmp_path / 'other.model'
  same.write_bytes(model.SerializeToString())
  model.pieces[50].piece += 'x'
  other.write_bytes(model.SerializeToString())
  for path in (tiny_run, hf_folder):
    own = model_files.open(path).vocabulary
    assert model_files.open(path, vocabulary=same).vocabulary == same
    with pytest.raises(
        ValueError,
        match=f'^{other} is not the vocabulary that the weights of {path} were'
        f' trained with, which is {own}: leave it out',
    ):
      model_files.open(path, vocabulary=other)


def test_vocabulary_of_a_tokenizer_json(
    hf_folder, tiny_vocabulary_path, tiny_sentences, tmp_path, monkeypatch
):
  """It is made once, and gives the same ids."""
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  model = sentencepiece_model_pb2.ModelProto()
  model.ParseFromString(tiny_vocabulary_path.read_bytes())
  (hf_folder / 'spiece.model').unlink()
  assert model_files.open(hf_folder).vocabulary is None
  tokenizer = hf_folder / 'tokenizer.json'
  tokenizer.write_text(json.dumps(hf_tokenizer.content(model)))
  made = model_files.open(hf_folder).vocabulary
  assert made.parent == tmp_path / 'data' / 'vocabularies'
  before = made.stat().st_mtime_ns
  assert model_files.open(hf_folder).vocabulary == made
  assert made.stat().st_mtime_ns == before
  one, other = map(tokenization.SentencePiece, (tiny_vocabulary_path, made))
  assert [one.encode(s) for s in tiny_sentences] == [
      other.encode(s) for s in tiny_sentences
  ]
  tokenizer.write_text('{}')
  with pytest.raises(ValueError, match='tokenizer.json'):
    model_files.open(hf_folder)
  assert len(list(made.parent.iterdir())) == 1


def test_no_model(tiny_run, tmp_path):
  with pytest.raises(FileNotFoundError, match='none: no checkpoint found .no'):
    model_files.open(tmp_path / 'none')
  with pytest.raises(FileNotFoundError, match='; a model is the folder of a r'):
    model_files.open(tmp_path)
  shutil.copyfile(tiny_run / 'config.json', tmp_path / 'config.json')
  with pytest.raises(FileNotFoundError, match='no checkpoint has been saved'):
    model_files.open(tmp_path)
  for content in ('{"network": ', '[]'):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match='config.json: not JSON'):
      model_files.open(tmp_path)


@pytest.mark.slow
@pytest.mark.process
def test_neither_tensorflow_nor_seqio_nor_pytorch(tiny_run, hf_folder):
  """None is imported, wherever a model comes from."""
  code = (
      'import sys; from flipped_t5x.weights import model_files;'
      ' [model_files.open(path) for path in sys.argv[1:]];'
      ' print({"tensorflow", "seqio", "torch"} & {*sys.modules})'
  )
  process = subprocess.run(
      [sys.executable, '-c', code, tiny_run, hf_folder], check=True,
      capture_output=True, text=True,
  )
  assert process.stdout == 'set()\n'


CONFIG_GIN = """
from __gin__ import dynamic_registration

# Macros:
# ==============================================================================
FORMAT = 'channel'
INPUT_LENGTH = 64
LAMBDA = 0.0
MLP_ACTIVATIONS = ('silu', 'linear')
OVERRIDES = {'adafactor.Adafactor.decay_rate': 0.9}
TARGET_LENGTH = 384

# Parameters for adafactor.Adafactor:
# ==============================================================================
adafactor.Adafactor.decay_rate = 0.9
"""


@pytest.fixture
def t5x_run(tmp_path, tiny_params, tiny_vocabulary_path):
  """A run of T5X of CHANNEL, with its `config.gin` and its vocabulary."""
  t5x_checkpoints.write(tiny_params, 30, tmp_path / 'run')
  (tmp_path / 'run/config.gin').write_text(CONFIG_GIN)
  shutil.copy(tiny_vocabulary_path, tmp_path / 'run/sentencepiece.model')
  return tmp_path / 'run'


@pytest.mark.parametrize('name', ('', 'checkpoint_30'))
def test_a_run_of_t5x_says_what_it_is(name, t5x_run, tiny_network):
  found = model_files.open(t5x_run / name)
  assert (found.kind, found.step) == ('t5x', 30)
  assert (found.format, found.input_length, found.target_length) == (
      'channel', 64, 384
  )
  assert found.network == dataclasses.replace(
      tiny_network, mlp_activations=('silu', 'linear')
  )
  assert found.vocabulary == t5x_run / 'sentencepiece.model'
  assert found.settings['LAMBDA'] == 0.0
  assert found.settings['adafactor.Adafactor.decay_rate'] == 0.9


def test_other_runs_of_t5x(t5x_run):
  config = t5x_run / 'config.gin'
  config.write_text(CONFIG_GIN.replace('channel', 'chanel'))
  with pytest.raises(ValueError, match="unknown format 'chanel'"):
    model_files.open(t5x_run)
  # Not of this project's gin files.
  config.write_text("MIXTURE_OR_TASK_NAME = 'c4'\n")
  (t5x_run / 'sentencepiece.model').unlink()
  found = model_files.open(t5x_run)
  assert (found.format, found.input_length, found.target_length) == (
      'flipped', 384, 64
  )
  assert found.settings == {} and found.vocabulary is None
