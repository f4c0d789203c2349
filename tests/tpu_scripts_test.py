"""tpu_scripts/ against a stand-in for gcloud (`fake_gcloud.py`)."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.process
ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ROOT / 'tpu_scripts'
WHERE = ['--project=my-project', '--zone=us-central2-b']
QUOTA = {'exit': 1, 'stderr': 'RESOURCE_EXHAUSTED: Quota limit exceeded\n'}
GIN = ['--gin_file=runs/t5x_finetune.gin', "--gin.MIXTURE='a \"b\" $c'"]
REQUIRED = (
    'PROJECT', 'ZONE', 'BUCKET', 'TPU_NAME', 'ACCELERATOR_TYPE',
    'RUNTIME_VERSION', 'SPOT', 'QUEUED_RESOURCE', 'REMOTE_DIR',
)

# What a worker has instead of Python: it notes what it is asked to run.
PYTHON = """#!/bin/bash
if [[ "$1 $2" == '-m venv' ]]; then
  mkdir -p "$3/bin"
  ln -sf "$0" "$3/bin/python"
  exit
fi
printf '%s\\0' "$@" >>"$HOME/python.$$"
case "$*" in
  *t5x_main*) source "$FAKE_GCLOUD/training" ;;
  *check_devices*)
    [[ ! -e $HOME/no_tpu ]] || { echo 'JAX finds cpu'; exit 1; }
    ;;
esac
"""
# Pauses are noted; only those of less than a second are made.
SLEEP = """#!/bin/bash
[[ $1 != 0.* ]] || exec /bin/sleep "$1"
echo "$1" >>"$FAKE_GCLOUD/sleeps"
"""


def executable(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


class Cloud:
  """A checkout with settings, and the stand-in for gcloud."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder / 'cloud'
    self.folder.mkdir()
    self.checkout = folder / 'my checkout'
    shutil.copytree(SCRIPTS, self.checkout / 'tpu_scripts')
    for name in ('setup.py', 'constraints.txt', '.gitignore'):
      shutil.copy(ROOT / name, self.checkout)
    # All that `git init` makes that git needs.
    for name in ('objects', 'refs'):
      (self.checkout / '.git' / name).mkdir(parents=True)
    (self.checkout / '.git/HEAD').write_text('ref: refs/heads/main\n')
    tools = folder / 'bin'
    executable(
        tools / 'gcloud',
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SE '
        f'{shlex.quote(str(ROOT / "tests/helpers/fake_gcloud.py"))} "$@"\n',
    )
    executable(tools / 'python3.11', PYTHON)
    executable(tools / 'sleep', SLEEP)
    executable(
        folder / 'env' / 'bin' / 'seqio_cache_tasks',
        '#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@"'
        ' >>"$FAKE_GCLOUD/cache_calls"\n',
    )
    self.environment = {
        'PATH': f'{tools}:/usr/bin:/bin',
        'HOME': str(folder),
        'FAKE_GCLOUD': str(self.folder),
        'TPU_ENV': str(folder / 'my env.sh'),
        'VIRTUAL_ENV': str(folder / 'env'),
    }
    self.settings(
        PROJECT='my-project', ZONE='us-central2-b', BUCKET='my-bucket/runs'
    )
    self.training('exec /bin/sleep 60')

  def settings(self, **values: str) -> None:
    """Edits env.sh: sets the lines of some names, from the last edit on."""
    path = pathlib.Path(self.environment['TPU_ENV'])
    text = (path if path.exists() else SCRIPTS / 'env.sh').read_text()
    for name, value in values.items():
      text, count = re.subn(
          f'^{name}=.*$', lambda _, n=name, v=value: f'{n}={v}', text,
          flags=re.MULTILINE,
      )
      assert count == 1, name
    path.write_text(text)

  def training(self, code: str) -> None:
    """What `python -m flipped_t5x.t5x_main` does, in bash."""
    (self.folder / 'training').write_text(code)

  def answer(self, verb: str, *answers: dict | None) -> None:
    path = self.folder / 'answers' / verb
    path.parent.mkdir(exist_ok=True)
    path.write_text(''.join(json.dumps(a) + '\n' for a in answers))

  def state(self, state: str) -> None:
    """The states of the TPU and its request, as if it had been created."""
    (self.folder / 'state').mkdir(exist_ok=True)
    (self.folder / 'state' / 'node').write_text(state)
    (self.folder / 'state' / 'queued').write_text('ACTIVE')

  def run(self, *words: str, text: str = '', status: int = 0) -> str:
    """Runs a script (or `bash`, with `text` typed in); what it prints."""
    if words[0].endswith('.sh'):
      words = (str(self.checkout / 'tpu_scripts' / words[0]), *words[1:])
    done = subprocess.run(
        words, input=text, env=self.environment, cwd=self.checkout.parent,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8',
        timeout=60, check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout

  def ready(self) -> None:
    """A TPU whose workers have the checkout and its environment."""
    self.state('READY')
    for worker in range(4):
      home = self.home(worker)
      shutil.copytree(SCRIPTS, home / 'flipped_t5x/tpu_scripts')
      python = home / 'flipped_t5x/.venv/bin/python'
      executable(python, PYTHON)

  def home(self, worker: int) -> pathlib.Path:
    return self.folder / 'workers' / str(worker)

  def calls(self) -> list[list[str]]:
    path = self.folder / 'calls.jsonl'
    lines = path.read_text().splitlines() if path.exists() else ()
    return [json.loads(line) for line in lines]

  def verbs(self) -> list[str]:
    return [' '.join(call[2:4]) for call in self.calls()]

  def sleeps(self) -> list[int]:
    path = self.folder / 'sleeps'
    return [int(s) for s in path.read_text().split()] if path.exists() else []

  def python(self, worker: int) -> list[list[str]]:
    """What Python was asked to run on a worker."""
    paths = self.home(worker).glob('python.*')
    return [p.read_text().split('\0')[:-1] for p in paths]

  def started(self, worker: int) -> list[list[str]]:
    """The same, of a run that is detached: soon, but not at once."""
    deadline = time.monotonic() + 30
    while not (ran := self.python(worker)) and time.monotonic() < deadline:
      time.sleep(0.05)
    return ran

  def pid(self, worker: int, name: str) -> int:
    path = self.home(worker) / 'flipped_t5x/output' / name / 'pid'
    return int(path.read_text().split()[0])

  def status(self, worker: int, name: str) -> str:
    return self.run(
        'on_workers.sh', f'--worker={worker}',
        'flipped_t5x/tpu_scripts/worker.sh', 'status', name,
    ).removeprefix(f'[worker {worker}] state: ').strip()


@pytest.fixture
def cloud(tmp_path):
  made = Cloud(tmp_path)
  yield made
  if any(made.folder.glob('workers/*/*/runs')):
    made.state('READY')
    made.run('gcloud', 'compute', 'tpus', 'tpu-vm', 'delete', 'flipped-3b')


def group_members(pgid: int) -> list[str]:
  """Process ids of a group, zombies left out."""
  lines = subprocess.run(
      ['ps', '-eo', 'pid=,pgid=,stat='], check=True, capture_output=True,
      encoding='utf-8',
  ).stdout.splitlines()
  rows = [line.split() for line in lines]
  return [p for p, g, s in rows if int(g) == pgid and s[0] != 'Z']


# Settings.


def test_missing_setting_is_named(cloud):
  file = pathlib.Path(cloud.environment['TPU_ENV'])
  whole = file.read_text()
  for name in REQUIRED:
    cloud.settings(**{name: ''})
    printed = cloud.run('create.sh', status=1)
    assert printed == f'create.sh: {name} is not set; edit {file}\n'
    file.write_text(whole)
  assert not cloud.calls()


def test_settings_do_not_come_from_the_environment(cloud):
  cloud.environment['ZONE'] = 'elsewhere'
  cloud.settings(ZONE='')
  assert 'ZONE is not set' in cloud.run('create.sh', status=1)


@pytest.mark.parametrize('script', [
    ('create.sh',), ('setup_vm.sh',), ('on_workers.sh', 'true'),
    ('train.sh', 'r', *GIN), ('eval.sh', 'r', *GIN), ('cache.sh', 'm'),
    ('babysit.sh', 'r', *GIN), ('logs.sh', 'r'), ('stop.sh', 'r'),
    ('delete.sh', '--yes'),
], ids=lambda words: words[0])
def test_env_sh_as_shipped_is_refused(cloud, script):
  env = cloud.checkout / 'tpu_scripts/env.sh'
  del cloud.environment['TPU_ENV']
  printed = cloud.run(*script, status=1)
  assert (
      f"PROJECT is still the placeholder 'your-project'; edit {env}" in printed
  )
  assert not cloud.calls()


@pytest.mark.parametrize('values, message', [
    ({'SPOT': 'yes'}, "SPOT must be true or false, not 'yes'"),
    ({'POLL_SECONDS': '1m'}, "POLL_SECONDS must be a whole number, not '1m'"),
    ({'ACCELERATOR_TYPE': 'v9-x'}, "ACCELERATOR_TYPE 'v9-x' is not known"),
])
def test_wrong_setting_is_named(cloud, values, message):
  cloud.settings(**values)
  assert message in cloud.run('create.sh', status=1)
  assert not cloud.calls()


def test_slice_shapes(cloud):
  expected = {
      # By TensorCores: 8 a VM; from v4 on, two are one device.
      'v3-8': '1 8', 'v3-32': '4 32', 'v4-8': '1 4', 'v4-32': '4 16',
      'v5p-8': '1 4', 'v5p-64': '8 32',
      # By chips: 4 a VM where there are several VMs.
      'v5litepod-4': '1 4', 'v5litepod-8': '1 8', 'v5litepod-16': '4 16',
      'v6e-1': '1 1', 'v6e-32': '8 32',
  }
  printed = cloud.run('bash', '-c', """
      source "$1/tpu_scripts/lib.sh"
      for ACCELERATOR_TYPE in "${@:2}"; do
        NUM_WORKERS='' NUM_DEVICES=''
        slice_shape
        echo "$NUM_WORKERS $NUM_DEVICES"
      done""", 'test', str(cloud.checkout), *expected)
  assert printed.splitlines() == list(expected.values())


def test_slice_that_is_not_known(cloud):
  cloud.settings(ACCELERATOR_TYPE='v9-4', NUM_WORKERS='2', NUM_DEVICES='6')
  assert 'is ready: 2 workers, 6 devices' in cloud.run('create.sh')


# create.sh and delete.sh.


def test_create_calls(cloud):
  cloud.settings(CREATE_FLAGS="(--service-account='a b')")
  cloud.run('create.sh')
  cloud.settings(SPOT='false', TPU_NAME='other', CREATE_FLAGS='()')
  cloud.run('create.sh', '--dry-run')
  create = [
      'compute', 'tpus', 'queued-resources', 'create', 'flipped-3b',
      '--node-id=flipped-3b', *WHERE, '--accelerator-type=v4-32',
      '--runtime-version=tpu-ubuntu2204-base', '--spot',
      '--service-account=a b',
  ]
  assert cloud.calls() == [
      create,
      ['compute', 'tpus', 'queued-resources', 'describe', 'flipped-3b', *WHERE,
       '--format=value(state.state)'],
      ['compute', 'tpus', 'tpu-vm', 'describe', 'flipped-3b', *WHERE,
       '--format=value(state)'],
  ]


def test_on_demand_has_no_spot(cloud):
  cloud.settings(SPOT='false')
  assert '--spot' not in cloud.run('create.sh', '--dry-run')


def test_quota_errors_are_tried_again_with_growing_pauses(cloud):
  cloud.settings(MAX_BACKOFF_SECONDS='100')
  cloud.answer('queued-resources create', QUOTA, QUOTA, QUOTA, None)
  printed = cloud.run('create.sh')
  assert cloud.verbs().count('queued-resources create') == 4
  assert cloud.sleeps() == [30, 60, 100]
  assert 'Quota limit exceeded' in printed
  assert 'attempt 1 of 10; next in 30 s' in printed


def test_quota_errors_end_at_last(cloud):
  cloud.settings(CREATE_ATTEMPTS='3')
  cloud.answer('queued-resources create', *[QUOTA] * 5)
  printed = cloud.run('create.sh', status=75)
  assert cloud.verbs() == ['queued-resources create'] * 3
  assert 'no quota or capacity for v4-32 in us-central2-b' in printed


def test_other_errors_are_not_tried_again(cloud):
  cloud.answer(
      'queued-resources create',
      {'exit': 1, 'stderr': 'PERMISSION_DENIED: not for you'},
  )
  assert 'PERMISSION_DENIED: not for you' in cloud.run('create.sh', status=1)
  assert cloud.verbs() == ['queued-resources create']


def test_failed_request_is_deleted_and_made_again(cloud):
  cloud.answer(
      'queued-resources describe', {'stdout': 'WAITING_FOR_RESOURCES\n'},
      {'stdout': 'FAILED\n'}, None,
  )
  cloud.run('create.sh')
  assert cloud.verbs() == [
      'queued-resources create', 'queued-resources describe',
      'queued-resources describe', 'queued-resources delete',
      'queued-resources create', 'queued-resources describe',
      'tpu-vm describe',
  ]
  assert cloud.sleeps() == [60, 30]


def test_request_that_exists_is_waited_for(cloud):
  cloud.state('READY')
  cloud.answer('queued-resources describe', {'stdout': 'PROVISIONING\n'}, None)
  assert 'exists already' in cloud.run('create.sh')
  assert cloud.verbs().count('queued-resources create') == 1


def test_gcloud_that_cannot_ask_is_no_missing_tpu(cloud):
  cloud.answer(
      'queued-resources describe', {'exit': 1, 'stderr': 'not logged in'}
  )
  assert 'not logged in' in cloud.run('create.sh', status=1)
  assert cloud.verbs() == [
      'queued-resources create', 'queued-resources describe'
  ]


def test_delete_asks(cloud):
  cloud.state('READY')
  assert 'nothing deleted' in cloud.run('delete.sh', text='n\n', status=1)
  assert 'say --yes' in cloud.run('delete.sh', status=1)
  assert not cloud.calls()
  cloud.run('delete.sh', text='y\n')
  assert cloud.calls()[0] == [
      'compute', 'tpus', 'queued-resources', 'delete', 'flipped-3b', *WHERE,
      '--force', '--quiet',
  ]


def test_delete_of_a_node_without_request(cloud):
  cloud.state('READY')
  (cloud.folder / 'state/queued').unlink()
  cloud.run('delete.sh', '--yes')
  assert cloud.verbs() == [
      'queued-resources delete', 'tpu-vm describe', 'tpu-vm delete'
  ]


def test_delete_that_fails_says_so(cloud):
  cloud.state('READY')
  cloud.answer('queued-resources delete', {'exit': 1, 'stderr': 'no rights'})
  assert 'no rights' in cloud.run('delete.sh', '--yes', status=1)


# on_workers.sh.


def test_words_arrive_as_they_are(cloud):
  cloud.state('READY')
  words = ['a  b', "it's", '$HOME', '*', '"', '\\', '', '--worker=@', '~', 'é']
  printed = cloud.run('on_workers.sh', 'printf', '<%s>\n', *words)
  for worker in range(4):
    lines = [
        line for line in printed.splitlines()
        if line.startswith(f'[worker {worker}]')
    ]
    assert lines == [f'[worker {worker}] <{w}>' for w in words]
  call = [
      'compute', 'tpus', 'tpu-vm', 'ssh', 'flipped-3b', *WHERE, '--worker=0'
  ]
  assert [c[:-1] for c in cloud.calls() if '--worker=0' in c] == [call]


def test_new_lines_arrive(cloud):
  cloud.state('READY')
  printed = cloud.run(
      'on_workers.sh', '--worker=1', 'bash', '-c', 'echo a\necho b'
  )
  assert printed == '[worker 1] a\n[worker 1] b\n'


def test_failing_worker_among_four_is_named(cloud):
  cloud.state('READY')
  printed = cloud.run(
      'on_workers.sh', 'bash', '-c', 'touch been; [[ $WORKER != 2 ]] || exit 7',
      status=1,
  )
  assert printed == 'on_workers.sh: failed on worker 2 (exit status 7)\n'
  assert all((cloud.home(w) / 'been').exists() for w in range(4))


def test_worker_that_cannot_be_reached_is_named(cloud):
  cloud.state('READY')
  cloud.home(3).mkdir(parents=True)
  (cloud.home(3) / 'unreachable').touch()
  printed = cloud.run('on_workers.sh', 'true', status=1)
  assert 'failed on worker 3 (exit status 255)' in printed


# setup_vm.sh.


def test_setup_copies_and_installs(cloud):
  cloud.state('READY')
  (cloud.checkout / 'new file').write_text('not committed')
  (cloud.checkout / 'output').mkdir()
  (cloud.checkout / 'output' / 'big').write_text('ignored by git')
  cloud.settings(REMOTE_DIR="'my code'")
  cloud.run('setup_vm.sh')
  for worker in range(4):
    code = cloud.home(worker) / 'my code'
    assert (code / 'new file').read_text() == 'not committed'
    assert not (code / 'output').exists()
    ran = cloud.python(worker)
    pip = ['-m', 'pip', '--disable-pip-version-check', 'install', '--quiet']
    assert [*pip, '-c', 'constraints.txt', '-e', '.[tpu]'] in ran
    assert [*pip, '--no-deps', '-r', '.venv/t5x_urls.txt'] in ran
    assert [
        *pip, '--no-deps', '--ignore-requires-python', 'promptsource==0.2.3'
    ] in ran
    assert [
        'tpu_scripts/check_devices.py', '--platform=tpu', '--devices=16',
        '--workers=4',
    ] in ran
  assert cloud.run('setup_vm.sh').count('installed already') == 4


def test_worker_without_a_tpu_is_named(cloud):
  cloud.state('READY')
  cloud.home(3).mkdir(parents=True)
  (cloud.home(3) / 'no_tpu').touch()
  printed = cloud.run('setup_vm.sh', status=1)
  assert '[worker 3] JAX finds cpu' in printed
  assert 'failed on worker 3 (exit status 1)' in printed


def test_setup_waits_for_ssh(cloud):
  cloud.state('READY')
  cloud.settings(ACCELERATOR_TYPE='v4-8')
  refused = {'exit': 255, 'stderr': 'Connection refused'}
  cloud.answer('tpu-vm ssh', refused, refused)
  cloud.run('setup_vm.sh')
  assert cloud.sleeps() == [30, 30]


def test_setup_clones(cloud):
  cloud.state('READY')
  git = ['git', '-C', cloud.checkout, '-c', 'user.name=a', '-c', 'user.email=b']
  subprocess.run([*git, 'add', '-A'], check=True)
  subprocess.run([*git, 'commit', '-qm', 'x'], check=True)
  subprocess.run([*git, 'branch', 'mine'], check=True)
  cloud.settings(REPOSITORY=shlex.quote(str(cloud.checkout)), REVISION='mine')
  cloud.run('setup_vm.sh')
  assert 'tpu-vm scp' not in cloud.verbs()
  assert (cloud.home(3) / 'flipped_t5x/tpu_scripts/worker.sh').exists()


# Runs: train.sh, eval.sh, logs.sh, stop.sh.


def test_train_starts_detached_on_all_workers(cloud):
  cloud.ready()
  cloud.settings(WORKER_ENV="(A='1 2')")
  cloud.training('echo "A is $A"; exec /bin/sleep 60')
  cloud.run('train.sh', 'my run', *GIN)
  for worker in range(4):
    assert cloud.status(worker, 'my run').startswith('running')
    assert cloud.started(worker) == [[
        '-m', 'flipped_t5x.t5x_main', 'train', '--gin_search_paths=gin',
        "--gin.MODEL_DIR='gs://my-bucket/runs/my run'",
        '--seqio_additional_cache_dirs=gs://my-bucket/runs/caches',
        '--alsologtostderr', *GIN,
    ]]
  printed = cloud.run('logs.sh', '--worker=2', '-n', '1', 'my run')
  assert printed == '[worker 2] A is 1 2\n'
  printed = cloud.run('train.sh', 'my run', *GIN, status=1)
  assert 'my run is running already' in printed
  assert "tpu_scripts/stop.sh 'my run'" in printed


def test_train_that_starts_on_three_of_four(cloud):
  cloud.ready()
  (cloud.home(1) / 'unreachable').touch()
  printed = cloud.run('train.sh', 'r', *GIN, status=1)
  assert 'failed on worker 1' in printed
  assert 'tpu_scripts/stop.sh r' in printed


@pytest.mark.parametrize('mode', ['eval', 'infer'])
def test_eval(cloud, mode):
  cloud.ready()
  flags = ['--infer'] if mode == 'infer' else []
  cloud.run('eval.sh', *flags, 'r', *GIN)
  assert cloud.started(3) == [[
      '-m', 'flipped_t5x.t5x_main', mode, '--gin_search_paths=gin',
      f"--gin.{mode.upper()}_OUTPUT_DIR='gs://my-bucket/runs/r/{mode}'",
      '--alsologtostderr', *GIN,
  ]]
  assert cloud.status(3, f'r.{mode}').startswith('running')


@pytest.mark.parametrize('words, message', [
    (['train.sh'], 'no RUN'),
    (['train.sh', '--gin_file=a'], 'no RUN'),
    (['train.sh', '-r', *GIN], 'unknown argument -r; see train.sh --help'),
    (['train.sh', 'a/b', *GIN], 'RUN must start with a letter'),
    (['train.sh', 'r', '--gin.SEED=1'], 'no --gin_file'),
    (['logs.sh', '-n', 'x', 'r'], "-n takes a number, not 'x'"),
    (['on_workers.sh'], 'no command'),
    (['create.sh', '--spot'], 'unknown argument --spot'),
    (['train.sh', 'r', 'more', *GIN], 'unknown argument more'),
    (['logs.sh', 'r', '-n'], '-n needs a value'),
    (['on_workers.sh', 'df', '--dry-run'], '--dry-run goes before the command'),
    (['cache.sh', 'a', 'b'], 'unknown argument b'),
    # Near misses of --dry-run, and flags that nobody knows.
    *(
        ([script, *words, flag], f'unknown argument {flag}')
        for script, *words in (
            ('create.sh',), ('setup_vm.sh',), ('delete.sh', '--yes'),
            ('train.sh', 'r', *GIN), ('eval.sh', 'r', *GIN),
            ('babysit.sh', 'r', *GIN), ('stop.sh', 'r'), ('logs.sh', 'r'),
            ('cache.sh', 'a'), ('on_workers.sh',),
        ) for flag in ('--dry_run', '--dryrun=1', '-x', '--no-such-flag')
        if (script, flag) != ('cache.sh', '--dryrun=1')
    ),
], ids=lambda x: ' '.join(x) if isinstance(x, list) else '')
def test_wrong_arguments(cloud, words, message):
  assert message in cloud.run(*words, status=1)
  assert not cloud.calls()


def test_words_after_two_hyphens_are_the_commands(cloud):
  cloud.ready()
  printed = cloud.run(
      'on_workers.sh', '--worker=0', '--', 'printf', '%s', '--dry-run'
  )
  assert '[worker 0] --dry-run' in printed


def test_flags_in_two_words(cloud):
  printed = cloud.run(
      'train.sh', '--gin_file', 'a.gin', 'r', '--dry-run', '--gin_file=b.gin'
  )
  assert '--gin_file=a.gin --gin_file=b.gin' in printed


def test_stop_ends_only_the_runs_group(cloud):
  cloud.ready()
  # Two processes in the group, and others that do the same.
  cloud.training('/bin/sleep 60 & /bin/sleep 60')
  cloud.run('train.sh', 'one', *GIN)
  cloud.run('train.sh', 'two', *GIN)
  bystander = subprocess.Popen(['/bin/sleep', '60'])
  try:
    ones = [cloud.pid(w, 'one') for w in range(4)]
    twos = [cloud.pid(w, 'two') for w in range(4)]
    assert all(len(group_members(p)) >= 3 for p in ones + twos)
    printed = cloud.run('stop.sh', 'one')
    assert printed.count('stopped one') == 4
    assert not any(group_members(p) for p in ones)
    assert all(len(group_members(p)) >= 3 for p in twos)
    assert bystander.poll() is None
    assert cloud.status(0, 'one') == 'stopped'
    assert cloud.run('stop.sh', 'one').count('one is not running') == 4
  finally:
    bystander.kill()
    bystander.wait()


def test_stop_kills_what_does_not_listen(cloud):
  cloud.ready()
  cloud.settings(STOP_SECONDS='1', ACCELERATOR_TYPE='v4-8')
  cloud.training('trap "" TERM; while true; do /bin/sleep 1; done')
  cloud.run('train.sh', 'r', *GIN)
  pid = cloud.pid(0, 'r')
  assert cloud.started(0)
  time.sleep(0.2)  # The trap is set right after.
  assert 'still there after 1 s: killed' in cloud.run('stop.sh', 'r')
  assert not group_members(pid)


def test_stop_leaves_a_process_that_got_the_number_later(cloud):
  cloud.ready()
  bystander = subprocess.Popen(['/bin/sleep', '60'], start_new_session=True)
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
    for worker in range(4):
      run = cloud.home(worker) / 'flipped_t5x/output/r'
      run.mkdir(parents=True)
      (run / 'pid').write_text(f'{bystander.pid} 1 {boot}')
    assert cloud.run('stop.sh', 'r').count('r is not running') == 4
    assert cloud.status(0, 'r') == 'lost'
    assert bystander.poll() is None
  finally:
    bystander.kill()
    bystander.wait()


@pytest.mark.parametrize('code, state', [
    ('exit 0', 'finished'), ('exit 3', 'failed, exit status 3'),
    ('kill -9 $$', 'failed, exit status 137'),
])
def test_how_a_run_ended(cloud, code, state):
  cloud.ready()
  cloud.settings(ACCELERATOR_TYPE='v4-8')
  cloud.training(code)
  cloud.run('train.sh', 'r', *GIN)
  deadline = time.monotonic() + 10
  while cloud.status(0, 'r').startswith('running'):
    assert time.monotonic() < deadline
  assert cloud.status(0, 'r') == state


def test_stale_lock_of_libtpu_is_removed_and_a_live_one_is_not(cloud, tmp_path):
  cloud.ready()
  cloud.settings(ACCELERATOR_TYPE='v4-8')
  device, lock = tmp_path / 'accel0', tmp_path / 'lock'
  cloud.environment |= {
      'LIBTPU_LOCK': str(lock), 'LIBTPU_DEVICES': f'{tmp_path}/accel*'
  }
  lock.touch()
  with device.open('w'):
    printed = cloud.run('train.sh', 'r', *GIN, status=1)
    assert f'the TPU is in use by process {os.getpid()}' in printed
    assert lock.exists()
  assert 'removing the stale' in cloud.run('train.sh', 'r', *GIN)
  assert not lock.exists()


# cache.sh.


def test_cache_on_dataflow(cloud):
  cloud.run('cache.sh', 'flipped_.*', '--max_num_workers=20')
  assert (cloud.folder / 'cache_calls').read_text().split('\0')[:-1] == [
      'seqio_cache_tasks', '--module_import=flipped_t5x.tasks',
      '--tasks=flipped_.*', '--output_cache_dir=gs://my-bucket/runs/caches',
      '--pipeline_options=--runner=DataflowRunner,--project=my-project,'
      '--region=us-central2,--temp_location=gs://my-bucket/runs/dataflow,'
      f'--setup_file={cloud.checkout}/setup.py,'
      f'--requirements_file={cloud.checkout}/tpu_scripts/'
      'dataflow_requirements.txt,--requirements_cache=skip,'
      '--max_num_workers=20',
  ]


def test_workers_of_dataflow_have_the_pinned_seqio():
  requirements = (SCRIPTS / 'dataflow_requirements.txt').read_text().split('\n')
  assert 'seqio==' in requirements[1]
  assert requirements[1] in (ROOT / 'constraints.txt').read_text().split('\n')


# babysit.sh.


def test_preemption_during_training(cloud):
  cloud.settings(POLL_SECONDS='7', ACCELERATOR_TYPE='v4-16')
  # Not there; made; seen running; preempted; made again; seen running.
  preempted = {'stdout': 'PREEMPTED\n', 'node': 'PREEMPTED',
               'queued': 'SUSPENDING'}
  cloud.answer('tpu-vm describe', None, None, None, preempted)
  # The second training ends by itself; what the first left is on the "bucket".
  cloud.training(
      '[[ ! -e $FAKE_GCLOUD/once.$WORKER ]] || exit 0\n'
      'touch "$FAKE_GCLOUD/once.$WORKER"; exec /bin/sleep 60'
  )
  printed = cloud.run('babysit.sh', 'my run', *GIN)
  assert 'the TPU is gone; new TPU 1 of at most 50' in printed
  assert 'my run has finished' in printed
  verbs = cloud.verbs()
  assert verbs.count('queued-resources create') == 2
  assert verbs.count('queued-resources delete') == 1
  starts = [
      i for i, call in enumerate(cloud.calls())
      if 'worker.sh start' in call[-1] and '--worker=0' in call
  ]
  assert len(starts) == 2
  commands = [shlex.split(cloud.calls()[i][-1]) for i in starts]
  assert commands[0] == commands[1]
  assert commands[0][-2:] == GIN
  assert "--gin.MODEL_DIR='gs://my-bucket/runs/my run'" in commands[0]
  between = verbs[starts[0]:starts[1]]
  order = [
      'queued-resources delete', 'queued-resources create', 'tpu-vm scp'
  ]
  assert [between.index(v) for v in order] == sorted(
      between.index(v) for v in order
  )
  assert set(cloud.sleeps()) == {7}


def test_preemption_during_setup(cloud):
  preempted = {'stdout': 'PREEMPTED\n', 'node': 'PREEMPTED',
               'queued': 'SUSPENDED'}
  cloud.settings(ACCELERATOR_TYPE='v4-8')
  cloud.answer('tpu-vm describe', None, None, preempted, preempted)
  cloud.answer('tpu-vm scp', {'exit': 1, 'stderr': 'connection lost'})
  cloud.training('exit 0')
  printed = cloud.run('babysit.sh', 'r', *GIN)
  assert 'connection lost' in printed
  assert 'r has finished' in printed
  assert cloud.verbs().count('queued-resources create') == 2


def test_setup_that_fails_on_a_good_tpu_is_not_repeated(cloud):
  cloud.answer('tpu-vm scp', {'exit': 1, 'stderr': 'no space left'})
  printed = cloud.run('babysit.sh', 'r', *GIN, status=1)
  assert 'setup failed on a TPU that is there' in printed
  assert cloud.verbs().count('queued-resources create') == 1


def test_new_tpus_are_bounded(cloud):
  cloud.settings(MAX_RESTARTS='2', ACCELERATOR_TYPE='v4-8')
  cloud.state('PREEMPTED')
  # Each new one is preempted as soon as it is looked at by the babysitter.
  preempted = {'stdout': 'PREEMPTED\n', 'node': 'PREEMPTED'}
  cloud.answer(
      'tpu-vm describe', None, None, None, preempted, None, None, preempted
  )
  printed = cloud.run('babysit.sh', 'r', *GIN, status=1)
  assert 'gave up after 2 new TPUs (MAX_RESTARTS' in printed
  assert cloud.verbs().count('queued-resources create') == 2


def test_crashes_are_shown_and_bounded(cloud):
  cloud.ready()
  cloud.settings(MAX_CRASHES='1', ACCELERATOR_TYPE='v4-16')
  cloud.training(
      '[[ $WORKER != 1 ]] || { echo boom; exit 1; }; exec /bin/sleep 60'
  )
  printed = cloud.run('babysit.sh', 'r', *GIN, status=1)
  assert '[worker 1] boom' in printed
  assert 'restart 1 of at most 1' in printed
  assert 'gave up after 1 restarts (MAX_CRASHES' in printed
  assert 'queued-resources delete' not in cloud.verbs()


def test_babysit_leaves_a_run_that_was_stopped(cloud):
  cloud.ready()
  cloud.run('train.sh', 'r', *GIN)
  cloud.run('stop.sh', 'r')
  printed = cloud.run('babysit.sh', 'r', *GIN, status=1)
  assert 'was stopped by stop.sh' in printed


def test_permission_error_ends_the_babysitter(cloud):
  cloud.answer(
      'queued-resources create', {'exit': 1, 'stderr': 'PERMISSION_DENIED'}
  )
  assert 'PERMISSION_DENIED' in cloud.run('babysit.sh', 'r', *GIN, status=1)


# --dry-run.


@pytest.mark.parametrize('words', [
    ('create.sh',), ('setup_vm.sh',),
    ('on_workers.sh', 'printf', '%s', "it's a $HOME"),
    ('train.sh', 'my run', *GIN), ('eval.sh', '--infer', 'my run', *GIN),
    ('logs.sh', '-n', '3', 'my run'), ('stop.sh', 'my run'),
    ('delete.sh', '--yes'), ('cache.sh', 'a,b', '--max_num_workers=3'),
], ids=' '.join)
def test_dry_run_prints_what_is_run(cloud, words):
  script, *arguments = words
  cloud.settings(SSH_FLAGS="('--ssh-flag=-o X=a b')")
  cloud.training('exit 0')

  def prepare():
    shutil.rmtree(cloud.folder / 'workers', ignore_errors=True)
    (cloud.folder / 'calls.jsonl').unlink(missing_ok=True)
    (cloud.folder / 'cache_calls').unlink(missing_ok=True)
    cloud.ready()
    for worker in range(4):
      log = cloud.home(worker) / 'flipped_t5x/output/my run/log'
      log.parent.mkdir(parents=True)
      log.touch()
    if script == 'create.sh':
      cloud.run('gcloud', 'compute', 'tpus', 'tpu-vm', 'delete', 'x')
      (cloud.folder / 'calls.jsonl').unlink()

  def made():
    cached = cloud.folder / 'cache_calls'
    # Those of several workers come in any order.
    return sorted(cloud.calls()), cached.exists() and cached.read_bytes()

  prepare()
  printed = cloud.run(script, '--dry-run', *arguments)
  if script != 'on_workers.sh':  # There it would be the command's.
    assert cloud.run(script, *arguments, '--dry-run') == printed
  assert made() == ([], False)
  # delete.sh asks for a node that is gone.
  cloud.run('bash', '-u', text=f'{printed}\ntrue\n')
  pasted = made()
  prepare()
  cloud.run(script, *arguments)
  assert made() == pasted
  assert pasted != ([], False)


def test_dry_run_of_babysit_makes_no_calls(cloud):
  printed = cloud.run('babysit.sh', '--dry-run', 'my run', *GIN)
  assert cloud.run('babysit.sh', 'my run', *GIN, '--dry-run') == printed
  assert not cloud.calls()
  assert 'queued-resources create' in printed
  train = cloud.run('train.sh', '--dry-run', 'my run', *GIN)
  assert train in printed


def test_help_and_strict_mode(cloud):
  for path in SCRIPTS.glob('*.sh'):
    text = path.read_text()
    assert 'killall' not in text
    assert not re.search(r'pkill(?! -P)', text)  # -P: children, by number
    if path.name != 'env.sh':
      assert 'set -euo pipefail' in text or '/lib.sh"' in text
    if path.name not in ('env.sh', 'lib.sh', 'worker.sh'):
      printed = cloud.run(path.name, '--help')
      assert f'tpu_scripts/{path.name} [--dry-run]' in printed
      assert 'shellcheck' not in printed


def test_shellcheck():
  if not shutil.which('shellcheck'):
    pytest.skip('shellcheck is not installed')
  scripts = sorted(p.name for p in SCRIPTS.glob('*.sh'))
  subprocess.run(['shellcheck', '-x', *scripts], cwd=SCRIPTS, check=True)
