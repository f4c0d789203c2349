"""Hugging Face's folders, written by hand and by us, whole and damaged."""

import dataclasses
import json
import tracemalloc

from flipped_t5x import network as network_lib
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import hf_config
from flipped_t5x.weights import safetensors_files
from flipped_t5x.weights import tensors
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors import numpy as safetensors_numpy

CONFIG = {
    'architectures': ['T5ForConditionalGeneration'], 'model_type': 't5',
    'd_model': 6, 'd_kv': 5, 'd_ff': 7, 'num_heads': 2, 'num_layers': 2,
    'num_decoder_layers': 1, 'vocab_size': 11, 'dropout_rate': 0.2,
    'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False,
}
NETWORK = network_lib.T5Config(
    vocab_size=11, emb_dim=6, num_heads=2, num_encoder_layers=2,
    num_decoder_layers=1, head_dim=5, mlp_dim=7, dropout_rate=0.2,
)
TIED = {'feed_forward_proj': 'relu', 'tie_word_embeddings': True}
TIED_NETWORK = dataclasses.replace(
    NETWORK, mlp_activations=('relu',), logits_via_embedding=True
)
BIAS = 'SelfAttention.relative_attention_bias.weight'
UNUSED = (
    'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
)


def attention(t5x, hf):
  return {f'{t5x}/{ours}/kernel': (f'{hf}.{theirs}.weight', shape)
          for ours, theirs, shape in (
              ('query', 'q', (10, 6)), ('key', 'k', (10, 6)),
              ('value', 'v', (10, 6)), ('out', 'o', (6, 10)))}


def feed_forward(t5x, hf, gated):
  return {f'{t5x}/{name}/kernel': (f'{hf}.{name}.weight', shape)
          for name, shape in (
              *((n, (7, 6)) for n in (('wi_0', 'wi_1') if gated else ('wi',))),
              ('wo', (6, 7)))}


def norm(t5x, hf):
  return {f'{t5x}/scale': (f'{hf}.weight', (6,))}


def layers(gated):
  """T5X's name -> Hugging Face's and its shape, as both of them have it."""
  result = {'token_embedder/embedding': ('shared.weight', (11, 6))}
  if gated:
    result['decoder/logits_dense/kernel'] = ('lm_head.weight', (11, 6))
  for i in (0, 1):
    t5x, hf = f'encoder/layers_{i}', f'encoder.block.{i}.layer'
    result |= attention(f'{t5x}/attention', f'{hf}.0.SelfAttention')
    result |= norm(f'{t5x}/pre_attention_layer_norm', f'{hf}.0.layer_norm')
    result |= feed_forward(f'{t5x}/mlp', f'{hf}.1.DenseReluDense', gated)
    result |= norm(f'{t5x}/pre_mlp_layer_norm', f'{hf}.1.layer_norm')
  t5x, hf = 'decoder/layers_0', 'decoder.block.0.layer'
  result |= attention(f'{t5x}/self_attention', f'{hf}.0.SelfAttention')
  result |= norm(f'{t5x}/pre_self_attention_layer_norm', f'{hf}.0.layer_norm')
  result |= attention(
      f'{t5x}/encoder_decoder_attention', f'{hf}.1.EncDecAttention')
  result |= norm(f'{t5x}/pre_cross_attention_layer_norm', f'{hf}.1.layer_norm')
  result |= feed_forward(f'{t5x}/mlp', f'{hf}.2.DenseReluDense', gated)
  result |= norm(f'{t5x}/pre_mlp_layer_norm', f'{hf}.2.layer_norm')
  for side in ('encoder', 'decoder'):
    result |= norm(f'{side}/{side}_norm', f'{side}.final_layer_norm')
    result[f'{side}/relpos_bias/rel_embedding'] = (
        f'{side}.block.0.layer.0.{BIAS}', (32, 2))
  return result


def random_weights(gated=True, dtype=np.float32):
  """Hugging Face's name -> values."""
  rng = np.random.default_rng(5)
  return {name: rng.normal(size=shape).astype(dtype)
          for name, shape in layers(gated).values()}


def make(folder, weights, shards=1, **changed):
  """Writes a folder as others do; returns it."""
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(
      {n: v for n, v in (CONFIG | changed).items() if v is not None}))
  if shards == 1:
    safetensors_numpy.save_file(weights, folder / 'model.safetensors')
    return folder
  places = {}
  for i in range(shards):
    file = f'model-{i + 1:05}-of-{shards:05}.safetensors'
    inside = dict(list(weights.items())[i::shards])
    safetensors_numpy.save_file(inside, folder / file)
    places |= dict.fromkeys(inside, file)
  (folder / 'model.safetensors.index.json').write_text(
      json.dumps({'metadata': {}, 'weight_map': places}))
  return folder


def read(folder):
  """Every weight of a folder in the words of safetensors itself."""
  result = {}
  for path in folder.glob('*.safetensors'):
    result |= safetensors_numpy.load_file(path)
  return result


def assert_same(found, expected):
  """Names, types and every bit."""
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    values = np.asarray(values)
    assert (found[name].dtype, found[name].shape) == (
        values.dtype, values.shape), name
    array = found[name]
    array = array.read() if isinstance(array, tensors.Tensor) else array
    assert (array.dtype, array.shape) == (values.dtype, values.shape), name
    assert array.tobytes() == values.tobytes(), name


@pytest.mark.parametrize('dtype', (
    np.float32, np.float16, ml_dtypes.bfloat16, np.float64))
@pytest.mark.parametrize('shards', (1, 3))
def test_gated(tmp_path, dtype, shards):
  weights = random_weights(dtype=dtype)
  config, found = hf_checkpoints.open(make(tmp_path / 'hf', weights, shards))
  assert config == NETWORK
  assert_same(found, {
      name: values.T if (values := weights[hf]).ndim == 2 and hf != (
          'shared.weight') else values
      for name, (hf, _) in layers(True).items()
  })


def test_tied(tmp_path):
  weights = random_weights(gated=False)
  for changed in ({}, {'tie_word_embeddings': None}):
    config, found = hf_checkpoints.open(
        make(tmp_path / 'hf', weights, **TIED | changed))
    assert config == TIED_NETWORK
    assert found.keys() == layers(False).keys()
    np.testing.assert_array_equal(
        found['decoder/layers_0/mlp/wi/kernel'].read(),
        weights['decoder.block.0.layer.2.DenseReluDense.wi.weight'].T,
    )


def test_names():
  assert hf_checkpoints.names(NETWORK) == {
      name: (hf, len(shape) == 2 and hf != 'shared.weight')
      for name, (hf, shape) in layers(True).items()
  }
  scanned = dataclasses.replace(TIED_NETWORK, scan_layers=True)
  assert {n: hf for n, (hf, _) in hf_checkpoints.names(scanned).items()} == {
      n: hf for n, (hf, _) in layers(False).items()
  }


def test_what_is_left_out_of_a_configuration(tmp_path):
  """The configuration of T5 Small is that of a folder that says nothing."""
  (tmp_path / 'config.json').write_text('{"model_type": "t5"}')
  safetensors_numpy.save_file({}, tmp_path / 'model.safetensors')
  small = network_lib.T5Config(
      vocab_size=32128, emb_dim=512, num_heads=8, num_encoder_layers=6,
      num_decoder_layers=6, head_dim=64, mlp_dim=2048,
      mlp_activations=('relu',), logits_via_embedding=True,
  )
  assert hf_config.read(tmp_path / 'config.json').network == small
  # 8 a layer of the encoder, 13 of the decoder, 2 norms and biases.
  assert len(hf_checkpoints.names(small)) == 6 * 8 + 6 * 13 + 5
  with pytest.raises(ValueError, match='config.json: .* missing; 126 more'):
    hf_checkpoints.open(tmp_path)
  fields = ('num_decoder_layers', 'scale_decoder_outputs', 'dense_act_fn',
            'tie_word_embeddings', 'is_gated_act', 'pad_token_id', 'd_model')
  (tmp_path / 'config.json').write_text(
      json.dumps(dict.fromkeys(fields) | {'model_type': 't5'}))
  assert hf_config.read(tmp_path / 'config.json').network == small


@pytest.mark.parametrize('changed, activations', (
    ({'feed_forward_proj': 'gated-gelu'}, ('gelu', 'linear')),
    ({'feed_forward_proj': 'gated-gelu', 'dense_act_fn': 'gelu_new',
      'is_gated_act': True}, ('gelu', 'linear')),
    ({'feed_forward_proj': 'gated-gelu_new'}, ('gelu', 'linear')),
    ({'feed_forward_proj': 'gated-silu'}, ('silu', 'linear')),
    ({'feed_forward_proj': 'gated-relu'}, ('relu', 'linear')),
))
def test_activations(tmp_path, changed, activations):
  weights = random_weights()
  config, _ = hf_checkpoints.open(make(tmp_path / 'hf', weights, **changed))
  assert config.mlp_activations == activations


@pytest.mark.parametrize('changed, message', (
    ({'model_type': 'mt5'}, "model_type 'mt5' is not supported, only 't5'"),
    ({'model_type': 'umt5'}, "model_type 'umt5' is not"),
    ({'model_type': None}, 'model_type None is not'),
    ({'is_encoder_decoder': False}, 'is_encoder_decoder False'),
    ({'relative_attention_num_buckets': 64}, 'num_buckets 64 .* only 32'),
    ({'relative_attention_max_distance': 20}, 'max_distance 20 .* only 128'),
    ({'layer_norm_epsilon': 1e-5}, 'layer_norm_epsilon 1e-05 is not'),
    ({'decoder_start_token_id': 2}, 'decoder_start_token_id 2 .* only 0'),
    ({'pad_token_id': 1}, 'pad_token_id 1'),
    ({'eos_token_id': 2}, 'eos_token_id 2'),
    ({'quantization_config': {'load_in_8bit': True}}, 'quantization_config'),
    ({'feed_forward_proj': 'gelu'}, "feed_forward_proj 'gelu'.*not supported"),
    ({'feed_forward_proj': 'gated-mish'}, "activation being 'mish', is not"),
    ({'dense_act_fn': 'gelu'}, "'gated-gelu', the activation being 'gelu', is"),
    ({'d_model': '6'}, "d_model '6' is not a size"),
    ({'d_ff': 0}, 'd_ff 0 is not a size'),
    ({'num_layers': 2.5}, 'num_layers 2.5 is not a size'),
    ({'num_heads': True}, 'num_heads True is not a size'),
    *(
        ({field: 10**30}, f'{field} 10+ is not a size, a whole number from 1')
        for field in (
            'num_layers', 'num_decoder_layers', 'num_heads', 'd_model', 'd_kv',
            'd_ff', 'vocab_size',
        )
    ),
    ({'dropout_rate': 'none'}, "dropout_rate 'none' is not a number"),
    ({'feed_forward_proj': ['relu']}, 'feed_forward_proj .* is not supported'),
))
def test_other_configurations(tmp_path, changed, message):
  folder = make(tmp_path / 'hf', random_weights(), **changed)
  with pytest.raises(ValueError, match=f'hf/config.json: .*{message}'):
    hf_checkpoints.open(folder)


@pytest.mark.parametrize('content', ('', '{"model_type": ', '[]', '\xff'))
def test_damaged_configuration(tmp_path, content):
  folder = make(tmp_path / 'hf', random_weights())
  (folder / 'config.json').write_text(content, 'latin-1')
  with pytest.raises(ValueError, match='hf/config.json: not JSON'):
    hf_checkpoints.open(folder)


def test_nothing_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere/config.json'):
    hf_checkpoints.open(tmp_path / 'nowhere')
  (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
  (tmp_path / 'tf_model.h5').touch()
  with pytest.raises(FileNotFoundError, match=(
      'has no weights, none of model.safetensors, .*, pytorch_model.bin, .*;'
      ' it has config.json, tf_model.h5'
  )):
    hf_checkpoints.open(tmp_path)


WO = 'decoder.block.0.layer.2.DenseReluDense.wo.weight'
FLOATS = np.zeros((6, 7), np.float32)


@pytest.mark.parametrize('changed, message', (
    ({WO: None}, f'{WO} is missing'),
    ({'lm_head.weight': None}, 'lm_head.weight is missing'),
    ({'shared.weight': None}, 'shared.weight is missing'),
    ({'classifier.weight': FLOATS},
     'hf/model.safetensors.*: classifier.weight is not in the network'),
    ({WO: FLOATS.T.copy()},
     rf'{WO} is \(7, 6\) where the network has \(6, 7\)'),
    ({WO: FLOATS.astype(np.int8)}, f'{WO} is int8, not a weight'),
    ({'lm_head.weight': np.zeros((12, 6), np.float32)},
     r'lm_head.weight is \(12, 6\)'),
    ({WO: None, 'a': FLOATS, 'b': FLOATS},
     rf'not the weights of config.json: {WO} is missing; [ab] is not in .*; '
     r'[ab] is not in the network$'),
))
@pytest.mark.parametrize('shards', (1, 2))
def test_other_weights(tmp_path, changed, message, shards):
  weights = {
      n: v for n, v in (random_weights() | changed).items() if v is not None}
  folder = make(tmp_path / 'hf', weights, shards)
  with pytest.raises(ValueError, match=message):
    hf_checkpoints.open(folder)


def test_at_most_five_problems_are_shown(tmp_path):
  weights = {
      n: v for n, v in random_weights().items() if not n.startswith('decoder')}
  with pytest.raises(ValueError) as error:
    hf_checkpoints.open(make(tmp_path / 'hf', weights))
  assert str(error.value).count(' is missing; ') == 5
  assert str(error.value).endswith('; 11 more')  # 8 + 3 + 5 are gone.


def test_embedding_under_all_its_names(tmp_path):
  weights = random_weights()
  embedding = weights['shared.weight']
  copies = {f'{s}.embed_tokens.weight': embedding for s in (
      'encoder', 'decoder')}
  _, expected = hf_checkpoints.open(make(tmp_path / 'hf', weights))
  expected = {n: t.read() for n, t in expected.items()}
  more = weights | copies | {UNUSED: np.ones((32, 2), np.float32)}
  _, found = hf_checkpoints.open(make(tmp_path / 'more', more))
  assert_same(found, expected)
  # What is kept of several is any of them.
  del more['shared.weight'], more['encoder.embed_tokens.weight']
  _, found = hf_checkpoints.open(make(tmp_path / 'less', more))
  assert_same(found, expected)
  for name in copies:
    other = embedding.copy()
    other[-1, -1] += 1e-6
    with pytest.raises(ValueError, match=f'{name} differs from shared.weight'):
      hf_checkpoints.open(make(tmp_path / 'hf', weights | {name: other}))
  other = embedding.astype(np.float64)
  with pytest.raises(ValueError, match=f'{name} differs from shared.weight'):
    hf_checkpoints.open(make(tmp_path / 'hf', weights | {name: other}))


def test_head_of_a_tied_model(tmp_path):
  weights = random_weights(gated=False)
  weights['lm_head.weight'] = weights['shared.weight'].copy()
  config, found = hf_checkpoints.open(make(tmp_path / 'hf', weights, **TIED))
  assert config == TIED_NETWORK
  assert found.keys() == layers(False).keys()
  weights['lm_head.weight'][3, 3] = 7
  with pytest.raises(ValueError, match=(
      'lm_head.weight differs from shared.weight; config.json says, by tie_w')):
    hf_checkpoints.open(make(tmp_path / 'hf', weights, **TIED))


def test_configurations_of_transformers_5(tmp_path):
  """It writes `tie_word_embeddings: true` for every T5."""
  weights = random_weights()
  new = {'tie_word_embeddings': True, 'scale_decoder_outputs': False}
  config, found = hf_checkpoints.open(make(tmp_path / 'hf', weights, **new))
  assert config == NETWORK
  np.testing.assert_array_equal(
      found['decoder/logits_dense/kernel'].read(), weights['lm_head.weight'].T)
  # A T5 1.1 that was made there has one table for both.
  del weights['lm_head.weight']
  config, found = hf_checkpoints.open(make(tmp_path / 'hf', weights, **new))
  assert config == NETWORK
  np.testing.assert_array_equal(
      found['decoder/logits_dense/kernel'].read(), weights['shared.weight'].T)
  # Versions before give it a random head.
  with pytest.raises(ValueError, match='lm_head.weight is missing'):
    hf_checkpoints.open(make(tmp_path / 'hf', weights))
  new['scale_decoder_outputs'] = True
  weights = random_weights(gated=False)
  config, _ = hf_checkpoints.open(
      make(tmp_path / 'hf', weights, **TIED | new))
  assert config == TIED_NETWORK


def test_truncated_and_damaged_shards(tmp_path):
  weights = random_weights()
  folder = make(tmp_path / 'hf', weights, shards=3)
  shard = folder / 'model-00002-of-00003.safetensors'
  content = shard.read_bytes()
  for damaged in (
      content[:-1], content[:1000], content[:100], content[:5], b'',
      content + b'1', b'version 1',
      content[:20] + b'\xff' + content[21:], content.replace(b'F32', b'F99', 1),
      content.replace(b'[10,6]', b'[10,7]', 1),
  ):
    shard.write_bytes(damaged)
    with pytest.raises(ValueError, match=f'{shard} is damaged: .'):
      hf_checkpoints.open(folder)
  shard.write_bytes(content)
  _, found = hf_checkpoints.open(folder)
  shard.write_bytes(content[:-1])
  with pytest.raises(ValueError, match=f'{shard} is damaged: .'):
    for tensor in found.values():
      tensor.read()


def change_index(folder, change):
  path = folder / 'model.safetensors.index.json'
  content = json.loads(path.read_text())
  change(content['weight_map'])
  path.write_text(json.dumps(content))


@pytest.mark.parametrize('change, message', (
    (lambda m: m.update({WO: 'other.safetensors'}),
     'index.json: there is no file other.safetensors, which it names'),
    (lambda m: m.update({WO: '../outside.safetensors'}),
     'index.json: there is no file ../outside.safetensors'),
    (lambda m: m.pop(WO),
     f'.safetensors has {WO}, and model.* says that it lacks it'),
    (lambda m: m.update({'a': m[WO]}),
     '.safetensors lacks a, and model.safetensors.index.json says that it has'),
))
def test_wrong_index(tmp_path, change, message):
  weights = random_weights()
  safetensors_numpy.save_file(weights, tmp_path / 'outside.safetensors')
  folder = make(tmp_path / 'hf', weights, shards=2)
  change_index(folder, change)
  with pytest.raises(ValueError, match=message):
    hf_checkpoints.open(folder)


def test_no_shard_no_index(tmp_path):
  folder = make(tmp_path / 'hf', random_weights(), shards=2)
  shard = folder / 'model-00001-of-00002.safetensors'
  shard.unlink()
  with pytest.raises(ValueError, match=f'no file {shard.name}, which it names'):
    hf_checkpoints.open(folder)
  for content, message in (
      ('{}', ' is damaged'), ('{"weight_map": []}', ' is damaged'),
      ('{"weight', ': not JSON'), ('[]', ': not JSON'),
  ):
    (folder / 'model.safetensors.index.json').write_text(content)
    with pytest.raises(ValueError, match=f'index.json{message}'):
      hf_checkpoints.open(folder)


@pytest.mark.parametrize('config', (NETWORK, TIED_NETWORK))
@pytest.mark.parametrize('dtype', (jnp.float32, jnp.bfloat16))
def test_written_and_read_again(tmp_path, make_params, config, dtype):
  params = tensors.from_arrays(make_params(config, 3))
  params = {n: t.astype(dtype) for n, t in params.items()}
  total = sum(t.nbytes for t in params.values())
  largest = max(t.nbytes for t in params.values())
  arrays = {n: t.read() for n, t in params.items()}
  for limit in (total, total - 1, total // 3, largest, 1):
    folder = tmp_path / str(limit)
    folder.mkdir()
    hf_checkpoints.write(folder, config, params, None, max_shard_bytes=limit)
    files = sorted(folder.glob('*.safetensors'))
    assert len(files) >= total / limit or limit == 1
    assert (len(files) == 1) == (limit == total)
    if limit == 1:
      assert len(files) == len(params)
    found_config, found = hf_checkpoints.open(folder)
    assert found_config == config
    assert_same(found, arrays)
    index = folder / 'model.safetensors.index.json'
    assert index.exists() == (limit < total)
    if limit < total:
      content = json.loads(index.read_text())
      assert content['metadata']['total_size'] == total
      assert set(content['weight_map'].values()) == {p.name for p in files}
      assert all(f'-of-{len(files):05}.' in p.name for p in files)
      for path in files:
        held = safetensors_numpy.load_file(path)
        bytes_held = sum(values.nbytes for values in held.values())
        assert bytes_held <= max(limit, largest)


def test_bit_exact_there_and_back(tmp_path):
  for name, weights, changed in (
      ('gated', random_weights(dtype=ml_dtypes.bfloat16), {}),
      ('tied', random_weights(gated=False), TIED),
      ('mixed', random_weights() | {WO: FLOATS.astype(np.float16)}, {}),
  ):
    # NaN and -0 have bits, too.
    weights['encoder.final_layer_norm.weight'][:2] = np.nan, -0.0
    source = make(tmp_path / name, weights, shards=2, **changed)
    destination = tmp_path / f'{name} again'
    destination.mkdir()
    hf_checkpoints.write(destination, *hf_checkpoints.open(source), None)
    assert_same(read(destination), weights)


def test_stacked_layers(tmp_path, make_params):
  params = tensors.from_arrays(make_params(NETWORK, 3))
  hf_checkpoints.write(
      tmp_path, dataclasses.replace(NETWORK, scan_layers=True),
      tensors.stacked(params), None,
  )
  config, found = hf_checkpoints.open(tmp_path)
  assert config == NETWORK
  assert_same(found, {n: t.read() for n, t in params.items()})


def test_files_that_are_written(
    tmp_path, make_params, tiny_network, tiny_vocabulary_path
):
  params = tensors.from_arrays(make_params(tiny_network, 3))
  bfloat16 = {n: t.astype(jnp.bfloat16) for n, t in params.items()}
  hf_checkpoints.write(tmp_path, tiny_network, bfloat16, tiny_vocabulary_path)
  assert {p.name for p in tmp_path.iterdir()} == {
      'config.json', 'generation_config.json', 'model.safetensors',
      'special_tokens_map.json', 'spiece.model', 'tokenizer_config.json',
  }
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config == {
      'architectures': ['T5ForConditionalGeneration'], 'd_ff': 24, 'd_kv': 8,
      'd_model': 16, 'decoder_start_token_id': 0, 'dropout_rate': 0.1,
      'dtype': 'bfloat16', 'eos_token_id': 1, 'feed_forward_proj': 'gated-gelu',
      'initializer_factor': 1.0, 'is_encoder_decoder': True,
      'layer_norm_epsilon': 1e-6, 'model_type': 't5', 'num_decoder_layers': 1,
      'num_heads': 2, 'num_layers': 2, 'pad_token_id': 0,
      'relative_attention_max_distance': 128,
      'relative_attention_num_buckets': 32, 'tie_word_embeddings': False,
      'use_cache': True, 'vocab_size': 208,
  }
  assert (tmp_path / 'spiece.model').read_bytes() == (
      tiny_vocabulary_path.read_bytes())
  with safetensors.safe_open(tmp_path / 'model.safetensors', 'np') as file:
    assert file.metadata() == {'format': 'pt'}
  # Whoever may read one file may read all.
  assert len({p.stat().st_mode for p in tmp_path.iterdir()}) == 1
  content = (tmp_path / 'model.safetensors').read_bytes()
  assert int.from_bytes(content[:8], 'little') % 8 == 0


@pytest.mark.parametrize('activations, projection', (
    (('gelu', 'linear'), 'gated-gelu'), (('relu',), 'relu'),
    (('gelu',), 'gelu_new'), (('silu', 'linear'), 'gated-silu'),
    (('swish', 'linear'), 'gated-swish'),
))
def test_activations_that_are_written(
    tmp_path, make_params, activations, projection
):
  config = dataclasses.replace(NETWORK, mlp_activations=activations)
  hf_checkpoints.write(
      tmp_path, config, tensors.from_arrays(make_params(config, 1)), None)
  raw = json.loads((tmp_path / 'config.json').read_text())
  assert raw['feed_forward_proj'] == projection
  assert hf_checkpoints.open(tmp_path)[0] == config


def test_what_cannot_be_written(tmp_path, make_params, tiny_vocabulary_path):
  params = tensors.from_arrays(make_params(NETWORK, 1))
  name = 'encoder/layers_1/mlp/wi_0/kernel'
  for changed, message in (
      ({n: t for n, t in params.items() if n != name}, f'{name} is missing'),
      (params | {'a/kernel': params[name]}, 'a/kernel is not in the network'),
      (params | {name: params[name].T}, rf'{name} is \(7, 6\) where the'),
      (params | {name: params[name].astype(np.int8)}, 'wi_0/kernel is int8:'),
  ):
    with pytest.raises(ValueError, match=message):
      hf_checkpoints.write(tmp_path, NETWORK, changed, None)
  with pytest.raises(ValueError, match=(
      'tiny.model has 200 ids, including sentinels, but the embedding .* 11')):
    hf_checkpoints.write(tmp_path, NETWORK, params, tiny_vocabulary_path)
  for activations in (('gelu', 'gelu'), ('elu',), ('linear', 'gelu')):
    config = dataclasses.replace(NETWORK, mlp_activations=activations)
    values = tensors.from_arrays(make_params(config, 1))
    with pytest.raises(ValueError, match='Transformers has no mlp_activations'):
      hf_checkpoints.write(tmp_path, config, values, None)


def test_a_file_that_cannot_be_written(tmp_path):
  values = tensors.from_arrays({'a': np.ones((2, 3), np.float32)})
  with pytest.raises(OSError, match=f'{tmp_path}/none/a.safetensors'):
    safetensors_files.write(tmp_path / 'none' / 'a.safetensors', values)


def test_one_file_in_memory(tmp_path):
  """Of weights that are 60 times the largest of them, 10 to a file."""
  config = network_lib.T5Config(
      vocab_size=256, emb_dim=256, num_heads=4, num_encoder_layers=6,
      num_decoder_layers=6, head_dim=64, mlp_dim=256,
  )
  rng = np.random.default_rng(0)
  names = hf_checkpoints.names(config)
  shapes = dict.fromkeys(names, (256, 256)) | {
      n: (256,) for n in names if n.endswith('scale')} | {
      n: (4, 32) for n in names if n.endswith('rel_embedding')}
  source, destination = tmp_path / 'source', tmp_path / 'destination'
  source.mkdir()
  destination.mkdir()
  largest = 256 * 256 * 4
  limit = 10 * largest
  hf_checkpoints.write(source, config, {
      n: tensors.Tensor(shape, np.dtype(np.float32), lambda shape=shape: (
          rng.normal(size=shape).astype(np.float32)))
      for n, shape in shapes.items()
  }, None, max_shard_bytes=limit)
  total = sum(p.stat().st_size for p in source.glob('*.safetensors'))
  assert total > 60 * largest
  peaks = []
  for _ in range(3):  # Other threads allocate now and then.
    tracemalloc.start()
    try:
      hf_checkpoints.write(
          destination, *hf_checkpoints.open(source), None,
          max_shard_bytes=limit,
      )
      peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
      tracemalloc.stop()
  assert min(peaks) < limit + 2.5 * largest  # And one, and its transpose.
  assert_same(read(destination), read(source))
