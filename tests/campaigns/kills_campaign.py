"""`kill -9` at any moment: the same command goes on, and nothing is lost."""

import random
import subprocess
import time

import commands
import pytest

NAMES = ('train', 'eval', 'convert to hf', 'convert to native',
         'convert to t5x', 'report', 'rank a table')


def run_to_the_end(data, command, folder):
  """Runs a command that may have been stopped before."""
  arguments = command.arguments(folder)
  process = commands.start(data, arguments)
  commands.go(process)
  output = commands.finish(process)
  assert process.returncode == 0, output


@pytest.fixture(scope='session')
def seconds(data, all_commands, whole, tmp_path_factory):
  """name -> how long a command takes once it is ready; cached."""
  found = {}

  def measure(name):
    if name not in found:
      whole(name)  # Everything is compiled now.
      command = all_commands[name]
      process = commands.start(
          data, command.arguments(tmp_path_factory.mktemp('timed'))
      )
      commands.go(process)
      begun = time.monotonic()
      commands.finish(process)
      found[name] = time.monotonic() - begun
    return found[name]

  return measure


@pytest.mark.parametrize('name', NAMES)
def test_killed(
    name, data, all_commands, whole, seconds, tmp_path, request, capsys
):
  command, killed = all_commands[name], 0
  number = request.config.getoption('--kills')
  for seed in range(number):
    folder = tmp_path / str(seed)
    folder.mkdir()
    process = commands.start(data, command.arguments(folder))
    commands.go(process)
    delay = random.Random(f'{name} {seed}').uniform(0, 0.95 * seconds(name))
    try:
      process.wait(delay)
    except subprocess.TimeoutExpired:
      process.kill()
      killed += 1
    process.communicate()
    done = (folder / 'converted').exists()  # It appears when it is whole.
    if command.again or not done:
      run_to_the_end(data, command, folder)
    found = command.result(folder)
    assert found.keys() == whole(name).keys(), seed
    different = [k for k, v in whole(name).items() if found[k] != v]
    assert not different, (seed, delay, different)
    if command.again or not done:
      assert not commands.left_over(folder), seed
  with capsys.disabled():
    print(f'\n{name}: {killed} of {number} killed within'
          f' {seconds(name):.1f} s')
  assert killed or number < 5
