"""Tests of prompts/templates.py: what it must do, and what it refuses.

`promptsource_test.py` reads files, and compares with plain Jinja.
"""

import random

from flipped_t5x.prompts import templates
import jinja2
import numpy as np
import pytest


def make(jinja, choices='no ||| yes', **kwargs):
  return templates.Template('my/set', 'my name', jinja, choices, **kwargs)


def render(jinja, choices='no ||| yes', seed=0, **row):
  return make(jinja, choices).render(row, seed)


IF = '{% if q %}Why {{x}}?{% elif y %}How {{y}}?{% else %}What?{% endif %} Say.'
IF_CHUNKS = ('Why ', '?', 'How ', '?', 'What?', ' Say.')


@pytest.mark.parametrize(
    'jinja, row, parts, chunks',
    (
        ('a {{x}}', {'x': 'X'}, (0, 'X'), ('a ',)),
        (IF, {'q': 1, 'x': 'X', 'y': ''}, (0, 'X', 1, 5), IF_CHUNKS),
        (IF, {'q': 0, 'y': 'Y'}, (2, 'Y', 3, 5), IF_CHUNKS),
        (IF, {'q': 0, 'y': ''}, (4, 5), IF_CHUNKS),
        ('List:{% for a in l %}\n- {{a}}{% endfor %}.', {'l': ['u', 'v']},
         (0, 1, 'u', 1, 'v', 2), ('List:', '\n- ', '.')),
        ('{% for a in l %}- {% else %}none {% endfor %}{{l}}', {'l': []},
         (1, '[]'), ('- ', 'none ')),
        ('{% for a in l %}{{loop.index}}. {{a}} {% endfor %}', {'l': ['u']},
         ('1', 0, 'u', 1), ('. ', ' ')),
        ('{{x}} {{y}}\n', {'x': 'X', 'y': 'Y'}, ('X', 0, 'Y', 1), (' ', '\n')),
        ('Is {# note #}it {{x}}', {'x': 'X'}, (0, 'X'), ('Is it ',)),
        ('a {%- if x %} b {% endif -%} c', {'x': 1}, (0, 1, 2),
         ('a', ' b ', 'c')),
        ('{% raw %}{{x}}{% endraw %} {{x}}', {'x': 'X'}, (0, 'X'), ('{{x}} ',)),
        ('{{"good or bad"}}? {{x}}', {'x': 'X'}, ('good or bad', 0, 'X'),
         ('? ',)),
        ('{{x}}, {{answer_choices[1]}}', {'x': '|||'}, ('|||', 0, 'yes'),
         (', ',)),
    ),
)
def test_parts_and_chunks(jinja, row, parts, chunks):
  rendered = render(jinja + '||| {{answer_choices[0]}}', **row)
  assert (rendered.parts, rendered.chunks) == (parts, chunks)
  assert rendered.options == ('no', 'yes')


def test_pipes_inside_if():
  template = make(
      '{% if x %}{{x}}? ||| {{answer_choices[1]}}{% else %}None.{% endif %}'
  )
  assert template.chunks == ('? ', 'None.')
  assert template.render({'x': 'X'}).prompt == 'X?'
  with pytest.raises(templates.Dropped, match='^template does not apply$'):
    template.render({'x': ''})


def test_pipes_in_the_data():
  row = {'x': 'a ||| b', 'choices': {'text': ['u|||v', ' w ']}}
  rendered = make(
      '{{x}}: {{answer_choices | join("/")}} ||| {{choices.text[0]}}',
      '{{choices.text | join("|||")}} ||| {{x}}',
  ).render(row)
  assert rendered.prompt == 'a ||| b: u|||v/w/a ||| b'
  assert rendered.options == ('u|||v', 'w', 'a ||| b')
  assert rendered.gold == 0


# What the program itself writes between a chunk's number, or for `|||`.
MARKS = (
    '\ufdd0target\ufdd1', '\ufdd00\ufdd1', '\ufdd2', '\ufdd2s', '\ufdd2es',
    '\ufdd0', 'a \ufdd1\ufdd2|||o',
)


@pytest.mark.parametrize('mark', MARKS, ids=ascii)
@pytest.mark.parametrize('max_field_chars', (None, 100))
def test_private_marks_in_the_data(mark, max_field_chars):
  template = make(
      'Is {{x}} so? {{answer_choices | join("/")}} ||| {{l[0]}}',
      '{{l | join("|||")}} ||| {{y}}', max_field_chars=max_field_chars,
  )
  row = {'x': f'before {mark} after', 'y': f'{mark}.', 'l': [f'{mark}!', 'b']}
  rendered = template.render(row)
  assert rendered.options == (f'{mark}!', 'b', f'{mark}.')
  assert rendered.gold == 0
  joined = f'{mark}!/b/{mark}.'
  assert rendered.parts == (0, row['x'], 1, joined, 2)
  assert rendered.prompt == f'Is {row["x"]} so? {joined}'
  assert template.render_prompt(row).parts == rendered.parts


@pytest.mark.parametrize('max_field_chars', (None, 100))
def test_null_is_no_text(max_field_chars):
  template = make(
      'Title: {{t}} Text: {{x}} ||| no', max_field_chars=max_field_chars
  )
  rendered = template.render({'t': None, 'x': 'X'})
  assert rendered.prompt == 'Title:  Text: X'
  assert rendered.parts == (0, 1, 'X', 2)
  with pytest.raises(templates.Dropped, match='^no answer$'):
    make('{{x}} ||| {{y}}', label='l').render({'x': '', 'y': None, 'l': 1})


def test_private_marks_in_a_template():
  with pytest.raises(ValueError, match=r'my name": its text has one of the'):
    make('Is {{x}} \ufdd0target\ufdd1 so? ||| no')
  with pytest.raises(ValueError, match=r'characters U\+FDD0 to U\+FDD2'):
    make('Is {{x}} so? ||| no\ufdd2')


def test_more_text_behind_the_option():
  assert render('{{x}} ||| {{answer_choices[x]}} it is', x=1).gold == 1


@pytest.mark.parametrize('jinja', (
    '{% set k = [0, 1] | choice %}Is it {{k}}? ||| {{answer_choices[k]}}',
    '{% set k = range(0, 2) | choice %}{{k}} ||| {{answer_choices[k]}}',
))
def test_choice_is_drawn_from_the_seed(jinja):
  state = random.getstate()
  rendered = [render(jinja, seed=s) for s in range(20)]
  assert [render(jinja, seed=s) for s in range(20)] == rendered
  assert random.getstate() == state  # Not from Python's own generator.
  assert {r.gold for r in rendered} == {0, 1}
  assert all(str(r.gold) in r.prompt for r in rendered)


def test_options_are_drawn_from_the_seed():
  choices = '{{["a", "b"] | choice}} ||| c{{x}}'
  drawn = [render('? ||| c', choices, seed=s, x='').options for s in range(20)]
  assert set(drawn) == {('a', 'c'), ('b', 'c')}
  for seed, options in enumerate(drawn):
    assert render('? ||| c', choices, seed=seed, x='').options == options


@pytest.mark.parametrize('chars', (10, 2048, 2053, 2054, 5000))
def test_long_fields(chars):
  jinja = 'Is {{x}} so, {{n}}? ||| {{answer_choices[0]}}'
  row = {'x': ('word ' * 1000)[:chars], 'n': 7}
  whole = render(jinja, **row)
  assert whole.parts == (0, row['x'], 1, '7', 2)
  cut = make(jinja, max_field_chars=2048).render(row)
  # What promptsource makes of the template.
  cutting = jinja.replace('}}', ' | string | truncate(2048) }}')
  plain = jinja2.Template(cutting).render(row, answer_choices=['no', 'yes'])
  assert cut.prompt == plain.partition('|||')[0].strip()
  assert (cut == whole) == (chars <= 2053)


def test_long_option_is_cut_in_the_prompt_alone():
  row = {'x': 'a much too long option', 'y': 'no'}
  rendered = make(
      'Is it {{x}}? ||| {{answer_choices[1]}}', '{{y}} ||| {{x}}',
      max_field_chars=10,
  ).render(row)
  assert rendered.prompt == 'Is it a much...?'
  assert rendered.options == ('no', 'a much too long option')
  assert rendered.gold == 1


# Bad templates and rows.


@pytest.mark.parametrize(
    'jinja, choices, message',
    (
        ('a', 'no ||| yes', 'has 0 times'),
        ('{{"|||"}}', 'no ||| yes', 'has 0 times'),
        ('a ||| b ||| c', 'no ||| yes', 'has 2 times'),
        ('{% if x %}a ||| b{% else %}c ||| d{% endif %}', 'no ||| yes',
         'has 2 times'),
        ('{% for a in l %}a ||| b{% endfor %}', 'no ||| yes', 'inside a loop'),
        ('{% for a in l %}{% else %}a ||| b{% endfor %}', 'no ||| yes',
         'inside a loop'),
        ('a ||| b', None, 'no answer choices'),
        ('a ||| b', '', 'no answer choices'),
        ('a ||| b', 'b ||| c ||| b', "'b' appears twice"),
        ('{{a ||| b', 'no ||| yes', 'expected'),
        ('a ||| b', '{{a', 'expected'),
        ('{% import "os" %} ||| b', 'no ||| yes', "expected token 'as'"),
        ('{% import "os" as x %} ||| b', 'no ||| yes', 'Import is not allowed'),
        ('{% include "/etc/passwd" %} ||| b', 'no ||| yes', 'Include is not'),
        ('{% extends "x" %} ||| b', 'no ||| yes', 'Extends is not'),
        ('{% set x %}a{% endset %}{{x}} ||| b', 'no ||| yes', 'AssignBlock'),
        ('{% with x = 1 %}a{% endwith %} ||| b', 'no ||| yes', 'With is not'),
    ),
)
def test_bad_template(jinja, choices, message):
  with pytest.raises(ValueError, match=message) as error:
    make(jinja, choices)
  assert str(error.value).startswith('my/set "my name": ')


LABEL = '{{x}} ||| {{answer_choices[label]}}'


@pytest.mark.parametrize(
    'jinja, choices, row, reason',
    (
        (LABEL, 'no', {'x': 1, 'label': 0}, 'fewer than two options'),
        (LABEL, '{{x}} ||| {{x}}', {'x': 1, 'label': 0}, 'equal options'),
        (LABEL, 'no ||| yes', {'x': 1, 'label': -1}, 'no label'),
        (LABEL, 'no ||| yes', {'x': 1, 'label': np.int64(-1)}, 'no label'),
        ('{{x}} ||| {% if label > 0 %}{{answer_choices[0]}}{% endif %}',
         'no ||| yes', {'x': 1, 'label': 0}, 'no answer'),
        ('a ||| {{x}}', 'no ||| yes', {'x': 'may'}, 'answer is not an option'),
    ),
)
def test_dropped_row(jinja, choices, row, reason):
  with pytest.raises(templates.Dropped, match=f'^{reason}$'):
    make(jinja, choices).render(row)


@pytest.mark.parametrize(
    'jinja, row, message',
    (
        (LABEL, {'x': 1, 'label': 2}, 'label 2 is neither the number'),
        (LABEL, {'x': 1, 'label': 'maybe'}, "label 'maybe' is neither"),
        (LABEL, {'label': 1}, "'x' is undefined .fields: label"),
        (LABEL, {'x': 1}, "'label' is undefined .fields: x"),
        ('{{x.y}} ||| no', {'x': {'z': 1}}, "no attribute 'y'"),
        ('{{x.index("b")}} ||| no', {'x': ['a']}, "'b' is not in list"),
        ('{{x + 1}} ||| no', {'x': 'a'}, 'can only concatenate'),
        (LABEL, {'x': 1, 'label': 1, 'answer_choices': []}, 'answer_choices'),
    ),
)
def test_bad_row(jinja, row, message):
  with pytest.raises(ValueError, match=message) as error:
    make(jinja).render(row)
  assert str(error.value).startswith('my/set "my name": ')


# As promptsource's templates of hellaswag, qasc and winogrande read a label:
# each would take an option for a row that has no label.
@pytest.mark.parametrize(
    'answer',
    (
        '{{answer_choices[label | int]}}',
        '{% if label == 1 %}{{answer_choices[1]}}{% else %}no{% endif %}',
        '{{["no", "yes"][-1 if label == -1 else 0]}}',
        '{{["no", "yes"][label | int]}}',
        '{% if label %}yes{% else %}no{% endif %}',
    ),
)
@pytest.mark.parametrize('field', ('label', None))
def test_row_without_a_label(answer, field):
  template = make(f'Is it {{{{x}}}}? ||| {answer}', label=field)
  for label in ('', ' ', None, -1, '-1', float('nan')):
    row = {'x': 'X', 'label': label}
    assert not template.has_label(row)
    with pytest.raises(templates.Dropped, match='^no label$'):
      template.render(row)
    assert template.render_prompt(row).prompt == 'Is it X?'
  assert template.has_label({'x': '', 'label': 0})
  assert template.render({'x': '', 'label': 1}).options == ('no', 'yes')


def test_label_that_the_prompt_reads_too():
  jinja = 'Not {{wrong}} but {{right}}? ||| {{right}}'
  row = {'wrong': 'a', 'right': ''}
  choices = '{{wrong}} ||| {{right}} ||| b'
  # Nothing tells which of the two is the label, unless the catalog does.
  assert make(jinja, choices).has_label(row)
  assert not make(jinja, choices, label='right').has_label(row)
  assert make(jinja, choices, label='right').cut_to(9).has_label(
      {'wrong': '', 'right': 'a'}
  )


@pytest.mark.parametrize('label', (1, '1', 1.0, 'yes', True))
def test_labels_as_other_programs_write_them(label):
  rendered = render('{{x}}? ||| {{answer_choices[label]}}.', x=1, label=label)
  assert rendered.gold == 1


def test_missing_field_in_the_options():
  with pytest.raises(ValueError, match='my name.*answer choices: .*opt'):
    render('{{x}} ||| a', '{{x}} ||| {{opt}}', x='a')


@pytest.mark.parametrize('expression', (
    'x.__class__.__mro__', 'x["__class__"]', 'x | attr("__class__")',
    'x.format', '"{0.__class__}".format(x)', 'x.encode()', 'd.items()',
    "''.join.__globals__", 'lipsum.__globals__', 'cycler.__init__.__globals__',
    'l.append(1)', 'self.__init__', 'range(10 ** 9) | list',
))
def test_sandbox(expression):
  row = {'x': 'X', 'l': [], 'd': {}}
  assert make('{{x.lower()}} ||| no').render(row).parts[0] == 'x'
  with pytest.raises(ValueError, match='^my/set "my name": '):
    make(f'{{{{{expression}}}}} ||| no').render(row)
  with pytest.raises(ValueError, match='^my/set "my name": '):
    make('a ||| b', f'b ||| {{{{{expression}}}}} ||| {{{{x}}}}').render(row)
