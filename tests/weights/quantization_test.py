"""Weights in int8, by hand and through every form."""

import dataclasses
import json

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x.engine import train
from flipped_t5x.inference import model as model_lib
from flipped_t5x.weights import convert
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import model_files
from flipped_t5x.weights import packaged
from flipped_t5x.weights import quantization
from flipped_t5x.weights import tensors
import jax
import ml_dtypes
import numpy as np
import pytest

KERNEL = 'encoder/layers_0/mlp/wo/kernel'
EMBEDDING = 'token_embedder/embedding'
REAL = 'flan_t5_small_titles'


def quantized(weights):
  """Name -> array, of arrays."""
  found = quantization.quantized(tensors.from_arrays(weights))
  return {name: tensor.read() for name, tensor in found.items()}


def assert_same(found, expected):
  """Names, types and every bit, of trees or mappings of arrays."""
  found, expected = (
      {n: t.read() for n, t in tensors.from_arrays(x).items()}
      for x in (found, expected)
  )
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    assert found[name].dtype == values.dtype, name
    assert found[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_by_hand(dtype):
  """A channel is a column of a matrix, and a row of the embedding."""
  matrix = np.array([[127, 0, -1], [-63.25, 0, 2], [0.5, 0, -0.5]], dtype)
  integers = [[127, 0, -64], [-63, 0, 127], [0, 0, -32]]
  scales = np.float32([1, 0, 2 / 127])
  found = quantized({KERNEL: matrix, EMBEDDING: matrix.T})
  np.testing.assert_array_equal(found[KERNEL], integers)
  np.testing.assert_array_equal(found[EMBEDDING], np.transpose(integers))
  for name in (KERNEL, EMBEDDING):
    assert found[name].dtype == np.int8
    assert found[f'{name}_scale'].dtype == np.float32
    np.testing.assert_array_equal(found[f'{name}_scale'], scales)


def test_what_stays_float(tiny_params):
  found = quantized(tiny_params)
  apart = {n: t.read() for n, t in tensors.from_arrays(tiny_params).items()}
  small = [
      n for n in apart if n.endswith(('norm/scale', '/rel_embedding'))
  ]
  assert len(small) == 4 + 3 + 2 + 2  # Norms of three layers and at the ends.
  for name in apart:
    assert (found[name].dtype == np.int8) == (name not in small)
    assert (f'{name}_scale' in found) == (name not in small)
  assert_same(*({n: of[n] for n in small} for of in (found, apart)))
  # A rounded value is half a step away at most.
  back = quantization.dequantized(
      tensors.from_arrays(found), 'float32'
  )
  assert back.keys() == apart.keys()
  for name, values in apart.items():
    step = np.abs(values).max(0 if name != EMBEDDING else 1) / 127
    step = step[:, None] if name == EMBEDDING else step
    assert np.all(np.abs(back[name].read() - values) <= step * 0.50001), name


def test_more_channels_than_a_block(make_params, tiny_network):
  values = np.random.default_rng(0).normal(size=(5, 1000)).astype(np.float32)
  found = quantized({KERNEL: values})
  scale = np.abs(values).max(0) / np.float32(127)
  np.testing.assert_array_equal(found[f'{KERNEL}_scale'], scale)
  np.testing.assert_array_equal(found[KERNEL], np.rint(values / scale))


def test_each_matrix_is_read_once(tiny_params):
  read = []

  def counted(name, tensor):
    return dataclasses.replace(
        tensor, read=lambda: read.append(name) or tensor.read()
    )

  weights = tensors.from_arrays(tiny_params)
  for tensor in quantization.quantized(
      {n: counted(n, t) for n, t in weights.items()}
  ).values():
    tensor.read()
  assert read == list(weights)
  # Out of order, the scales are computed for themselves.
  lone = quantization.quantized(weights)[f'{KERNEL}_scale']
  np.testing.assert_array_equal(lone.read(), quantized(tiny_params)[
      f'{KERNEL}_scale'])
  np.testing.assert_array_equal(lone.read(), lone.read())


def test_stacked_layers(tiny_params):
  """Quantized before or after they are stacked."""
  weights = tensors.from_arrays(tiny_params)
  assert_same(
      quantization.quantized(tensors.stacked(weights)),
      tensors.stacked(quantization.quantized(weights)),
  )


@pytest.mark.parametrize('value', (np.nan, np.inf))
def test_values_that_are_not_finite(value):
  with pytest.raises(errors.UserError, match=f'{KERNEL} has values that are'):
    quantized({KERNEL: np.float32([[1, value], [1, 2]])})


@pytest.mark.parametrize('tied', (False, True))
@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_logits_are_near(make_params, tiny_network, tied, dtype):
  network = dataclasses.replace(
      tiny_network, logits_via_embedding=tied, dtype=dtype
  )
  params = make_params(network, 3)
  in_int8 = tensors.tree(quantized(params))
  tokens = np.random.default_rng(1).integers(3, 208, (4, 9))

  def logits(params, **changed):
    return np.asarray(network_lib.Transformer(
        dataclasses.replace(network, **changed)
    ).apply({'params': params}, tokens, tokens, tokens, enable_dropout=False))

  exact = logits(params)
  rounded = logits(in_int8, int8_weights=True)
  # In bfloat16, what comes between is rounded as well.
  near = 0.05 if dtype == 'float32' else 0.1
  assert 0 < np.abs(rounded - exact).max() < near * np.abs(exact).max()
  # The same as of the rounded values in float32.
  values = tensors.tree({n: t.read() for n, t in quantization.dequantized(
      tensors.from_arrays(in_int8), 'float32').items()})
  np.testing.assert_allclose(
      logits(values), rounded,
      atol=1e-4 if dtype == 'float32' else near * np.abs(exact).max(),
  )
  scanned = tensors.tree({n: t.read() for n, t in tensors.stacked(
      tensors.from_arrays(in_int8)).items()})
  np.testing.assert_allclose(
      logits(scanned, int8_weights=True, scan_layers=True), rounded,
      atol=1e-4 if dtype == 'float32' else near * np.abs(exact).max(),
  )


def test_the_networks_own_shapes_and_axes(tiny_network):
  """Those of `tensors.shapes`; a scale lies along its matrix's channels."""
  for scan in (False, True):
    network = dataclasses.replace(
        tiny_network, int8_weights=True, scan_layers=scan
    )
    tokens = np.ones((1, 1), np.int32)
    variables = jax.eval_shape(lambda network=network, tokens=tokens: (
        network_lib.Transformer(network).init(
            jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
        )
    ))
    found = tensors.from_arrays(variables['params'])
    assert not tensors.differences(found, tensors.shapes(network))
    quantization.check_types(found, 'here')
    axes = variables['params_axes']['decoder']['logits_dense']
    assert axes['kernel_scale_axes'].names == ('vocab',)


@pytest.fixture(scope='module', params=('float32', 'bfloat16', 'tied'))
def folder(
    request, tmp_path_factory, tiny_network, make_params, tiny_vocabulary_path
):
  """A Hugging Face folder of float weights."""
  network, dtype = tiny_network, request.param
  if dtype == 'tied':
    network, dtype = dataclasses.replace(
        network, logits_via_embedding=True
    ), 'float32'
  path = tmp_path_factory.mktemp('hf')
  hf_checkpoints.write(
      path, network,
      {n: t.astype(dtype)
       for n, t in tensors.from_arrays(make_params(network, 5)).items()},
      tiny_vocabulary_path,
  )
  return path


def converted(source, destination, **options):
  return convert.convert(
      source, destination, progress=False, **options
  ).path


@pytest.mark.parametrize('scan', (False, True))
@pytest.mark.parametrize('kind', ('hf', 'native'))
def test_converted_is_what_load_makes(folder, tmp_path, kind, scan):
  """Bit for bit, and so back and forth."""
  expected = model_lib.load(folder, dtype='int8')
  assert expected.config.network.int8_weights
  assert expected.config.network.dtype == 'float32'
  scan = scan and kind != 'hf'
  path = converted(
      folder, tmp_path / 'a', to=kind, dtype='int8', scan_layers=scan
  )
  files = model_files.open(path)
  assert files.network.int8_weights and files.network.scan_layers == scan
  for dtype in (None, 'int8'):
    loaded = model_lib.load(path, dtype=dtype)
    # Stacked layers are taken apart on a CPU: see `low_memory_jit.py`.
    assert loaded.config.network == expected.config.network
    assert_same(loaded.params, expected.params)
  other = converted(
      path, tmp_path / 'b', to='native' if kind == 'hf' else 'hf',
      scan_layers=False,
  )
  assert_same(model_lib.load(other).params, expected.params)
  assert loaded.score([[5, 6, 1]], [[7, 8, 1]]) == expected.score(
      [[5, 6, 1]], [[7, 8, 1]]
  )


def test_back_to_float(folder, tmp_path):
  path = converted(folder, tmp_path / 'a', dtype='int8')
  expected = quantization.dequantized(
      quantization.quantized(model_files.open(folder).tensors), 'float32'
  )
  back = converted(path, tmp_path / 'b', to='t5x', dtype='float32')
  found = model_files.open(back)
  assert not found.network.int8_weights
  assert_same(found.tensors, expected)
  loaded = model_lib.load(path, dtype='float32')
  assert not loaded.config.network.int8_weights
  assert_same(loaded.params, expected)


def test_quantized_shards_and_a_check(folder, tmp_path):
  """In several files, and compared with the weights before."""
  done = convert.convert(
      folder, tmp_path / 'a', to='hf', dtype='int8', max_shard_bytes=4000,
      check=True, progress=False,
  )
  assert 0 < done.difference < 0.05 * done.largest
  assert len(list(done.path.glob('*.safetensors'))) > 2
  assert_same(
      model_lib.load(done.path).params,
      model_lib.load(folder, dtype='int8').params,
  )
  card = (done.path / 'README.md').read_text()
  assert 'and int8 |' in card and '`compressed-tensors` to read' in card
  # `transformers` shares the embedding with its uses, but not the scales.
  with (done.path / 'model.safetensors.index.json').open() as f:
    stored = json.load(f)['weight_map']
  assert {n for n in stored if 'embed' in n or 'shared' in n} == {
      'shared.weight', 'shared.weight_scale',
      'encoder.embed_tokens.weight_scale', 'decoder.embed_tokens.weight_scale',
  }


def test_t5x_cannot_read_int8(folder, tmp_path):
  path = converted(folder, tmp_path / 'a', dtype='int8')
  for source, dtype in ((folder, 'int8'), (path, None)):
    with pytest.raises(errors.UserError, match='T5X cannot read int8 weights'):
      converted(source, tmp_path / 'b', to='t5x', dtype=dtype)
  assert not (tmp_path / 'b').exists()


def test_nothing_trains_in_int8(folder, tiny_network, tmp_path):
  path = converted(folder, tmp_path / 'a', dtype='int8')
  with pytest.raises(errors.UserError, match=(
      f'INITIAL_CHECKPOINT_PATH: {path} has int8 weights, which cannot be'
  )):
    train._initial_params(
        str(path), tiny_network, model_files.open(path).vocabulary, None
    )
  with pytest.raises(errors.UserError, match='int8_weights: weights in int8 c'):
    train.train(
        tmp_path / 'run', dataclasses.replace(tiny_network, int8_weights=True),
        None, None, model_files.open(path).vocabulary, steps=1,
        unlikelihood_weight=3.0, eps=0.01, seed=0, input_length=8,
        target_length=8, format='flipped',
    )
  assert not (tmp_path / 'run').exists()


def test_damaged_folders(folder, tmp_path):
  path = converted(folder, tmp_path / 'a', to='hf', dtype='int8')
  config = json.loads((path / 'config.json').read_text())

  def write(**changed):
    (path / 'config.json').write_text(json.dumps(config | changed))

  write(quantization_config=None)
  with pytest.raises(errors.UserError, match='q.weight_scale is not in the ne'):
    model_files.open(path)
  other = config['quantization_config'] | {'format': 'pack-quantized'}
  write(quantization_config=other)
  with pytest.raises(errors.UserError, match='quantization_config is not supp'):
    model_files.open(path)
  write()
  floats = {
      name: tensor.astype('float32') if name == KERNEL else tensor
      for name, tensor in model_files.open(path).tensors.items()
  }
  with pytest.raises(errors.UserError, match=f'{KERNEL} is float32: either'):
    quantization.check_types(floats, path)


def test_of_half_precision():
  values = np.array([[1.5, -3], [2, 0.1]], ml_dtypes.bfloat16)
  found = quantized({KERNEL: values})
  assert_same(found, quantized({KERNEL: values.astype(np.float32)}))


@pytest.mark.slow
def test_real_weights_rank_alike():
  """Real prompts under the pretrained T5: the same best options."""
  try:
    packaged.folder(REAL)
  except ConnectionError as e:
    pytest.skip(f'no real weights: {e}')
  texts = (
      'A warm, funny and clever film.', 'Two hours that I will never get back.',
      'The acting is fine, the plot is not.', 'A triumph from start to end.',
      'Dull, loud and far too long.', 'I laughed more than I expected to.',
  )
  rows = [
      {'input': text, 'instruction': instruction, 'options': options}
      for text in texts for instruction, options in (
          ('Did the reviewer enjoy the movie?', ['Yes', 'No']),
          ('{{input}} The sentiment of it is', ['positive', 'negative']),
          ('Is this about a film or about food?', ['film', 'food']),
      )
  ]
  exact, rounded = (
      model_lib.load(packaged.PREFIX + REAL, dtype=dtype).rank_batch(
          rows, progress=False
      )
      for dtype in (None, 'int8')
  )
  assert [r[0].option for r in rounded] == [r[0].option for r in exact]
  scores = [
      {option.option: option.log_prob for option in ranked}
      for ranked in (*exact, *rounded)
  ]
  differences = [
      abs(one[option] - other[option])
      for one, other in zip(
          scores[:len(rows)], scores[len(rows):], strict=True
      ) for option in one
  ]
  # Of scores from -40 to -1; the weights were rounded, otherwise, before.
  assert 0 < np.mean(differences) < 0.3 and max(differences) < 1
