"""Conversions between Hugging Face, T5X and this project, and back."""

import dataclasses
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x.cli import convert as command
from flipped_t5x.cli import main
from flipped_t5x.engine import checkpoints
from flipped_t5x.inference import model
from flipped_t5x.weights import convert
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import logits_check
from flipped_t5x.weights import model_files
from flipped_t5x.weights import run_config
from flipped_t5x.weights import stored_arrays
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import tensors
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

KINDS = ('hf', 'native', 't5x')


def to(kind, source, destination, **options):
  """Converts without a bar; gives the destination."""
  converted = convert.convert(
      source, destination, to=kind, progress=False, **options
  )
  assert (converted.path, converted.kind) == (destination, kind)
  return destination


def weights(path):
  """Name -> array, layers apart, as they are stored."""
  files = model_files.open(path)
  return {n: t.read() for n, t in tensors.unstacked(files.tensors).items()}


def assert_same(found, expected):
  """Names, types and every bit."""
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    assert found[name].dtype == values.dtype, name
    assert found[name].tobytes() == values.tobytes(), name


def stored(folder):
  """Name -> type, shape and bytes in the safetensors files of a folder."""
  result = {}
  for file in folder.glob('*.safetensors'):
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:start])
    del header['__metadata__']
    for name, entry in header.items():
      first, last = entry['data_offsets']
      result[name] = (
          entry['dtype'], entry['shape'], content[start + first : start + last]
      )
  return result


@pytest.fixture(scope='module', params=('float32', 'bfloat16', 'tied'))
def hf_folder(
    request, tmp_path_factory, tiny_network, make_params, tiny_vocabulary_path
):
  """A sharded folder that has nothing to do with a run."""
  network, dtype = tiny_network, request.param
  if dtype == 'tied':
    network, dtype = dataclasses.replace(
        network, logits_via_embedding=True, mlp_activations=('relu',)
    ), 'float32'
  folder = tmp_path_factory.mktemp('hf')
  hf_checkpoints.write(
      folder, network,
      {n: t.astype(dtype)
       for n, t in tensors.from_arrays(make_params(network, 5)).items()},
      tiny_vocabulary_path, max_shard_bytes=10_000,
  )
  assert len(list(folder.glob('*.safetensors'))) > 2
  return folder


@pytest.fixture(scope='module')
def models(tmp_path_factory, tiny_run):
  """The tiny run in each kind, with layers apart and stacked."""
  folder = tmp_path_factory.mktemp('models')
  return {
      (kind, scan): to(kind, tiny_run, folder / f'{kind}{scan}',
                       scan_layers=scan)
      for kind in KINDS for scan in (False, True)
      if (kind, scan) != ('hf', True)
  }


@pytest.mark.parametrize('through', (
    ('native',), ('t5x', 'native'),
))
@pytest.mark.parametrize('scan', (False, True))
def test_hugging_face_and_back(hf_folder, tmp_path, through, scan):
  """Every bit of the weights; the vocabulary; the sizes."""
  path = hf_folder
  for i, kind in enumerate(through):
    path = to(kind, path, tmp_path / str(i), scan_layers=scan)
    assert model_files.open(path).network.scan_layers == scan
    scan = not scan  # Stacked and apart in turn.
  back = to('hf', path, tmp_path / 'back')
  assert stored(back) == stored(hf_folder)
  for name in ('spiece.model', 'config.json', 'tokenizer_config.json'):
    assert (back / name).read_bytes() == (hf_folder / name).read_bytes()


@pytest.mark.parametrize('scan', (False, True))
@pytest.mark.parametrize('target', KINDS)
def test_every_direction(models, tiny_run, tmp_path, target, scan):
  expected = weights(tiny_run)
  for source in models.values():
    if target == 'hf' and scan:
      with pytest.raises(ValueError, match='leave out --scan_layers'):
        to(target, source, tmp_path / 'no', scan_layers=True)
      continue
    path = to(target, source, tmp_path / source.name, scan_layers=scan)
    files = model_files.open(path)
    assert (files.kind, files.step) == (target, 2)
    assert files.network.scan_layers == scan
    assert tensors.is_stacked(files.tensors) == scan
    assert_same(weights(path), expected)
    # What T5X and Hugging Face know nothing of.
    assert files.vocabulary.read_bytes() == (
        tiny_run / 'sentencepiece.model').read_bytes()
    assert (files.format, files.input_length, files.target_length) == (
        'flipped', 48, 32
    )
    assert files.settings == {'SEED': 0, 'CONVERTED_FROM': str(source)}
  assert not list(tmp_path.glob('*tmp*'))


def test_layers_are_as_they_were(models, tmp_path):
  for scan in (False, True):
    path = to('native', models['t5x', scan], tmp_path / str(scan))
    assert model_files.open(path).network.scan_layers == scan


def test_defaults_of_the_direction(tiny_run, hf_folder, models, tmp_path):
  for i, (source, kind) in enumerate((
      (tiny_run, 'hf'), (hf_folder, 'native'), (models['t5x', True], 'native'),
  )):
    path = tmp_path / str(i)
    assert convert.convert(source, path, progress=False).kind == kind
    assert model_files.open(path).kind == kind


def test_engine_reads_what_is_written(models, tiny_run, tiny_params):
  folder = models['native', False]
  assert {p.name for p in folder.iterdir()} == {
      'checkpoints', 'config.json', 'sentencepiece.model'
  }
  assert [p.name for p in (folder / 'checkpoints').iterdir()] == ['2']
  restored = model.load(folder).params
  jax.tree.map(np.testing.assert_array_equal, restored, tiny_params)
  queries = dict(
      input='The film was good.', instruction='Is the film good?',
      options=['yes', 'no'],
  )
  expected = model.load(tiny_run).rank(**queries)
  for path in models.values():
    ranked = model.load(path).rank(**queries)
    assert [r.option for r in ranked] == [r.option for r in expected]
    np.testing.assert_allclose(
        [r.log_prob for r in ranked], [r.log_prob for r in expected], rtol=1e-5
    )


def test_older_folders_in_the_layout_of_orbax(
    models, tiny_run, tiny_params, tmp_path
):
  """As `convert --to native` wrote them at first."""
  old = tmp_path / 'old'
  shutil.copytree(models['native', False], old)
  shutil.rmtree(old / 'checkpoints')
  with ocp.CheckpointManager(old / 'checkpoints') as manager:
    tree = {'params': tiny_params, 'step': np.int32(2)}
    manager.save(2, args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)))
  files = model_files.open(old)
  assert (files.kind, files.step) == ('native', 2)
  assert files.settings == {'SEED': 0, 'CONVERTED_FROM': str(tiny_run)}
  for path in (old, to('native', old, tmp_path / 'again', scan_layers=True)):
    assert_same(weights(path), weights(tiny_run))


def test_no_run_resumes_in_what_is_written(models, tiny_run):
  """There is no optimizer in it; a new run may start from it."""
  config = run_config.RunConfig.read(models['native', False])
  vocabulary = tiny_run / 'sentencepiece.model'
  for folder in (models['native', False], models['t5x', False]):
    with pytest.raises(
        ValueError, match=f'{folder} holds weights converted from {tiny_run},'
        f" not a run.*INITIAL_CHECKPOINT_PATH='{folder}'"
    ):
      checkpoints.prepare(folder, config, vocabulary)


@pytest.mark.parametrize('scan', (False, True))
def test_dtype(tiny_run, tmp_path, scan):
  rounded = to('t5x', tiny_run, tmp_path / 'rounded', dtype='bfloat16',
               scan_layers=scan)
  exact = weights(tiny_run)
  assert_same(
      weights(rounded),
      {n: a.astype(tensors.np.dtype('bfloat16')) for n, a in exact.items()},
  )
  # Back to more bits, nothing is lost.
  wide = weights(to('native', rounded, tmp_path / 'wide', dtype='float32'))
  assert_same(
      wide, {n: a.astype(np.float32) for n, a in weights(rounded).items()}
  )


def test_a_step_and_what_the_source_does_not_say(
    tiny_run, tiny_network, make_params, tmp_path
):
  path = to('hf', tiny_run, tmp_path / 'one', step=1, overrides={
      'format': 'direct', 'input_length': 12, 'target_length': None,
  })
  files = model_files.open(path)
  assert (files.step, files.format) == (1, 'direct')
  assert (files.input_length, files.target_length) == (12, 32)
  assert_same(weights(path), {
      name: tensor.read() for name, tensor in tensors.from_arrays(
          make_params(tiny_network, 1)
      ).items()
  })
  with pytest.raises(ValueError, match="unknown format 'other'"):
    to('hf', tiny_run, tmp_path / 'two', overrides={'format': 'other'})
  with pytest.raises(ValueError, match='target_length is 0; at least 1 is ne'):
    to('hf', tiny_run, tmp_path / 'two', overrides={'target_length': 0})


def test_existing_destination(tiny_run, tmp_path):
  """An error before anything is read: there is no such source."""
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
  for name in ('', 'file', 'link'):
    with pytest.raises(FileExistsError, match='exists; choose another dest'):
      to('hf', tmp_path / 'none', tmp_path / name)
  with pytest.raises(FileNotFoundError, match='none: no checkpoint found'):
    to('hf', tmp_path / 'none', tmp_path / 'new')
  with pytest.raises(ValueError, match='must be a local folder'):
    to('t5x', tiny_run, 'gs://bucket/run')
  assert {p.name for p in tmp_path.iterdir()} == {'file', 'link'}


def test_vocabulary(tiny_run, tiny_params, tmp_path):
  """A native folder needs one; others have what there is."""
  path = t5x_checkpoints.write(tiny_params, 4, tmp_path / 'weights')
  with pytest.raises(ValueError, match='has no vocabulary: .*--vocabulary;'):
    to('native', path, tmp_path / 'native')
  for kind in ('hf', 't5x'):
    converted = convert.convert(
        path, tmp_path / kind, to=kind, progress=False
    )
    assert '--vocabulary adds one' in converted.notes[0]
    assert model_files.open(tmp_path / kind).vocabulary is None
  folder = to('native', path, tmp_path / 'native', vocabulary=tiny_run)
  assert model_files.open(folder).vocabulary == folder / 'sentencepiece.model'


@pytest.mark.parametrize('kind', KINDS)
def test_damage_that_is_found_on_the_way_leaves_nothing(
    models, tmp_path, kind
):
  source = tmp_path / 'source'
  shutil.copytree(models['t5x', True], source)
  name = 'decoder.decoder.mlp.wo.kernel'
  (source / 'checkpoint_2' / f'target.{name}' / '0.0.0').write_bytes(b'x')
  with pytest.raises(
      ValueError, match=f'checkpoint_2: {name.replace(".", "/")} is damaged'
  ):
    to(kind, source, tmp_path / 'new' / 'deep' / 'target')
  assert [p.name for p in tmp_path.iterdir()] == ['source']


@pytest.mark.parametrize('damage, message', (
    (lambda content: content[:-1000], 'model.safetensors is damaged'),
    (lambda content: content.replace(b'"shared.weight"', b'"shares.weight"'),
     'shared.weight is missing; shares.weight is not in'),
    (lambda content: content.replace(b'[208,16]', b'[16,208]', 1),
     r'is \(16, 208\) where the network has \(208, 16\)'),
))
def test_damaged_hugging_face_folder(models, tmp_path, damage, message):
  source = tmp_path / 'source'
  shutil.copytree(models['hf', False], source)
  path = source / 'model.safetensors'
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(ValueError, match=f'{source}.*{message}'):
    to('native', source, tmp_path / 'target')
  assert [p.name for p in tmp_path.iterdir()] == ['source']


def sparse(folder, **sizes):
  """A Hugging Face folder of zeros that take no room on disk.

  Args:
    folder: where.
    **sizes: fields of `T5Config`.
  """
  network = network_lib.T5Config(**{
      'vocab_size': 208, 'emb_dim': 16, 'num_heads': 2, 'head_dim': 8,
      'num_encoder_layers': 1, 'num_decoder_layers': 1, 'mlp_dim': 24, **sizes,
  })
  small = dataclasses.replace(
      network, vocab_size=3, emb_dim=1, num_heads=1, head_dim=1, mlp_dim=1
  )
  folder.mkdir()
  hf_checkpoints.write(
      folder, small,
      tensors.from_arrays({n: np.zeros(s, np.float32)
                  for n, s in tensors.shapes(small).items()}), None,
  )
  config = json.loads((folder / 'config.json').read_text())
  config |= {'vocab_size': network.vocab_size, 'd_model': network.emb_dim,
             'num_heads': network.num_heads, 'd_kv': network.head_dim,
             'd_ff': network.mlp_dim}
  (folder / 'config.json').write_text(json.dumps(config))
  header, end = {}, 0
  shapes = tensors.shapes(network)
  for name, (hf_name, transposed) in hf_checkpoints.names(network).items():
    shape = shapes[name][::-1] if transposed else shapes[name]
    start, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
    header[hf_name] = {
        'dtype': 'F32', 'shape': list(shape), 'data_offsets': [start, end]
    }
  content = json.dumps(header).encode()
  content += b' ' * (-len(content) % 8)
  with (folder / 'model.safetensors').open('wb') as file:
    file.write(len(content).to_bytes(8, 'little') + content)
    file.truncate(8 + len(content) + end)
  return end


def test_no_room_on_disk(tiny_run, tmp_path):
  """Seen before anything is written: the weights are larger than the disk."""
  rows = 10**6
  width = shutil.disk_usage(tmp_path).free // (rows * 4) // 16 * 16 + 160
  nbytes = sparse(tmp_path / 'source', vocab_size=rows, emb_dim=width)
  needed = f'{nbytes * 1.02 / 1e9:.1f}'
  with pytest.raises(
      OSError, match=rf'{tmp_path}/target: too little room on disk: {needed} GB'
      r' are needed, [\d.]+ GB are free'
  ):
    to('native', tmp_path / 'source', tmp_path / 'target', vocabulary=tiny_run)
  assert [p.name for p in tmp_path.iterdir()] == ['source']


@pytest.fixture
def small_files():
  """No file can have more than 2,500 bytes, as if the disk were full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('kind', KINDS)
def test_a_disk_that_becomes_full(tiny_run, tmp_path, small_files, kind):
  with pytest.raises(
      OSError, match=f'^{tmp_path}/new/target could not be written, and nothing'
      r' of it is left: .*; it needs 0[.]\d+ GB$'
  ):
    to(kind, tiny_run, tmp_path / 'new' / 'target')
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize('number', (signal.SIGINT, signal.SIGTERM))
def test_interrupted(tiny_run, tmp_path, number):
  sparse(tmp_path / 'source', emb_dim=512, mlp_dim=8192, num_encoder_layers=20)
  process = subprocess.Popen(
      [sys.executable, '-m', 'flipped_t5x.cli.main', 'convert',
       tmp_path / 'source', tmp_path / 'target', '--to', 't5x', '--vocabulary',
       tiny_run], stderr=subprocess.PIPE, text=True,
      # What runs in the background of a script has it ignored.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  while not list(tmp_path.glob('target.unfinished-*/*/*')):
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(number)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert error.endswith(
      f'flipped-t5x: interrupted; {tmp_path}/target was not written\n'
  )
  assert [p.name for p in tmp_path.iterdir()] == ['source']


def start(source, target, vocabulary):
  process = subprocess.Popen([
      sys.executable, '-m', 'flipped_t5x.cli.main', 'convert', source, target,
      '--to', 't5x', '--vocabulary', vocabulary,
  ], stderr=subprocess.PIPE, text=True)
  while not list(target.parent.glob(f'{target.name}.unfinished-*/*/*')):
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.01)
  return process


@pytest.mark.slow
@pytest.mark.process
def test_two_at_once_and_what_a_killed_one_leaves(tiny_run, tmp_path):
  source, target = tmp_path / 'source', tmp_path / 'target'
  sparse(source, emb_dim=512, mlp_dim=8192, num_encoder_layers=20)
  process = start(source, target, tiny_run)
  with pytest.raises(errors.UserError, match=(
      f'^{target} is being written by process {process.pid} on .*; wait until'
      ' it is done, or choose another destination$'
  )):
    to('t5x', tiny_run, target)
  process.kill()
  process.wait()
  process.stderr.close()
  assert len(list(tmp_path.iterdir())) == 3  # With what it was writing.
  to('t5x', tiny_run, target)
  assert {p.name for p in tmp_path.iterdir()} == {'source', 'target'}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ('c[1]', 'c*', 'c?', 'c{a,b}', 'ä c'))
def test_any_name_of_the_destination(tiny_run, tmp_path, kind, name):
  folder = to(kind, tiny_run, tmp_path / name / name)
  assert_same(weights(folder), weights(tiny_run))


def test_what_is_written_is_read_before_it_counts(
    tiny_run, tmp_path, monkeypatch
):
  def write_less(folder, network, tensors, *args, **kwargs):
    write(folder, network, tensors, *args, **kwargs)
    (folder / 'model.safetensors').unlink()

  write = convert.hf_checkpoints.write
  monkeypatch.setattr(convert.hf_checkpoints, 'write', write_less)
  with pytest.raises(OSError, match='target could not be written'):
    to('hf', tiny_run, tmp_path / 'target')
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.process
def test_memory(tiny_run, tmp_path):
  """In memory is a tensor or a file of 50 MB, not all 0.76 GB."""
  nbytes = sparse(
      tmp_path / 'hf', emb_dim=512, mlp_dim=8192, num_encoder_layers=14,
  )
  assert nbytes > 0.75e9
  # Not getrusage: it begins with the peak of the process that starts this one.
  code = (
      'import pathlib, re, sys; from flipped_t5x.cli import main;'
      ' codes = [main.main(a.split()) for a in sys.argv[1:]];'
      ' status = pathlib.Path("/proc/self/status").read_text();'
      r' print(codes, re.search(r"VmHWM:\s+(\d+) kB", status)[1])'
  )
  process = subprocess.run(
      [sys.executable, '-c', code,
       f'convert hf native --vocabulary {tiny_run}',
       'convert native back --to hf --max_shard_size 50MB'],
      cwd=tmp_path, check=True, capture_output=True, text=True,
  )
  *_, last = process.stdout.splitlines()
  codes, kilobytes = last.rsplit(' ', 1)
  assert codes == '[0, 0]'
  assert int(kilobytes) * 1024 < 650e6, kilobytes


@pytest.mark.slow
def test_check(models, tiny_run, tmp_path, monkeypatch):
  converted = convert.convert(
      models['t5x', True], tmp_path / 'same', to='native', scan_layers=False,
      check=True, progress=False,
  )
  assert converted.difference == 0 and converted.largest > 1
  rounded = convert.convert(
      tiny_run, tmp_path / 'rounded', dtype='bfloat16', check=True,
      progress=False,
  )
  assert 1e-4 < rounded.difference < 0.2 * rounded.largest
  free = tmp_path / 'meminfo'
  free.write_text('MemFree: 99999999 kB\nMemAvailable:   1000 kB\n')
  monkeypatch.setattr(logits_check, '_MEMINFO', free)
  with pytest.raises(OSError, match='all weights of a model: 1.0 GB are'):
    convert.convert(tiny_run, tmp_path / 'no', check=True, progress=False)
  assert not (tmp_path / 'no').exists()


@pytest.mark.slow
def test_check_finds_what_differs(tiny_run, tmp_path, monkeypatch):
  """Here the source changes while it is converted."""
  run = tmp_path / 'run'
  shutil.copytree(tiny_run, run)
  write = convert._write

  def write_other_weights(folder, after, *args):
    scale = 'encoder/encoder_norm/scale'
    changed = dataclasses.replace(
        after.tensors[scale], read=lambda: np.full(16, 1.1, np.float32)
    )
    write(folder, dataclasses.replace(
        after, tensors={**after.tensors, scale: changed}
    ), *args)

  monkeypatch.setattr(convert, '_write', write_other_weights)
  with pytest.raises(ValueError, match='logits differ by .* after the conver'):
    to('hf', run, tmp_path / 'target', check=True)
  assert [p.name for p in tmp_path.iterdir()] == ['run']


def test_check_of_weights_that_are_not_finite(
    tiny_run, tiny_params, tmp_path
):
  params = {
      name: tensor.read().copy()
      for name, tensor in tensors.from_arrays(tiny_params).items()
  }
  params['encoder/encoder_norm/scale'][3] = np.nan
  path = t5x_checkpoints.write(params, 4, tmp_path / 'weights')
  with pytest.raises(ValueError, match='logits on random inputs are not f'):
    to('hf', path, tmp_path / 'target', check=True)
  # As they are, they can be converted.
  assert_same(weights(to('hf', path, tmp_path / 'target')), params)


def test_a_model_card_that_cannot_be_made(tiny_run, tmp_path, monkeypatch):
  """The error comes before any weight is read."""
  run = tmp_path / 'run'
  shutil.copytree(tiny_run, run)
  (run / 'results.json').write_text('{"step": 2, "tasks": {"a": {}}}')

  def read(*unused_args):
    raise AssertionError('A weight was read.')

  monkeypatch.setattr(stored_arrays, 'read', read)
  message = f'^{run}/results.json: .* is a required property'
  with pytest.raises(errors.UserError, match=message):
    to('hf', run, tmp_path / 'target', check=True)
  assert [p.name for p in tmp_path.iterdir()] == ['run']


def test_command(tiny_run, tmp_path, capsys):
  assert main.main([
      'convert', f'{tiny_run}', f'{tmp_path}/hf', '--check',
      '--max_shard_size', '10KB', '--dtype', 'bfloat16', '--step', '1',
  ]) == 0
  out, _ = capsys.readouterr()
  assert f'{tmp_path}/hf written: hf, ' in out
  assert re.search(r'largest difference of logits 0[.]\d+, largest logit', out)
  assert len(list((tmp_path / 'hf').glob('*.safetensors'))) > 2
  assert main.main([
      'convert', f'{tmp_path}/hf', f'{tmp_path}/t5x', '--to', 't5x',
      '--scan_layers', '--format', 'direct', '--input_length', '9',
  ]) == 0
  files = model_files.open(tmp_path / 't5x')
  assert (files.step, files.format, files.input_length) == (1, 'direct', 9)
  assert files.network.scan_layers
  assert main.main(['convert', 'none', f'{tmp_path}/hf']) == 1
  assert 'exists; choose another' in capsys.readouterr().err


@pytest.mark.parametrize('text, nbytes', (
    ('5GB', 5 * 10**9), ('500 mb', 5 * 10**8), ('1.5KB', 1500), ('7', 7),
))
def test_sizes_of_shards(text, nbytes):
  assert command._nbytes(text) == nbytes


@pytest.mark.parametrize('text', ('0', 'five', '5TB', '-1GB', '', '1.2.3GB'))
def test_what_is_no_size(text, capsys):
  with pytest.raises(SystemExit):
    main.main(['convert', 'a', 'b', f'--max_shard_size={text}'])
  assert 'is not a size, such as 5GB' in capsys.readouterr().err
