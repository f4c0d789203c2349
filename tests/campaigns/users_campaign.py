"""Many users of a page for a minute: no error, equal answers, even memory."""

import itertools
import pathlib
import subprocess
import sys
import threading
import time
import urllib.request

from flipped_t5x.inference import model as model_lib
import pytest
import served

pytestmark = pytest.mark.serve
USERS = 50
TEXTS = [f'The film of row {i} is {word}.' for i, word in enumerate(
    ('dull', 'warm', 'good', 'awful', 'funny') * 4
)]
ASKED = 'Did the reviewer enjoy it? {{input}}'
LABELS = ('no', 'yes', 'hardly')


@pytest.fixture(name='served_model')
def fixture_served_model(request, data, run):
  """What is served: --model, or a tiny run."""
  return request.config.getoption('--model') or run


@pytest.fixture(name='page')
def fixture_page(served_model):
  """(URL, process) of a page in a process of its own."""
  port = served.free_port()
  url = f'http://127.0.0.1:{port}'
  with subprocess.Popen([
      sys.executable, '-m', 'flipped_t5x.cli.main', 'serve',
      str(served_model), '--port', str(port),
  ], stdout=subprocess.DEVNULL) as process:
    try:
      _wait_for(url, process)
      yield url, process
    finally:
      process.terminate()


def _wait_for(url, process, seconds=120):
  end = time.monotonic() + seconds
  while True:
    try:
      urllib.request.urlopen(url).close()
      return
    except OSError:
      if process.poll() is not None or time.monotonic() > end:
        raise
      time.sleep(0.5)


def memory(process) -> int:
  """KiB of a process that are in memory."""
  lines = pathlib.Path(f'/proc/{process.pid}/status').read_text().splitlines()
  return next(int(x.split()[1]) for x in lines if x.startswith('VmRSS'))


def test_users(page, served_model, request, capsys):
  import gradio_client

  url, process = page
  seconds = request.config.getoption('--seconds')
  model = model_lib.load(served_model)
  expected = {
      text: {
          r.option: pytest.approx(r.probability, abs=1e-4)
          for r in model.rank(input=text, instruction=ASKED, options=LABELS)
      } for text in TEXTS
  }
  faults, waits, ready = [], [], threading.Barrier(USERS + 1)

  def ask(user):
    try:
      client = gradio_client.Client(url, verbose=False)
      ready.wait()
      end = time.monotonic() + seconds
      for i in itertools.count(user):
        begun = time.monotonic()
        if begun > end:
          return
        text = TEXTS[i % len(TEXTS)]
        label, _, message = client.predict(
            text, ASKED, '\n'.join(LABELS), api_name='/rank'
        )
        waits.append(time.monotonic() - begun)
        found = {c['label']: c['confidence'] for c in label['confidences']}
        if found != expected[text] or message:
          faults.append((text, found, message))
    except Exception as e:  # Whatever a user sees is a fault, too.
      faults.append(e)
      ready.abort()  # Nobody waits for one who is gone.

  users = [threading.Thread(target=ask, args=(i,)) for i in range(USERS)]
  for user in users:
    user.start()
  ready.wait()
  used = [memory(process)]
  while any(user.is_alive() for user in users):
    time.sleep(seconds / 10)
    used.append(memory(process))
  assert not faults, faults[:3]
  waits.sort()
  with capsys.disabled():
    print(
        f'\n{len(waits)} answers to {USERS} users in {seconds} s; the median'
        f' waited {waits[len(waits) // 2]:.1f} s, the last {waits[-1]:.1f} s;'
        f' MiB in memory: {", ".join(str(u // 1024) for u in used)}'
    )
  assert used[-1] < 1.1 * used[len(used) // 2]
