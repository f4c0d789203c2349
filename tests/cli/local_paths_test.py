"""`~` is the home folder wherever a path is given; buckets are refused."""

import argparse
import pathlib

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import gin_config
from flipped_t5x.cli import evaluate
from flipped_t5x.cli import explain
from flipped_t5x.cli import inspect
from flipped_t5x.cli import precompile
from flipped_t5x.cli import rank
from flipped_t5x.tasks import batches
import pytest


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  return tmp_path


@pytest.mark.parametrize('command, flag, others', (
    (evaluate, '--output', ()),
    (explain, '--plot', ('--checkpoint=x',)),
    (explain, '--output_file', ('--checkpoint=x',)),
    (inspect, '--plot', ('x',)),
    (rank, '--output_file', ('--checkpoint=x',)),
), ids=lambda x: str(getattr(x, '__name__', x)))
def test_flags(home, capsys, command, flag, others):
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  arguments = parser.parse_args([*others, flag, '~/a.json'])
  assert getattr(arguments, flag[2:]) == home / 'a.json'
  with pytest.raises(SystemExit):
    parser.parse_args([*others, flag, 'gs://bucket/a.json'])
  assert (
      f'argument {flag}: gs://bucket/a.json is not on this machine: give a'
      ' local path\n'
  ) in capsys.readouterr().err


def test_hlo_of_precompile(home):
  parser = argparse.ArgumentParser()
  precompile.add_arguments(parser)
  actions = {a.dest: a for a in parser._actions}
  assert actions['hlo'].type('~/a') == home / 'a'


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
