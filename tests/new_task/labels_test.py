"""What a column of labels says."""

from flipped_t5x import errors
from flipped_t5x.new_task import labels
import pytest

YES_NO = {'1': 4, '0': 5}


def test_value_text():
  values = [1, 1.0, 1.5, True, ' a ', None, float('nan'), '', 'x\ud800']
  assert list(map(labels.value_text, values)) == [
      '1', '1', '1.5', 'True', 'a', '', '', '', 'x?'
  ]


def test_parse():
  assert labels.parse('0=No, 1 = Yes') == {'0': 'No', '1': 'Yes'}
  assert labels.parse('-1=a=b,"0=No, never"') == {'-1': 'a=b', '0': 'No, never'}
  for wrong in ('0', '0=', '=No', '0=No,', '0=No,0=Yes'):
    with pytest.raises(errors.UserError, match='--labels: '):
      labels.parse(wrong)


def test_values_are_their_own_words():
  found = labels.words({'10': 1, '9': 2, 'b': 1, '': 3, '-1': 4}, {}, 'label')
  assert found.words == ('9', '10', 'b')
  # Never the text of another number.
  assert found.number('9', []) == 0 and found.number('10', []) == 1
  assert found.number('', []) is None and found.number('-1', []) is None


def test_several_values_of_one_word():
  given = {'1': 'bad', '2': 'bad', '5': 'very  good'}
  found = labels.words(dict.fromkeys('12345', 1), given, 'stars')
  assert found.words == ('bad', 'very good')
  assert [found.number(v, []) for v in '12345'] == [0, 0, None, None, 1]


@pytest.mark.parametrize('found, given, message', (
    ({'1': 3}, {}, "'label' has one label only, '1'"),
    ({'1': 3, '-1': 9}, {}, r'one label only.*--labels=-1=WORD'),
    ({'': 3}, {}, 'one label only, none'),
    (YES_NO, {'0': 'No', '1': ' No '}, 'one label only'),
    (YES_NO, {'0': 'No', '2': 'Yes'}, "no row has '2' in 'label'; .*'1', '0'"),
    ({'a ||| b': 1, 'c': 1}, {}, r'\|\|\|.*another word with --labels'),
    ({'{{7*7}}': 1, 'c': 1}, {}, 'another word with --labels'),
    ({str(i): 1 for i in range(201)}, {}, '201 different values, such as'),
))
def test_what_is_no_label(found, given, message):
  with pytest.raises(errors.UserError, match=message):
    labels.words(found, given, 'label')


ABCD = ['one', 'two', 'three', 'four']


@pytest.mark.parametrize('values, numbers', (
    (['A', 'd', 'B'], [0, 3, 1]),
    (['0', '3', '1'], [0, 3, 1]),
    (['1', '4', '2'], [0, 3, 1]),
    (['one', 'four', 'two'], [0, 3, 1]),
    (['c0', 'c3', 'c1'], [0, 3, 1]),
    (['one', 'zero'], [0, None]),
    (['1', '', '4'], [0, None, 3]),
))
def test_choices(values, numbers):
  columns = ['c0', 'c1', 'c2', 'c3']
  found = labels.choices(((v, ABCD) for v in values), columns, None, 'answer')
  assert [found.number(v, ABCD) for v in values] == numbers


def test_options_that_are_numbers_are_texts():
  rows = [('2', ['1', '2', '3']), ('3', ['3', '4', '2'])]
  found = labels.choices(rows, ['a', 'b', 'c'], None, 'answer')
  assert [found.number(v, options) for v, options in rows] == [1, 0]


def test_counting_from_0_or_from_1():
  rows = [(v, ABCD) for v in ('1', '2', '3')]
  with pytest.raises(errors.UserError, match='--first_option'):
    labels.choices(rows, ['c'], None, 'answer')
  for first in (0, 1):
    found = labels.choices(rows, ['c'], first, 'answer')
    assert [found.number(v, ABCD) for v, _ in rows] == [
        1 - first, 2 - first, 3 - first
    ]
