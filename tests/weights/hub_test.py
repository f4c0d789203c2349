"""Models of the hub, against a hub on loopback."""

import time

from flipped_t5x.weights import hub as hub_lib
from flipped_t5x.weights import model_files
from huggingface_hub import constants
import model_hub
import pytest

REPO = 'owner/flipped-tiny'
SAFETENSORS = 'model.safetensors'
FILES = {
    'config.json': b'{}',
    'spiece.model': b'pieces',
    SAFETENSORS: b'safe',
    'pytorch_model.bin': b'pickle',
    'README.md': b'card',
    'onnx/model.safetensors': b'other',
    'model.fp16.safetensors': b'other',
    'tf_model.h5': b'other',
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  with model_hub.ModelHub() as server:
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


def downloaded(hub):
  return {
      path.rsplit('/', 1)[1] for method, path in hub.requests
      if method == 'GET' and '/resolve/' in path
  }


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_safetensors_are_preferred(hub, tmp_path, monkeypatch):
  hub.commit(REPO, FILES)
  folder = model_files.resolve(REPO)
  wanted = {'config.json', 'spiece.model', SAFETENSORS}
  assert contents(folder) == {n: FILES[n] for n in wanted}
  assert downloaded(hub) == wanted
  # From the cache, where the hub cannot be asked.
  hub.close()
  monkeypatch.setattr(time, 'sleep', lambda unused_seconds: None)
  assert model_files.resolve(REPO) == folder
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  assert model_files.resolve(REPO) == folder


@pytest.mark.parametrize('files, chosen', (
    (('pytorch_model.bin', 'config.json', 'x.bin', 'training_args.bin'),
     {'pytorch_model.bin', 'config.json'}),
    (('model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors',
      'model.safetensors.index.json', 'pytorch_model-00001-of-00001.bin',
      'pytorch_model.bin.index.json', 'flipped_t5x.json', 'tokenizer.json'),
     {'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors',
      'model.safetensors.index.json', 'flipped_t5x.json', 'tokenizer.json'}),
    (('pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin',
      'pytorch_model.bin.index.json'),
     {'pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin',
      'pytorch_model.bin.index.json'}),
    (('tf_model.h5', 'README.md'), set()),
))
def test_choose(files, chosen):
  assert hub_lib.choose(files) == chosen


def test_revision(hub):
  old = hub.commit(REPO, {**FILES, SAFETENSORS: b'old'}, ref='v1')
  hub.commit(REPO, FILES)
  for revision, content in (('v1', b'old'), (old, b'old'), (None, b'safe')):
    folder = model_files.resolve(REPO, revision)
    assert (folder / SAFETENSORS).read_bytes() == content
  with pytest.raises(FileNotFoundError, match='has no revision v2$'):
    model_files.resolve(REPO, 'v2')


def test_a_path_comes_first(hub, tmp_path, monkeypatch):
  hub.commit(REPO, FILES)
  monkeypatch.chdir(tmp_path)
  (tmp_path / REPO).mkdir(parents=True)
  assert str(model_files.resolve(REPO)) == REPO
  # What is no name of a repository is a path, which `open` does not find.
  for path in ('a', 'a/b/c', '/a/b', './a', 'gs://bucket/run', '~/x/..'):
    assert model_files.resolve(path) is not None
  assert not hub.requests


def test_what_the_hub_does_not_have(hub):
  with pytest.raises(
      FileNotFoundError, match=f'^owner/none: no such folder, and {hub.url} has'
      ' no public model owner/none; for a private one, set HF_TOKEN$'
  ):
    model_files.resolve('owner/none')
  for files in ({'README.md': b''}, {'config.json': b'{}', 'tf_model.h5': b''},
                {SAFETENSORS: b''}):
    hub.commit(REPO, files)
    with pytest.raises(FileNotFoundError, match='is not a model with config'):
      model_files.resolve(REPO)
  hub.commit(REPO, FILES)
  hub.gated.add(REPO)
  with pytest.raises(PermissionError, match='gated: accept its terms at'):
    model_files.resolve(REPO)


def test_hub_out_of_reach(hub, monkeypatch):
  monkeypatch.setattr(time, 'sleep', lambda unused_seconds: None)
  hub.commit(REPO, FILES)
  hub.status = 503
  with pytest.raises(
      ConnectionError, match='not in the cache of the hub, and http'
  ):
    model_files.resolve(REPO)
  hub.close()
  with pytest.raises(ConnectionError, match='cannot be reached'):
    model_files.resolve(REPO)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  with pytest.raises(ConnectionError, match='HF_HUB_OFFLINE forbids asking'):
    model_files.resolve(REPO)
