"""Which labels mean "unknown", and which option a label means."""

from flipped_t5x.prompts import row_labels
import numpy as np
import pytest

NAN = float('nan')


@pytest.mark.parametrize(
    'label, missing',
    (
        (None, True), ('', True), (' \n', True), (-1, True), (-1.0, True),
        ('-1', True), (NAN, True), (np.int64(-1), True),
        (0, False), (0.0, False), ('0', False), ('A', False), (False, False),
        (-2, False), ('no', False), ([], False), ({}, False),
    ),
    ids=repr,
)
def test_is_missing(label, missing):
  assert row_labels.is_missing(label) is missing


@pytest.mark.parametrize(
    'label, number',
    (
        (0, 0), (1, 1), (True, 1), (1.0, 1), ('1', 1), (np.int64(1), 1),
        ('yes', 1), ('no', 0),
    ),
    ids=repr,
)
def test_option_number(label, number):
  assert row_labels.option_number(label, ['no', 'yes']) == number


@pytest.mark.parametrize(
    'label', (2, -2, '2', 0.5, '0.5', 'Yes', 'maybe', [1], {}, 1e999), ids=repr
)
def test_label_of_no_option(label):
  with pytest.raises(ValueError) as error:
    row_labels.option_number(label, ['no', 'yes'])
  assert str(error.value) == (
      f'label {label!r} is neither the number of an option, 0 to 1, nor the'
      " text of one: 'no', 'yes'"
  )


def test_option_that_is_the_number_of_another():
  options = ['1', '2', '7']
  assert row_labels.option_number('7', options) == 2
  with pytest.raises(ValueError, match="'1' is the number of one option and"):
    row_labels.option_number('1', options)
