"""What the campaigns run on: small data, a run, and commands."""

import commands
import demo_data
import pytest


@pytest.fixture(scope='session')
def data(tmp_path_factory):
  """The data folder of all processes."""
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp('data')
    demo_data.install(folder, patch)
    demo_data.cache_compilations(tmp_path_factory.mktemp('compiled'), patch)
    commands.in_this_process(patch)
    yield folder


@pytest.fixture(scope='session')
def prepared(data, make_params):
  return commands.prepare(data, make_params(demo_data.NETWORK, 3))


@pytest.fixture(scope='session')
def all_commands(prepared):
  """Name -> command."""
  return prepared[0]


@pytest.fixture(scope='session')
def run(prepared):
  """A run that can be evaluated; never change it."""
  return prepared[1]


@pytest.fixture(scope='session')
def whole(data, all_commands, tmp_path_factory):
  """name -> the result of a command that nothing has stopped; cached."""
  found = {}

  def result(name):
    if name not in found:
      folder = tmp_path_factory.mktemp('whole')
      process = commands.start(data, all_commands[name].arguments(folder))
      commands.go(process)
      output = commands.finish(process)
      assert process.returncode == 0, output
      assert not commands.left_over(folder)
      found[name] = all_commands[name].result(folder)
    return found[name]

  return result
