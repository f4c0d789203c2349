"""The hub as a source, against a hub on loopback."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time

from flipped_t5x import files as files_lib
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import sources
from flipped_t5x.tasks.sources import hub as hub_lib
import hub_server
from huggingface_hub import constants
from huggingface_hub import errors
import pyarrow as pa
from pyarrow import parquet
import pytest

CONVERTED = 'refs/convert/parquet'


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """An empty hub, the only source, with empty caches."""
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'hub')
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  with hub_server.Hub() as server:
    # The environment was read when huggingface_hub was imported; what it makes
    # of that is in `test_environment`.
    template = server.url + '/{repo_id}/resolve/{revision}/{filename}'
    for name, value in {
        'ENDPOINT': server.url,
        'HUGGINGFACE_CO_URL_TEMPLATE': template,
        'HF_HUB_CACHE': str(tmp_path / 'hub'),
        'HF_TOKEN_PATH': str(tmp_path / 'token'),
        'HF_HUB_OFFLINE': False,
    }.items():
      monkeypatch.setattr(constants, name, value)
    yield server


@pytest.fixture
def no_waiting(monkeypatch):
  """Between its retries, huggingface_hub sleeps."""
  monkeypatch.setattr(time, 'sleep', lambda unused_seconds: None)


def dataset(name, **changes):
  """One of the catalog, but for some columns."""
  return dataclasses.replace(catalog.dataset(name), **changes)


def invent(data, num_rows, start=0):
  """Rows with the fields that the templates read."""
  return [
      {f: i % 2 if f == 'label' else f'{f} {i} \u00e9' for f in data.fields}
      for i in range(start, start + num_rows)
  ]


def pack(rows):
  """A Parquet file."""
  file = io.BytesIO()
  parquet.write_table(pa.Table.from_pylist(rows), file)
  return file.getvalue()


def read(data, split):
  """The rows, from the first source that has them."""
  return [json.loads(row) for row in sources.open_split(data, split)]


def prepared():
  """Everything that is kept of rows, temporary files and all."""
  rows = files_lib.data_folder() / 'rows'
  return [p for p in rows.rglob('*') if p.is_file()]


@pytest.mark.parametrize(
    'name, split, ref, file, others',
    (
        # Pinned, and `main` has gone on.
        ('glue/mrpc', 'validation', None,
         'mrpc/validation-00000-of-00001.parquet',
         ('README.md', 'mrpc/train-00000-of-00001.parquet',
          'qqp/validation-00000-of-00001.parquet')),
        # The hub has another name for the split.
        ('anli/r1', 'validation', None,
         'plain_text/dev_r1-00000-of-00001.parquet',
         ('plain_text/dev_r2-00000-of-00001.parquet',
          'plain_text/train_r1-00000-of-00001.parquet')),
        # As the hub converts it, on `main`'s behalf or pinned.
        ('dream', 'test', CONVERTED, 'plain_text/test/0000.parquet',
         ('plain_text/train/0000.parquet', 'other/test/0000.parquet')),
        ('dream', 'test', None, 'plain_text/test/0000.parquet', ()),
        ('rotten_tomatoes', 'test', 'main', 'test.parquet',
         ('train.parquet', 'plain_text/test.parquet')),
        ('ag_news', 'test', 'main', 'data/test-00000-of-00001.parquet', ()),
        ('ag_news', 'test', 'main',
         'data/test-00000-of-00001-b42a775f407cee45.parquet',
         ('data/train-00000-of-00001-0123456789abcdef.parquet',)),
        ('hellaswag', 'validation', CONVERTED,
         'default/validation/0000.parquet', ('default/test/0000.parquet',)),
    ),
)
def test_layouts(name, split, ref, file, others, hub):
  """`ref` None: the catalog's pin, which no branch is at any more."""
  revision = 'c0ffee' + '0' * 34 if ref is None else ''
  data = dataset(name, revision=revision)
  rows = invent(data, 5)
  files = {file: pack(rows), **dict.fromkeys(others, b'not wanted')}
  hub.commit(data.hub, {'load.py': b'exit()'})
  commit = hub.commit(data.hub, files, ref or 'old', revision or None)
  assert read(data, split) == rows
  origin = sources.open_split(data, split).origin
  assert {k: v for k, v in origin.items() if k not in ('rows', 'sha256')} == {
      'source': 'hub', 'repo': data.hub, 'config': data.config,
      'split': data.split_names.get(split, split), 'revision': revision,
      'ref': ref or revision, 'commit': commit, 'files': [file],
  }
  # Nothing but that file was downloaded, and by its commit.
  downloads = {path for _, path in hub.requests if path.startswith('datasets')}
  assert downloads == {f'datasets/{data.hub}/resolve/{commit}/{file}'}
  listings = [
      path.split('/revision/')[1] for _, path in hub.requests
      if path.startswith('api/datasets')
  ]
  assert listings == (
      ['main', CONVERTED] if ref == CONVERTED else [ref or revision]
  )


@pytest.mark.parametrize(
    'pattern',
    ('data/train-{:05}-of-00012.parquet', 'default/train/{:04}.parquet'),
)
def test_parts_are_in_order(pattern, hub):
  data = dataset('ag_news', revision='')
  rows = invent(data, 24)
  files = {
      pattern.format(i): pack(rows[2 * i : 2 * i + 2]) for i in range(12)
  }
  hub.commit(data.hub, files)
  assert read(data, 'train') == rows
  assert sources.open_split(data, 'train').origin['files'] == list(files)


def test_main_comes_before_what_was_converted(hub):
  data = dataset('rotten_tomatoes', revision='')
  new, old = invent(data, 2), invent(data, 2, start=2)
  hub.commit(data.hub, {'test.parquet': pack(new)})
  hub.commit(
      data.hub, {
          'default/test/0000.parquet': pack(old),
          'default/train/0000.parquet': pack(old),
      }, CONVERTED,
  )
  assert read(data, 'test') == new
  # Split by split: `main` has this one in no Parquet.
  assert read(data, 'train') == old


def test_prepared_rows_need_no_hub(hub):
  data = dataset('rotten_tomatoes', revision='')
  rows = invent(data, 3)
  hub.commit(data.hub, {'train.parquet': pack(rows)})
  assert read(data, 'train') == rows
  asked = len(hub.requests)
  assert asked
  assert read(data, 'train') == rows
  assert len(hub.requests) == asked
  hub.close()
  assert read(data, 'train') == rows


def test_newest_at_first_use_stays(hub):
  data = dataset('rotten_tomatoes', revision='')
  old, new = invent(data, 3), invent(data, 3, start=3)
  files = lambda rows: {f'{s}.parquet': pack(rows) for s in ('train', 'test')}
  first = hub.commit(data.hub, files(old))
  assert read(data, 'train') == old
  second = hub.commit(data.hub, files(new))
  assert first != second
  assert read(data, 'train') == old
  assert sources.open_split(data, 'train').origin['commit'] == first
  assert read(data, 'test') == new
  assert sources.open_split(data, 'test').origin['commit'] == second
  # A pin is another thing than the newest that happens to be the same.
  pinned = dataclasses.replace(data, revision=second)
  assert read(pinned, 'train') == new


def refusal(data, split, error=FileNotFoundError):
  """What is said of a split that is not to be had; nothing may be left."""
  with pytest.raises(error) as e:
    sources.open_split(data, split)
  assert not prepared()
  return str(e.value)


MRPC = 'mrpc/train-00000-of-00001.parquet'


@pytest.mark.parametrize(
    'files, converted, changes, reason',
    (
        (None, None, {},
         'has no public dataset nyu-mll/glue; .* HF_TOKEN; correct the c'),
        # A pin is not looked for elsewhere.
        ({MRPC: b''}, None, {'revision': '0' * 40},
         'nyu-mll/glue at http.* has no revision 0{40}; correct the catalog'),
        ({'qqp/train-00000-of-00001.parquet': b'', 'glue.py': b'',
          'rte/test-00000-of-00001.parquet': b''}, None, {},
         'nyu-mll/glue at main or refs/convert/parquet has no Parquet of'
         ' mrpc/train, it has the configs qqp, rte: correct the catalog'),
        ({'mrpc/test.parquet': b'', 'qqp/train.parquet': b''},
         {'mrpc/dev/0000.parquet': b''}, {},
         'no Parquet of mrpc/train, it has the splits dev, test of it:'),
        ({'glue.py': b''}, None, {}, 'it has no Parquet at all: '),
        # What belongs to no config belongs to no other than `default`.
        ({'data/train-00000-of-00001.parquet': b'', 'train.parquet': b''},
         None, {}, 'it has the configs default: '),
        ({}, {'mrpc/partial-train/0000.parquet': b''}, {},
         'only the first 5 GB of mrpc/train as Parquet: put the whole'),
        ({MRPC: b''}, None, {'hub': ''}, 'no repository is known'),
    ),
)
def test_not_there(files, converted, changes, reason, hub):
  data = dataset('glue/mrpc', **{'revision': '', **changes})
  if files is not None:
    hub.commit('nyu-mll/glue', files)
  if converted is not None:
    hub.commit('nyu-mll/glue', converted, CONVERTED)
  message = refusal(data, 'train')
  first, line = message.split('\n')
  assert first == "glue/mrpc: no source has the split 'train':"
  assert re.match(rf'  hub: .*{reason}', line)
  assert not [path for _, path in hub.requests if path.startswith('datasets')]


def test_gated(hub):
  data = dataset('rotten_tomatoes', revision='')
  hub.commit(data.hub, {'train.parquet': b''})
  hub.gated.add(data.hub)
  assert re.search(
      rf'\n  hub: {data.hub} is gated: accept its terms at'
      rf' {hub.url}/datasets/{data.hub} and set HF_TOKEN, or put files in a'
      ' folder that FLIPPED_T5X_SOURCES names$', refusal(data, 'train')
  )


def test_another_source_is_tried_next(hub, tmp_path, monkeypatch):
  data = dataset('rotten_tomatoes', revision='')
  rows = invent(data, 2)
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', f'hub,{tmp_path}/')
  path = tmp_path / 'rotten_tomatoes' / 'train.jsonl'
  path.parent.mkdir()
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert read(data, 'train') == rows
  assert sources.open_split(data, 'train').origin['source'] == 'local'


@pytest.mark.parametrize(
    'files, reason',
    (
        (('data/train-00000-of-00003.parquet',
          'data/train-00002-of-00003.parquet'), '2 of 3 parts .* part 1 is'),
        (('data/train-00000-of-00002.parquet',), '1 of 2 parts .* part 1 is'),
        (('default/train/0001.parquet', 'default/train/0002.parquet'),
         '2 of 3 parts .* part 0 is'),
        (('data/train-00000-of-00001.parquet',
          'data/train-00001-of-00001.parquet'), '2 of 1 parts'),
        (('train.parquet', 'data/train-00000-of-00001.parquet'), 'of one set'),
        (('data/train-00000-of-00001.parquet', 'data/train-00000-of-00002'
          '.parquet', 'data/train-00001-of-00002.parquet'), 'of one set'),
        (('data/train-00000-of-00002.parquet',
          'data/train-00001-of-00003.parquet'), 'of one set'),
        (('train.parquet', 'default/train.parquet'), 'of one set'),
    ),
)
def test_not_whole(files, reason, hub):
  data = dataset('ag_news', revision='')
  hub.commit(data.hub, dict.fromkeys(files, pack(invent(data, 2))))
  message = refusal(data, 'train', ValueError)
  assert re.match(
      f'fancyzhx/ag_news: default/train at main: .*{reason}', message
  )


def test_damaged_file(hub):
  data = dataset('rotten_tomatoes', revision='')
  content = pack(invent(data, 100))
  hub.commit(data.hub, {'train.parquet': content[:-20], 'test.parquet': b''})
  for split in ('train', 'test'):
    assert re.match(
        f'rotten_tomatoes: {split}: .*{split}.parquet: truncated',
        refusal(data, split, ValueError),
    )


def test_missing_field(hub):
  data = dataset('rotten_tomatoes', revision='')
  hub.commit(data.hub, {'train.parquet': pack([{'text': 'a'}])})
  assert "no field 'label'" in refusal(data, 'train', ValueError)


def test_broken_off_download(hub, no_waiting):
  data = dataset('rotten_tomatoes', revision='')
  rows = invent(data, 100)
  hub.commit(data.hub, {'train.parquet': pack(rows)})
  hub.cut = True
  assert re.search(
      rf'hub: {hub.url} cannot be reached \(.+\): try again',
      refusal(data, 'train'),
  )
  hub.cut = False
  hub.short = True
  message = refusal(data, 'train', OSError)
  assert 'Consistency check failed' in message
  # Nothing of all that is taken for the file later.
  hub.short = False
  assert read(data, 'train') == rows


def test_only_some_parts_come(hub):
  """Rows of the first part are not prepared without those of the second."""
  data = dataset('ag_news', revision='')
  parts = [pack(invent(data, n)) for n in (2, 200)]
  hub.commit(data.hub, {
      f'data/train-0000{i}-of-00002.parquet': part
      for i, part in enumerate((parts[0], parts[1][:-9]))
  })
  assert 'truncated' in refusal(data, 'train', ValueError)


def test_hub_is_down(hub):
  data = dataset('rotten_tomatoes', revision='')
  hub.close()
  start = time.monotonic()
  assert re.search(
      rf'\n  hub: {hub.url} cannot be reached \(.*refused\): try'
      ' again later, or put files in a folder that FLIPPED_T5X_SOURCES names$',
      refusal(data, 'train'),
  )
  assert time.monotonic() - start < 10  # A download would try for 20 s.


def test_hub_goes_down_before_the_download(hub, no_waiting):
  data = dataset('rotten_tomatoes', revision='')
  hub.commit(data.hub, {'train.parquet': b''})
  hub.no_downloads = True
  assert re.search(
      rf'\n  hub: {hub.url} cannot be reached \(.*503.*\): try',
      refusal(data, 'train'),
  )


@pytest.mark.parametrize('status', (429, 500, 504))
def test_hub_is_busy(status, hub):
  hub.status = status
  message = refusal(dataset('rotten_tomatoes', revision=''), 'train')
  assert re.search(rf'\(.*{status}.*\): try again later', message)
  assert len(message.split('\n')) == 2


@pytest.mark.parametrize('status', (400, 403, 418))
def test_other_faults_are_not_hidden(status, hub):
  """The hub answers, and the answer is about neither network nor dataset."""
  hub.status = status
  with pytest.raises(errors.HfHubHTTPError) as e:
    read(dataset('rotten_tomatoes', revision=''), 'train')
  assert e.value.response.status_code == status


_SCRIPT = '''
import sys
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import sources
assert 'huggingface_hub' not in sys.modules
try:
  rows = sources.open_split(catalog.dataset('glue/mrpc'), 'validation')
  print(len(rows), rows.origin['commit'])
except FileNotFoundError as e:
  print(e)
'''


def test_environment(hub, tmp_path):
  """As a user has it: what is set, and what appears in the terminal."""
  data = dataset('glue/mrpc')
  files = {'mrpc/validation-00000-of-00001.parquet': pack(invent(data, 7))}
  commit = hub.commit(data.hub, files, commit=data.revision or None)

  def run(**more):
    environment = {
        **os.environ, 'HF_ENDPOINT': hub.url, 'HF_HOME': str(tmp_path / 'home'),
        **more,
    }
    environment.pop('HF_HUB_CACHE', None)
    return subprocess.run(
        [sys.executable, '-c', _SCRIPT], env=environment, check=True, text=True,
        capture_output=True,
    )

  offline = run(HF_HUB_OFFLINE='1')
  assert offline.stdout == (
      "glue/mrpc: no source has the split 'validation':\n"
      f'  hub: HF_HUB_OFFLINE forbids asking {hub.url}: unset it, or put files'
      ' in a folder that FLIPPED_T5X_SOURCES names\n'
  )
  assert not hub.requests
  fetched = run()
  assert fetched.stdout == f'7 {commit}\n'
  assert fetched.stderr == (
      f'fetching mrpc/validation of nyu-mll/glue from {hub.url}\n'
  )
  assert list((tmp_path / 'home').rglob('validation-00000-of-00001.parquet'))
  # Prepared, so not even this is said again.
  again = run(HF_HUB_OFFLINE='1')
  assert (again.stdout, again.stderr) == (fetched.stdout, '')


def test_location_is_known_without_the_hub(hub):
  data = dataset('anli/r1', revision='abc')
  assert hub_lib.Hub().locate(data, 'validation').key == {
      'source': 'hub', 'repo': 'facebook/anli', 'config': 'plain_text',
      'split': 'dev_r1', 'revision': 'abc',
  }
  assert not hub.requests
