"""The parts of reports, and how they write numbers."""

from flipped_t5x.reports import parts
import pytest


def test_a_table_has_as_many_cells_as_columns():
  with pytest.raises(ValueError, match='Sizes'):
    parts.Table('Sizes', ['a', 'b'], [['1']])


@pytest.mark.parametrize('value, text', (
    (0.1234, '+0.123'), (-0.1234, '−0.123'), (-0.0001, '0.000'), (0, '0.000'),
))
def test_signed(value, text):
  assert parts.signed(value) == text
