"""A stand-in for gcloud: records its calls and plays a small Cloud.

In the folder FAKE_GCLOUD: `calls.jsonl` has the arguments of each call.
`state/queued` and `state/node` hold the states of the queued resource and of
the node; without such a file it does not exist. `answers/VERB`, such as
`answers/queued-resources create`, holds one JSON object a line with `exit`,
`stdout`, `stderr` and, optionally, the new states `queued` and `node`. Each
call takes one line; null means that this script answers as the Cloud would.
ssh runs the command in bash, with `workers/N` as its home, and fails if
`workers/N/unreachable` exists.
"""

import contextlib
import fcntl
import glob
import json
import os
import signal
import sys

# It is called hundreds of times: pathlib, shutil and subprocess take longer
# to import than all else here.
FOLDER = os.environ['FAKE_GCLOUD']


def state(name, value=None):
  path = f'{FOLDER}/state/{name}'
  if value == 'ABSENT':
    if os.path.exists(path):
      os.remove(path)
  elif value:
    os.makedirs(f'{FOLDER}/state', exist_ok=True)
    with open(path, 'w') as f:
      f.write(value)
  if not os.path.exists(path):
    return None
  with open(path) as f:
    return f.read()


def next_answer(verb):
  """The next answer that a file has for this verb."""
  path = f'{FOLDER}/answers/{verb}'
  if not os.path.exists(path):
    return None
  with open(path, 'r+') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    first, _, rest = f.read().partition('\n')
    f.seek(0)
    f.truncate()
    f.write(rest)
  return json.loads(first) if first else None


def fail(message, code=1):
  sys.stderr.write(f'ERROR: (gcloud) {message}\n')
  sys.exit(code)


def describe(name):
  if not state(name):
    fail(f'NOT_FOUND: Resource {name} was not found')
  print(state(name))


def worker_home(flags):
  if state('node') != 'READY':
    fail('TPU is not in state READY')
  home = f'{FOLDER}/workers/{flags["worker"]}'
  os.makedirs(home, exist_ok=True)
  if os.path.exists(f'{home}/unreachable'):
    fail('[/usr/bin/ssh] exited with return code [255].', 255)
  return home


def power_off():
  """Ends what was started on the workers, and empties their disks."""
  import shutil

  for path in glob.glob(f'{FOLDER}/workers/*/*/output/*/pid'):
    with open(path) as f, contextlib.suppress(ProcessLookupError):
      os.killpg(int(f.read().split()[0]), signal.SIGKILL)
  shutil.rmtree(f'{FOLDER}/workers', ignore_errors=True)


def main():
  words = sys.argv[1:]
  flags = dict(
      w[2:].split('=', 1) for w in words if w.startswith('--') and '=' in w
  )
  if words[:2] != ['compute', 'tpus']:
    sys.exit(0 if words[:3] == ['storage', 'rsync', '--recursive'] else 2)
  verb = ' '.join(words[2:4])
  answer = next_answer(verb)
  if answer:
    for name in ('queued', 'node'):
      state(name, answer.get(name))
    if answer.get('node') == 'PREEMPTED':
      power_off()
    sys.stdout.write(answer.get('stdout', ''))
    sys.stderr.write(answer.get('stderr', ''))
    sys.exit(answer.get('exit', 0))
  if verb == 'queued-resources create':
    if state('queued'):
      fail('ALREADY_EXISTS: Resource already exists')
    state('queued', 'ACTIVE')
    state('node', 'READY')
  elif verb == 'queued-resources describe':
    describe('queued')
  elif verb == 'tpu-vm describe':
    describe('node')
  elif verb in ('queued-resources delete', 'tpu-vm delete'):
    if not state('queued' if verb.startswith('q') else 'node'):
      fail('NOT_FOUND: Resource was not found')
    power_off()
    state('queued', 'ABSENT')
    state('node', 'ABSENT')
  elif verb == 'tpu-vm scp':
    source, target = words[4:6]
    copy = f'{worker_home(flags)}/{target.split(":")[1]}'
    with open(source, 'rb') as f, open(copy, 'wb') as g:
      g.write(f.read())
  elif verb == 'tpu-vm ssh':
    home = worker_home(flags)
    os.chdir(home)
    os.environ.update(HOME=home, WORKER=flags['worker'])
    os.execvp('bash', ['bash', '-c', flags['command']])
  else:
    fail(f'unknown command {verb}', 2)


with open(f'{FOLDER}/calls.jsonl', 'a') as calls:
  calls.write(json.dumps(sys.argv[1:]) + '\n')
main()
