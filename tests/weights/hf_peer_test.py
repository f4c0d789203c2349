"""The same weights in `transformers` and here: logits, scores, files.

The weights are random, of about the size that training leaves: those that
`transformers` starts from make some of the layers count for nothing.
"""

import copy
import dataclasses
import functools
import random

from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import tensors
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SIZES = {
    't5_1_1': {
        'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False,
        'vocab_size': 208, 'd_model': 32, 'd_kv': 8, 'd_ff': 48,
        'num_layers': 3, 'num_decoder_layers': 2, 'num_heads': 3,
    },
    't5_1_0': {
        'feed_forward_proj': 'relu', 'tie_word_embeddings': True,
        'vocab_size': 160, 'd_model': 24, 'd_kv': 4, 'd_ff': 96,
        'num_layers': 2, 'num_heads': 4,
    },
    # Flan-T5's are those of T5 1.1, deeper here, and with wider heads.
    'flan': {
        'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False,
        'vocab_size': 300, 'd_model': 48, 'd_kv': 16, 'd_ff': 80,
        'num_layers': 4, 'num_heads': 6, 'decoder_start_token_id': 0,
    },
    'gated_silu': {
        'feed_forward_proj': 'gated-silu', 'tie_word_embeddings': False,
        'vocab_size': 64, 'd_model': 16, 'd_kv': 8, 'd_ff': 24,
        'num_layers': 1, 'num_heads': 2,
    },
    # Scaled as one that is tied, and gated.
    'tied_gated': {
        'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': True,
        'vocab_size': 64, 'd_model': 16, 'd_kv': 8, 'd_ff': 24,
        'num_layers': 2, 'num_heads': 2,
    },
}


@functools.cache
def their_model(name):
  """A `T5ForConditionalGeneration` of `SIZES` that does not drop out."""
  import torch
  import transformers

  config = transformers.T5Config(**SIZES[name])
  torch.manual_seed(len(name))
  model = transformers.T5ForConditionalGeneration(config).eval()
  if not config.scale_decoder_outputs:  # It ties whatever the configuration.
    model.lm_head.weight = torch.nn.Parameter(
        torch.empty(config.vocab_size, config.d_model))
  with torch.no_grad():
    for path, values in model.named_parameters():
      torch.nn.init.normal_(values)
      if path.endswith('layer_norm.weight'):
        values.mul_(0.2).add_(1)
      elif path.endswith(('.q.weight', 'lm_head.weight')):
        values.mul_((values.shape[1] * config.d_kv ** path.count('.q.')) ** -.5)
        values.mul_(2)
      elif values.ndim == 2 and 'bias' not in path and 'shared' not in path:
        values.mul_(values.shape[1] ** -.5)
  return model


def token_batch(rng, vocab_size, rows=7, source=19, length=11):
  """int32[rows, source] and int32[rows, length], of any length to 1."""
  inputs = rng.integers(1, vocab_size, (rows, source))
  targets = rng.integers(1, vocab_size, (rows, length))
  inputs *= np.arange(source) < rng.integers(1, source + 1, (rows, 1))
  targets *= np.arange(length) < rng.integers(1, length + 1, (rows, 1))
  inputs[0], targets[0] = 5, 6  # One row has no padding.
  return inputs.astype(np.int32), targets.astype(np.int32)


def shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def their_logits(model, inputs, targets):
  import torch

  inputs, targets = torch.tensor(inputs).long(), torch.tensor(targets).long()
  with torch.no_grad():
    return model(
        input_ids=inputs, attention_mask=inputs > 0,
        decoder_input_ids=torch.tensor(shifted(targets.numpy())),
        decoder_attention_mask=targets > 0,
    ).logits.float().numpy()


@functools.partial(jax.jit, static_argnums=0)
def _apply(config, params, inputs, previous, targets):
  return network_lib.Transformer(config).apply(
      {'params': params}, inputs, previous, targets, enable_dropout=False
  )


def our_logits(config, params, inputs, targets):
  return np.asarray(_apply(config, params, inputs, shifted(targets), targets))


def load(folder):
  """The configuration and the tree of weights of a folder."""
  config, found = hf_checkpoints.open(folder)
  return config, tensors.tree({
      n: jnp.asarray(t.read()) for n, t in found.items()
  })


def assert_same_logits(model, config, params, **sizes):
  rng = np.random.default_rng(0)
  inputs, targets = token_batch(rng, config.vocab_size, **sizes)
  theirs = their_logits(model, inputs, targets)
  ours = our_logits(config, params, inputs, targets)
  real = targets > 0
  assert theirs[real].std() > 0.3  # Else any weights would be as good.
  assert np.ptp(theirs[real].argmax(-1)) > 0
  np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4, rtol=0)


def their_tensors(folder):
  """Name -> values of all safetensors of a folder."""
  result = {}
  for path in folder.glob('*.safetensors'):
    result |= safetensors_numpy.load_file(path)
  return result


KINDS = ('sharded', 'bin', 'sharded bin')


def save(model, folder, kind):
  """Writes a model as `transformers` or `torch` do it."""
  import torch

  if kind == 'safetensors':
    model.save_pretrained(folder)
    assert (folder / 'model.safetensors').exists()
  elif kind == 'sharded':
    model.save_pretrained(folder, max_shard_size='20KB')
    assert len(list(folder.glob('*.safetensors'))) > 2
  else:
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if kind != 'sharded bin':
      torch.save(state, folder / 'pytorch_model.bin')
      return
    index = {'metadata': {}, 'weight_map': {}}
    for i in range(2):
      file = f'pytorch_model-{i + 1:05}-of-00002.bin'
      shard = dict(list(state.items())[i::2])
      torch.save(shard, folder / file)
      index['weight_map'] |= dict.fromkeys(shard, file)
    files.write_json(folder / 'pytorch_model.bin.index.json', index)


@pytest.mark.parametrize('name, kind', (
    *((name, 'safetensors') for name in SIZES),
    *((name, kind) for name in ('t5_1_1', 't5_1_0') for kind in KINDS),
))
def test_logits(tmp_path, name, kind):
  model = their_model(name)
  save(model, tmp_path, kind)
  config, params = load(tmp_path)
  assert config.logits_via_embedding == SIZES[name]['tie_word_embeddings']
  for field, ours in (('d_model', 'emb_dim'), ('num_heads', 'num_heads'),
                      ('num_layers', 'num_encoder_layers')):
    assert getattr(config, ours) == SIZES[name][field]
  assert_same_logits(model, config, params)


def test_long_inputs(tmp_path):
  """Longer than the distance from which on all are the same."""
  model = their_model('t5_1_1')
  save(model, tmp_path, 'safetensors')
  assert_same_logits(model, *load(tmp_path), rows=2, source=300, length=160)


def test_old_and_new_configurations(tmp_path):
  """Of versions before 5, and the T5 1.1 that 5 makes, which is tied."""
  import transformers

  model = their_model('t5_1_1')
  save(model, tmp_path, 'safetensors')
  old = {'model_type': 't5', 'architectures': ['T5ForConditionalGeneration']}
  files.write_json(
      tmp_path / 'config.json', old | SIZES['t5_1_1'])
  assert_same_logits(model, *load(tmp_path))
  new = transformers.T5ForConditionalGeneration(
      transformers.T5Config(**SIZES['t5_1_1'])).eval()
  assert new.lm_head.weight is new.shared.weight
  state = copy.deepcopy(their_model('t5_1_1').state_dict())
  del state['lm_head.weight']
  new.load_state_dict(state, strict=False)
  new.save_pretrained(tmp_path / 'new')
  assert 'lm_head.weight' not in their_tensors(tmp_path / 'new')
  config, params = load(tmp_path / 'new')
  assert not config.logits_via_embedding
  assert_same_logits(new, config, params)


@pytest.mark.parametrize('name', SIZES)
@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_from_here_to_there(tmp_path, name, dtype, make_params):
  import torch
  import transformers

  save(their_model(name), tmp_path, 'safetensors')
  config, _ = hf_checkpoints.open(tmp_path)
  params = make_params(config, 9)
  params = jax.tree.map(lambda a: a.astype(dtype), params)
  (tmp_path / 'out').mkdir()
  hf_checkpoints.write(
      tmp_path / 'out', config, tensors.from_arrays(params), None,
      max_shard_bytes=20_000,
  )
  model, info = transformers.T5ForConditionalGeneration.from_pretrained(
      tmp_path / 'out', output_loading_info=True)
  assert not any(info[n] for n in (
      'missing_keys', 'unexpected_keys', 'mismatched_keys', 'error_msgs'))
  assert {values.dtype for values in model.parameters()} == {
      getattr(torch, dtype)}
  assert model.config.scale_decoder_outputs == config.logits_via_embedding
  params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
  assert_same_logits(model.eval().float(), config, params)
  assert model.generation_config.decoder_start_token_id == 0


def test_a_whole_folder(
    tmp_path, tiny_network, tiny_params, tiny_vocabulary_path, tiny_vocabulary,
    tiny_sentences,
):
  """What its users write, without a word about T5."""
  import transformers

  hf_checkpoints.write(
      tmp_path, tiny_network, tensors.from_arrays(tiny_params),
      tiny_vocabulary_path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
  assert_same_logits(model, tiny_network, tiny_params)
  batch = tokenizer(tiny_sentences[:8], padding=True, return_tensors='pt')
  for text, ids, mask in zip(
      tiny_sentences, batch.input_ids.numpy(), batch.attention_mask.numpy(),
      strict=False,
  ):
    assert ids[mask > 0].tolist() == [*tiny_vocabulary.encode(text), 1]
    assert not ids[mask == 0].any()
  written = model.generate(**batch, max_new_tokens=5)
  assert written.shape[0] == 8 and not written[:, 0].any()


@pytest.mark.parametrize('name', SIZES)
@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_there_and_back_bit_by_bit(tmp_path, name, dtype):
  import torch

  model = copy.deepcopy(their_model(name)).to(getattr(torch, dtype))
  source, again = tmp_path / 'source', tmp_path / 'again'
  model.save_pretrained(source, max_shard_size='30KB')
  again.mkdir()
  hf_checkpoints.write(again, *hf_checkpoints.open(source), None)
  before, after = their_tensors(source), their_tensors(again)
  assert before.keys() == after.keys()
  bits = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16}[dtype]
  for path, values in before.items():
    assert values.dtype == after[path].dtype == bits
    assert values.shape == after[path].shape
    assert values.tobytes() == after[path].tobytes(), path


def random_rows(vocab_size, number=500):
  """For each row: inputs of 2 to 4 options that differ at their end, target."""
  rng = random.Random(11)

  def tokens(least, most):
    number = rng.randint(least, most)
    return [rng.randrange(3, vocab_size) for _ in range(number)]

  rows = []
  for _ in range(number):
    text, target = tokens(2, 16), tokens(1, 9)
    options, wanted = [], rng.randint(2, 4)
    while len(options) < wanted:
      option = tokens(1, 3)
      if option not in options:
        options.append(option)
    rows.append(([[*text, *option, 1] for option in options], [*target, 1]))
  return rows


def padded(sequences):
  array = np.zeros((len(sequences), max(map(len, sequences))), np.int32)
  for row, sequence in zip(array, sequences, strict=True):
    row[:len(sequence)] = sequence
  return array


@pytest.mark.parametrize('name', ('t5_1_1', 't5_1_0'))
def test_ranking(tmp_path, name):
  import torch

  model = their_model(name)
  save(model, tmp_path, 'safetensors')
  config, params = load(tmp_path)
  rows = random_rows(config.vocab_size)
  assert {len(options) for options, _ in rows} == {2, 3, 4}
  inputs = padded([option for options, _ in rows for option in options])
  targets = padded([target for options, target in rows for _ in options])
  real = (targets > 0).astype(np.float32)
  log_probs = torch.log_softmax(
      torch.tensor(their_logits(model, inputs, targets)), -1).numpy()
  chosen = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
  theirs = np.sum(chosen * real, -1)
  ours = np.asarray(objectives.sequence_scores(
      jnp.asarray(our_logits(config, params, inputs, targets)), targets, real))
  np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)
  ends = np.cumsum([len(options) for options, _ in rows])
  ours, theirs = (np.split(scores, ends[:-1]) for scores in (ours, theirs))
  predictions = [np.argmax(scores) for scores in ours]
  assert predictions == [np.argmax(scores) for scores in theirs]
  # Not for want of a choice.
  assert len(predictions) == 500 and set(predictions) == {0, 1, 2, 3}
  assert np.median([np.ptp(scores) for scores in theirs]) > 0.1


def test_scanned_layers(tmp_path):
  model = their_model('t5_1_1')
  save(model, tmp_path, 'safetensors')
  config, found = hf_checkpoints.open(tmp_path)
  params = tensors.tree({
      n: jnp.asarray(t.read()) for n, t in tensors.stacked(found).items()})
  assert_same_logits(
      model, dataclasses.replace(config, scan_layers=True), params)
