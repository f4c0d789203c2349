"""Tests of inference/queries.py: what is asked, checked and rendered."""

import json

from flipped_t5x.inference import queries
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
from flipped_t5x.tasks import labels
import pytest

TEXT = {'input': 'T', 'instruction': 'Good?', 'options': ['yes', 'no']}
ROW = {
    'dataset': 'super_glue/rte',
    'template': 'does this imply',
    'row': {'premise': 'It rains.', 'hypothesis': 'It is wet.'},
}
GUESS = {'input': 'T', 'output': 'yes'}


def template(jinja, answer_choices='no ||| yes'):
  return templates.Template('mine', 'one', jinja, answer_choices)


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
    ('Is "{{ input }}" good?', 'input: <extra_id_0> T <extra_id_1>\n'
     'output: yes', '<extra_id_0> Is " <extra_id_1> " good?', 'Is "T" good?'),
    ('Is "{{-\tinput\n}}" good?', 'input: <extra_id_0> T <extra_id_1>\n'
     'output: yes', '<extra_id_0> Is " <extra_id_1> " good?', 'Is "T" good?'),
    ('{{ input }}{{input}} { %}?', 'input: T T <extra_id_0>\noutput: yes',
     '<extra_id_0> { %}?', 'TT { %}?'),
    ('Is {% raw %}{{x}}{% endraw %}{# note #} good?',
     'input: T <extra_id_0>\noutput: yes', '<extra_id_0> Is {{x}} good?',
     'T Is {{x}} good?'),
))
def test_place_of_the_text(instruction, inputs, targets, prompt):
  rendered = queries.render_to_rank(TEXT | {'instruction': instruction})
  text = formats.flipped(rendered, 'yes')
  assert (text.inputs, text.targets) == (inputs, targets)
  assert rendered.prompt == prompt
  assert rendered.options == ('yes', 'no')


@pytest.mark.parametrize('instruction, message', (
    ('Is {{text}} good?', "it inserts 'text'"),
    ('Is {{ Input }} good?', "it inserts 'Input'"),
    ('Is {{ input | upper }} good?', "it inserts 'upper'"),
    ('Is {{ "input" }} good?', 'it computes'),
    ('{% if input %}Good?{% endif %}', 'it has a statement'),
    ('Is {{ input good?', "expected token 'end of print statement'"),
    ('Is {# good?', 'Missing end of comment tag'),
))
def test_instruction_that_inserts_something_else(instruction, message):
  with pytest.raises(ValueError) as error:
    queries.render_to_rank(TEXT | {'instruction': instruction})
  assert str(error.value).startswith(f'instruction {instruction!r}: {message}')
  assert 'all that can be inserted is {{ input }}, and' in str(error.value)


def test_row_of_a_promptsource_template():
  rendered = queries.render_to_rank(ROW)
  text = formats.flipped(rendered, 'Yes')
  assert text.inputs == (
      'input: It rains. <extra_id_0> It is wet. <extra_id_1>\noutput: Yes'
  )
  assert text.targets == (
      '<extra_id_0> Question: Does this imply that " <extra_id_1> "? Yes or no?'
  )
  assert rendered.options == ('Yes', 'No')


def test_a_label_changes_nothing():
  expected = queries.render_to_rank(ROW)
  for label in (0, 1, -1):
    query = ROW | {'row': ROW['row'] | {'label': label}}
    assert queries.render_to_rank(query) == expected


@pytest.mark.parametrize('jinja, shown', (
    ('{{a}} Good? ||| {{answer_choices[label]}}', 'A Good?'),
    ('{{a}} Good? ||| {% if label != -1 %}{{answer_choices[label]}}'
     '{% else %}{{b}}{% endif %}', 'A Good?'),
    ('{% if a %}{{a}} Good? ||| {% for x in y %}{{x}}{% endfor %}{% endif %}',
     'A Good?'),
    ('{% if a %}{{a}} Good? ||| {{label}}{% else %}Nothing.{% endif %}',
     'A Good?'),
    ('{% if c is defined %}{{a}}{% endif %} {{ "|||" }} Good?'
     ' ||| {{answer_choices[label]}}', '||| Good?'),
    ('{% raw %}{{a}} ||{% endraw %} Good? ||| {# a comment #}{{b}}',
     '{{a}} || Good?'),
))
def test_answer_is_not_needed(jinja, shown):
  own = template(jinja)
  query = {'template': own, 'row': {'a': 'A'}}
  rendered = queries.render_to_rank(query)
  assert rendered.prompt == shown
  assert rendered.chunks == own.chunks
  assert rendered.options == ('no', 'yes')


def test_same_prompt_as_with_the_answer():
  """Whatever is left out of a template, its prompt stays."""
  row = {'text': 'A warm film.', 'label': 1, 'content': 'C', 'title': 'T'}
  compared = 0
  for dataset in ('rotten_tomatoes', 'imdb', 'amazon_polarity', 'app_reviews'):
    for name, own in templates.load(dataset).items():
      try:
        with_answer = own.render(row)
      except (templates.Dropped, ValueError):
        continue
      rendered = queries.render_to_rank(
          {'dataset': dataset, 'template': name, 'row': row}
      )
      assert rendered.parts == with_answer.parts
      assert rendered.chunks == with_answer.chunks
      assert rendered.options == with_answer.options
      compared += 1
  assert compared > 25


def test_relabelled_template_needs_no_label():
  own = template('{{a}} Yes or no? ||| {{answer_choices[label]}}', 'Yes ||| No')
  words = {'yes': 'agree', 'no': 'disagree', 'maybe': 'unsure'}
  other = labels.RelabelledTemplate(own, words)
  for row in ({'a': 'A', 'label': 1}, {'a': 'A'}):
    rendered = queries.render_to_rank({'template': other, 'row': row})
    assert rendered.options == ('Agree', 'Disagree')
    assert rendered.chunks == (' Agree or disagree? ',)
    assert rendered.prompt == 'A Agree or disagree?'


def test_fields_are_cut_as_in_training():
  query = {'template': template('{{a}} Good? ||| {{b}}'), 'row': {
      'a': 'word ' * 100
  }}
  assert queries.render_to_rank(query, 20).parts[0] == 'word word word...'
  assert queries.render_to_rank(query).parts[0] == 'word ' * 100


def test_dataset_of_the_catalog(monkeypatch, tmp_path):
  (tmp_path / 'mine.yaml').write_text(
      'dataset: mine/own\ntemplates:\n  1: !Template\n    name: one\n'
      f'    jinja: {json.dumps("{{a}} Good? ||| {{answer_choices[label]}}")}\n'
      '    answer_choices: no ||| yes\n'
      '    metadata: !TemplateMetadata {metrics: [Accuracy]}\n'
  )
  (tmp_path / 'catalog.csv').write_text(
      'name,templates,test,eval_split\nmine/own,file:mine.yaml,1,test\n'
  )
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(tmp_path / 'catalog.csv'))
  query = {'dataset': 'mine/own', 'template': 'one', 'row': {'a': 'A'}}
  assert queries.render_to_rank(query).prompt == 'A Good?'
  with pytest.raises(ValueError, match=r"no 'mine/onw'.*'mine/own'"):
    queries.render_to_rank(query | {'dataset': 'mine/onw'})


def test_guess_of_a_text():
  rendered, output = queries.render_to_guess(GUESS | {'output': ' yes\n'})
  for make_text in (formats.flipped, formats.flipped_plain):
    assert make_text(rendered, output).inputs == 'input: T\noutput: yes'


def test_guess_of_a_row():
  own = template('{{a}} Good? ||| {{answer_choices[label]}}')
  query = {'template': own, 'row': {'a': 'A', 'label': 1}}
  rendered, output = queries.render_to_guess(query)
  text = formats.flipped(rendered, output)
  assert text.inputs == 'input: A <extra_id_0>\noutput: yes'
  _, output = queries.render_to_guess(query | {'output': 'of course'})
  assert output == 'of course'
  # With an output, there need be no label.
  no_label = query | {'row': {'a': 'A'}}
  rendered, output = queries.render_to_guess(no_label | {'output': 'no'})
  assert (rendered.parts, output) == (('A', 0), 'no')
  for row in (no_label, query | {'row': {'a': 'A', 'label': -1}}):
    with pytest.raises(ValueError, match='give an output, or a row with'):
      queries.render_to_guess(row)


@pytest.mark.parametrize('change, message', (
    ({'options': ('yes',)}, r"options \['yes'\]: give at least two different"),
    ({'options': ()}, 'give at least two different'),
    ({'options': ('yes', ' yes ')}, 'give at least two different'),
    ({'options': ('yes', ' ')}, 'none of them empty'),
    ({'options': 'yes,no'}, "options must be a list of texts, not 'yes,no'"),
    ({'options': ['yes', 1]}, 'options must be a list of texts'),
    ({'options': None}, 'options is missing: give either input,'),
    ({'input': None}, 'input is missing'),
    ({'input': 3}, 'input must be a text, not 3'),
    ({'instruction': ''}, 'the instruction is empty'),
    ({'instruction': ' {{input}}\n'}, 'the instruction is empty'),
    ({'instruction': '{{ input }}'}, 'the instruction is empty'),
    ({'row': {}}, 'input and row cannot both be given'),
    ({'template': 'x'}, 'input and template cannot both be given'),
    ({'optons': ['a']}, r"unknown key 'optons'; nearest: \['options'\]"),
    ({'output': 'x'}, "unknown key 'output'"),
    ({3: 'x'}, 'unknown key 3'),
))
def test_wrong_text(change, message):
  with pytest.raises(ValueError, match=message):
    queries.render_to_rank(TEXT | change)


@pytest.mark.parametrize('change, message', (
    ({'row': {'premise': 'P'}}, r"'hypothesis' is undefined \(fields: premise\)"
     ': the row lacks a field'),
    ({'row': 'premise'}, "row must be a mapping of .* not 'premise'"),
    ({'row': None}, 'row is missing'),
    ({'dataset': None}, 'dataset is missing'),
    ({'dataset': 'super_glue/ret'}, "no 'super_glue/ret'; nearest:.*"
     "'super_glue/rte'"),
    ({'template': 'does this implie'}, "super_glue/rte has no template 'does"
     " this implie'; nearest:.*'does this imply'"),
    ({'template': 3}, 'template must be a text, not 3'),
))
def test_wrong_row(change, message):
  with pytest.raises(ValueError, match=message):
    queries.render_to_rank(ROW | change)


@pytest.mark.parametrize('change, message', (
    ({'output': None}, 'output is missing'),
    ({'output': ' '}, 'the output is empty'),
    ({'options': ['a', 'b']}, "unknown key 'options'"),
    ({'row': {}}, 'input and row cannot both be given'),
))
def test_wrong_guess(change, message):
  with pytest.raises(ValueError, match=message):
    queries.render_to_guess(GUESS | change)


def test_row_that_the_template_drops():
  own = template('{{a}} Good? ||| {{b}}', '{{ options | join("|||") }}')
  query = {'template': own, 'row': {'a': 'A', 'options': ['x', 'x']}}
  with pytest.raises(ValueError, match='mine "one" cannot use .* equal opt'):
    queries.render_to_rank(query)


def test_a_row_that_is_no_mapping():
  with pytest.raises(ValueError, match="a row must be a mapping .* not 'x'"):
    queries.render_to_rank('x')
