"""Rows from evaluation requests: schema, order, what is missing."""

import gzip
import json

import demo_archive
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks.sources import oe_eval
import pytest


@pytest.fixture
def write(tmp_path):
  """Writes a file of requests and returns its path."""

  def write(content):
    path = tmp_path / 'requests.jsonl.gz'
    path.write_bytes(content)
    return path

  return write


def requests(documents):
  """Bytes of the requests of some rows."""
  return gzip.compress('\n'.join(
      json.dumps({
          'doc': document, 'doc_id': number, 'idx': i,
          'label': document['gold'], 'request': {'continuation': f' {choice}'},
      })
      for number, document in enumerate(documents)
      for i, choice in enumerate(document['choices'])
  ).encode())


def test_social_i_qa(write):
  path = write(demo_archive.requests())
  rows = list(oe_eval.read(path, 'social_i_qa', 'train'))
  assert rows == [
      {
          'context': f'Robin made soup {i}.', 'question': 'How is Robin?',
          'answerA': 'cold', 'answerB': 'warm', 'answerC': 'tired',
          'label': str(i + 1),
      }
      for i in range(3)  # Once, though the file has each twice.
  ]
  for template in catalog.dataset('social_i_qa').load_templates().values():
    assert template.render(rows[1]).prompt.count('Robin made soup 1.') == 1


def test_commonsense_qa(write):
  path = write(requests([{
      'id': '7f', 'query': 'Question: What is\nred?\nAnswer:', 'gold': 3,
      'choices': ['sky', 'sea', 'snow', 'blood', 'coal'],
  }]))
  row, = oe_eval.read(path, 'commonsense_qa', 'train')
  assert row == {
      'id': '7f', 'question': 'What is\nred?', 'answerKey': 'D',
      'choices': {
          'label': ['A', 'B', 'C', 'D', 'E'],
          'text': ['sky', 'sea', 'snow', 'blood', 'coal'],
      },
  }
  template = catalog.dataset('commonsense_qa').load_templates()[
      'most_suitable_answer'
  ]
  rendered = template.render(row)
  assert rendered.options[rendered.gold] == 'blood'


@pytest.mark.parametrize('gold, answer', ((0, 'Yes'), (1, 'No')))
def test_boolq(gold, answer, write):
  path = write(requests([{
      'idx': 0, 'query': 'Sky -- It is blue.\nQuestion: is it blue?\nAnswer:',
      'choices': ['yes', 'no'], 'gold': gold,
  }]))
  row, = oe_eval.read(path, 'super_glue/boolq', 'train')
  assert row == {
      'idx': 0, 'passage': 'Sky -- It is blue.', 'question': 'is it blue',
      'label': 1 - gold,
  }
  template = catalog.dataset('super_glue/boolq').load_templates()[
      'GPT-3 Style'
  ]
  rendered = template.render(row)
  assert rendered.options[rendered.gold] == answer


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'r1_1': None}, r"row 1: its options are \[' cold', ' tired'\] and"),
        ({'r1_2': None}, r"row 1: its options are \[' cold', ' warm'\] and no"),
        ({'r1_0': None, 'r1_1': None, 'r1_2': None}, 'row 1: row 2 comes'),
        ({'r1_1': {'request': {'continuation': ' cold'}}}, 'row 1: its optio'),
        ({'r1_1': {'label': 2}}, 'row 1: its requests do not agree'),
        ({'r2_2': {'doc': {'choices': []}}}, 'row 2: its requests do not'),
        ({'r0_0': {'doc_id': 7}}, 'row 0: row 7 comes in its place'),
        ({'r0_0': {'doc': {'gold': 0}}}, "row 0: KeyError.'choices'"),
        ({'r0_0': {'doc': None}}, 'row 0: TypeError'),
    ),
)
def test_bad_requests(changes, message, write):
  path = write(demo_archive.requests(**changes))
  with pytest.raises(ValueError, match=f'^{path}: {message}'):
    list(oe_eval.read(path, 'social_i_qa', 'train'))


def test_label_that_is_no_option(write):
  path = write(requests([
      {'query': 'Question: ?\nAnswer:', 'choices': ['a', 'b'], 'gold': 2}
  ]))
  with pytest.raises(ValueError, match='row 0: its label 2 is no option'):
    list(oe_eval.read(path, 'commonsense_qa', 'train'))


def test_answers_that_are_not_the_options(write):
  document = {
      'context': 'C', 'question': 'Q', 'answerA': 'a', 'answerB': 'b',
      'answerC': 'c', 'label': '1', 'choices': ['a', 'c', 'b'], 'gold': 0,
  }
  path = write(requests([document]))
  with pytest.raises(ValueError, match='row 0: its answers or its label'):
    list(oe_eval.read(path, 'social_i_qa', 'train'))


def test_question_of_another_form(write):
  path = write(requests([{'query': 'Q: ?', 'choices': ['a', 'b'], 'gold': 0}]))
  with pytest.raises(ValueError, match="row 0: its query is 'Q: .'"):
    list(oe_eval.read(path, 'commonsense_qa', 'train'))


@pytest.mark.parametrize('left_out', (1, 20, 200))
def test_truncated_file(left_out, write):
  path = write(demo_archive.requests()[:-left_out])
  with pytest.raises(ValueError, match=f'^{path}: truncated'):
    list(oe_eval.read(path, 'social_i_qa', 'train'))


def test_file_that_ends_between_rows(write):
  lines = gzip.decompress(demo_archive.requests()).splitlines()
  path = write(gzip.compress(b'\n'.join(lines[:6])))
  # Two of three rows are whole; the catalog's number of rows tells.
  assert len(list(oe_eval.read(path, 'social_i_qa', 'train'))) == 2
