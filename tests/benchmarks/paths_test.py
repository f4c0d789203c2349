"""`~` is the home folder in the flags of the benchmarks, too."""

import argparse
import importlib
import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'benchmarks'
SIDES = ('data', 'vocabulary', 'json')
# Script -> its flags that are paths, and what comes before them.
PATHS = {
    'encode_once': SIDES,
    'rank_step': SIDES,
    'train_step': SIDES,
    'numerics': SIDES,
    'packing': SIDES,
    'pipeline': ('vocabulary', 'json'),
    'int8 memory': ('folder', 'json'),
    'int8 compare': ('json',),
    'what_fits': ('file',),
    'few_rows': ('output',),
    'start --model x': ('beside', 'json'),
}


class Parsed(Exception):
  """What a script was to do; it does not get to it."""


@pytest.fixture
def parse(monkeypatch):
  """(script and command, words) -> the flags that the script reads."""
  monkeypatch.syspath_prepend(str(FOLDER))
  read = argparse.ArgumentParser.parse_args

  def parse_args(self, args=None, namespace=None):
    raise Parsed(read(self, args, namespace))

  def run(command, *words):
    script, *before = command.split()
    module = importlib.import_module(script)
    with monkeypatch.context() as patch:
      patch.setattr(sys, 'argv', [script, *before, *words])
      patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
      with pytest.raises(Parsed) as e:
        module.main()
    return e.value.args[0]

  return run


@pytest.mark.torch
@pytest.mark.parametrize('command', PATHS)
def test_home_folder(command, parse, monkeypatch, tmp_path, capsys):
  if command == 'pipeline':
    pytest.importorskip('promptsource.templates')
  monkeypatch.setenv('HOME', str(tmp_path))
  for flag in PATHS[command]:
    before = '' if flag == 'file' else f'--{flag}='
    found = vars(parse(command, f'{before}~/none/x'))
    assert found[flag] == tmp_path / 'none/x'
    # There is no other path among its flags.
    paths = {k for k, v in found.items() if isinstance(v, pathlib.Path)}
    assert paths == {flag}
    with pytest.raises(SystemExit):
      parse(command, f'{before}gs://bucket/x')
    assert 'gs://bucket/x is not on this machine' in capsys.readouterr().err
