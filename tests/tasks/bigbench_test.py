"""Templates of BIG-bench tasks: chunks and texts worked out by hand."""

import json

from flipped_t5x.prompts import examples
from flipped_t5x.prompts import formats
from flipped_t5x.tasks import bigbench
from flipped_t5x.tasks.sources import readers
import pytest

ROW = {'input': 'Two?', 'choices': ['one', '2', 'three'], 'label': 1}
PREFIXES = {
    'task_prefix': 'Pick one.', 'example_input_prefix': '\nQ: ',
    'choice_prefix': '\n option: ', 'example_output_prefix': '\nA: ',
}


def template(**changes):
  """A template with other prefixes; None leaves one out."""
  prefixes = {k: v for k, v in (PREFIXES | changes).items() if v is not None}
  return bigbench.template('bigbench/demo', prefixes)


def test_all_prefixes():
  made = template()
  # Two prefixes that stand side by side are two chunks.
  assert made.chunks == ('Pick one.', '\nQ: ', '\n option: ', '\nA: ')
  assert made.eligible and made.name == bigbench.TEMPLATE_NAME
  rendered = made.render(ROW)
  assert rendered.parts == (
      0, 1, 'Two?', 2, 'one', 2, '2', 2, 'three', 3
  )
  assert rendered.options == ('one', '2', 'three') and rendered.gold == 1
  assert rendered.prompt == (
      'Pick one.\nQ: Two?\n option: one\n option: 2\n option: three\nA:'
  )
  text = formats.flipped(rendered, 'three')
  assert text.inputs == (
      'input: <extra_id_0> <extra_id_1> Two? <extra_id_2> one <extra_id_2> 2'
      ' <extra_id_2> three <extra_id_3>\noutput: three'
  )
  assert text.targets == (
      '<extra_id_0> Pick one. <extra_id_1> Q: <extra_id_2> option:'
      ' <extra_id_3> A:'
  )


@pytest.mark.parametrize(
    'changes, chunks, parts',
    (
        (
            {'choice_prefix': None},
            ('Pick one.', '\nQ: ', '\nA: '), (0, 1, 'Two?', 2),
        ),
        (
            {'task_prefix': '', 'choice_prefix': None},
            ('\nQ: ', '\nA: '), (0, 'Two?', 1),
        ),
        (
            {'example_input_prefix': '', 'choice_prefix': None},
            ('Pick one.', '\nA: '), (0, 'Two?', 1),
        ),
        (
            {'task_prefix': '', 'example_input_prefix': ''},
            ('\n option: ', '\nA: '),
            ('Two?', 0, 'one', 0, '2', 0, 'three', 1),
        ),
        (
            {'example_output_prefix': ''},
            ('Pick one.', '\nQ: ', '\n option: '),
            (0, 1, 'Two?', 2, 'one', 2, '2', 2, 'three'),
        ),
        (  # White space alone is a chunk too.
            {'task_prefix': '', 'example_input_prefix': '\n',
             'choice_prefix': None, 'example_output_prefix': ' '},
            ('\n', ' '), (0, 'Two?', 1),
        ),
    ),
)
def test_empty_prefixes_are_left_out(changes, chunks, parts):
  made = template(**changes)
  assert made.chunks == chunks
  assert made.render(ROW).parts == parts


def test_defaults_of_a_task(tmp_path):
  path = tmp_path / 'task.json'
  path.write_text(json.dumps({'examples': [
      {'input': 'Two?', 'target_scores': {'one': 0, '2': 1}},
  ]}))
  row, = readers.read(path)
  made = bigbench.template('bigbench/demo', readers.bigbench_prefixes(path))
  assert formats.flipped(made.render(row), '2').inputs == (
      'input: <extra_id_0> Two? <extra_id_1> one <extra_id_1> 2 <extra_id_2>'
      '\noutput: 2'
  )
  direct = formats.direct(made.render(row), '2')
  assert direct.inputs == 'Q: Two?\n choice: one\n choice: 2\nA:'
  assert direct.targets == '2'


JINJA = ('{{x}}', '{% if a %}', '{# no #}', '{%- endfor -%}', '{{', '}} %}')


@pytest.mark.parametrize('text', JINJA)
@pytest.mark.parametrize('prefix', PREFIXES)
def test_jinja_in_a_prefix_is_text(prefix, text):
  made = template(**{prefix: f'\n{text} {text}\n'})
  number = list(PREFIXES).index(prefix)
  assert made.chunks[number] == f'\n{text} {text}\n'
  assert len(made.chunks) == 4
  assert f'{text} {text}' in made.render(ROW).prompt


@pytest.mark.parametrize(
    'text', (*JINJA, 'a ||| b', '|||', 'caf\u00e9\u2028x')
)
def test_rows_are_text(text):
  row = {'input': text, 'choices': ['no', text], 'label': 1}
  rendered = template().render(row)
  assert rendered.options == ('no', text) and rendered.gold == 1
  assert rendered.parts == (0, 1, text, 2, 'no', 2, text, 3)


def test_rows_without_a_right_option_are_counted(tiny_vocabulary):
  expand = examples.ExpandOptions(
      'bigbench/demo', template(), tiny_vocabulary
  )
  rows = [
      ROW, ROW | {'label': -1}, ROW | {'choices': ['a', 'b ', 'b']},
      ROW | {'choices': ['a'], 'label': 0}, ROW | {'label': 2},
  ]
  candidates = [
      expand(json.dumps(row), i) for i, row in enumerate(rows)
  ]
  assert [len(c) for c in candidates] == [3, 0, 0, 0, 3]
  assert [c['is_correct'] for c in candidates[4]] == [False, False, True]
  assert expand.counts == {
      'no label': 1, 'equal options': 1, 'fewer than two options': 1,
      'truncated': 0,
  }


def test_field_that_is_missing_is_named():
  with pytest.raises(ValueError, match='bigbench/demo "BIG-bench": .*input'):
    template().render({'choices': ['a', 'b'], 'label': 0})
