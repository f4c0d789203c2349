"""Tests of notebooks/flipped.ipynb: as it is stored, and run again."""

import base64
import json
import pathlib
import re
import sys

from flipped_t5x.engine import checkpoints
from flipped_t5x.weights import run_config
import numpy as np
import pytest

pytestmark = pytest.mark.notebook

FOLDER = pathlib.Path(__file__).parents[1] / 'notebooks'
NOTEBOOK = FOLDER / 'flipped.ipynb'
PNG_START = b'\x89PNG\r\n\x1a\n'
ABSOLUTE_PATH = re.compile(r'(?<![\w.:/~])/\w+/|\b[A-Z]:\\|file:/|~/')


@pytest.fixture(name='stored')
def fixture_stored():
  import nbformat

  return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(name='checkpoint')
def fixture_checkpoint(
    tmp_path, tiny_network, tiny_params, tiny_vocabulary_path
):
  """A run with room for words that the vocabulary cuts into letters."""
  folder = tmp_path / 'run'
  checkpoints.prepare(
      folder,
      run_config.RunConfig(tiny_network, 'flipped', 128, 64, {'SEED': 0}),
      tiny_vocabulary_path,
  )
  saver = checkpoints.Checkpoints(folder)
  saver.save(20, {'params': tiny_params, 'step': np.int32(20)}, b'')
  saver.close()
  return folder


@pytest.fixture(name='kernel')
def fixture_kernel(tmp_path, monkeypatch):
  """Name of a kernel that is this Python, whatever is installed for Jupyter."""
  name = 'this_python'
  folder = tmp_path / 'kernels' / name
  folder.mkdir(parents=True)
  (folder / 'kernel.json').write_text(json.dumps({
      'argv': [
          sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}'
      ],
      'display_name': name,
      'language': 'python',
  }))
  monkeypatch.setenv('JUPYTER_PATH', str(tmp_path))
  monkeypatch.setenv('JUPYTER_RUNTIME_DIR', str(tmp_path / 'runtime'))
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  return name


def outputs(notebook):
  return [
      output
      for cell in notebook.cells
      if cell.cell_type == 'code'
      for output in cell.outputs
  ]


def check_outputs(notebook):
  """That a notebook shows what it should, and nothing went wrong or warned."""
  found = outputs(notebook)
  assert {(o.output_type, o.get('name')) for o in found} == {
      ('stream', 'stdout'), ('display_data', None), ('execute_result', None)
  }
  explained, = (o for o in found if o.output_type == 'execute_result')
  page, table = (explained.data[f'text/{kind}'] for kind in ('html', 'plain'))
  assert page.startswith('<div class="flipped-t5x">') and '<mark' in page
  image, = (o for o in found if o.output_type == 'display_data')
  assert base64.b64decode(image.data['image/png']).startswith(PNG_START)
  text = '\n'.join(o.text for o in found if o.output_type == 'stream')
  # Of four options and a softmax, of guesses, of tokens, of label words.
  ranked = re.findall(r'^  .{15} +-\d+\.\d\d +[01]\.\d{3}$', text, re.M)
  assert len(ranked) == 4 * 4 + 4
  assert len(re.findall(r'^\w.{14} +-\d+\.\d\d  .*\S', text, re.M)) == 6
  assert re.search(r'^token +(Yes +No|No +Yes) +1st - 2nd\n<extra_id_0>',
                   text, re.M)
  assert f'{table}\n' in text  # As it was printed.
  assert re.search(r'^sum( +-\d+\.\d{4}){2} +\+\d', text, re.M)
  assert len(re.findall(r'^\w+/\w+ +\d+ of 12 right$', text, re.M)) == 21
  return text


def test_as_stored(stored):
  text = check_outputs(stored)
  assert text.count('<extra_id_0> Where would you read this?') == 2
  assert [c.execution_count for c in stored.cells if c.cell_type == 'code'] == [
      *range(1, 1 + sum(c.cell_type == 'code' for c in stored.cells))
  ]


def test_nothing_of_a_machine_is_stored(stored):
  assert NOTEBOOK.stat().st_size < 300_000
  assert stored.metadata == {
      'kernelspec': {
          'display_name': 'Python 3', 'language': 'python', 'name': 'python3'
      },
      'language_info': {'name': 'python'},
  }
  assert not any(cell.metadata for cell in stored.cells)
  texts = [cell.source for cell in stored.cells]
  for output in outputs(stored):
    texts.append(output.get('text') or output.data['text/plain'])
  assert len(texts) > 20
  for text in texts:
    assert not ABSOLUTE_PATH.search(text), text


@pytest.mark.parametrize('text, found', (
    ('at /home/someone/x', True), ("'/usr/lib'", True), ('~/x', True),
    ('C:\\x', True), ('../output/demo', False), ('Yes/No', False),
    ('tasks/templates/', False), ('https://arxiv.org/abs/1', False),
))
def test_absolute_paths_are_found(text, found):
  assert bool(ABSOLUTE_PATH.search(text)) == found


@pytest.mark.slow
@pytest.mark.process
def test_runs(stored, checkpoint, kernel, monkeypatch):
  """On weights and a vocabulary of the test's own."""
  import nbclient
  import nbformat

  monkeypatch.setenv('FLIPPED_T5X_NOTEBOOK_CHECKPOINT', str(checkpoint))
  for cell in stored.cells:
    if cell.cell_type == 'code':
      cell.outputs = []
  stored.cells.append(nbformat.v4.new_code_cell(
      'import sys; print(sys.executable, "tensorflow" in sys.modules)'
  ))
  nbclient.NotebookClient(
      stored, timeout=120, kernel_name=kernel, coalesce_streams=True,
      resources={'metadata': {'path': str(FOLDER)}},
  ).execute()
  text = check_outputs(stored)
  assert 'step 20\n' in text
  assert text.endswith(f'{sys.executable} False\n')
