"""Tests of inference.py: scores, ranks, and loading a run folder."""

import dataclasses
import json
import shutil

from flipped_t5x import formats
from flipped_t5x import inference
from flipped_t5x import network as network_lib
from flipped_t5x.engine import checkpoints
import jax
import numpy as np
import pytest

ASK = 'does this review likes the film?'
TEXT = 'The film was very good.'
OPTIONS = ('yes', 'no', 'positive', 'negative')


@pytest.fixture(scope='module')
def model(tiny_run):
  return inference.load(tiny_run)


@pytest.fixture(scope='module')
def plain_score(tiny_network, tiny_params):
  """(source, target) -> score of one candidate, not padded, in float64."""
  apply = jax.jit(lambda source, decoder_input, target: network_lib.Transformer(
      tiny_network
  ).apply(
      {'params': tiny_params}, source, decoder_input, target,
      enable_dropout=False,
  ))

  def score(source, target):
    logits = np.float64(apply(*(
        np.array([row], np.int32) for row in (source, [0, *target[:-1]], target)
    )))[0]
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return sum(log_probs[i, token] for i, token in enumerate(target))

  return score


@pytest.fixture(scope='module')
def candidates(plain_score):
  """17 inputs of two lengths, targets, and their scores one at a time."""
  rng = np.random.default_rng(0)
  inputs = [[*rng.integers(2, 200, n), 1] for n in rng.choice((4, 20), 17)]
  targets = [[*rng.integers(2, 200, 8), 1] for _ in inputs]
  scores = [plain_score(*pair) for pair in zip(inputs, targets, strict=True)]
  return inputs, targets, np.array(scores)


@pytest.mark.parametrize('batch_size, length_multiple', (
    (1, 16), (7, 16), (256, 16), (7, 1), (7, 64),
))
def test_scores_do_not_depend_on_batches(
    model, candidates, batch_size, length_multiple
):
  inputs, targets, expected = candidates
  scores = model.score(inputs, targets, batch_size, length_multiple)
  assert scores.dtype == np.float32
  assert np.std(expected) > 1
  np.testing.assert_allclose(scores, expected, rtol=1e-5)


def text_scores(model, pairs):
  """Scores of (encoder text, decoder text) pairs."""
  inputs, targets = (
      [[*model.vocabulary.encode(text), 1] for text in side]
      for side in zip(*pairs, strict=True)
  )
  return map(float, model.score(inputs, targets, batch_size=len(OPTIONS)))


def test_rank_is_by_the_score_of_the_instruction(model):
  scores = text_scores(model, [
      (f'input: {TEXT} <extra_id_0>\noutput: {option}', f'<extra_id_0> {ASK}')
      for option in OPTIONS
  ])
  expected = sorted(
      zip(OPTIONS, scores, strict=True), key=lambda pair: -pair[1]
  )
  assert [option for option, _ in expected] not in (
      list(OPTIONS), list(OPTIONS[::-1])
  )
  assert model.rank(ASK, TEXT, OPTIONS) == expected
  # Neither the order of the options nor white space around them matters.
  shuffled = [f' {option}\n' for option in OPTIONS[::-1]]
  assert model.rank(ASK, TEXT, shuffled) == expected


def test_rank_in_another_format(model):
  direct = dataclasses.replace(
      model, config=dataclasses.replace(model.config, format='direct')
  )
  scores = text_scores(model, [(f'{TEXT} {ASK}', o) for o in OPTIONS])
  assert dict(direct.rank(ASK, TEXT, OPTIONS)) == dict(
      zip(OPTIONS, scores, strict=True)
  )


def test_ties_keep_the_given_order(model, tiny_vocabulary):
  # The vocabulary knows neither sign: both are <unk>, and score the same.
  assert tiny_vocabulary.encode('☃') == tiny_vocabulary.encode('☂')
  for options in (('☃', '☂'), ('☂', '☃')):
    (first, high), (second, low) = model.rank(ASK, TEXT, options)
    assert (first, second) == options
    assert high == low


def test_rank_cuts_a_long_text(model):
  # Both are cut to 48 tokens, long before their ends differ.
  long = ' '.join(['good film'] * 100)
  assert model.rank(ASK, f'{long} yes', OPTIONS) == model.rank(
      ASK, f'{long} no', OPTIONS
  )
  assert model.rank(ASK, TEXT, OPTIONS) != model.rank(ASK, 'no', OPTIONS)


@pytest.mark.parametrize('options', (
    (), ('yes',), ('yes', 'no', 'yes'), ('yes', ' yes '), ('yes', ''),
    ('yes', ' '),
))
def test_rank_needs_two_different_options(model, options):
  with pytest.raises(ValueError, match='at least two are needed'):
    model.rank(ASK, TEXT, options)


@pytest.mark.parametrize('instruction', ('', ' \n', '{{input}}', ' {{input}} '))
def test_rank_needs_an_instruction(model, instruction):
  with pytest.raises(ValueError, match='the instruction is empty'):
    model.rank(instruction, TEXT, OPTIONS)


@pytest.mark.parametrize('instruction, inputs, targets, prompt', (
    ('Is it good?', 'input: T <extra_id_0>\noutput: yes',
     '<extra_id_0> Is it good?', 'T Is it good?'),
    ('{{input}} Good?', 'input: T <extra_id_0>\noutput: yes',
     '<extra_id_0> Good?', 'T Good?'),
    ('Is it good? {{input}}', 'input: <extra_id_0> T\noutput: yes',
     '<extra_id_0> Is it good?', 'Is it good? T'),
    ('Is "{{input}}" good?', 'input: <extra_id_0> T <extra_id_1>\noutput: yes',
     '<extra_id_0> Is " <extra_id_1> " good?', 'Is "T" good?'),
    ('{{input}}, {{input}}?', 'input: T <extra_id_0> T <extra_id_1>\n'
     'output: yes', '<extra_id_0> , <extra_id_1> ?', 'T, T?'),
))
def test_place_of_the_text(instruction, inputs, targets, prompt):
  rendered = inference.rendered_text(instruction, 'T', ('yes', 'no'))
  text = formats.flipped(rendered, 'yes')
  assert (text.inputs, text.targets) == (inputs, targets)
  assert rendered.prompt == prompt
  assert (rendered.options, rendered.gold) == (('yes', 'no'), 0)


def assert_params(model, expected):
  jax.tree.map(np.testing.assert_array_equal, model.params, expected)


def test_load_the_newest_step(model, tiny_network, tiny_params):
  assert model.step == 2
  assert model.config == checkpoints.RunConfig(
      tiny_network, 'flipped', 48, 32, {'SEED': 0}
  )
  assert_params(model, tiny_params)


def test_load_one_step(tiny_run, tiny_network, tiny_params, make_params):
  for path in (tiny_run / 'checkpoints' / '1', f'{tiny_run}/checkpoints/1/'):
    model = inference.load(path)
    assert model.step == 1
    assert_params(model, make_params(tiny_network, 1))
  assert_params(inference.load(tiny_run / 'checkpoints' / '2'), tiny_params)


def test_load_of_a_relative_path(tiny_run, tiny_params, monkeypatch):
  monkeypatch.chdir(tiny_run.parent)
  assert_params(inference.load(tiny_run.name), tiny_params)


def test_load_without_run_or_checkpoint(tiny_run, tmp_path):
  with pytest.raises(FileNotFoundError, match='is not the folder of a run'):
    inference.load(tmp_path)
  with pytest.raises(FileNotFoundError, match='checkpoints/3: no such'):
    inference.load(tiny_run / 'checkpoints' / '3')
  for name in ('config.json', 'sentencepiece.model'):
    shutil.copy(tiny_run / name, tmp_path)
  with pytest.raises(FileNotFoundError, match='no checkpoint has been saved'):
    inference.load(tmp_path)


@pytest.mark.parametrize('name, value, message', (
    ('emb_dim', 24, r'params/decoder/decoder_norm/scale is \(16,\) where the'
     r' network has \(24,\)'),
    ('num_encoder_layers', 3, 'params/encoder/layers_2/attention/key/kernel is'
     r' not there where the network has \(16, 16\)'),
    ('num_encoder_layers', 1, 'params/encoder/layers_1/attention/key/kernel is'
     r' \(16, 16\) where the network has none'),
    ('logits_via_embedding', True, 'params/decoder/logits_dense/kernel'),
))
def test_load_of_a_checkpoint_of_another_size(
    tiny_run, tmp_path, name, value, message
):
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run, folder)
  config = json.loads((folder / 'config.json').read_text())
  config['network'][name] = value
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=f'checkpoints/2: {message}'):
    inference.load(folder)
