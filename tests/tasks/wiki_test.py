"""The tasks of Wikipedia's articles: texts, labels, splits, strange files."""

import json

from flipped_t5x.tasks import catalog
from flipped_t5x.tasks.sources import splits
from flipped_t5x.tasks.sources import store
from flipped_t5x.tasks.sources import wiki
import pytest

TASKS = ('wiki_topic', 'wiki_description', 'wiki_describes')
TOPICS = (*wiki._TOPICS, 'Uncategorized')


@pytest.fixture
def write(tmp_path):
  """Writes a file of articles, changed, and returns its path."""

  def write(number=240, **changes):
    path = tmp_path / 'summaries.json'
    path.write_text(json.dumps({
        str(i): {
            'title': f'Thing {i}', 'topic': TOPICS[i % len(TOPICS)],
            'extract': f'Thing {i} is a thing. It is used by many people.',
            'description': f'{i % 200}th thing' if i % 20 else '', **changes,
        }
        for i in range(number)
    }))
    return path

  return write


def read(path, task):
  """Split -> rows."""
  return {split: list(wiki.read(path, task, split)) for split in store.SPLITS}


def test_topics(write):
  rows = [r for s in read(write(), 'wiki_topic').values() for r in s]
  assert len(rows) == 240 * 11 / 12  # One topic is none.
  for row in rows:
    number = int(row['title'].split()[1])
    assert row == {
        'title': f'Thing {number}', 'label': number % 12,
        'text': f'Thing {number} is a thing. It is used by many people.',
    }


def test_choice_of_descriptions(write):
  found = read(write(), 'wiki_description')
  rows = [(s, r) for s, rows in found.items() for r in rows]
  assert len(rows) == 240 * 19 / 20  # Some have no description.
  # Drawn from the same split, whatever the others are.
  of_split = {
      s: {f'{int(r["title"].split()[1]) % 200}th thing' for r in found[s]}
      for s in found
  }
  for split, row in rows:
    number = int(row['title'].split()[1])
    assert len({*row['descriptions']}) == 4
    assert row['descriptions'][row['label']] == f'{number % 200}th thing'
    assert of_split[split].issuperset(row['descriptions'])
  labels = [row['label'] for _, row in rows]
  assert all(35 < labels.count(label) < 80 for label in range(4))


def test_right_and_wrong_descriptions(write):
  path = write()
  rows = [r for s in read(path, 'wiki_describes').values() for r in s]
  for row in rows:
    number = int(row['title'].split()[1])
    own = row['description'] == f'{number % 200}th thing'
    assert own == row['label']
  labels = [row['label'] for row in rows]
  assert len(labels) == 228 and 90 < sum(labels) < 138
  assert [r for s in read(path, 'wiki_describes').values() for r in s] == rows


@pytest.mark.parametrize('task', TASKS)
def test_splits_are_by_title_and_the_same_in_all_tasks(task, write):
  titles = {
      split: [r['title'] for r in rows]
      for split, rows in read(write(), task).items()
  }
  assert all(titles.values())
  every = [t for split in titles.values() for t in split]
  assert len(every) == len(set(every))
  assert all(
      splits.split_of(t) == s for s, split in titles.items() for t in split
  )


def test_beginnings_of_whole_sentences():
  words = ' '.join(['So'] + ['so'] * 29)
  for text, beginning in (
      ('One.', 'One.'),
      (' It is. It was!\nIt will be. ', 'It is. It was! It will be.'),
      (f'{words}. Then {words}.', f'{words}.'),
      (f'{words}. Then so. Then {words}.', f'{words}. Then so.'),
      (f'Its {words}, {words}. Yes.', f'Its {words}, {words}.'),
      ('At 3.5 m it is c. 20 years old.', 'At 3.5 m it is c. 20 years old.'),
  ):
    assert wiki._beginning(text) == beginning


@pytest.mark.parametrize('task', TASKS)
def test_templates(task, write):
  rows = read(write(), task)['train'][:30]
  for template in catalog.dataset(task).load_templates().values():
    for row in rows:
      rendered = template.render(row)
      assert row['title'] in rendered.prompt or row['text'] in rendered.prompt
      assert len(rendered.options) == {
          'wiki_topic': 11, 'wiki_description': 4, 'wiki_describes': 2
      }[task]
      assert rendered.gold == row['label']


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'topic': 'Cheese'}, "Thing [0-9]+: unknown topic 'Cheese'"),
        ({'extract': None}, 'AttributeError'),
        ({'title': 5}, 'AttributeError'),
    ),
)
def test_strange_articles(changes, message, write):
  path = write(**changes)
  with pytest.raises(ValueError, match=f'^{path}: .*{message}'):
    read(path, 'wiki_topic')


@pytest.mark.parametrize(
    'content', ('{"a": {"ti', '[]', '{"a": {}}', '{"a": 1}')
)
def test_strange_files(content, tmp_path):
  path = tmp_path / 'summaries.json'
  path.write_text(content)
  with pytest.raises(ValueError, match=f'^{path}: '):
    read(path, 'wiki_topic')


def test_too_few_descriptions(write):
  with pytest.raises(ValueError, match='too few other descriptions'):
    read(write(number=4), 'wiki_description')
