"""Tests of prompts/formats.py: exact texts of small templates."""

from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
import pytest

INFER = (
    'Suppose {{premise}} Can we infer that "{{hypothesis}}"? Yes or no? |||'
    ' {{answer_choices[label]}}'
)
ROW = {'premise': 'It rains.', 'hypothesis': 'It is wet.', 'label': 0}
PROMPT = 'Suppose It rains. Can we infer that "It is wet."? Yes or no?'
LOOP = (
    '{% if why %}Why {{x}}?{% else %}What {{x}}?{% endif %}\n'
    '{% for o in answer_choices %}- {{o}}\n{% endfor %}'
    '||| {{answer_choices[1]}}'
)
LOOP_TARGETS = (
    '<extra_id_0> Why <extra_id_1> ? <extra_id_2> What <extra_id_3> ?'
    ' <extra_id_4> <extra_id_5> - <extra_id_6>'
)


def render(jinja, **row):
  return templates.Template('my/set', 'name', jinja, 'Yes ||| No').render(row)


@pytest.mark.parametrize(
    'name, option, inputs, targets',
    (
        ('flipped', 'Yes',
         'input: <extra_id_0> It rains. <extra_id_1> It is wet. <extra_id_2>\n'
         'output: Yes',
         '<extra_id_0> Suppose <extra_id_1> Can we infer that " <extra_id_2>'
         ' "? Yes or no?'),
        ('flipped', 'No',
         'input: <extra_id_0> It rains. <extra_id_1> It is wet. <extra_id_2>\n'
         'output: No',
         '<extra_id_0> Suppose <extra_id_1> Can we infer that " <extra_id_2>'
         ' "? Yes or no?'),
        ('flipped_plain', 'Yes',
         'input: It rains. It is wet.\noutput: Yes',
         'Suppose Can we infer that " "? Yes or no?'),
        ('direct', 'Yes', PROMPT, 'Yes'),
        ('direct', 'No', PROMPT, 'No'),
        ('channel', 'Yes', 'Yes', PROMPT),
        ('channel', 'No', 'No', PROMPT),
    ),
)
def test_formats(name, option, inputs, targets):
  text = formats.get(name)(render(INFER, **ROW), option)
  assert (text.inputs, text.targets) == (inputs, targets)


@pytest.mark.parametrize('why, first, last', ((True, 0, 1), (False, 2, 3)))
def test_flipped_branch_and_loop(why, first, last):
  text = formats.flipped(render(LOOP, why=why, x='this'), 'No')
  # The loop shows its sentinels once for each option.
  assert text.inputs == (
      f'input: <extra_id_{first}> this <extra_id_{last}> <extra_id_4>'
      ' <extra_id_5> Yes <extra_id_6> <extra_id_5> No <extra_id_6>\noutput: No'
  )
  # Both branches are listed, and the loop once; white space has a sentinel.
  assert text.targets == LOOP_TARGETS


def test_plain_and_prompt_of_the_taken_branch():
  rendered = render(LOOP, why=True, x='this')
  plain = formats.flipped_plain(rendered, 'No')
  assert plain.inputs == 'input: this Yes No\noutput: No'
  assert plain.targets == 'Why ? What ? -'
  assert formats.direct(rendered, 'No').inputs == 'Why this?\n- Yes\n- No'


def test_the_part_that_is_cut_and_the_part_that_is_kept():
  rendered = render(INFER, **ROW)
  parts = {
      name: (f(rendered, 'No').instance, f(rendered, 'No').label)
      for name, f in formats.FORMATS.items()
  }
  assert parts == {
      'flipped': (
          ('input:', '<extra_id_0>', 'It rains.', '<extra_id_1>', 'It is wet.',
           '<extra_id_2>'),
          'output: No',
      ),
      'flipped_plain': (('input:', 'It rains.', 'It is wet.'), 'output: No'),
      'direct': ((PROMPT,), ''),
      'channel': ((), 'No'),
  }


@pytest.mark.parametrize(
    'instance, label, inputs',
    (
        (('a', 'c'), 'b', 'a c\nb'),
        (('a',), '', 'a'),
        ((), 'b', 'b'),
        ((), '', ''),
    ),
)
def test_text_inputs(instance, label, inputs):
  assert formats.Text(instance, label, 'targets').inputs == inputs


@pytest.mark.parametrize('name, without, with_unlikelihood', (
    ('flipped', 'wrong_inputs', 'wrong_inputs'),
    ('flipped_plain', 'wrong_inputs', 'wrong_inputs'),
    ('direct', None, 'wrong_targets'),
    ('channel', 'wrong_inputs', 'wrong_inputs'),
))
def test_wrong_side_is_where_the_label_stands(name, without, with_unlikelihood):
  assert formats.wrong_side(name, unlikelihood=False) == without
  assert formats.wrong_side(name, unlikelihood=True) == with_unlikelihood
  # What it names differs between two options, and the other side does not.
  yes, no = (formats.get(name)(render(INFER, **ROW), o) for o in ('Yes', 'No'))
  assert (yes.targets != no.targets) == (with_unlikelihood == 'wrong_targets')
  assert (yes.inputs != no.inputs) == (with_unlikelihood == 'wrong_inputs')


def test_unknown_format():
  with pytest.raises(ValueError, match="'fliped'; choose one of .*'flipped'"):
    formats.get('fliped')


def test_more_chunks_than_sentinels():
  jinja = '{{x}} a ' * 100
  text = formats.flipped(render(jinja + '||| Yes', x='X'), 'Yes')
  assert text.targets.endswith('<extra_id_99> a')
  with pytest.raises(ValueError, match='100 chunks'):
    formats.flipped(render(jinja + '{{x}} b ||| Yes', x='X'), 'Yes')
