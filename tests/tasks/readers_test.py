"""Files to rows: each kind whole, truncated and malformed."""

import datetime
import decimal
import gzip
import json

from flipped_t5x.tasks.sources import readers
from flipped_t5x.tasks.sources import store
import pyarrow as pa
from pyarrow import parquet
import pytest

# U+2028 and U+0085 end a line for `str.splitlines`, and not in JSON lines.
ODD = 'caf\u00e9\u2028x\x85y \U0001f600\r\n"|||'
ROWS = [
    {
        'text': f'{ODD} {i}' if i % 3 else '', 'label': i - 1, 'score': i / 4,
        'options': [str(i)] * (i % 3), 'deep': {'text': ['a', ODD], 'n': i},
        'nothing': None if i % 2 else 'x', 'yes': i % 2 == 0,
    }
    for i in range(3000)
]


def write(path, rows=ROWS):
  """Writes rows, by the file's suffix, in several pieces where there are."""
  lines = '\n'.join(json.dumps(r, ensure_ascii=False) for r in rows).encode()
  if path.suffix == '.jsonl':
    path.write_bytes(lines)
  elif path.suffix == '.gz':
    path.write_bytes(gzip.compress(lines + b'\n'))
  elif path.suffix == '.parquet':
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
  else:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(path), table.schema) as stream:
      for batch in table.to_batches(max_chunksize=700):
        stream.write_batch(batch)


def read(path, content=None):
  if content is not None:
    path.write_bytes(content)
  return list(readers.read(path))


SUFFIXES = ('jsonl', 'jsonl.gz', 'parquet', 'arrow')


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_rows(suffix, tmp_path):
  path = tmp_path / f'rows.{suffix}'
  write(path)
  assert read(path) == ROWS
  assert readers.describe(path) == {}


@pytest.mark.parametrize('suffix', SUFFIXES[1:])
@pytest.mark.parametrize('share', (0.2, 0.5, 0.9))
def test_truncated(suffix, share, tmp_path):
  path = tmp_path / f'rows.{suffix}'
  write(path)
  content = path.read_bytes()
  with pytest.raises(ValueError, match=f'^{path}: truncated'):
    read(path, content[: int(len(content) * share)])


@pytest.mark.parametrize('suffix', SUFFIXES[1:])
def test_another_kind_of_file(suffix, tmp_path):
  path = tmp_path / f'rows.{suffix}'
  with pytest.raises(ValueError, match=f'^{path}: truncated or not what'):
    read(path, b'{"text": "a"}\n' * 50)


def test_gzip_without_its_checksum(tmp_path):
  path = tmp_path / 'rows.jsonl.gz'
  with pytest.raises(ValueError, match=f'^{path}: truncated'):
    read(path, gzip.compress(b'{"text": "a"}\n')[:-8])


def test_damaged_parquet(tmp_path):
  path = tmp_path / 'rows.parquet'
  write(path)
  content = bytearray(path.read_bytes())
  content[50:90] = bytes(40)
  with pytest.raises(ValueError, match=f'^{path}: truncated or not what'):
    read(path, bytes(content))


@pytest.mark.parametrize('suffix', (*SUFFIXES, 'csv'))
def test_no_such_file(suffix, tmp_path):
  with pytest.raises(FileNotFoundError, match=f'rows.{suffix}'):
    read(tmp_path / f'rows.{suffix}')


@pytest.mark.parametrize(
    'content, message',
    (
        (b'{"a": 1}\n{"a": \n', 'line 2: Expecting value'),
        (b'{}\n{}\n[1]\n', 'line 3: not a JSON object'),
        (b'{}\n\n{}\n', 'line 2: '),
        (b'{}\n{"a": "\xff"}\n', "line 2: 'utf-8' codec"),
        (b'{}\n{"a": "cut', 'line 2: Unterminated string'),
    ),
)
@pytest.mark.parametrize('suffix', ('jsonl', 'jsonl.gz'))
def test_malformed_lines(suffix, content, message, tmp_path):
  path = tmp_path / f'rows.{suffix}'
  if suffix == 'jsonl.gz':
    content = gzip.compress(content)
  with pytest.raises(ValueError, match=f'^{path}, {message}'):
    read(path, content)


# BIG-bench.


def item(scores, text='Is it?'):
  return {'input': text, 'target_scores': scores, 'comment': 'unused'}


def bigbench(folder, examples, **task):
  path = folder / 'task.json'
  path.write_text(json.dumps({'examples': examples, **task}))
  return path


def test_bigbench_rows(tmp_path):
  path = bigbench(tmp_path, [
      item({'yes': 0, 'no': 1}),
      item({'z': 0.5, 'a': 1.0, ODD: 1}, ODD),  # The first that scores 1.
      item({'yes': 0, 'no': 0.9}),
  ])
  assert read(path) == [
      {'input': 'Is it?', 'choices': ['yes', 'no'], 'label': 1},
      {'input': ODD, 'choices': ['z', 'a', ODD], 'label': 1},
      {'input': 'Is it?', 'choices': ['yes', 'no'], 'label': -1},
  ]


DEFAULTS = {
    'task_prefix': '', 'example_input_prefix': '\nQ: ',
    'choice_prefix': '\n choice: ', 'example_output_prefix': '\nA: ',
}


@pytest.mark.parametrize(
    'task, changes',
    (
        ({}, {}),
        ({'description': 'unused', 'append_choices_to_input': True}, {}),
        (
            {'task_prefix': 'Say.', 'choice_prefix': '', 'keywords': []},
            {'task_prefix': 'Say.', 'choice_prefix': ''},
        ),
        (
            {'example_input_prefix': '', 'example_output_prefix': ' {{x}} '},
            {'example_input_prefix': '', 'example_output_prefix': ' {{x}} '},
        ),
    ),
)
def test_bigbench_prefixes(task, changes, tmp_path):
  path = bigbench(tmp_path, [], **task)
  assert readers.bigbench_prefixes(path) == DEFAULTS | changes
  assert readers.describe(path) == {'prefixes': DEFAULTS | changes}


@pytest.mark.parametrize('no', (False, 'false', 'False'))
def test_bigbench_without_choices_in_the_prompt(no, tmp_path):
  path = bigbench(
      tmp_path, [], append_choices_to_input=no, choice_prefix=' or '
  )
  prefixes = readers.bigbench_prefixes(path)
  assert prefixes == {
      k: v for k, v in DEFAULTS.items() if k != 'choice_prefix'
  }


@pytest.mark.parametrize(
    'task, message',
    (
        ('{"examples": [', 'not a task of BIG-bench'),
        ('[]', 'not a task of BIG-bench'),
        ('{"name": "x"}', "not a task of BIG-bench: KeyError.'examples'"),
        ('{"examples": {}}', 'not a task of BIG-bench: .*not a list'),
        ('{"examples": [1]}', 'example 1: TypeError'),
        (
            json.dumps({'examples': [item({'a': 1}), {'input': 'a'}]}),
            "example 2: KeyError.'target_scores'",
        ),
        ('{"examples": [{"target_scores": {}}]}', "example 1: .*'input'"),
        (
            '{"examples": [{"input": "", "target_scores": ["a"]}]}',
            'example 1: ValueError',
        ),
    ),
)
def test_malformed_bigbench(task, message, tmp_path):
  path = tmp_path / 'task.json'
  with pytest.raises(ValueError, match=f'^{path}: {message}'):
    read(path, task.encode())


# Story Cloze.

HEADER = (
    'InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,'
    'RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding'
)
STORY = 'id-1,"One, two.",Three \u2028.,"Fo\nur.",Five.,Good end.,Bad end.,2'


@pytest.mark.parametrize('encoding', ('utf-8', 'utf-8-sig'))
@pytest.mark.parametrize('end', ('\n', '\r\n'))
def test_story_cloze(encoding, end, tmp_path):
  text = end.join((HEADER, STORY, STORY.replace(',2', ',1'), ''))
  rows = read(tmp_path / 'a.csv', text.encode(encoding))
  assert rows[0] == {
      'story_id': 'id-1', 'input_sentence_1': 'One, two.',
      'input_sentence_2': 'Three \u2028.', 'input_sentence_3': 'Fo\nur.',
      'input_sentence_4': 'Five.', 'sentence_quiz1': 'Good end.',
      'sentence_quiz2': 'Bad end.', 'answer_right_ending': 2,
  }
  assert rows[1] == rows[0] | {'answer_right_ending': 1}
  assert len(rows) == 2


@pytest.mark.parametrize(
    'text, message',
    (
        (
            HEADER.replace('InputStoryid', 'id'),
            r": no column \['InputStoryid'\]; the one CSV .* JSON lines",
        ),
        ('text,label\na,1\n', r": no column \['AnswerRightEnding', "),
        ('', ': no column '),
        # A story is two lines here.
        (f'{HEADER}\n{STORY}\n{STORY[:-1]}x\n', ", line 5: .*'x'"),
        (f'{HEADER}\n{STORY}\na,b,c\n', ', line 4: more or fewer values'),
        (f'{HEADER}\n{STORY},x\n', ', line 3: more or fewer values'),
        (f'{HEADER}\nid-1,"One, two', ', line 2: unexpected end of data'),
        (f'"{HEADER}\n', ': .*unexpected end of data'),
        (f'{HEADER},\udcff\n', ": .*'utf-8' codec"),
    ),
)
def test_malformed_story_cloze(text, message, tmp_path):
  path = tmp_path / 'a.csv'
  with pytest.raises(ValueError, match=f'^{path}{message}'):
    read(path, text.encode('utf-8', 'surrogateescape'))


UNREAD = {
    'day': (pa.array([datetime.date(2024, 1, 2)]), 'date32[day]'),
    'price': (pa.array([decimal.Decimal('1.50')]), 'decimal128(3, 2)'),
    'raw': (pa.array([b'abc']), 'binary'),
    'when': (pa.array([1], pa.timestamp('ns')), 'timestamp[ns]'),
    'image': (
        pa.array([{'bytes': b'a', 'path': 'p'}]),
        'struct<bytes: binary, path: string>',
    ),
    'days': (
        pa.array([[datetime.date(2024, 1, 2)]]), 'list<item: date32[day]>'
    ),
}


def write_unread(path):
  table = pa.table({
      'text': ['a'], 'label': [1], 'l': [[1, 2]], 's': [{'a': 'b'}],
      'd': pa.array(['x']).dictionary_encode(),
      **{name: column for name, (column, _) in UNREAD.items()},
  })
  if path.suffix == '.parquet':
    parquet.write_table(table, path)
    return
  with pa.OSFile(str(path), 'wb') as f, pa.ipc.new_stream(
      f, table.schema
  ) as stream:
    stream.write_table(table)


@pytest.mark.parametrize('suffix', ('.parquet', '.arrow'))
def test_columns_that_json_cannot_hold(suffix, tmp_path):
  path = tmp_path / f'rows{suffix}'
  write_unread(path)
  row, = readers.read(path)
  read = {'text': 'a', 'label': 1, 'l': [1, 2], 's': {'a': 'b'}, 'd': 'x'}
  unread = {name: row.pop(name) for name in UNREAD}
  assert row == read
  assert {n: u.type.replace('element', 'item') for n, u in unread.items()} == {
      name: kind for name, (_, kind) in UNREAD.items()
  }
  origin = {'source': 'local'}
  folder = tmp_path / 'prepared'
  store.prepare(folder, readers.read(path), ('text', 'label'), origin)
  assert json.loads(store.Rows(folder)[0]) == read
  with pytest.raises(ValueError, match="row 1: the field 'day' is date32.day., "
                     'which templates cannot read: write it as a text'):
    store.prepare(
        tmp_path / 'more', readers.read(path), ('text', 'day'), origin
    )
  assert not (tmp_path / 'more').exists()


@pytest.mark.parametrize('suffix', readers.READERS)
def test_pointers_of_git_lfs(suffix, tmp_path):
  path = tmp_path / (suffix if suffix == 'task.json' else f'rows{suffix}')
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
  with pytest.raises(ValueError, match=f'^{path} is only a pointer of Git LFS'):
    list(readers.read(path))
