"""Local files: every layout, and what is said when they do not fit."""

import gzip
import json
import logging
import os

import demo_catalog
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks.sources import local
from flipped_t5x.tasks.sources import store
import pyarrow as pa
from pyarrow import parquet
import pytest

ROWS = demo_catalog.rows(3)
NLI = [
    {'premise': f'P {i}', 'hypothesis': f'H {i}', 'label': i} for i in range(3)
]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
  return demo_catalog.isolate(tmp_path, monkeypatch)


@pytest.fixture
def mine(tmp_path, monkeypatch):
  return demo_catalog.dataset(tmp_path, monkeypatch)


def write(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.parquet':
    parquet.write_table(pa.Table.from_pylist(rows), path)
  elif path.suffix == '.gz':
    lines = '\n'.join(map(json.dumps, rows))
    path.write_bytes(gzip.compress(lines.encode()))
  else:
    demo_catalog.write_lines(path, rows)


def read(folder, dataset, split='test'):
  rows = local.Local(folder).locate(dataset, split).open()
  return [json.loads(r) for r in rows]


@pytest.mark.parametrize(
    'path',
    ('test.jsonl', 'test.jsonl.gz', 'test.parquet',
     'test-00000-of-00001.parquet', 'test-00000-of-00001-1f2e3d4c.parquet'),
)
def test_name_and_split(path, mine, data):
  folder = data / 'local' / 'my' / 'set'
  write(folder / path, ROWS)
  write(folder / 'train.jsonl', demo_catalog.rows(9))
  write(folder / 'test2.jsonl', demo_catalog.rows(9))
  rows = mine.open('test')
  assert [json.loads(r) for r in rows] == ROWS
  assert rows.origin['source'] == 'local'
  assert rows.origin['files'] == [str(folder / path)]


@pytest.mark.parametrize(
    'path',
    ('anli/r1/validation.jsonl', 'anli/r1/dev_r1.jsonl', 'anli/dev_r1.parquet',
     'anli/plain_text/dev_r1.jsonl.gz',
     'anli/plain_text/dev_r1-00000-of-00001.parquet'),
)
def test_the_names_of_the_hub(path, tmp_path):
  write(tmp_path / path, NLI)
  r1, r2 = (catalog.dataset(name) for name in ('anli/r1', 'anli/r2'))
  assert read(tmp_path, r1, 'validation') == NLI
  # Of no other split, and no other round.
  for dataset, split in ((r1, 'test'), (r1, 'train'), (r2, 'validation')):
    with pytest.raises(store.Missing):
      read(tmp_path, dataset, split)


def test_configurations_are_told_apart(tmp_path):
  sets = {}
  for number, name in enumerate(('glue/mrpc', 'glue/qqp')):
    dataset = catalog.dataset(name)
    sets[name] = [dict.fromkeys(dataset.fields, number)]
    write(tmp_path / name / 'validation.jsonl', sets[name])
  for name, rows in sets.items():
    assert read(tmp_path, catalog.dataset(name), 'validation') == rows


def test_parts_in_order(mine, tmp_path):
  rows = demo_catalog.rows(25)
  for part in range(12):
    name = f'test-{part:05d}-of-00012.parquet'
    write(tmp_path / 'my' / 'set' / name, rows[2 * part : 2 * part + 2])
  assert read(tmp_path, mine) == rows[:24]
  (tmp_path / 'my' / 'set' / 'test-00004-of-00012.parquet').unlink()
  with pytest.raises(ValueError, match='my/set: 11 of 12 parts of test are'):
    read(tmp_path, mine)


@pytest.mark.parametrize(
    'second', ('test.jsonl', 'test.parquet', 'test-00000-of-00001.parquet')
)
def test_there_twice(second, mine, tmp_path):
  folder = tmp_path / 'my' / 'set'
  for path in ('test.jsonl.gz', second):
    write(folder / path, ROWS)
  with pytest.raises(
      ValueError,
      match=f'^my/set: test is there more than once: .*{second}.*; keep one',
  ):
    read(tmp_path, mine)


def test_not_there(mine, tmp_path):
  source = local.Local(tmp_path)
  assert str(source) == f'local ({tmp_path})'
  with pytest.raises(store.Missing, match=r'^no my/set/test\{.jsonl,'):
    source.locate(mine, 'test')


def test_changed_file_is_read_anew(mine, tmp_path):
  path = tmp_path / 'my' / 'set' / 'test.jsonl'
  for rows, time in ((ROWS, 5), (ROWS[:2], 5), (ROWS[1:], 6)):
    # Another length at the same time, and the same length at another time.
    write(path, rows)
    os.utime(path, (time, time))
    assert read(tmp_path, mine) == rows


def test_number_of_rows_is_a_warning(mine, data, caplog):
  write(data / 'local' / 'my' / 'set' / 'test.jsonl', ROWS[:2])
  with caplog.at_level(logging.WARNING):
    assert len(mine.open('test')) == 2
    mine.open('test')
  record, = caplog.records  # Once, not at each use.
  assert 'my/set: test has 2 rows where the catalog says 3' in record.message
  assert str(data / 'local') in record.message


def test_right_number_of_rows(mine, data, caplog):
  write(data / 'local' / 'my' / 'set' / 'test.jsonl', ROWS)
  with caplog.at_level(logging.WARNING):
    assert len(mine.open('test')) == 3
  assert not caplog.records


@pytest.mark.parametrize(
    'name, content, message',
    (
        ('test.jsonl', b'{"text": "a", "label": 0}\n{"text": \n',
         r'test\.jsonl, line 2: '),
        ('test.jsonl', b'{"text": "a", "label": 0}\n{"text": "b"}\n',
         r"row 2 has no field 'label' \(it has text\), which the templates"),
        ('test.jsonl', b'', 'no rows'),
        # Without the time, which would make another test of it each second.
        ('test.jsonl.gz',
         gzip.compress(b'{"text": "a", "label": 0}\n', mtime=0)[:-9],
         r'test\.jsonl\.gz: truncated'),
        ('test.parquet', b'PAR1abc', r'test\.parquet: truncated'),
    ),
)
def test_bad_files(name, content, message, mine, data):
  path = data / 'local' / 'my' / 'set' / name
  path.parent.mkdir(parents=True)
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'^my/set: test: .*{message}') as error:
    mine.open('test')
  assert str(path) in str(error.value)
  assert not [p for p in (data / 'rows').rglob('*') if p.is_file()]
  # It is said again, and not taken for prepared.
  with pytest.raises(ValueError, match=message):
    mine.open('test')


@pytest.mark.parametrize(
    'name', ('hindu_knowledge', 'logical_deduction/five_objects')
)
def test_checkout_of_bigbench(name, data):
  path = data / 'local' / 'bigbench' / 'benchmark_tasks' / name / 'task.json'
  path.parent.mkdir(parents=True)
  path.write_text(json.dumps({
      'task_prefix': 'Guess.',
      'examples': [{'input': 'Two?', 'target_scores': {'one': 0, '2': 1}}],
  }))
  dataset = catalog.dataset(f'bigbench/{name}')
  assert [json.loads(r) for r in dataset.open('test')] == [
      {'input': 'Two?', 'choices': ['one', '2'], 'label': 1}
  ]
  template, = dataset.load_templates().values()
  assert template.chunks == ('Guess.', '\nQ: ', '\n choice: ', '\nA: ')


def test_story_cloze(data):
  folder = data / 'local' / 'story_cloze' / '2016'
  folder.mkdir(parents=True)
  (folder / 'validation.csv').write_text(
      'InputStoryid,InputSentence1,InputSentence2,InputSentence3,'
      'InputSentence4,RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,'
      'AnswerRightEnding\na,One.,Two.,Three.,Four.,He fell.,She rose.,2\n'
  )
  dataset = catalog.dataset('story_cloze/2016')
  row = json.loads(dataset.open('validation')[0])
  for template in dataset.load_templates().values():
    rendered = template.render(row)
    assert rendered.options[rendered.gold] == 'She rose.'
    assert 'One. Two. Three. Four.' in ' '.join(rendered.prompt.split())
