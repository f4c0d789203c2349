"""The README.md of an exported model."""

import dataclasses
import json
import re
import shutil

from flipped_t5x import errors
from flipped_t5x.weights import convert
from flipped_t5x.weights import run_config
from flipped_t5x.weights import stored_arrays
from flipped_t5x.weights import t5x_checkpoints
import pytest
import yaml

RESULTS = {
    'step': 2, 'mixture': 'tiny_mixture', 'limit': 20, 'tasks': {'tiny|mood': {
        'examples': 1234, 'options': [4],
        'accuracy': {'mean': 0.61, 'std': 0.02},
        'macro_f1': {'mean': 0.595, 'std': 0.1}, 'majority_accuracy': 0.5,
        'majority_macro_f1': 0.5, 'random_accuracy': 0.25, 'ties': 0,
        'templates': {'A': {'examples': 1234, 'accuracy': 0.61,
                            'macro_f1': 0.595, 'ties': 0, 'counts': {}}},
        'data': {'split': 'test'},
    }},
    'network': {}, 'settings': {}, 'versions': {},
}


@pytest.fixture
def measured_run(tiny_run, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(tiny_run, run)
  config = run_config.RunConfig.read(run)
  dataclasses.replace(config, settings={
      'MIXTURE': 'tiny_mixture', 'LAMBDA': 3.0, 'SEED': 0
  }).write(run)
  for name, changes in (
      ('results.json', {}), ('results_old.json', {'step': 1, 'mixture': 'old'})
  ):
    (run / name).write_text(json.dumps(RESULTS | changes))
  return run


def card(source, folder, **options):
  """Exports a model; gives the front matter, and the text without it."""
  convert.convert(source, folder, to='hf', progress=False, **options)
  _, front, text = (folder / 'README.md').read_text().split('---\n', 2)
  return yaml.safe_load(front), text


def test_run_with_results(measured_run, tmp_path):
  front, text = card(measured_run, tmp_path / 'mine')
  assert front['library_name'] == 'transformers' and 'license' not in front
  for expected in (
      '# mine\n', '`flipped` of flipped_t5x: flipped learning',
      'unlikelihood weighted 3.0. Trained on `tiny_mixture` for 2 steps.',
      '\ninput: A warm, funny film. <extra_id_0>\noutput: Yes\n',
      '\n<extra_id_0> Did the reviewer enjoy the movie?\n',
      '(at most 48 tokens)', '## Ranking held-out examples: tiny_mixture',
      '| tiny\\|mood | 1,234 | 0.610±0.020 | 0.595±0.100 | 0.500 | 0.250 |',
      'At most 20 examples a dataset.', '| stored as | float32 |',
      '| LAMBDA | `3.0` |',
  ):
    assert expected in text, expected
  assert re.search(r'\| parameters \| \d+,\d{3} \|', text)
  assert 'old' not in text and 'CONVERTED_FROM' not in text
  assert 'Measured with' not in text


def test_results_of_other_weights(measured_run, tmp_path):
  """Measured before the weights were rounded; of another step, not at all."""
  _, text = card(measured_run, tmp_path / 'b', dtype='bfloat16')
  assert 'Measured with the weights in float32.' in text
  assert '| stored as | bfloat16 |' in text
  _, text = card(measured_run, tmp_path / 'c', step=1)
  assert 'examples: old' in text and 'tiny_mixture | ' not in text


@pytest.mark.parametrize('changed, note', (
    ({'limit': 1}, 'uniform draw. At most 1 example a dataset.\n'),
    ({'limit': None}, 'uniform draw.\n'),
    ({'limit': ...}, 'uniform draw.\n'),
))
def test_limit(measured_run, tmp_path, changed, note):
  """`...` leaves out the key: early versions wrote none."""
  (measured_run / 'results.json').write_text(json.dumps({
      name: value for name, value in (RESULTS | changed).items()
      if value is not ...
  }))
  _, text = card(measured_run, tmp_path / 'mine')
  assert '| tiny\\|mood | 1,234 |' in text and note in text


@pytest.mark.parametrize('content, message', (
    ('{"step": 2, ', 'not JSON'),
    ('{"step": 2, "tasks": {"a": {"examples": 3}}}',
     '.* is a required property; evaluate the run again'),
))
def test_results_without_metrics(
    measured_run, tmp_path, monkeypatch, content, message
):
  """The error comes before any weight is read or written."""
  (measured_run / 'results.json').write_text(content)
  monkeypatch.setattr(stored_arrays, 'read', None)
  with pytest.raises(
      errors.UserError, match=f'^{measured_run}/results.json: {message}'
  ):
    card(measured_run, tmp_path / 'mine', check=True)
  assert [p.name for p in tmp_path.iterdir()] == ['run']


def test_unknown_weights(tiny_params, tmp_path):
  """It says how they are read, and nothing about training."""
  path = t5x_checkpoints.write(tiny_params, 4, tmp_path / 'weights')
  _, text = card(path, tmp_path / 'target')
  assert f'Weights converted from `{path}`.' in text
  for word in ('flipped learning', 'Trained', '## Inputs', '## Settings',
               'Ranking'):
    assert word not in text


def test_another_format(tiny_run, tmp_path):
  """The one that is asked for, not that of the run."""
  _, text = card(tiny_run, tmp_path / 'one', overrides={'format': 'direct'})
  assert '\nA warm, funny film. Did the reviewer' in text
  assert 'reads a prompt and writes the label' in text
  _, text = card(tiny_run, tmp_path / 'two', overrides={'format': 'channel'})
  assert 'reads a label and writes the prompt' in text


@pytest.mark.parametrize('language', (
    pytest.param('transformers', marks=[pytest.mark.torch, pytest.mark.slow]),
    'flipped_t5x',
))
def test_code(measured_run, tmp_path, monkeypatch, language):
  """Runs unchanged beside the folder."""
  monkeypatch.chdir(tmp_path)
  _, text = card(measured_run, tmp_path / 'mine')
  code, = (
      block for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL)
      if f'import {language}' in block
  )
  exec(code, {})
