"""The real `t5x.eval` and `t5x.infer` with our gin files rank as we do."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import demo_data
import evaluated_runs
from flipped_t5x import files
from flipped_t5x import gin_config
from flipped_t5x import ranking
from flipped_t5x.cli import main
from flipped_t5x.evaluation import summary as summary_lib
from flipped_t5x.evaluation import t5x_results
from flipped_t5x.inference import model as model_lib
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.weights import run_config
from flipped_t5x.weights import t5x_checkpoints
import numpy as np
import pytest

pytestmark = pytest.mark.t5x
STEP = 30
LENGTHS = {'INPUT_LENGTH': 48, 'TARGET_LENGTH': 32}
TASKS = [
    'flipped_tiny_kind_score_Where', 'flipped_tiny_mood_score_Enjoy',
    'flipped_tiny_mood_score_Guess',
]
# In T5X's process the catalog is the demo's, and a mixture of its score tasks
# is there. argv: data folder, when to stop, and what T5X gets, its name first.
# Stopping is as by `kill -9`, in the midst of writing a chunk.
SCRIPT = """
import os, pathlib, runpy, sys
import pytest
import demo_data
from flipped_t5x import t5x_infer
import seqio

folder, stop, name, *tasks = sys.argv[1].split(',')
demo_data.install(pathlib.Path(folder), pytest.MonkeyPatch())
seqio.MixtureRegistry.add(
    name, [seqio.get_mixture_or_task(t) for t in tasks], default_rate=1.0
)
write, calls = t5x_infer.write_candidates, []

def write_candidates(path, *args, **kwargs):
  write(path, *args, **kwargs)
  calls.append(path)
  if len(calls) == int(stop):
    pathlib.Path(path).write_text(pathlib.Path(path).read_text()[:-20])
    os._exit(9)

if int(stop):
  write_candidates.__module__ = write.__module__
  t5x_infer.write_candidates = write_candidates
module, sys.argv = sys.argv[2], sys.argv[2:]
runpy.run_module(module, run_name='__main__', alter_sys=True)
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp('data')
    demo_data.install(folder, patch)
    patch.setenv('FLIPPED_T5X_VOCABULARY', str(demo_data.vocabulary()))
    yield folder


@pytest.fixture(scope='module')
def params(make_params):
  return make_params(demo_data.NETWORK, seed=4)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, params):
  return t5x_checkpoints.write(
      params, STEP, tmp_path_factory.mktemp('checkpoints')
  )


@pytest.fixture(scope='module')
def start(data, checkpoint):
  """(what, output folder, macros) -> a running `python -m t5x.WHAT`."""

  def start_t5x(what, folder, stop=0, **macros):
    network = demo_data.NETWORK
    macros = {
        'CHECKPOINT_PATH': str(checkpoint), 'MIXTURE': 'tiny_eval',
        f'{what.upper()}_OUTPUT_DIR': str(folder),
        'ACTIVATION_DTYPE': 'float32', 'BATCH_SIZE': 5, **LENGTHS,
        **{
            name.upper(): getattr(network, name)
            for name in ('vocab_size', 'emb_dim', 'num_heads', 'head_dim',
                         'num_encoder_layers', 'num_decoder_layers', 'mlp_dim')
        },
        **macros,
    }
    setting = ','.join([str(data), str(stop), 'tiny_eval', *TASKS])
    return subprocess.Popen(
        [sys.executable, '-c', SCRIPT, setting, f't5x.{what}',
         f'--gin_search_paths={gin_config.gin_folder()}',
         f'--gin_file=runs/t5x_{what}.gin', '--gin_file=models/demo.gin',
         '--gin_file=methods/flipped.gin',
         *(f'--gin.{k}={v!r}' for k, v in macros.items())],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (
            str(pathlib.Path(__file__).parent / 'helpers'),
            os.environ.get('PYTHONPATH'),
        )))),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd='/',
    )

  return start_t5x


def finish(*processes, status=0):
  for process in processes:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output[-5000:]
  return output


@pytest.fixture(scope='module')
def folders(tmp_path_factory, start):
  """By `t5x.eval`, by `t5x.infer`, and by one in two shards, one stopped."""
  root = tmp_path_factory.mktemp('t5x')
  folders = {n: root / n for n in ('evaluated', 'inferred', 'shards')}
  finish(
      start('eval', folders['evaluated']),
      start('infer', folders['inferred'], BATCH_SIZE=32),
  )
  # Chunks of 15 candidates end in the midst of the four options of tiny_kind.
  shard = functools.partial(
      start, 'infer', folders['shards'], NUM_SHARDS=2, CHECKPOINT_PERIOD=3
  )
  other, stopped = shard(SHARD_ID=1), shard(stop=2)
  finish(other)
  finish(stopped, status=9)
  # Once more: T5X scores nothing, and leaves empty folders.
  output = finish(start('infer', folders['inferred'], BATCH_SIZE=32))
  assert output.count('Skipping inference') == len(TASKS)
  assert len(list(folders['inferred'].glob('tmp-*'))) == len(TASKS)
  chunks = folders['shards'] / f'tmp-{TASKS[0]}-00000-of-00002'
  assert len(list(chunks.glob('*-chunk?????'))) == 2
  with pytest.raises(ValueError, match=f'{chunks.name}: .* not finished'):
    t5x_results.read(folders['shards'])
  output = finish(shard())
  assert 'Restoring input iterator' in output
  assert output.count('Starting chunk 0') == 2  # Of the two tasks after it.
  return folders


@pytest.fixture(scope='module')
def expected(data, params):
  """Task -> template -> scores and results of the embedded engine."""
  run = run_config.RunConfig(
      demo_data.NETWORK, 'flipped', *LENGTHS.values(), {}
  )
  model = model_lib.Model(
      run, params, tokenization.load_vocabulary(demo_data.vocabulary()), STEP
  )
  results = {}
  for name in TASKS:
    task, template = name.removeprefix('flipped_').split('_score_')
    found = batches.open_candidates(
        task, demo_data.vocabulary(), *LENGTHS.values()
    ).read(template)
    scores = model.score(found.inputs, found.targets)
    ranked = ranking.rank(
        scores, found.example_id, found.option_index, found.is_correct
    )
    results.setdefault(task, {})[template] = found, scores, ranked
  return results


def lines(folder, name):
  paths = sorted(folder.glob(f'{name}-score.jsonl-?????-of-?????'))
  examples = [e for path in paths for e in files.read_lines(path)]
  return sorted(examples, key=lambda e: e['example_id'])


@pytest.mark.parametrize('which', ('inferred', 'shards'))
@pytest.mark.parametrize('name', TASKS)
def test_scores_are_the_embedded_engines(
    name, which, folders, expected, checkpoint
):
  task, template = name.removeprefix('flipped_').split('_score_')
  _, scores, ranked = expected[task][template]
  examples = lines(folders[which], name)
  assert [e['example_id'] for e in examples] == ranked.example_id.tolist()
  assert len({np.float32(s) for e in examples for s in e['scores']}) > 10
  np.testing.assert_allclose(
      [s for e in examples for s in e['scores']], scores, rtol=1e-5
  )
  choices = catalog.dataset(task).load_templates()[template]
  rows = demo_data.rows(task)['test']
  for i, example in enumerate(examples):
    assert example['gold'] == rows[i]['label'] == ranked.gold[i]
    assert example['prediction'] == ranked.prediction[i]
    assert example['prediction'] == np.argmax(example['scores'])
    rendered = choices.render(rows[i], seed=i)
    assert example['options'] == list(rendered.options)
    assert (example['task'], example['template']) == (task, template)
    assert (example['checkpoint'], example['step']) == (str(checkpoint), STEP)
    assert example['tied'] is False


@pytest.mark.parametrize('name', TASKS)
def test_stopped_and_sharded_is_the_same(name, folders):
  whole, shards = (lines(folders[n], name) for n in ('inferred', 'shards'))
  assert len(list(folders['shards'].glob(f'{name}*.COMPLETED'))) == 2
  assert not list(folders['shards'].glob('tmp-*'))
  for ours, theirs in zip(shards, whole, strict=True):
    np.testing.assert_allclose(ours['scores'], theirs['scores'], rtol=1e-5)
    ours['scores'] = theirs['scores']
    assert ours == theirs


@pytest.mark.parametrize('which', ('evaluated', 'inferred', 'shards'))
def test_report(which, folders, expected, capsys):
  folder = folders[which]
  assert main.main(['report', str(folder)]) == 0
  results = json.loads((folder / 'results.json').read_text())
  assert results['step'] == STEP
  for task, templates in expected.items():
    summary = summary_lib.summarize(
        {k: ranked for k, (_, _, ranked) in templates.items()},
        {name: {} for name in templates},
        {
            k: evaluated_runs.options_of(found)
            for k, (found, _, _) in templates.items()
        },
    )
    theirs = results['tasks'][task]
    assert theirs['data'] == {'split': 'eval'}
    for key in summary.keys() - {'templates'}:
      assert theirs[key] == summary[key], key
    assert theirs['templates'].keys() == templates.keys()
  assert len(results['tasks']) == len(expected)
  settings = results['settings']
  assert settings['LAMBDA'] == 3.0 and settings['MIXTURE'] == 'tiny_eval'
  assert settings['INPUT_LENGTH'] == results['input_length'] == 48
  text = (folder / 'report.md').read_text()
  assert '| ACTIVATION_DTYPE | `float32` |' in text
  assert 'step 30, eval split' in capsys.readouterr().out


def test_bad_input_is_named(start, folders, tmp_path):
  cases = (
      ('infer', {'CHECKPOINT_PATH': '/nowhere/checkpoint_7'},
       '/nowhere/checkpoint_7: no such checkpoint'),
      ('eval', {'EVAL_OUTPUT_DIR': 'relative'}, 'EVAL_OUTPUT_DIR'),
      # As if methods/direct.gin were given without a mixture.
      ('infer', {'FORMAT': 'direct', 'MIXTURE': 'flipped_nlp_eval'},
       "'flipped_nlp_eval' is of the format 'flipped', and FORMAT is 'direct'"),
      ('infer', {'INFER_OUTPUT_DIR': str(folders['inferred']),
                 'INPUT_LENGTH': 40}, 'INPUT_LENGTH: 48 there, 40 now'),
  )
  config = (folders['inferred'] / 'config.gin').read_text()
  running = [start(what, tmp_path, **macros) for what, macros, _ in cases]
  for process, (_, _, message) in zip(running, cases, strict=True):
    assert message in finish(process, status=1)
  assert not list(tmp_path.glob('*score*'))
  assert (folders['inferred'] / 'config.gin').read_text() == config
