"""Reading tables: every form gives the same rows, and faults are named."""

import gzip
import json

from flipped_t5x import errors
from flipped_t5x.tables import reading
import openpyxl
import pyarrow as pa
from pyarrow import parquet
import pytest

ROWS = [
    {'text': 'A warm,\nfunny film.', 'stars': '05'},
    {'text': '=1+1 "quoted" ünï', 'stars': '1'},
    {'text': '', 'stars': 'NA'},
]
CSV = (
    'text,stars\n"A warm,\nfunny film.",05\n"=1+1 ""quoted"" ünï",1\n"",NA\n'
)


def write(path, rows=ROWS):
  if path.name.endswith('.parquet'):
    parquet.write_table(pa.Table.from_pylist(rows), path)
  elif path.name.endswith('.xlsx'):
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
      book.active.append(list(row.values()))
      for cell in book.active[book.active.max_row]:
        cell.data_type = 's' if cell.value else 'n'
    book.create_sheet('more').append(['other'])
    book.save(path)
  else:
    lines = ''.join(json.dumps(row) + '\n' for row in rows).encode()
    zipped = path.name.endswith('.gz')
    path.write_bytes(gzip.compress(lines) if zipped else lines)
  return path


@pytest.mark.parametrize('name', (
    'a.jsonl', 'a.jsonl.gz', 'a.parquet', 'A.XLSX', 'a.xlsx',
))
def test_forms_with_types(name, tmp_path):
  path = write(tmp_path / name.lower())
  path = path.rename(tmp_path / name)
  table = reading.read(path)
  assert list(table.columns) == ['text', 'stars']
  empty = None if name.lower().endswith('xlsx') else ''
  expected = [*ROWS[:2], {'text': empty, 'stars': 'NA'}]
  assert list(table) == expected
  assert list(table) == expected  # As often as is needed.


@pytest.mark.parametrize('name, separator, encoding, write_as', (
    ('a.csv', ',', 'utf-8', 'utf-8'), ('a.csv', ',', 'utf-8', 'utf-8-sig'),
    ('a.csv', ';', 'utf-8', 'utf-8'), ('a.csv', '\t', 'utf-8', 'utf-8'),
    ('a.tsv', '\t', 'utf-8', 'utf-8'), ('a.csv', ',', 'cp1252', 'cp1252'),
    ('a.csv', ';', 'utf-16', 'utf-16'),
))
def test_delimited(name, separator, encoding, write_as, tmp_path):
  path = tmp_path / name
  text = CSV.replace('warm,', 'warm@').replace(',', separator)
  path.write_bytes(text.replace('@', ',').encode(write_as))
  table = reading.read(path, encoding)
  assert (table.delimiter, list(table.columns)) == (
      separator, ['text', 'stars']
  )
  # Cells are texts as they stand: nothing is a number, a null or a formula.
  assert list(table) == ROWS


def test_commas_in_texts_between_semicolons(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('text;label\nA warm, funny film;1\n"a, b, c";0\n')
  assert list(reading.read(path)) == [
      {'text': 'A warm, funny film', 'label': '1'},
      {'text': 'a, b, c', 'label': '0'},
  ]


def test_a_row_larger_than_a_usual_block(tmp_path):
  path = tmp_path / 'a.csv'
  text = 'word ' * 1_000_000
  path.write_text(f'text,label\n{text},1\nshort,0\n')
  assert [len(row['text']) for row in reading.read(path)] == [5_000_000, 5]


def test_numbers_below_a_numeric_header(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('1,2\n1.50,007\n')
  assert list(reading.read(path)) == [{'1': '1.50', '2': '007'}]


def test_lines_of_different_keys(tmp_path):
  path = write(tmp_path / 'a.jsonl', [{'a': 1}, {'b': [2], 'a': None}])
  table = reading.read(path)
  assert list(table.columns) == ['a', 'b']
  assert list(table) == [{'a': 1, 'b': None}, {'a': None, 'b': [2]}]


def test_sheets(tmp_path):
  path = write(tmp_path / 'a.xlsx')
  assert list(reading.read(path, sheet='more').columns) == ['other']
  with pytest.raises(errors.UserError, match=r"--sheet: .*'x'.*'more'"):
    reading.read(path, sheet='x')


def test_formulas_are_never_computed(tmp_path):
  book = openpyxl.Workbook()
  for row in (['text', 'label'], ['=1+1', 'a'], ['x', 'b']):
    book.active.append(row)
  book.save(tmp_path / 'a.xlsx')
  # No program has computed it yet, so that there is no value.
  rows = list(reading.read(tmp_path / 'a.xlsx'))
  assert rows == [{'text': None, 'label': 'a'}, {'text': 'x', 'label': 'b'}]


@pytest.mark.parametrize('name, content, message', (
    ('a.csv', b'', 'is empty'),
    ('a.csv', b'a,b\n1,2\n3\n', r'Row #3.*Expected 2 columns, got 1'),
    ('a.csv', b'a,a\n1,2\n', "two columns are named 'a'"),
    ('a.csv', b'a,b\nx,1\n\xe9t\xe9,2\n', r'line 3 .*\(byte 0xe9\).*cp1252'),
    ('a.csv', b'a\xe9,b\nx,1\n', r'line 1 .*\(byte 0xe9\)'),
    ('a.csv', b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR', 'a binary file'),
    ('a.csv', 'a,b\n1,2\n'.encode('utf-16'), '--encoding utf-16'),
    ('a.jsonl', b'{"a": 1}\n[2]\n', 'line 2: not a JSON object'),
    ('a.jsonl', b'{"a": 1}\n{\n', 'line 2'),
    ('a.parquet', b'PAR2', 'not Parquet'),
    ('a.xlsx', b'a,b\n1,2\n', 'not a workbook'),
    ('a.xls', b'a,b\n1,2\n', r'a table is a file \.csv, .*\.xlsx'),
))
def test_what_cannot_be_read(name, content, message, tmp_path):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match=f'{name}.*{message}'):
    list(reading.read(path))


def test_encodings_are_known(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text(CSV)
  with pytest.raises(errors.UserError, match='--encoding: .*latin-99'):
    reading.read(path, 'latin-99')


def test_a_column_that_is_not_there(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text(CSV)
  table = reading.read(path)
  table.check_column('stars', '--label')
  with pytest.raises(errors.UserError, match=r"--label: .*'star'; .*'stars'"):
    table.check_column('star', '--label')
  with pytest.raises(errors.UserError, match=r"'zzz'; it has \['text', 'st"):
    table.check_column('zzz', '--label')


@pytest.mark.parametrize('name', ('none.csv', 'none.jsonl', 'none.parquet'))
def test_missing_files_and_folders(name, tmp_path):
  path = tmp_path / name
  message = f'^{path} (does not exist|is a folder); give a table [(].csv'
  with pytest.raises(FileNotFoundError, match=message):
    reading.read(path)
  path.mkdir()
  with pytest.raises(IsADirectoryError, match=message):
    reading.read(path)
