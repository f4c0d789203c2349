"""The command `flipped-t5x eval`: its flags, files and messages."""

import json
import re

import demo_data
from flipped_t5x.cli import main
from flipped_t5x.inference import model as model_lib
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import tensors
import pytest
import tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(folder, patch)
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    yield folder


@pytest.fixture(scope='module')
def run(folder, make_params):
  return tiny_run.write(folder / 'run', make_params(demo_data.NETWORK, 3))


@pytest.fixture(scope='module')
def model(run):
  return model_lib.load(run)


def fails(capsys, *argv):
  """The one line on stderr of a command that must fail by itself."""
  assert main.main(list(map(str, argv))) == 1
  line, = capsys.readouterr().err.strip().splitlines()
  return line


@pytest.mark.slow
def test_missing_tasks_of_a_suite(folder, run, capsys):
  path = demo_data.local_file(folder, 'super_glue/cb', 'validation')
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(
      json.dumps({
          'premise': f'The film of test {i} is warm.', 'label': i % 3,
          'hypothesis': 'The film is good.', 'idx': i,
      }) + '\n' for i in range(3)
  ))
  assert main.main(
      ['eval', str(run), '--suite', 'nlp', '--input_length', '64']
  ) == 0
  captured = capsys.readouterr()
  results = json.loads((run / 'results_nlp.json').read_text())
  assert (results['suite'], results['mixture']) == ('nlp', 'flipped_nlp_eval')
  assert list(results['tasks']) == ['super_glue/cb']
  task = results['tasks']['super_glue/cb']
  assert (task['metric'], task['cluster']) == (
      'macro-F1', 'natural language inference'
  )
  assert task['scores']['file'] == 'results_nlp/super_glue_cb.parquet'
  assert task['encoder_passes'] < task['candidates']
  assert (
      f'{task["encoder_passes"]:,} encoder passes instead of'
      f' {task["candidates"]:,}'
  ) in captured.out
  missing = results['missing']
  assert 'super_glue/rte' in missing and 'super_glue/cb' not in missing
  for name, why in missing.items():
    assert re.fullmatch(f"{name}: no source has the split '[a-z]+'", why)
    assert f'left out: {name}: no source has' in captured.err
  last = results['groups'][-1]
  assert 'super_glue/rte' in last['missing']
  assert last['tasks'] == ['super_glue/cb']


def test_suite_without_any_data(run, capsys):
  assert main.main(['eval', str(run), '--suite', 'bigbench']) == 1
  assert 'bigbench/winowhy: no source has' in capsys.readouterr().err
  assert not (run / 'results_bigbench.json').exists()


def unlabelled(folder, label):
  """Rows of hellaswag as the hub's test split has them."""
  path = demo_data.local_file(folder, 'hellaswag', 'test')
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(
      json.dumps({
          'activity_label': 'Cooking', 'ctx': f'A cook opens jar {i}. he',
          'ctx_a': f'A cook opens jar {i}.', 'ctx_b': 'he',
          'endings': ['smells it.', 'flies away.', 'sings.', 'sleeps.'],
          'label': label,
      }) + '\n' for i in range(3)
  ))


def test_split_without_labels(folder, run, capsys):
  unlabelled(folder, '')
  argv = ['--mixture', 'hellaswag', '--split', 'test']
  error = fails(capsys, 'eval', run, *argv)
  assert error.startswith(
      "flipped-t5x: hellaswag: no row of the split 'test' has a label: the"
      " field 'label' is empty, null or -1"
  )
  assert not (run / 'results_hellaswag.json').exists()
  assert main.main([
      'eval', str(run), '--mixture', 'hellaswag,tiny_mood', '--split', 'test',
      '--skip_missing', '--limit', '3',
  ]) == 0
  path = run / 'results_hellaswag,tiny_mood.json'
  results = json.loads(path.read_text())
  path.unlink()
  assert list(results['tasks']) == ['tiny_mood']
  assert 'has a label' in results['missing']['hellaswag']


@pytest.mark.slow
def test_suite_seen_is_the_runs_own_mixture(run, capsys):
  for argv in (['--suite', 'seen'], ['--mixture', demo_data.MIXTURE], []):
    assert main.main(['eval', str(run), '--limit', '5', *argv]) == 0
    results = (run / 'results.json').read_text()
    assert json.loads(results)['suite'] == 'seen'
    assert json.loads(results)['mixture'] == demo_data.MIXTURE
    (run / 'results.json').unlink()
  assert len(json.loads(results)['groups']) > 1


def test_wrong_method(run, capsys):
  error = fails(capsys, 'eval', run, '--method', 'channel')
  assert 'trained with the method flipped, not channel' in error
  error = fails(capsys, 'eval', run, '--mixture', 'direct_nlp_eval')
  assert 'direct_nlp_eval is of the method direct' in error
  assert f'{run} of flipped' in error


def test_model_that_records_no_method(model, tmp_path, capsys):
  (tmp_path / 'hf').mkdir()
  hf_checkpoints.write(
      tmp_path / 'hf', demo_data.NETWORK, tensors.from_arrays(model.params),
      demo_data.vocabulary(),
  )
  argv = ['eval', str(tmp_path / 'hf'), '--limit', '5']
  error = fails(capsys, *argv)
  assert 'does not record what it was trained on: give --suite or' in error
  assert '--mixture' in error
  assert main.main(
      [*argv, '--method', 'channel', '--mixture', 'tiny_mood']
  ) == 0
  results = json.loads((tmp_path / 'hf/results_tiny_mood.json').read_text())
  assert (results['format'], results['suite']) == ('channel', None)
  # The encoder reads the label words: as many as there are of 3 templates.
  assert results['tasks']['tiny_mood']['encoder_passes'] == 6
  assert results['tasks']['tiny_mood']['candidates'] == 30


@pytest.mark.parametrize('argv, message', (
    (['owner/name', '--suite', 'nlp'], 'owner/name is not .*--output FILE'),
    (['run', '--output', 'none/x.json'], 'none/x.json: the folder .* does not'),
    (['run', '--output', 'results'], 'must end in .json'),
    (['run', '--checkpoint', 'run'], 'one checkpoint is needed'),
    ([], 'one checkpoint is needed: flipped-t5x eval CHECKPOINT'),
    (['run', '--limit', '0'], '--limit is 0; at least 1'),
    (['run', '--batch_size', '0'], '--batch_size is 0; at least 1'),
    (['run', '--mixture', 'flipped_nlp_evl'], "nearest: .*'flipped_nlp_eval'"),
))
def test_wrong_flags(argv, message, run, capsys, monkeypatch):
  monkeypatch.chdir(run.parent)
  assert re.search(message, fails(capsys, 'eval', *argv))


@pytest.mark.parametrize('argv, message', (
    (['--suite', 'nlp', '--mixture', 'x'], 'not allowed with argument --suite'),
    (['--suite', 'nlpp'], "invalid choice: 'nlpp'"),
    (['--method', 'flip'], "invalid choice: 'flip'"),
))
def test_flags_that_argparse_refuses(argv, message, capsys):
  with pytest.raises(SystemExit):
    main.main(['eval', 'run', *argv])
  assert message in capsys.readouterr().err


def test_checkpoint_of_a_run_writes_into_the_run(run, tmp_path):
  step = run / 'checkpoints' / '7'
  argv = ['eval', '--checkpoint', str(step), '--limit', '5', '--mixture']
  assert main.main([*argv, 'tiny_mood']) == 0
  results = json.loads((run / 'results_tiny_mood.json').read_text())
  assert results['checkpoint']['path'] == str(step)
  assert (run / 'results_tiny_mood/tiny_mood.parquet').is_file()
