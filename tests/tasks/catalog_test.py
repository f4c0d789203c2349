"""The catalog: catalogs of one's own, samples, and what importing it does."""

import json
import subprocess
import sys

import demo_catalog
import demo_data
from flipped_t5x import errors
from flipped_t5x.new_task import folder
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks.sources import store
import pytest

# Prints what importing did: sockets and files outside of the code, modules.
AUDIT = """
import json, sys
events = []
data = ('.csv', '.yaml', '.json', '.jsonl', '.model', '.gin', '.gz', '.parquet')

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
heavy = {
    'tensorflow', 'seqio', 'jax', 'datasets', 'tensorflow_datasets', 'pandas',
    'huggingface_hub',
}
print(json.dumps([events, sorted(heavy & set(sys.modules))]))
"""

SHIPPED = tuple(catalog.read(catalog.CATALOG))


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
  return demo_catalog.isolate(tmp_path, monkeypatch)


# Names, splits, samples.


def test_unknown_names_give_the_nearest():
  with pytest.raises(ValueError, match="'vader_sorce'.*nearest.*vader_source"):
    catalog.dataset('vader_sorce')
  # All there are, where none is near.
  with pytest.raises(ValueError, match='vader_sentiment.*vader_source'):
    catalog.dataset('zzz')
  with pytest.raises(ValueError, match=r"no split 'tset'.*'train', .*'test'"):
    catalog.dataset('vader_source').open('tset')
  with pytest.raises(
      ValueError, match=r"bigbench/winowhy has no split 'train'.*\['test'\]"
  ):
    catalog.dataset('bigbench/winowhy').open('train')


def test_field_length_reaches_the_templates(tmp_path, monkeypatch):
  demo_data.install(tmp_path, monkeypatch)
  template = catalog.dataset('tiny_kind').load_templates(9)['Kind']
  rendered = template.render({'text': 'x' * 20, 'label': 0})
  assert rendered.prompt.endswith('? xxxxxx...')


def test_demo_rows(tmp_path, monkeypatch):
  demo_data.install(tmp_path, monkeypatch)
  for name in demo_data.ROWS:
    for split, rows in demo_data.rows(name).items():
      opened = catalog.dataset(name).open(split)
      assert [json.loads(r) for r in opened] == rows


def sized(tmp_path, patch, data, **columns):
  """A dataset of 40 rows in each split."""
  for split in store.SPLITS:
    path = data / 'local' / 'my' / 'set' / f'{split}.jsonl'
    demo_catalog.write_lines(path, demo_catalog.rows(40))
  sizes = dict.fromkeys(store.SPLITS, '40')
  return demo_catalog.dataset(tmp_path, patch, **sizes, **columns)


def test_sample(tmp_path, monkeypatch, data):
  dataset = sized(tmp_path, monkeypatch, data, limit='10')
  sample = list(dataset.sample('test'))
  assert len(sample) == len(set(sample)) == 10
  assert sample == sorted(sample) and sample[0] >= 0 and sample[-1] < 40
  # Not the first rows, and the same in another run.
  assert sample != list(range(10)) and sample[-1] >= 20
  code = "import random; print(sorted(random.Random(42).sample(range(40), 10)))"
  process = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert sample == json.loads(process.stdout) == list(dataset.sample('test'))
  # The lower limit counts.
  assert len(dataset.sample('test', limit=3)) == 3
  assert list(dataset.sample('test', limit=20)) == sample
  # The catalog's limit is for evaluation.
  assert list(dataset.sample('train')) == list(range(40))
  assert len(dataset.sample('train', limit=7)) == 7


def test_sample_of_training_is_capped(tmp_path, monkeypatch, data):
  dataset = sized(tmp_path, monkeypatch, data)
  assert list(dataset.sample('test')) == list(range(40))
  monkeypatch.setattr(catalog, 'CAP', 15)
  sample = list(dataset.sample('train'))
  assert len(set(sample)) == 15 and sample == sorted(sample)
  assert sample != list(range(15))
  assert list(dataset.sample('test')) == list(range(40))
  assert len(dataset.sample('train', limit=99)) == 15


@pytest.mark.parametrize('column', ('label', ''))
def test_split_without_labels(column, tmp_path, monkeypatch, data):
  folder = data / 'local' / 'my' / 'set'
  unlabelled = [r | {'label': ''} for r in demo_catalog.rows(3)]
  demo_catalog.write_lines(folder / 'test.jsonl', unlabelled)
  demo_catalog.write_lines(
      folder / 'train.jsonl', [*unlabelled, *demo_catalog.rows(1)]
  )
  dataset = demo_catalog.dataset(
      tmp_path, monkeypatch, train='4', label=column
  )
  dataset.check_labels('train')
  with pytest.raises(
      catalog.NoLabels, match="^my/set: no row of the split 'test' has a label"
  ):
    dataset.check_labels('test')


# Catalogs of one's own.

OWN = """\
name,templates,train,test,eval_split,limit,fields,metric
mine/weather,file:prompts/weather.yaml,4,3,test,2,report label,macro-F1
"""
YAML = """\
dataset: mine
subset: weather
templates:
  1: !Template
    answer_choices: dry ||| wet
    jinja: 'Report: {{report}} Is it dry? ||| {{answer_choices[label]}}'
    metadata: !TemplateMetadata {metrics: [Accuracy]}
    name: Dry
"""


def test_dataset_of_ones_own(tmp_path, monkeypatch, data):
  (tmp_path / 'mine' / 'prompts').mkdir(parents=True)
  (tmp_path / 'mine' / 'catalog.csv').write_text(OWN)
  (tmp_path / 'mine' / 'prompts' / 'weather.yaml').write_text(YAML)
  reports = [
      {'report': f'Station {i}: {("sun", "rain")[i % 2]}.', 'label': i % 2}
      for i in range(7)
  ]
  for split, rows in (('train', reports[:4]), ('test', reports[4:])):
    demo_catalog.write_lines(
        data / 'local' / 'mine' / 'weather' / f'{split}.jsonl', rows
    )
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(tmp_path / 'mine/catalog.csv'))
  dataset = catalog.dataset('mine/weather')
  assert (dataset.role, dataset.metric) == ('extra', 'macro-F1')
  assert dataset.num_examples == {'train': 4, 'test': 3}
  assert [json.loads(r) for r in dataset.open('test')] == reports[4:]
  assert len(dataset.sample('test')) == 2
  template = dataset.load_templates()['Dry']
  rendered = template.render(json.loads(dataset.open('train')[1]))
  assert rendered.prompt == 'Report: Station 1: rain. Is it dry?'
  assert rendered.options == ('dry', 'wet') and rendered.gold == 1
  # Those that are shipped are there too.
  assert set(catalog.catalog()) == {*SHIPPED, 'mine/weather'}
  monkeypatch.delenv('FLIPPED_T5X_CATALOG')
  assert 'mine/weather' not in catalog.catalog()


def test_numbers_of_rows_may_be_left_out(tmp_path, monkeypatch, data):
  folder = data / 'local' / 'my' / 'set'
  demo_catalog.write_lines(folder / 'train.jsonl', demo_catalog.rows(5))
  demo_catalog.write_lines(folder / 'test.jsonl', demo_catalog.rows(2))
  dataset = demo_catalog.dataset(tmp_path, monkeypatch, test='')
  assert dataset.num_examples == {'train': 5, 'test': 2}
  assert len(dataset.open('train')) == 5
  assert mixtures.mixture('my/set').rates() == {'my/set': 5}
  with pytest.raises(ValueError, match="no split 'tset'"):
    dataset.open('tset')
  with pytest.raises(FileNotFoundError, match="the split 'validation'"):
    dataset.open('validation')


def test_no_rows_and_no_numbers_of_rows(tmp_path, monkeypatch):
  dataset = demo_catalog.dataset(tmp_path, monkeypatch, test='')
  with pytest.raises(FileNotFoundError, match=r"no source.*'test'"):
    len(dataset.num_examples)


def test_catalog_as_spreadsheets_write_it(tmp_path, monkeypatch):
  path = tmp_path / 'catalog.csv'
  path.write_bytes(OWN.replace('\n', '\r\n').encode('utf-8-sig'))
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(path))
  assert catalog.dataset('mine/weather').num_examples['train'] == 4


LINE = 'mine/weather,file:prompts/weather.yaml,4,3,test,2,report label,macro-F1'


@pytest.mark.parametrize(
    'old, new, message',
    (
        ('limit', 'limits', "line 2: unknown column 'limits'; known: .*limit"),
        ('limit', 'folder', "line 2: unknown column 'folder'"),
        ('limit', 'num_examples', "line 2: unknown column 'num_examples'"),
        (',macro-F1', '', 'line 2: more or fewer values than columns'),
        (',macro-F1', ',macro-F1,x', 'line 2: more or fewer values'),
        ('mine/weather', '', 'line 2: no name'),
        ('file:prompts/weather.yaml', '', 'line 2: no templates'),
        (',test,2', ',,2', 'line 2: no eval_split'),
        ('file:', 'yaml:', "line 2: templates 'yaml:prompts/.*not a known"),
        (LINE, f'{LINE}\n{LINE}', "line 3: 'mine/weather' appears twice"),
        (',4,3,', ',4.5,3,', "line 2: .*'4.5'"),
        (',4,3,', ',four,3,', "line 2: .*'four'"),
        ('test,2,', 'test,x,', "line 2: .*'x'"),
        ('macro-F1', 'f1', r"line 2: 'f1' is not one of \('accuracy', "),
        (',fields,', ',role,', "line 2: 'report label' is not one of .*'demo'"),
        (',fields,', ',split_names,', 'line 2: '),
        (',fields,', ',package,', "line 2: package 'report' is none of"),
    ),
)
def test_bad_catalogs(old, new, message, tmp_path, monkeypatch):
  path = tmp_path / 'own.csv'
  assert old in OWN
  path.write_text(OWN.replace(old, new))
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(path))
  with pytest.raises(ValueError, match=f'^{path}, {message}'):
    catalog.catalog()


@pytest.mark.parametrize('content, message', (
    (b'', ' has no datasets'),
    (b'name,templates,eval_split\n', ' has no datasets'),
    (b'templates,eval_split\na,b\n', ', line 2: no name'),
    (b'PK\x03\x04\xff\xfe', ", line .*: 'utf-8' codec can't decode"),
    (b'name,' + b'x' * 200_000 + b'\na,b\n', ', line .*: field larger than'),
), ids=range(5))
def test_files_that_are_no_catalogs(content, message, tmp_path, monkeypatch):
  path = tmp_path / 'catalog.csv'
  path.write_bytes(content)
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(path))
  for read in (catalog.catalog, lambda: folder.datasets(tmp_path)):
    with pytest.raises(errors.UserError, match=f'^{path}{message}'):
      read()


def test_name_of_the_catalog_is_taken(tmp_path, monkeypatch):
  path = tmp_path / 'own.csv'
  path.write_text(OWN.replace('mine/weather', 'imdb'))
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(path))
  with pytest.raises(ValueError, match=f"^{path}: 'imdb' is a name of catalog"):
    catalog.dataset('imdb')


def test_no_such_catalog(tmp_path, monkeypatch):
  monkeypatch.setenv('FLIPPED_T5X_CATALOG', str(tmp_path / 'none.csv'))
  with pytest.raises(FileNotFoundError, match='none.csv'):
    catalog.catalog()


# Importing.


def test_import_reads_nothing_and_loads_nothing_heavy(tmp_path, monkeypatch):
  folder = tmp_path / 'data'
  folder.mkdir()
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(folder))
  output = subprocess.run(
      [sys.executable, '-B', '-c', AUDIT, str(folder)], capture_output=True,
      text=True, check=True,
  ).stdout
  events, heavy = json.loads(output)
  assert (events, heavy) == ([], [])
  assert not list(folder.iterdir())
