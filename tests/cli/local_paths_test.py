"""`~` is the home folder wherever a path is given; buckets are refused."""

import argparse
import importlib
import pathlib
import shutil

import evaluated_runs
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import gin_config
from flipped_t5x import vocabulary_files
from flipped_t5x.cli import local_paths
from flipped_t5x.cli import main
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import sources
from flipped_t5x.weights import model_files
import pytest


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  return tmp_path


# Every flag that is a path, or may be one, with a command line in which `~` is
# tried; each ends with a message that names the path in the home folder.
QUERY = ('--input=x', '--instruction={{input}} is', '--option=a', '--option=b')
MODEL = ('--checkpoint=~/none',)
# Tried by tests of their own: of the type `local`; opened by `model_files`.
LOCAL, MODEL_FILES = 'local', 'model files'
PATHS = {
    'train': {
        'folder': ('~/none',),
        'from_': MODEL_FILES,  # It becomes INITIAL_CHECKPOINT_PATH.
        'output': LOCAL,
        'gin_file': ('--gin_file=~/none',),
    },
    'eval': {
        'checkpoint_': ('~/none',),
        'checkpoint': MODEL,
        'output': ('x', '--output=~/none/a.json'),
        'vocabulary': ('~/run', '--vocabulary=~/none'),
    },
    'convert': {
        'source': ('~/none', 'new'),
        'destination': ('x', '~/none/there'),
        'vocabulary': ('~/run', 'new', '--vocabulary=~/none'),
    },
    'report': {
        'runs': ('~/none',), 'output': ('~/results.json', '--output=~/none.txt')
    },
    'inspect': {
        'vocabulary': ('super_glue/rte', '--vocabulary=~/none'),
        'plot': ('super_glue/rte', '--plot=~/none/a.png'),
    },
    'new': {
        'table': ('~/none.csv',),
        'folder': ('x.csv', '--folder=~/none/there'),
        'vocabulary': (
            '~/t.csv', '--text=text', '--label=label', '--vocabulary=~/none'
        ),
    },
    'precompile': {
        'gin_file': ('--topology=v4:2x2x1', '--gin_file=~/none'),
        'hlo': ('--topology=v4:2x2x1', '--size=demo', '--hlo=~/none/a'),
    },
    'rank': {
        'checkpoint': (*MODEL, *QUERY),
        'vocabulary': ('--checkpoint=~/run', '--vocabulary=~/none', *QUERY),
        'jsonl': ('--checkpoint=x', '--jsonl=~/none'),
        'output_file': ('--checkpoint=x', '--output_file=~/none/a', *QUERY),
        'table': ('--checkpoint=x', '--table=~/none.csv'),
        'task': (
            '--checkpoint=x', '--table=~/t.csv', '--output_file=a.csv',
            '--task=~/none',
        ),
    },
    'guess': {
        'checkpoint': (*MODEL, '--input=x', '--output=y'),
        'vocabulary': (
            '--checkpoint=~/run', '--vocabulary=~/none', '--input=x',
            '--output=y',
        ),
        'jsonl': ('--checkpoint=x', '--jsonl=~/none'),
        'output_file': (
            '--checkpoint=x', '--output_file=~/none/a', '--input=x',
            '--output=y',
        ),
    },
    'explain': {
        'checkpoint': (*MODEL, *QUERY),
        'vocabulary': ('--checkpoint=~/run', '--vocabulary=~/none', *QUERY),
        'jsonl': ('--checkpoint=x', '--jsonl=~/none'),
        'output_file': ('--checkpoint=x', '--output_file=~/none/a', *QUERY),
        'plot': ('--checkpoint=x', '--plot=~/none/a.png', *QUERY),
    },
    'serve': {
        'checkpoint': MODEL_FILES,
        'vocabulary': MODEL_FILES,
    },
}
# All other flags.
PLAIN = set("""
  help coordinator_address num_processes process_id suite mixture method dtype
  revision limit skip_missing batch_size input_length target_length split to
  scan_layers step max_shard_size format check max_field_chars sample seed
  examples json text label labels options first_option instruction name encoding
  sheet config topology size remat_policy shard_params_over_data search
  max_compilations quick dataset template row option threshold input
  num_beams max_length model_parallel num_microbatches num_logit_chunks steps
  compilation_cache host port auth lora
""".split())
# Of `guess`, it is a label.
PLAIN_OF = {'guess': {'output'}, 'precompile': {'task'}}
CASES = [
    (command, flag) for command, flags in PATHS.items() for flag in flags
]


def parser_of(command):
  parser = argparse.ArgumentParser()
  file, _ = main.COMMANDS[command]
  importlib.import_module(f'flipped_t5x.cli.{file}').add_arguments(parser)
  return parser


@pytest.mark.parametrize('command', main.COMMANDS)
def test_all_flags_are_known(command):
  """A new flag has to be added above, to those that are paths or the others."""
  flags = {action.dest for action in parser_of(command)._actions}
  plain = flags - PATHS[command].keys()
  assert plain <= PLAIN | PLAIN_OF.get(command, set())
  assert PATHS[command].keys() <= flags


@pytest.fixture
def filled(home, tiny_run, monkeypatch, tmp_path_factory):
  """A home folder with a run, results, a table and a folder."""
  shutil.copytree(tiny_run, home / 'run')
  shutil.copy(
      evaluated_runs.write(home / 'r', evaluated_runs.TASKS, examples=False),
      home,
  )
  (home / 't.csv').write_text(
      'text,label\n' + ''.join(f'film {i},{"ab"[i % 2]}\n' for i in range(60))
  )
  (home / 'none/there').mkdir(parents=True)
  (home / 'none/there/a').touch()
  here = tmp_path_factory.mktemp('here')
  monkeypatch.chdir(here)
  yield home
  assert not list(here.iterdir())


@pytest.mark.parametrize('command, flag', CASES)
def test_home_folder(command, flag, filled, capsys):
  words = PATHS[command][flag]
  if words in (LOCAL, MODEL_FILES):
    action, = (a for a in parser_of(command)._actions if a.dest == flag)
    assert (action.type is local_paths.local) == (words == LOCAL)
    return
  if not any('there' in w or '/a' in w for w in words):
    shutil.rmtree(filled / 'none')
  if any('none/a' in w for w in words):
    shutil.rmtree(filled / 'none')
  assert main.main([command, *words]) == 1
  error = capsys.readouterr().err
  assert f'{filled}/none' in error and '~' not in error, error
  assert '[Errno' not in error and 'Traceback' not in error


def test_type_of_flags(home):
  assert local_paths.local('~/a') == home / 'a'
  message = 'gs://bucket/a.json is not on this machine: give a local path'
  with pytest.raises(argparse.ArgumentTypeError, match=message):
    local_paths.local('gs://bucket/a.json')


def test_model_files(home):
  with pytest.raises(FileNotFoundError, match=f'^{home}/none: no checkpoint'):
    model_files.open('~/none')


@pytest.mark.parametrize('variable', (
    'FLIPPED_T5X_CATALOG', 'FLIPPED_T5X_SOURCES', 'FLIPPED_T5X_VOCABULARY',
))
def test_variables(variable, home, monkeypatch):
  monkeypatch.setenv(variable, '~/none/x')
  with pytest.raises((OSError, errors.UserError), match=f'{home}/none/x'):
    catalog.catalog()
    sources.sources()
    vocabulary_files.find()


def test_gin_file(home):
  (home / 'a.gin').write_text('SEED = 3\n')
  assert gin_config.parse(['~/a.gin'], [])['SEED'] == 3


def test_vocabulary(home):
  with pytest.raises(OSError, match=str(home / 'none.model')):
    batches.open_candidates('super_glue/rte', '~/none.model', 8, 8)
  message = 'VOCABULARY: gs://b/v is not on this machine'
  with pytest.raises(errors.UserError, match=message):
    batches.open_candidates('super_glue/rte', 'gs://b/v', 8, 8)


@pytest.mark.parametrize('path', ('s3://b/run', 'hdfs://x/y', 'https://x/y'))
def test_other_schemes(path):
  message = f'^{path}: only paths on this machine and gs://... are supported$'
  with pytest.raises(errors.UserError, match=message):
    files.any_path(path)
  assert files.any_path('~/x') == pathlib.Path.home() / 'x'
