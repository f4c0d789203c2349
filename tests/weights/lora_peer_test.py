"""Adapters beside PEFT's, in PyTorch, on the same weights."""

import dataclasses

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x.engine import train_step
from flipped_t5x.inference import model as model_lib
from flipped_t5x.network import adapters
from flipped_t5x.weights import convert
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import lora_files
from flipped_t5x.weights import tensors
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]
TOKENS = np.array([[5, 9, 33, 60, 1], [7, 8, 1, 0, 0]], np.int32)
WRITTEN = np.array([[11, 4, 1], [90, 1, 0]], np.int32)


@pytest.fixture(name='plain', scope='module', params=('T5 1.1', 'T5 1.0'))
def fixture_plain(request, tiny_network, make_params):
  """A network without adapters, and its weights."""
  network = tiny_network
  if request.param == 'T5 1.0':
    network = dataclasses.replace(
        network, mlp_activations=('relu',), logits_via_embedding=True
    )
  return network, make_params(network, 2)


@pytest.fixture(name='base')
def fixture_base(plain, tiny_vocabulary_path, tmp_path):
  network, params = plain
  folder = tmp_path / 'base'
  folder.mkdir()
  hf_checkpoints.write(
      folder, network, tensors.from_arrays(params), tiny_vocabulary_path
  )
  return folder


@pytest.fixture(name='adapted')
def fixture_adapted(plain, make_params):
  """The network with adapters, and weights of them that are not zero."""
  network, _ = plain
  *_, mlp_input, mlp_output = network.linear_layers
  network = dataclasses.replace(
      network, lora_rank=3, lora_alpha=7.0,
      lora_targets=('query', 'out', 'value', mlp_input, mlp_output),
  )
  trained, _ = adapters.split(make_params(network, 5))
  return network, trained


@pytest.fixture(name='theirs')
def fixture_theirs(base, adapted, tmp_path):
  """The same in PEFT."""
  peft = pytest.importorskip('peft')
  import transformers

  network, trained = adapted
  folder = tmp_path / 'adapters'
  folder.mkdir()
  lora_files.write(folder, network, tensors.from_arrays(trained), str(base))
  whole = transformers.T5ForConditionalGeneration.from_pretrained(
      base, dtype='float32'
  )
  return peft.PeftModel.from_pretrained(whole, folder, is_trainable=True).eval()


def test_forward_and_gradients(adapted, plain, theirs):
  import torch

  network, trained = adapted
  _, params = plain
  model = network_lib.Transformer(network)
  shifted = np.pad(WRITTEN, ((0, 0), (1, 0)))[:, :-1]

  def loss(trained):
    logits = model.apply(
        {'params': adapters.joined(trained, params)}, TOKENS, shifted,
        WRITTEN, enable_dropout=False,
    )
    log_probs = jnp.take_along_axis(
        jax.nn.log_softmax(logits), WRITTEN[..., None], axis=-1
    )[..., 0]
    return -(log_probs * (WRITTEN > 0)).sum(), logits

  (ours, logits), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
  made = theirs(
      input_ids=torch.tensor(TOKENS), attention_mask=torch.tensor(TOKENS > 0),
      decoder_input_ids=torch.tensor(shifted),
      decoder_attention_mask=torch.tensor(WRITTEN > 0),
  ).logits
  real = WRITTEN > 0
  np.testing.assert_allclose(
      np.asarray(logits)[real], made.detach().numpy()[real], atol=1e-4
  )
  log_probs = torch.log_softmax(made, -1).gather(
      -1, torch.tensor(WRITTEN, dtype=torch.long)[..., None]
  )[..., 0]
  total = -(log_probs * torch.tensor(real)).sum()
  total.backward()
  assert float(ours) == pytest.approx(total.item(), rel=1e-5)
  found = {
      name: p.grad.numpy().T for name, p in theirs.named_parameters()
      if p.grad is not None
  }
  flat = {n: t.read() for n, t in tensors.from_arrays(gradients).items()}
  assert len(found) == len(flat)
  for name, values in flat.items():
    path, _, kind = name.rpartition('/')
    matrix = hf_checkpoints.hf_name(f'{path}/kernel').removesuffix('weight')
    letter = {'lora_a': 'lora_A', 'lora_b': 'lora_B'}[kind]
    np.testing.assert_allclose(
        values, found[f'base_model.model.{matrix}{letter}.default.weight'],
        atol=1e-4, rtol=1e-4,
    )


def test_what_peft_writes_is_read(theirs, adapted, plain, tmp_path):
  network, trained = adapted
  _, params = plain
  folder = tmp_path / 'saved'
  theirs.save_pretrained(folder)
  model = model_lib.load(folder)
  assert model.config.network == dataclasses.replace(
      network, lora_targets=model.config.network.lora_targets,
  )
  assert set(model.config.network.lora_targets) == set(network.lora_targets)
  expected = tensors.digest(adapters.joined(trained, params))
  assert tensors.digest(model.params) == expected
  # Merged, it is a model like any other.
  convert.convert(folder, tmp_path / 'merged', to='hf', progress=False)
  ask = dict(input='a dog', instruction='good?', options=['yes', 'no'])
  merged = model_lib.load(tmp_path / 'merged')
  for ours, theirs_ in zip(
      model.rank(**ask), merged.rank(**ask), strict=True
  ):
    assert ours.option == theirs_.option
    assert ours.log_prob == pytest.approx(theirs_.log_prob, abs=1e-4)


def test_targets_that_the_base_does_not_have(base, adapted, plain, tmp_path):
  """PEFT passes over them as long as there are others."""
  network, trained = adapted
  lora_files.write(tmp_path, network, tensors.from_arrays(trained), str(base))
  path = tmp_path / lora_files.CONFIG
  config = files.read_json(path)
  other = {'wi', 'wi_0', 'wi_1'} - set(network.linear_layers)
  config['target_modules'] += sorted(other)
  files.write_json(path, config)
  found, values = lora_files.read(tmp_path, plain[0])
  assert set(found.lora_targets) == set(network.lora_targets)
  assert tensors.digest(values) == tensors.digest(tensors.from_arrays(trained))
  files.write_json(path, config | {'target_modules': sorted(other)})
  with pytest.raises(errors.UserError, match='must be some of the layers of'):
    lora_files.read(tmp_path, plain[0])


def test_all_targets_are_written(tiny_network, make_params, tmp_path):
  network = dataclasses.replace(
      tiny_network, mlp_activations=('gelu', 'linear', 'linear'), lora_rank=2,
      lora_alpha=4.0, lora_targets=('key', 'wi_0', 'wi_2'),
  )
  trained, _ = adapters.split(make_params(network, 5))
  lora_files.write(tmp_path, network, tensors.from_arrays(trained), 'base')
  config = files.read_json(tmp_path / lora_files.CONFIG)
  assert config['target_modules'] == ['k', 'wi_0', 'wi_2']


def test_a_new_adapter_changes_nothing(adapted, plain):
  network, _ = adapted
  unadapted, params = plain
  state = train_step.init_state(
      network_lib.Transformer(network), optax.sgd(1.0), 0, params
  )
  ours = network_lib.Transformer(network).apply(
      {'params': train_step.weights(state)}, TOKENS, WRITTEN, WRITTEN,
      enable_dropout=False,
  )
  expected = network_lib.Transformer(unadapted).apply(
      {'params': params}, TOKENS, WRITTEN, WRITTEN, enable_dropout=False
  )
  np.testing.assert_array_equal(ours, expected)
