"""Instructions become templates that render as they are meant."""

from flipped_t5x import errors
from flipped_t5x.new_task import instructions
from flipped_t5x.prompts import templates
import pytest

REVIEW = {'review': 'text'}
PAIR = {'premise': 'premise', 'my hypothesis': 'my_hypothesis'}
ROW = {'text': 'A film.', 'label': 1}


def rendered(given, fields, row, words=('No', 'Yes')):
  template, = instructions.sources([given], fields, words).values()
  return template.render(row)


@pytest.mark.parametrize('given, prompt', (
    ('{{text}} Is it good?', 'A film. Is it good?'),
    ('Is it good? {{ review }}', 'Is it good? A film.'),
    ('{{input}} Is it good? ||| {{answer_choices[label]}}',
     'A film. Is it good?'),
    ('Is it good?', 'A film. Is it good?'),
))
def test_one_text(given, prompt):
  found = rendered(given, REVIEW, ROW)
  assert (found.prompt, found.options, found.gold) == (prompt, ('No', 'Yes'), 1)


def test_several_texts():
  row = {'premise': 'P.', 'my_hypothesis': 'H.', 'label': 0}
  assert rendered('{{premise}} So: {{my hypothesis}}', PAIR, row).prompt == (
      'P. So: H.'
  )
  found = rendered('Does it follow?', PAIR, row)
  assert found.prompt == 'P. H. Does it follow?'


@pytest.mark.parametrize('given, message', (
    ('{{text}}', 'no words of its own'),
    ('{{text}} {{label}}?', 'shows the label'),
    ('{{text}} {{stars}}?', r"reads 'stars'; it can insert .*\{\{text\}\}"),
    ('{{text} Is it?', 'Is it'),
    ('{% for x in text %}a{{x}}', "--instruction '{%"),
))
def test_wrong_instructions(given, message):
  with pytest.raises(errors.UserError, match=message):
    instructions.sources([given], REVIEW, ('No', 'Yes'))


def test_twice():
  with pytest.raises(errors.UserError, match='is there twice'):
    instructions.sources(['Good?', '{{text}} Good?'], REVIEW, ('No', 'Yes'))


@pytest.mark.parametrize('fields', (REVIEW, PAIR), ids=('one', 'two'))
@pytest.mark.parametrize('words', (
    ('No', 'Yes'), tuple(f'w{i}' for i in range(30)), None
), ids=('two', 'many', 'choices'))
def test_general_wordings(fields, words, tmp_path):
  given = instructions.general(fields, 'my {{7*7}} label', words)
  assert len(given) == 3
  made = instructions.sources(given, fields, words)
  path = tmp_path / 'templates.yaml'
  path.write_text(instructions.to_yaml('new', made))
  row = dict.fromkeys(fields.values(), 'A |||  text.') | {'label': 1}
  if words is None:
    row['options'] = ['a ||| b', '{{c}}']
  loaded = templates.load_file(path, label='label')
  assert loaded.keys() == made.keys() and len(loaded) == 3
  for template in loaded.values():
    found = template.render(row)
    assert found.options == tuple(words or row['options'])
    assert found.gold == 1
    assert 'A |||  text.' in found.prompt
    assert ('w29' in found.prompt) is False


def test_names_are_told_apart():
  made = instructions.sources(['Good?', 'Good!'], REVIEW, ('No', 'Yes'))
  assert list(made) == ['Good', 'Good+']
