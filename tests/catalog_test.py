"""The catalog, its mixtures and vocabularies, and what importing them does."""

import json
import subprocess
import sys

import demo_data
from flipped_t5x import features
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks import sources
from flipped_t5x.tasks import vocabularies
import pytest

# Prints what importing did: sockets and files outside of the code, modules.
AUDIT = """
import json, sys
events = []
data = ('.csv', '.yaml', '.json', '.jsonl', '.model', '.gin', '.gz')

def hook(event, arguments):
  if event.startswith('socket.') and event != 'socket.__new__':
    events.append(f'{event} {arguments}')
  elif event == 'socket.__new__':
    events.append(event)
  elif event == 'open' and isinstance(arguments[0], str):
    path = arguments[0]
    if path.endswith(data) or path.startswith(sys.argv[1]):
      events.append(f'open {path}')
    if arguments[1] and set(str(arguments[1])) & set('wax+'):
      if '__pycache__' not in path:
        events.append(f'write {path}')

sys.addaudithook(hook)
import flipped_t5x.tasks
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks import sources
heavy = {'tensorflow', 'seqio', 'jax', 'datasets', 'tensorflow_datasets'}
print(json.dumps([events, sorted(heavy & set(sys.modules))]))
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
  demo_data.install(tmp_path, monkeypatch)
  return tmp_path


def test_rows_of_the_catalog():
  datasets = catalog.catalog()
  assert {'vader_sentiment', 'vader_source'} <= set(datasets)
  for name, dataset in datasets.items():
    assert catalog.dataset(name) is dataset and dataset.name == name
    assert dataset.source in sources.SOURCES
    assert dataset.templates.split(':')[0] in ('promptsource', 'file')
    assert dataset.metric in ('accuracy', 'macro-F1')
    assert dataset.num_examples.keys() <= set(sources.SPLITS)
    assert all(n > 0 for n in dataset.num_examples.values())
  # No line and no column of the file is lost.
  lines = (catalog._HERE / 'catalog.csv').read_text().splitlines()
  assert len(lines) == len(datasets) + 1
  assert datasets['vader_source'].num_examples == {
      'train': 19753, 'validation': 935, 'test': 2759
  }


@pytest.mark.parametrize(
    'name, number, options',
    (('vader_sentiment', 10, 2), ('vader_source', 5, 4)),
)
def test_templates_load(name, number, options):
  loaded = catalog.dataset(name).load_templates()
  assert len(loaded) == number if number == 10 else len(loaded) >= number
  for title, template in loaded.items():
    assert title == template.name and template.eligible
    rendered = template.render({'text': 'Some text.', 'label': options - 1})
    assert len(rendered.options) == len(set(rendered.options)) == options
    assert rendered.gold == options - 1
    assert 'Some text.' in rendered.prompt
    assert ''.join(template.chunks).strip()


def test_field_length_reaches_the_templates(data):
  template = catalog.dataset('tiny_kind').load_templates(9)['Kind']
  rendered = template.render({'text': 'x' * 20, 'label': 0})
  assert rendered.prompt.endswith('? xxxxxx...')


def test_unknown_names_give_the_nearest():
  with pytest.raises(ValueError, match="'vader_sorce'.*nearest.*vader_source"):
    catalog.dataset('vader_sorce')
  with pytest.raises(ValueError, match="'flipped_dmo'.*nearest.*flipped_demo"):
    mixtures.mixture('flipped_dmo')
  # All there are, where none is near.
  with pytest.raises(ValueError, match='vader_sentiment.*vader_source'):
    catalog.dataset('zzz')
  with pytest.raises(ValueError, match=r"no split 'tset'.*'train', .*'test'"):
    catalog.dataset('vader_source').open('tset')


def test_rows_by_number(data):
  rows = catalog.dataset('tiny_mood').open('test')
  assert [json.loads(r) for r in rows] == demo_data.rows('tiny_mood')['test']


def test_number_of_rows_is_checked(data):
  path = data / 'tiny_mood' / 'test.jsonl'
  path.write_text('\n'.join(path.read_text().splitlines()[:-1]) + '\n')
  message = f'tiny_mood: test has 9 rows .* says 10; delete .*{data}'
  with pytest.raises(ValueError, match=message):
    catalog.dataset('tiny_mood').open('test')


def test_rates_are_capped(data, monkeypatch):
  assert mixtures.CAP == 500_000
  assert mixtures.mixture(demo_data.MIXTURE).rates() == {
      'tiny_mood': 60.0, 'tiny_kind': 120.0
  }
  capped = mixtures.Mixture(('tiny_mood', 'tiny_kind'), cap=100)
  assert capped.rates() == {'tiny_mood': 60.0, 'tiny_kind': 100.0}


def test_mixtures_name_datasets_of_the_catalog():
  for mixture in mixtures.MIXTURES.values():
    assert len(set(mixture.datasets)) == len(mixture.datasets) > 0
    assert all(rate > 0 for rate in mixture.rates().values())


def test_import_reads_nothing_and_loads_nothing_heavy(tmp_path, monkeypatch):
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path))
  output = subprocess.run(
      [sys.executable, '-B', '-c', AUDIT, str(tmp_path)], capture_output=True,
      text=True, check=True,
  ).stdout
  events, heavy = json.loads(output)
  assert (events, heavy) == ([], [])
  assert not list(tmp_path.iterdir())


def test_vocabulary_is_trained_once(data, monkeypatch):
  calls = []
  train = features.train_vocabulary

  def count(*args):
    calls.append(args)
    train(*args)

  monkeypatch.setattr(features, 'train_vocabulary', count)
  paths = [vocabularies.trained(demo_data.MIXTURE, 205) for _ in range(2)]
  assert len(calls) == 1 and paths[0] == paths[1]
  assert paths[0].is_relative_to(data)
  vocabulary = features.SentencePiece(paths[0])
  assert vocabulary.vocab_size == 205
  # Another size is another file, and the first stays.
  other = vocabularies.trained(demo_data.MIXTURE, 200)
  assert other != paths[0] and len(calls) == 2
  assert features.SentencePiece(other).vocab_size == 200
  # So are other texts.
  text = (data / 'tiny_mood' / 'train.jsonl').read_text()
  (data / 'tiny_mood' / 'train.jsonl').write_text(text.replace('dull', 'grim'))
  assert vocabularies.trained(demo_data.MIXTURE, 205) != paths[0]
  assert len(calls) == 3
  assert paths[0].exists()
  (data / 'tiny_mood' / 'train.jsonl').write_text(text)
  assert vocabularies.trained(demo_data.MIXTURE, 205) == paths[0]
  # Templates were read, and so were training rows, but no other split.
  texts = list(vocabularies._texts(demo_data.MIXTURE))
  assert any('Did the reviewer enjoy it?' in t for t in texts)
  assert 'negative ||| positive' in texts
  for name in demo_data.ROWS:
    rows = demo_data.rows(name)
    assert {r['text'] for r in rows['train']} <= set(texts)
    assert not {r['text'] for r in rows['test'] + rows['validation']} & set(
        texts
    )
