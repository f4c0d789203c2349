"""Tests of inference/model.py: scores, ranks, guesses, explanations, load."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings

from flipped_t5x import network as network_lib
from flipped_t5x.inference import encoded_queries
from flipped_t5x.inference import generation
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import queries
from flipped_t5x.inference import scoring
from flipped_t5x.prompts import examples
from flipped_t5x.prompts import templates
from flipped_t5x.prompts import tokenization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

ASK = 'does this review likes the film?'
TEXT = 'The film was very good.'
OPTIONS = ('yes', 'no', 'positive', 'negative')
TEMPLATE = templates.Template(
    'tiny', 'film', 'so {{text}} does this likes the film? {{more}} |||'
    ' {{answer_choices[label]}}', 'yes ||| no ||| they said',
)


@pytest.fixture(scope='module')
def model(tiny_run):
  return model_lib.load(tiny_run)


def in_format(model, format_, **changes):
  return dataclasses.replace(
      model, config=dataclasses.replace(model.config, format=format_, **changes)
  )


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


@pytest.fixture(scope='module')
def rows():
  """8 queries of two to four options and two lengths; 2 are of a template."""
  short, long = 'It was good.', 'It was very very very good, so they said it.'
  return [
      {'input': text, 'instruction': instruction, 'options': options}
      for text in (short, long)
      for instruction, options in (
          (ASK, OPTIONS), ('a house?', OPTIONS[1:3]), ('dog', OPTIONS[:3])
      )
  ] + [
      {'template': TEMPLATE, 'row': {'text': text, 'more': 'yes'}}
      for text in (short, long)
  ]


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


def test_no_candidates(model):
  assert model.score([], []).shape == (0,)
  assert model.rank_batch([]) == []
  assert model.guess_batch([]) == []


@pytest.mark.parametrize('name', ('batch_size', 'length_multiple'))
def test_scores_in_batches_of_nothing(model, name):
  with pytest.raises(ValueError, match=f'{name} is 0; at least 1 is needed'):
    model.score([[3]], [[3]], **{name: 0})


def text_scores(model, pairs):
  """Scores of (encoder text, decoder text) pairs."""
  inputs, targets = (
      [[*model.vocabulary.encode(text), 1] for text in side]
      for side in zip(*pairs, strict=True)
  )
  return map(float, model.score(inputs, targets, batch_size=len(OPTIONS)))


def assert_same(ranked, expected):
  """The same options with the same scores, but for rounding."""
  assert [r.option for r in ranked] == [r.option for r in expected]
  for name in ('log_prob', 'probability'):
    np.testing.assert_allclose(
        [getattr(r, name) for r in ranked],
        [getattr(r, name) for r in expected], rtol=1e-5,
    )


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
  ranked = model.rank(input=TEXT, instruction=ASK, options=OPTIONS)
  assert [r.option for r in ranked] == [option for option, _ in expected]
  np.testing.assert_allclose(
      [r.log_prob for r in ranked], [score for _, score in expected], rtol=1e-6
  )
  total = sum(np.exp(score) for _, score in expected)
  np.testing.assert_allclose(
      [r.probability for r in ranked],
      [np.exp(score) / total for _, score in expected], rtol=1e-4,
  )
  # Neither the order of the options nor white space around them matters.
  shuffled = [f' {option}\n' for option in OPTIONS[::-1]]
  assert_same(
      model.rank(input=TEXT, instruction=ASK, options=shuffled), ranked
  )


def test_probabilities_of_scores_far_apart_and_far_below_0():
  ranked = model_lib._ranked(('a', 'b', 'c'), np.float32([[-2000], [-999.5],
                                                          [-999.5]]))
  assert [(r.option, r.probability) for r in ranked] == [
      ('b', 0.5), ('c', 0.5), ('a', 0.0)
  ]


def test_rank_in_another_format(model):
  direct = in_format(model, 'direct')
  scores = text_scores(model, [(f'{TEXT} {ASK}', o) for o in OPTIONS])
  ranked = direct.rank(input=TEXT, instruction=ASK, options=OPTIONS)
  assert {r.option: r.log_prob for r in ranked} == pytest.approx(
      dict(zip(OPTIONS, scores, strict=True))
  )


def test_rank_of_a_row_is_that_of_eval(model):
  """The same tokens as what `eval` scores, whether there is a label or not."""
  row = {'text': TEXT, 'more': 'It was very very good. ' * 8}
  expand = examples.ExpandOptions(
      'tiny', TEMPLATE, model.vocabulary,
      {'inputs': model.config.input_length,
       'targets': model.config.target_length},
  )
  expected = expand(json.dumps(row | {'label': 1}), 0)
  scores = model.score(
      [e['inputs'] for e in expected], [e['targets'] for e in expected],
      batch_size=3,
  )
  for given in (row, row | {'label': 2}):
    with pytest.warns(encoded_queries.Truncated):
      ranked = model.rank(template=TEMPLATE, row=given)
    assert {r.option: r.log_prob for r in ranked} == pytest.approx(
        dict(zip(('yes', 'no', 'they said'), scores, strict=True)), rel=1e-6
    )


def test_rank_of_a_promptsource_template(model):
  name = 'Reviewer Enjoyment Yes No'
  own = templates.load('rotten_tomatoes')[name]
  expected = model.rank(template=own, row={'text': TEXT})
  assert expected == model.rank(
      dataset='rotten_tomatoes', template=name, row={'text': TEXT, 'label': 0}
  )
  assert {r.option for r in expected} == {'Yes', 'No'}


def test_ties_keep_the_given_order(model):
  # Whatever comes in, all tokens are as probable.
  params = jax.tree.map(jnp.zeros_like, model.params)
  flat = dataclasses.replace(model, params=params)
  for options in (OPTIONS, OPTIONS[::-1]):
    ranked = flat.rank(input=TEXT, instruction=ASK, options=options)
    assert tuple(r.option for r in ranked) == options
    assert [r.probability for r in ranked] == [0.25] * 4
    explained = flat.explain(input=TEXT, instruction=ASK, options=options)
    assert explained.options == options
    np.testing.assert_allclose(
        explained.log_probs, -np.log(model.config.network.vocab_size),
        rtol=1e-6,
    )


@pytest.mark.parametrize('batch_size', (5, 64))
def test_rank_batch_is_rank_of_each(model, rows, batch_size):
  expected = [model.rank(**row) for row in rows]
  assert len({len(e) for e in expected}) == 3
  for order in (1, -1):
    ranked = model.rank_batch(rows[::order], batch_size, progress=False)
    for one, other in zip(ranked[::order], expected, strict=True):
      assert_same(one, other)


def test_progress_is_shown_on_request(model, rows, capsys):
  model.rank_batch(rows[:3], progress=False)
  assert not capsys.readouterr().err
  model.rank_batch(iter(rows[:3]))
  number = sum(len(model.rank(**row)) for row in rows[:3])
  assert f'{number}/{number}' in capsys.readouterr().err


def test_long_texts_are_cut_and_counted(model):
  # Both are cut to 48 tokens, long before their ends differ.
  long = ' '.join(['good film'] * 100)
  same = [
      {'input': f'{long} {end}', 'instruction': ASK, 'options': OPTIONS}
      for end in ('yes', 'no')
  ]
  short = {'input': TEXT, 'instruction': ASK, 'options': OPTIONS}
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    first, second, third = model.rank_batch([*same, short], progress=False)
  assert first == second != third
  assert [str(w.message) for w in caught] == [
      '2 of 3 inputs were cut to 48 tokens: the instance, never the label'
  ]
  # It is the label that tells the options apart.
  assert len({r.log_prob for r in first}) == len(OPTIONS)
  encoder = encoded_queries.Encoder(model.config, model.vocabulary)
  found = encoder.to_guess({'input': long, 'output': 'yes'})
  assert found.cut_inputs and len(found.inputs[0]) == 48


def test_long_instructions_are_cut_and_counted(model):
  query = {'input': TEXT, 'options': OPTIONS}
  with pytest.warns(encoded_queries.Truncated, match='1 of 1 targets were cut'
                    ' to 32 tokens: what follows is not scored'):
    ranked = model.rank(instruction=f'{ASK} ' * 20, **query)
  with pytest.warns(encoded_queries.Truncated):
    assert ranked == model.rank(instruction=f'{ASK} ' * 30, **query)


def test_label_that_leaves_no_room(model):
  query = {'input': TEXT, 'instruction': ASK, 'options': ['no', 'very ' * 60]}
  with pytest.raises(ValueError, match=(
      'option .very very .*….: label too long; the model reads 48 tokens'
  )):
    model.rank(**query)
  with pytest.raises(ValueError, match='label too long'):
    model.guess(input=TEXT, output='very ' * 60)


def test_options_of_the_same_tokens(model):
  # The vocabulary knows neither sign: both are <unk>.
  assert model.vocabulary.encode('☃') == model.vocabulary.encode('☂')
  query = {'input': TEXT, 'instruction': ASK, 'options': ['yes', '☃', '☂']}
  message = "'☃' and '☂' have the same tokens: the vocabulary does not tell"
  with pytest.raises(ValueError, match=message):
    model.rank(**query)
  # In DIRECT the label is what is cut to the target's length.
  direct = in_format(model, 'direct', target_length=3)
  query['options'] = ['very very very good', 'very very very bad']
  with pytest.raises(ValueError, match='begin alike, and only the first 3 tok'):
    direct.rank(**query)


def test_an_error_names_its_row(model, rows):
  wrong = {'input': TEXT, 'instruction': ASK, 'options': ['yes']}
  for function in (model.rank_batch, model.explain_batch):
    with pytest.raises(queries.QueryError, match='^row 3: .*at least two') as e:
      function([*rows[:2], wrong])
    assert e.value.index == 2 and e.value.reason.startswith('options')
  with pytest.raises(queries.QueryError, match='^row 1: output is missing'):
    model.guess_batch([{'input': TEXT}])
  with pytest.raises(ValueError, match='^options.*at least two'):
    model.rank(**wrong)  # There is no row.


def test_weights_that_give_no_numbers(model, rows):
  params = jax.tree.map(lambda x: x * jnp.nan, model.params)
  broken = dataclasses.replace(model, params=params)
  with pytest.raises(ValueError, match='^row 1: a log-prob.* is not finite'):
    broken.rank_batch(rows[:2])


def test_log_probabilities_whose_sum_is_too_large(model, rows, monkeypatch):
  monkeypatch.setattr(scoring, 'token_log_probs', lambda *args, **_: [
      np.full(len(target), -3e38, np.float32) for target in args[3]
  ])
  with pytest.raises(ValueError, match='^row 1: a log-prob.* is not finite'):
    model.rank_batch(rows[:2])


def test_explain_is_where_the_scores_come_from(model, rows):
  for row, explained in zip(
      rows, model.explain_batch(rows, progress=False), strict=True
  ):
    ranked = model.rank(**row)
    assert explained.options == tuple(r.option for r in ranked)
    assert explained.prediction == ranked[0].option
    np.testing.assert_allclose(
        explained.log_probs.sum(axis=1), [r.log_prob for r in ranked],
        rtol=1e-5,
    )
    assert explained.log_probs.dtype == np.float32
    assert explained.log_probs.shape[1] == len(explained.tokens)


def test_tokens_of_an_explanation(model):
  query = {'input': TEXT, 'instruction': ASK, 'options': OPTIONS}
  explained = model.explain(**query)
  assert ''.join(explained.tokens) == f'<extra_id_0> {ASK}</s>'
  # The first token comes before the rest: it does not depend on it.
  other = model.explain(**query | {'instruction': 'a house'})
  def first(e):
    return dict(zip(e.options, e.log_probs[:, 0], strict=True))
  assert first(explained) == pytest.approx(first(other), rel=1e-5)


def test_direct_has_nothing_to_explain(model):
  direct = in_format(model, 'direct')
  query = {'input': TEXT, 'instruction': ASK, 'options': OPTIONS}
  with pytest.raises(ValueError, match='the format direct writes the label'):
    direct.explain(**query)
  # CHANNEL writes the same prompt under each.
  explained = in_format(model, 'channel').explain(**query)
  assert ''.join(explained.tokens) == f'{TEXT} {ASK}</s>'


@pytest.mark.parametrize('num_beams', (1, 3))
def test_guess_is_what_the_search_finds(model, num_beams):
  guess = model.guess(
      input='It is.', output='yes', num_beams=num_beams, max_length=8
  )
  source = [*model.vocabulary.encode('input: It is.\noutput: yes'), 1]
  found, = generation.generate(
      model.config.network, model.params, [source], max_length=8,
      num_beams=num_beams,
  )
  assert (guess.tokens, guess.log_prob) == (found.tokens, found.log_prob)
  # It is as probable as `score` says.
  ends = len(guess.tokens) < 8
  target = [*guess.tokens, *[1] * ends]
  assert guess.log_prob == pytest.approx(
      model.score([source], [target])[0], rel=1e-4
  )


def test_text_of_a_guess(model):
  tokens = model.vocabulary.encode('<extra_id_0> So they said')
  assert model._text(tokens) == '<extra_id_0> So they said'
  # Of the 208 rows of the embedding the vocabulary has 200.
  assert model._text([*tokens, 207]) == '<extra_id_0> So they said ⁇ '


def test_guess_of_a_row_has_places(model):
  row = {'text': 'It', 'more': 'was', 'label': 1}
  guess = model.guess(template=TEMPLATE, row=row, max_length=8)
  assert len(guess.tokens) <= 8
  # The template's literal text is not shown, its places are.
  assert guess == model.guess(
      input='<extra_id_0> It <extra_id_1> was <extra_id_2>', output='no',
      max_length=8,
  )
  other = model.guess(template=TEMPLATE, row=row, output='yes', max_length=8)
  assert other.log_prob != guess.log_prob
  plain = in_format(model, 'flipped_plain')
  assert plain.guess(template=TEMPLATE, row=row, max_length=8) == model.guess(
      input='It was', output='no', max_length=8
  )


def test_guess_batch_is_guess_of_each(model):
  asked = [
      {'input': text, 'output': label}
      for text in ('It', 'The film', 'very very') for label in ('yes', 'no')
  ][:5]
  expected = [model.guess(**row, max_length=8) for row in asked]
  guesses = model.guess_batch(
      asked, max_length=8, batch_size=2, progress=False
  )
  assert [g.tokens for g in guesses] == [g.tokens for g in expected]
  assert len(set(guesses)) > 1
  np.testing.assert_allclose(
      [g.log_prob for g in guesses], [g.log_prob for g in expected], rtol=1e-4
  )


@pytest.mark.parametrize('format_', ('direct', 'channel'))
def test_guess_of_a_model_that_writes_no_instructions(model, format_):
  with pytest.raises(ValueError, match=f'{format_} does not write instruc'):
    in_format(model, format_).guess(input=TEXT, output='yes')


@pytest.mark.parametrize('name', ('num_beams', 'max_length'))
def test_guess_with_nothing(model, name):
  with pytest.raises(ValueError, match=f'{name} is 0'):
    model.guess(input=TEXT, output='yes', **{name: 0})


def assert_params(model, expected):
  jax.tree.map(np.testing.assert_array_equal, model.params, expected)


def test_load_a_step_of_a_run(
    model, tiny_run, tiny_network, tiny_params, make_params
):
  assert model.step == 2
  assert_params(model, tiny_params)
  config = model.config
  assert config.network == tiny_network
  assert (config.format, config.settings) == ('flipped', {'SEED': 0})
  assert (config.input_length, config.target_length) == (48, 32)
  for path in (tiny_run / 'checkpoints' / '1', f'{tiny_run}/checkpoints/1/'):
    older = model_lib.load(path)
    assert older.step == 1
    assert_params(older, make_params(tiny_network, 1))


def test_load_of_a_relative_path(tiny_run, tiny_params, monkeypatch):
  monkeypatch.chdir(tiny_run.parent)
  assert_params(model_lib.load(tiny_run.name), tiny_params)


def test_load_otherwise(model, tiny_run, tiny_vocabulary_path):
  other = model_lib.load(
      tiny_run, dtype='bfloat16', format='direct', input_length=7,
      target_length=5, vocabulary=tiny_vocabulary_path,
  )
  assert {x.dtype for x in jax.tree.leaves(other.params)} == {
      jnp.dtype('bfloat16')
  }
  assert other.config.network == dataclasses.replace(
      model.config.network, dtype='bfloat16'
  )
  config = other.config
  assert (config.format, config.input_length, config.target_length) == (
      'direct', 7, 5
  )
  assert other.vocabulary is tokenization.load_vocabulary(tiny_vocabulary_path)
  scores = [m.score([[5, 6, 7, 1]], [[8, 9, 1]])[0] for m in (model, other)]
  assert scores[0] != scores[1]
  assert scores[0] == pytest.approx(scores[1], rel=0.05)


@pytest.mark.parametrize('arguments, message', (
    ({'dtype': 'float16'}, "dtype 'float16' is not one of"),
    ({'format': 'fliped'}, "unknown format 'fliped'"),
    ({'input_length': 0}, 'input_length is 0; at least 1'),
    ({'target_length': -1}, 'target_length is -1; at least 1'),
))
def test_load_with_wrong_arguments(tiny_run, arguments, message):
  with pytest.raises(ValueError, match=message):
    model_lib.load(tiny_run, **arguments)


def test_load_without_model_or_vocabulary(tiny_run, tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    model_lib.load(tmp_path)
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run, folder)
  (folder / 'sentencepiece.model').unlink()
  with pytest.raises(ValueError, match='run has no vocabulary .*--vocabulary'):
    model_lib.load(folder)


_SCRIPT = """
import sys, time
start = time.perf_counter()
import flipped_t5x
seconds = time.perf_counter() - start
assert 'jax' not in sys.modules and 'numpy' not in sys.modules
assert 'load' in dir(flipped_t5x)
model = flipped_t5x.load(sys.argv[1])
query = dict(input='It.', instruction='a dog?', options=['yes', 'no'])
model.rank(**query)
model.explain(**query).table()
model.guess(input='It.', output='yes', max_length=3)
model.rank(dataset='rotten_tomatoes', template='Reviewer Enjoyment Yes No',
           row={'text': 'It.'})
heavy = ('tensorflow', 'seqio', 't5x', 'torch', 'transformers', 'matplotlib')
print(seconds, *(name for name in heavy if name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.process
def test_import_is_quick_and_load_leaves_tensorflow_out(tiny_run):
  shown = subprocess.run(
      [sys.executable, '-c', _SCRIPT, str(tiny_run)], check=True, text=True,
      stdout=subprocess.PIPE, env=dict(os.environ, JAX_PLATFORMS='cpu'),
  ).stdout.split()
  seconds, *heavy = shown
  assert float(seconds) < 0.3
  assert not heavy
