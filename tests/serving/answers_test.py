"""What the page asks a model: batches of several users' questions."""

import dataclasses
import warnings

from flipped_t5x.inference import model as model_lib
from flipped_t5x.serving import answers as answers_lib
import pytest

TEXTS = ['The old dog.', 'A good cat.', '<b>The</b> **red** dog.']
ASK = 'Is it a good dog?'
LABELS = 'yes\n no \n\ngood'


@pytest.fixture(name='model', scope='module')
def fixture_model(tiny_run):
  return model_lib.load(tiny_run)


@pytest.fixture(name='answers', scope='module')
def fixture_answers(model):
  return answers_lib.Answers(model)


def test_a_batch_is_what_rank_says_of_each(answers, model):
  ranked, coloured, messages = answers.rank(TEXTS, [ASK] * 3, [LABELS] * 3)
  for text, probabilities in zip(TEXTS, ranked, strict=True):
    expected = model.rank(
        input=text, instruction=ASK, options=['yes', 'no', 'good']
    )
    assert list(probabilities) == [r.option for r in expected]
    assert list(probabilities.values()) == pytest.approx(
        [r.probability for r in expected], abs=1e-5
    )
  assert messages == ['', '', '']
  explained = model.explain(
      input=TEXTS[0], instruction=ASK, options=['yes', 'no', 'good']
  )
  assert [token for token, _ in coloured[0]] == list(explained.tokens)
  for i, (_, label) in enumerate(coloured[0]):
    if label is not None:
      row = explained.options.index(label)
      assert explained.log_probs[row, i] == explained.log_probs[:, i].max()


def test_figures_are_those_of_notebooks(answers, model):
  figures, messages = answers.figures(
      [TEXTS[2], ''], [ASK] * 2, ['yes\nno', LABELS]
  )
  explained = model.explain(
      input=TEXTS[2], instruction=ASK, options=['yes', 'no']
  )
  assert figures == [explained._repr_html_(), '']
  assert messages == ['', 'the text is missing']


def test_one_wrong_question_does_not_stop_the_others(answers):
  wrong = [
      ('', ASK, LABELS, 'the text is missing'),
      ('a dog', ' ', LABELS, 'the instruction is missing'),
      ('a dog', ASK, 'yes', 'at least 2 labels are needed, one a line'),
      ('a dog', ASK, 'yes\nyes', "the label 'yes' is there twice"),
      ('a dog', ASK, '\n'.join(map(str, range(51))), '51 labels are too many'),
      ('a' * 20_001, ASK, LABELS, '20,001 characters; 20,000 can be read'),
      ('a dog', ASK, 'yes\n' + 'n' * 501, '501 characters'),
      ('a dog', '{{other}} a dog?', LABELS, 'other'),
  ]
  texts, instructions, labels, _ = zip(
      ('a dog', ASK, LABELS, ''), *wrong, ('a cat', ASK, LABELS, ''),
      strict=True,
  )
  ranked, _, messages = answers.rank(texts, instructions, labels)
  assert ranked[0] and ranked[-1] and ranked[1:-1] == [None] * len(wrong)
  for message, (*_, expected) in zip(messages[1:-1], wrong, strict=True):
    assert expected in message
  assert messages[0] == messages[-1] == ''


def test_what_is_cut_is_said_to_whom_it_concerns(answers):
  texts = ['The old dog.', 'dog ' * 200]
  ranked, _, messages = answers.rank(texts, [ASK] * 2, [LABELS] * 2)
  assert all(ranked)
  assert messages[0] == '' and 'cut' in messages[1]


def test_guesses(answers, model):
  rows, messages = answers.guess([TEXTS[0], ''], ['yes\nno', 'yes'])
  assert [row[0] for row in rows[0]] == ['yes', 'no'] and rows[1] == []
  guess = model.guess(input=f'{TEXTS[0]} <extra_id_0>', output='yes')
  assert rows[0][0][1:] == [guess.instruction, f'{guess.log_prob:.2f}']
  assert messages == ['', 'the text is missing']


def test_warnings_of_others_are_no_messages(answers, model, monkeypatch):
  explain_batch = type(model).explain_batch

  def warning(self, *args, **kwargs):
    warnings.warn('deprecated', FutureWarning, stacklevel=1)
    return explain_batch(self, *args, **kwargs)

  monkeypatch.setattr(type(model), 'explain_batch', warning)
  _, _, messages = answers.rank(TEXTS, [ASK] * 3, [LABELS] * 3)
  assert messages == ['', '', '']


def test_a_model_that_writes_the_label(model):
  """It gives the instruction no probability: nothing is coloured."""
  config = dataclasses.replace(model.config, format='direct')
  direct = dataclasses.replace(model, config=config)
  ranked, coloured, messages = answers_lib.Answers(direct).rank(
      TEXTS[:1], [ASK], [LABELS]
  )
  expected = direct.rank(
      input=TEXTS[0], instruction=ASK, options=['yes', 'no', 'good']
  )
  assert ranked == [{r.option: r.probability for r in expected}]
  assert coloured == [None] and messages == ['']
