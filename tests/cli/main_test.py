"""The commands: help, mistakes, and all of them in a row on small data."""

import json
import re

import demo_data
from flipped_t5x import errors
from flipped_t5x.cli import main
from flipped_t5x.cli import report
import pytest


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run of 3 steps."""
  folder = tmp_path_factory.mktemp('data')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.install(folder, patch)
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    gin_file = demo_data.write_gin(folder / 'run.gin', folder / 'run')
    assert main.main([
        'train', f'--gin_file={gin_file}', '--gin.TRAIN_STEPS=3',
        '--gin.LOG_PERIOD=1', '--gin.KEEP=3',
    ]) == 0
    yield folder / 'run'


def fails(capsys, *argv):
  """Runs a command that must fail by itself; returns its one line."""
  assert main.main(list(argv)) == 1
  captured = capsys.readouterr()
  assert not captured.out
  line, = captured.err.strip().splitlines()
  assert line.startswith('flipped-t5x: ')
  return line


@pytest.mark.parametrize('command', main.COMMANDS)
def test_help_has_an_example(command, capsys):
  with pytest.raises(SystemExit) as e:
    main.main([command, '--help'])
  assert e.value.code == 0
  assert f'Example:\n  flipped-t5x {command} ' in capsys.readouterr().out


def test_help_lists_all_commands(capsys):
  with pytest.raises(SystemExit):
    main.main(['--help'])
  shown = capsys.readouterr().out
  assert all(f'    {name} ' in shown for name in main.COMMANDS)
  assert 'Example: flipped-t5x train' in shown


@pytest.mark.parametrize('error, status', (
    (errors.UserError('rows.jsonl line 3: not JSON'), 1),
    (FileNotFoundError('nowhere: not found'), 1),
    (KeyboardInterrupt('stopped at step 3'), 130),
))
def test_what_a_user_can_mend_is_one_line(error, status, monkeypatch, capsys):
  monkeypatch.setattr(report.report, 'write', raising(error))
  assert main.main(['report', 'run']) == status
  assert capsys.readouterr().err == f'flipped-t5x: {error}\n'


@pytest.mark.parametrize('error', (
    KeyError('limit'), ValueError('a shape'), ImportError('a module')
))
def test_what_is_our_fault_is_a_traceback(error, monkeypatch, capsys):
  monkeypatch.setattr(report.report, 'write', raising(error))
  assert main.main(['report', 'run']) == 1
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == 'Traceback (most recent call last):'
  assert lines[-2] == f'{type(error).__name__}: {error}'
  assert 'Please report it' in lines[-1]


def raising(error):
  def write(*unused_arguments):
    raise error
  return write


def test_overrides_are_taken_out_of_the_arguments():
  rest, overrides = main.split_overrides(
      ['train', '--gin.A=1', '--gin_file=x', "--gin.b.c='d = e'"]
  )
  assert rest == ['train', '--gin_file=x']
  assert overrides == ['A = 1', "b.c = 'd = e'"]


@pytest.mark.parametrize(
    'override, message',
    (
        ('LAMDBA=0', "--gin.LAMDBA: runs/scratch.gin has no .*'LAMBDA'"),
        ('train.train.stepz=3', "'train.train' doesn't have .* 'stepz'"),
        ('nosuch.thing=3', "matching 'nosuch'"),
        ('FORMAT=flipped', '--gin.FORMAT=flipped: .*quotes'),
        ('LAMBDA=', '--gin.LAMBDA=: gin cannot read'),
        ('LAMBDA=[1', r'--gin.LAMBDA=\[1: gin cannot read'),
        ("MIXTURE='flipped_dmo'", "'flipped_dmo'; nearest: .'flipped_demo'"),
    ),
)
def test_wrong_override(override, message, capsys):
  error = fails(
      capsys, 'train', '--gin_file=runs/scratch.gin', f'--gin.{override}'
  )
  assert re.search(message, error), error


@pytest.mark.parametrize(
    'text, message',
    (
        ('X = = 3', 'line 2'),
        ('train.train.stepz = 3', "'stepz'"),
        ('import nosuchmodule', 'nosuchmodule'),
        ("include 'nosuch.gin'", 'nosuch.gin'),
    ),
)
def test_wrong_gin_file(text, message, capsys, tmp_path):
  path = tmp_path / 'mine.gin'
  path.write_text(f"include 'runs/scratch.gin'\n{text}\n")
  error = fails(capsys, 'train', f'--gin_file={path}')
  assert str(path) in error and message in error


def test_gin_file_that_is_not_there(capsys):
  assert 'runs/demoo.gin' in fails(capsys, 'train', '--gin_file=runs/demoo.gin')
  assert '--gin_file is needed' in fails(capsys, 'train')


@pytest.mark.parametrize(
    'argv, message',
    (
        (['trian'], "'trian'"),
        (
            ['train', '--gin_file=runs/scratch.gin', '--gin.LAMBDA'],
            '--gin.LAMBDA',
        ),
        (['report', 'x', '--gin.LAMBDA=1'], 'report takes no --gin. flags'),
        (['eval', '--checkpoint', 'x', '--limit', 'many'], "'many'"),
    ),
)
def test_wrong_arguments(argv, message, capsys):
  with pytest.raises(SystemExit) as e:
    main.main(argv)
  assert e.value.code == 2
  assert message in capsys.readouterr().err


def test_folders_without_a_run(capsys, tmp_path):
  folder = str(tmp_path)
  eval_error = fails(capsys, 'eval', '--checkpoint', folder)
  assert folder in eval_error and 'no checkpoint found' in eval_error
  report_error = fails(capsys, 'report', folder)
  assert folder in report_error and 'flipped-t5x eval' in report_error
  assert not list(tmp_path.iterdir())


def rank(run, options, *more, instruction='Good?', text='A warm film.'):
  return [
      'rank', '--checkpoint', str(run), '--instruction', instruction,
      '--input', text, '--options', options, *more,
  ]


@pytest.mark.parametrize('options', ('yes', 'yes,yes', 'yes,', ' a,a '))
def test_rank_with_wrong_options(options, run, capsys):
  error = fails(capsys, *rank(run, options))
  assert 'at least two' in error and str(options.split(',')[0].strip()) in error


def test_rank_without_an_instruction(run, capsys):
  error = fails(capsys, *rank(run, 'yes,no', instruction='{{input}} '))
  assert 'instruction is empty' in error


def test_step_that_is_not_there(run, capsys):
  step = run / 'checkpoints' / '2'
  assert str(step) in fails(capsys, *rank(step, 'yes,no'))


def test_eval_and_report(run, capsys):
  assert main.main([
      'eval', '--checkpoint', str(run), '--mixture', demo_data.MIXTURE,
      '--limit', '5', '--batch_size', '8',
  ]) == 0
  results = json.loads((run / 'results.json').read_text())
  assert set(results) == {
      'tasks', 'mixture', 'step', 'format', 'input_length', 'target_length',
      'network', 'settings', 'versions', 'limit', 'suite', 'split',
      'missing', 'groups', 'checkpoint',
  }
  assert (results['step'], results['limit']) == (3, 5)
  assert results['mixture'] == demo_data.MIXTURE
  assert results['network']['emb_dim'] == demo_data.NETWORK.emb_dim
  settings = results['settings']
  assert (settings['LAMBDA'], settings['KEEP']) == (3.0, 3)
  assert set(results['tasks']) == set(demo_data.ROWS)
  for name, number in (('tiny_mood', 3), ('tiny_kind', 2)):
    task = results['tasks'][name]
    assert len(task['templates']) == number
    for values in (task, *task['templates'].values()):
      assert values['examples'] == 5
      assert {
          'options', 'accuracy', 'macro_f1', 'majority_accuracy',
          'majority_macro_f1', 'random_accuracy', 'ties',
      } <= values.keys()
    assert set(task['accuracy']) == {'mean', 'median', 'std', 'low', 'high'}
    data = task['data']
    assert (data['split'], data['source']) == ('test', 'local')
    assert data['rows'] == demo_data.ROWS[name]['test']
  assert results['tasks']['tiny_kind']['random_accuracy'] == 0.25
  capsys.readouterr()

  assert main.main(['report', str(run)]) == 0
  shown = capsys.readouterr().out
  report = (run / 'report.md').read_text()
  for name, task in results['tasks'].items():
    assert name in shown
    assert f'### {name}' in report
    assert f'{task["accuracy"]["mean"]:.3f}' in report
    assert all(template in report for template in task['templates'])
  for plot in ('losses', 'probabilities', 'accuracy'):
    assert f'({plot}.png)' in report
    assert (run / f'{plot}.png').read_bytes().startswith(b'\x89PNG')
    assert (run / f'{plot}.png').stat().st_size > 10_000


def test_eval_of_another_mixture(run, capsys):
  arguments = [
      'eval', '--checkpoint', str(run), '--mixture',
      'tiny_kind,story_cloze/2016', '--input_length', '24', '--split',
      'validation',
  ]
  path = run / 'results_tiny_kind,story_cloze_2016.json'
  assert main.main(arguments) == 1
  error = capsys.readouterr().err
  assert "story_cloze/2016: no source has the split 'validation'" in error
  assert 'local (' in error and '--skip_missing' in error
  assert not path.exists()

  assert main.main([*arguments, '--skip_missing']) == 0
  assert 'left out: story_cloze/2016' in capsys.readouterr().err
  results = json.loads(path.read_text())
  assert set(results['tasks']) == {'tiny_kind'}
  assert results['input_length'] == 24 and len(results['missing']) == 1
  assert results['tasks']['tiny_kind']['examples'] == 6
  assert main.main(['report', str(path)]) == 0
  assert 'validation split' in capsys.readouterr().out
  name = 'report_tiny_kind,story_cloze_2016.md'
  assert '### tiny_kind' in (run / name).read_text()
