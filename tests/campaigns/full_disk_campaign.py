"""A real disk that fills up: one message, nothing half-written, and it goes on.

The disk is a tmpfs of limited size, which only root, or who may make namespaces
of mounts, can have; elsewhere these tests are skipped.
"""

import random
import re
import subprocess

import commands
import pytest

NAMES = ('train', 'eval', 'convert to hf', 'convert to native',
         'convert to t5x', 'report', 'rank a table', 'explain', 'inspect')
KIB = (4, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@pytest.fixture
def disk(tmp_path):
  """A folder on a disk of its own, and a function that sets its size."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  made = subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', str(folder)],
      capture_output=True, text=True, check=False,
  )
  if made.returncode:
    pytest.skip(f'no disk of limited size: {made.stderr.strip()}')

  def resize(kib):
    subprocess.run(
        ['mount', '-o', f'remount,size={kib}k', str(folder)], check=True
    )

  yield folder, resize
  subprocess.run(['umount', str(folder)], check=True)


@pytest.mark.parametrize('name', NAMES)
def test_no_room(name, data, all_commands, whole, disk, request, capsys):
  disk, resize = disk
  command, messages = all_commands[name], 0
  number = request.config.getoption('--disks')
  for kib in random.Random(name).sample(KIB, number):
    folder = disk / str(kib)
    folder.mkdir()
    arguments = command.arguments(folder)
    resize(kib)
    process = commands.start(data, arguments)
    commands.go(process)
    output = commands.finish(process)
    if process.returncode:
      messages += 1
      assert process.returncode == 1
      lines = [x for x in output.splitlines() if x.startswith('flipped-t5x: ')]
      assert len(lines) == 1, output
      assert str(disk) in lines[0], output
      assert re.search('No space left|too little room', lines[0]), output
      passing = [p for p in commands.left_over(folder) if '.progress' not in p
                 and '.parts-' not in p]
      assert not passing
      resize(64 * 1024)
      process = commands.start(data, arguments)
      commands.go(process)
      output = commands.finish(process)
      assert process.returncode == 0, output
    found = command.result(folder)
    assert found.keys() == whole(name).keys()
    assert [k for k, v in whole(name).items() if found[k] != v] == []
    resize(64 * 1024)
    subprocess.run(['rm', '-r', str(folder)], check=True)
  with capsys.disabled():
    print(f'\n{name}: {messages} disks were full')
