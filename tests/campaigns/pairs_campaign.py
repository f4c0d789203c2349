"""Two at once in every place that is written: one of them, or both in turn."""

import re

import commands
import pytest

NAMES = ('train', 'eval', 'convert to hf', 'convert to native',
         'convert to t5x', 'report', 'rank a table', 'explain', 'inspect')
# What the second one may say.
REFUSED = re.compile(
    'is being written by|exists already|already exists|has appeared meanwhile'
)


@pytest.mark.parametrize('name', NAMES)
def test_two_at_once(name, data, all_commands, whole, tmp_path, request):
  command = all_commands[name]
  for number in range(request.config.getoption('--pairs')):
    folder = tmp_path / str(number)
    folder.mkdir()
    processes = [
        commands.start(data, command.arguments(folder)) for _ in range(2)
    ]
    commands.go(*processes)
    outputs = [commands.finish(process) for process in processes]
    statuses = [process.returncode for process in processes]
    assert 0 in statuses, outputs
    for status, output in zip(statuses, outputs, strict=True):
      assert status in (0, 1)
      assert not status or REFUSED.search(output), output
    found = command.result(folder)
    assert found.keys() == whole(name).keys()
    assert [k for k, v in whole(name).items() if found[k] != v] == []
    assert not commands.left_over(folder)
