"""Files of `torch.save`: made by hand, made by PyTorch, damaged, malicious."""

import os
import pathlib
import pickle
import random
import tracemalloc
import zipfile

from flipped_t5x import errors
from flipped_t5x.weights import torch_files
import ml_dtypes
import numpy as np
import pytest

# What a file of PyTorch before 1.6 begins with, and its version.
BEFORE_1_6 = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
VALUES = {
    'Float': np.arange(24, dtype=np.float32) / 7,
    'Half': np.arange(24).astype(np.float16) / 7,
    'BFloat16': (np.arange(24) / 7).astype(ml_dtypes.bfloat16),
    'Double': np.arange(24) / 7,
    'Long': np.arange(24),
}


def plain(value):
  """Opcodes that make a value of Python's own types."""
  return pickle.dumps(value, 2)[2:-1]


def named(module, name):
  return f'c{module}\n{name}\n'.encode()


def call(function, *args):
  return function + b'(' + b''.join(args) + b'tR'


HOOKS = call(named('collections', 'OrderedDict'))


def tensor(kind, shape, stride=None, offset=0, key='0', size=24):
  """Opcodes that make a tensor of a storage of `VALUES[kind]`.

  Args:
    kind: see `VALUES`.
    shape: its shape.
    stride: None for rows one after the other.
    offset: of the first value in the storage.
    key: the storage's.
    size: the storage's.
  """
  if stride is None:
    stride = np.cumprod((1, *shape[:0:-1]))[::-1].tolist() if shape else ()
  storage = b''.join((
      b'(', plain('storage'), named('torch', f'{kind}Storage'),
      *map(plain, (key, 'cpu', size)), b'tQ',
  ))
  return call(
      named('torch._utils', '_rebuild_tensor_v2'), storage,
      *map(plain, (offset, tuple(shape), tuple(stride), False)), HOOKS,
  )


def mapping(entries):
  """Opcodes that make an OrderedDict."""
  return HOOKS + b'(' + b''.join(
      plain(n) + value for n, value in entries.items()) + b'u'


def zipped(path, content, storages, compression=zipfile.ZIP_STORED, **more):
  """Writes a file as PyTorch does; returns its path."""
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('model/data.pkl', b'\x80\x02' + content + b'.')
    for name, value in more.items():
      archive.writestr(f'model/{name}', value)
    for key, values in storages.items():
      archive.writestr(f'model/data/{key}', values.tobytes())
  return path


FLOATS = {'0': VALUES['Float']}


def one_tensor():
  return mapping({'a': tensor('Float', (24,))})


def assert_same(found, expected):
  assert list(found) == list(expected)
  for name, values in expected.items():
    read = found[name].read()
    assert (found[name].shape, read.shape) == (values.shape, values.shape), name
    assert found[name].dtype == read.dtype == values.dtype, name
    np.testing.assert_array_equal(read, values, name)


def test_tensors(tmp_path):
  storages = dict(zip('01234', VALUES.values(), strict=True))
  entries, expected = {}, {}
  for key, (kind, values) in enumerate(VALUES.items()):
    for name, shape, stride, offset, view in (
        ('whole', (4, 6), (6, 1), 0, values.reshape(4, 6)),
        ('transposed', (6, 4), (1, 6), 0, values.reshape(4, 6).T),
        ('rows', (2, 6), (6, 1), 12, values.reshape(4, 6)[2:]),
        ('columns', (4, 2), (6, 2), 1, values.reshape(4, 6)[:, 1:5:2]),
        ('expanded', (2, 3), (0, 1), 21, np.stack([values[21:]] * 2)),
        ('number', (), (), 23, values[23]),
        ('empty', (0, 5), (5, 1), 0, values[:0].reshape(0, 5)),
    ):
      entries[f'{kind}.{name}'] = tensor(
          kind, shape, stride, offset, str(key))
      expected[f'{kind}.{name}'] = np.asarray(view)
  path = zipped(tmp_path / 'a.bin', mapping(entries), storages)
  assert_same(torch_files.open(path), expected)


def test_what_old_and_new_versions_write(tmp_path):
  values = VALUES['Float']
  plain_tensor = tensor('Float', (4, 6))
  parameter = call(named('torch._utils', '_rebuild_parameter'), plain_tensor,
                   plain(True), HOOKS)
  old = plain_tensor.replace(b'_rebuild_tensor_v2', b'_rebuild_tensor')
  metadata = plain({'_metadata': {'': {'version': 1}}}) + b'b'
  path = zipped(
      tmp_path / 'a.bin',
      mapping({'a': plain_tensor, 'b': parameter, 'c': old}) + metadata,
      {'0': values}, byteorder=b'little', version=b'3\n',
  )
  assert_same(
      torch_files.open(path), dict.fromkeys('abc', values.reshape(4, 6))
  )


def test_values_are_read_when_asked_for(tmp_path):
  path = zipped(tmp_path / 'a.bin', one_tensor(), FLOATS)
  found = torch_files.open(str(path))
  content = path.read_bytes()
  other = -VALUES['Float']
  path.write_bytes(content.replace(VALUES['Float'].tobytes(), other.tobytes()))
  assert_same(found, {'a': other})
  path.write_bytes(content[:200])
  with pytest.raises(ValueError, match='a.bin is truncated: a goes beyond'):
    found['a'].read()


class Malicious:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def attacks(target):
  """Opcodes that would make the folder `target`."""
  path = plain(str(target))
  return {
      'mkdir': pickle.dumps(Malicious(target), 2)[2:-1],
      'protocol 4': pickle.dumps(Malicious(target), 4)[11:-1],
      'eval': call(named('builtins', 'eval'),
                   plain(f'__import__("os").mkdir({str(target)!r})')),
      'getattr': call(
          call(named('builtins', 'getattr'), named('posix', 'mkdir'),
               plain('__call__')), path),
      'through ours': b'\x80\x04' + call(
          plain('torch._utils') + plain('_rebuild_tensor_v2.__globals__')
          + b'\x93', path),
      'through theirs': b'\x80\x04' + call(
          plain('torch') + plain('os.mkdir') + b'\x93', path),
      'instance': b'(' + path + b'iposix\nmkdir\n',
      'storage of another module': call(named('os', 'FloatStorage'), path),
  }


@pytest.mark.parametrize('kind', attacks(pathlib.Path('x')))
def test_nothing_is_run(tmp_path, kind):
  target = tmp_path / 'made'
  attack = attacks(target)[kind]
  good = tensor('Float', (24,))
  for content in (
      attack, mapping({'a': attack}), mapping({'a': good, 'b': attack}),
      mapping({'a': good}) + attack + b'0',
      mapping({'a': good}) + attack + b'b',
  ):
    path = zipped(tmp_path / 'a.bin', content, FLOATS)
    with pytest.raises(ValueError, match=(
        r'a\.bin is not weights alone: it asks for [\w.]+, which weights do not'
        ' need and which may run code; nothing of it was run'
    )):
      torch_files.open(path)
    assert not target.exists()


def test_the_attacks_would_work(tmp_path):
  for kind in ('mkdir', 'eval', 'getattr', 'instance'):
    pickle.loads(b'\x80\x02' + attacks(tmp_path / kind)[kind] + b'.')
    assert (tmp_path / kind).is_dir()


def test_what_is_run_is_named(tmp_path):
  path = zipped(
      tmp_path / 'a.bin', attacks(tmp_path / 'made')['mkdir'], FLOATS
  )
  with pytest.raises(ValueError, match=f'asks for {os.mkdir.__module__}.mkdir'):
    torch_files.open(path)
  # A pickle that is in no zip is not read at all.
  for start in (b'', BEFORE_1_6):
    path.write_bytes(start + pickle.dumps(Malicious(tmp_path / 'made')))
    with pytest.raises(ValueError, match='no file of PyTorch|before 1.6'):
      torch_files.open(path)
  assert not (tmp_path / 'made').exists()


def test_the_format_before_pytorch_1_6(tmp_path):
  path = tmp_path / 'a.bin'
  path.write_bytes(BEFORE_1_6)
  with pytest.raises(ValueError, match=(
      rf'^{path} is in the format of PyTorch before 1.6, which is not read; .*'
      r'torch.load\(path, weights_only=True\).* safetensors$'
  )):
    torch_files.open(path)


def test_a_file_cannot_change_how_others_are_read(tmp_path):
  good = zipped(tmp_path / 'good.bin', one_tensor(), FLOATS)
  for name in (named('torch._utils', '_rebuild_tensor_v2'),
               named('torch', 'FloatStorage')):
    for state in ({'function': 1, 'dtype': 2}, (None, {'function': 1}),
                  (None, {'dtype': 1}), (None, {'__call__': 1})):
      bad = zipped(tmp_path / 'bad.bin', name + plain(state) + b'b', {})
      with pytest.raises(ValueError, match='bad.bin is '):
        torch_files.open(bad)
    assert_same(torch_files.open(good), {'a': VALUES['Float']})


def storage(kind='Float', key='0', size=24):
  return b''.join((
      b'(', plain('storage'), named('torch', f'{kind}Storage'),
      *map(plain, (key, 'cpu', size)), b'tQ',
  ))


@pytest.mark.parametrize('content', (
    # The tensor's offset, shape and strides; its storage's size and key.
    tensor('Float', (2,)) + b'(' + storage() + plain(10**9) + plain((24,))
    + plain((1,)) + b'tb',
    tensor('Float', (2,)) + plain((None, {'offset': 10**9})) + b'b',
    tensor('Float', (2,)) + plain({'shape': (10**9,)}) + b'b',
    call(
        named('torch._utils', '_rebuild_tensor_v2'),
        storage() + b'(' + plain('0') + b'N' + plain(10**9) + b'tb',
        *map(plain, (10**8, (2,), (1,), False)), HOOKS,
    ),
))
def test_fields_that_are_set_afterwards(tmp_path, content):
  """A pickle's BUILD: it would be read beyond what was checked."""
  path = zipped(tmp_path / 'a.bin', mapping({'a': content}), FLOATS)
  with pytest.raises(errors.UserError, match='a.bin is '):
    found = torch_files.open(path)
    found['a'].read()


@pytest.mark.parametrize('name', ('data.pkl', 'byteorder'))
def test_a_small_file_that_unpacks_to_a_large_one(tmp_path, name):
  """3 MB of zeros, compressed a thousandfold."""
  path = tmp_path / 'a.bin'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    if name != 'data.pkl':
      archive.writestr('model/data.pkl', b'\x80\x02' + one_tensor() + b'.')
    with archive.open(f'model/{name}', 'w') as file:
      for _ in range(64):
        file.write(bytes(2**20))
  tracemalloc.start()
  with pytest.raises(errors.UserError, match=f'{name} has 67,108,864 bytes'):
    torch_files.open(path)
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()


def test_an_entry_that_says_it_is_small(tmp_path):
  path = zipped(
      tmp_path / 'a.bin', one_tensor(), FLOATS, zipfile.ZIP_DEFLATED,
      byteorder=bytes(10**6),
  )
  content = path.read_bytes()
  path.write_bytes(content.replace(
      (10**6).to_bytes(4, 'little'), (6).to_bytes(4, 'little')
  ))
  with pytest.raises(errors.UserError, match='a.bin is damaged'):
    torch_files.open(path)


def test_memory_by_the_numbers_of_objects(tmp_path):
  content = mapping({'a': tensor('Float', (2,))}) + b'r\xff\xff\xff\x7f'
  with pytest.raises(errors.UserError, match='an object number 2147483647'):
    torch_files.open(zipped(tmp_path / 'a.bin', content, FLOATS))


def test_many_values_of_one(tmp_path):
  content = mapping({'a': tensor('Float', (10**9,), (0,))})
  with pytest.raises(errors.UserError, match='truncated: a goes beyond'):
    torch_files.open(zipped(tmp_path / 'a.bin', content, FLOATS))


@pytest.mark.parametrize('content, message', (
    (plain([]), 'not weights alone: it holds a list'),
    (mapping({'epoch': plain(3)}), "it holds 'epoch', a int"),
    (mapping({3: tensor('Float', (2,))}), 'it holds 3, a _View'),
    (mapping({'model': mapping({})}), "it holds 'model', a OrderedDict"),
    (mapping({'a': tensor('Float8', (2,))}), 'asks for torch.Float8Storage'),
    (mapping({'a': tensor('Float', (25,))}), 'truncated: a goes beyond'),
    (mapping({'a': tensor('Float', (5, 5), (5, 1))}), 'truncated: a goes'),
    (mapping({'a': tensor('Float', (2, 2), (23, 1))}), 'truncated: a goes'),
    (mapping({'a': tensor('Float', (1,), offset=24)}), 'truncated: a goes'),
    (mapping({'a': tensor('Float', (1,), key='5')}), 'truncated: a goes'),
    (mapping({'a': tensor('Double', (24,))}), 'truncated: a goes'),
    (mapping({'a': tensor('Float', (9,), size=7)}), 'truncated: a goes'),
    (mapping({'a': tensor('Float', (2,), offset=-1)}), 'damaged: -1 where'),
    (mapping({'a': tensor('Float', (-2,))}), 'damaged: -2 where a number'),
    (mapping({'a': tensor('Float', (2,), (-1,))}), 'damaged: -1 where'),
    (mapping({'a': tensor('Float', (2,), (1, 1))}), 'damaged: a tensor has no'),
    (mapping({'a': tensor('Float', (True,))}), 'damaged: True where a number'),
    (mapping({'a': tensor('Float', (2,), size='24')}), "damaged: '24' where"),
    (call(named('torch._utils', '_rebuild_tensor_v2'),
          *map(plain, ('no storage', 0, (2,), (1,)))), 'damaged: a tensor has'),
    (b'0', 'damaged'), (b'', 'damaged'), (named('torch', 'Tensor'), 'asks for'),
))
def test_wrong_contents(tmp_path, content, message):
  path = zipped(tmp_path / 'a.bin', content, FLOATS)
  with pytest.raises(ValueError, match=rf'a\.bin is .*{message}'):
    torch_files.open(path)


def test_truncated(tmp_path):
  path = zipped(
      tmp_path / 'a.bin',
      mapping({'a': tensor('Float', (24,)),
               'b': tensor('Half', (24,), key='1')}),
      {'0': VALUES['Float'], '1': VALUES['Half']},
  )
  content = path.read_bytes()
  for size in range(0, len(content), 3):
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match='a.bin is (truncated|damaged): .'):
      torch_files.open(path)


def test_damaged_anywhere(tmp_path):
  """Another error than ValueError, or a crash, is what must not be."""
  path = zipped(tmp_path / 'a.bin', one_tensor(), FLOATS)
  content = path.read_bytes()
  rng = random.Random(3)
  outcomes = {True: 0, False: 0}
  for _ in range(400):
    damaged = bytearray(content)
    damaged[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(damaged)
    try:
      torch_files.open(path)
      outcomes[True] += 1
    except ValueError as e:
      assert str(path) in str(e)
      outcomes[False] += 1
  assert min(outcomes.values()) > 20, outcomes


def test_other_files(tmp_path):
  path = tmp_path / 'a.bin'
  with pytest.raises(FileNotFoundError, match='a.bin'):
    torch_files.open(path)
  for content in (b'', b'version 1\noid',
                  b'PK\3\4', pickle.dumps({}), pickle.dumps({'a': 1})):
    path.write_bytes(content)
    with pytest.raises(ValueError, match='a.bin is damaged'):
      torch_files.open(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('word/document.xml', b'<xml/>')
  with pytest.raises(ValueError, match='a zip, but not one of PyTorch'):
    torch_files.open(path)
  zipped(path, one_tensor(), FLOATS, zipfile.ZIP_DEFLATED)
  with pytest.raises(ValueError, match='model/data/0 is compressed'):
    torch_files.open(path)
  zipped(path, one_tensor(), FLOATS, byteorder=b'big')
  with pytest.raises(ValueError, match='bytes are in another order'):
    torch_files.open(path)


def make_module(torch):
  """Weights of every type, shared, seen in parts, parameters and not."""
  torch.manual_seed(0)
  linear = torch.nn.Linear(5, 3)
  table = torch.randn(8, 6)
  state = linear.state_dict()
  state |= {
      'parameter': torch.nn.Parameter(torch.randn(2, 3)),
      'whole': table, 'again': table, 'part': table[2:5, 1:4],
      'turned': table.T,
      'number': torch.tensor(3.5), 'empty': torch.zeros(0, 4),
      'expanded': torch.randn(1, 4).expand(3, 4),
  } | {
      str(dtype): table.to(dtype) for dtype in (
          torch.float16, torch.bfloat16, torch.float64, torch.int64)
  }
  return state


@pytest.mark.torch
@pytest.mark.slow
def test_files_of_pytorch(tmp_path):
  import torch

  state = make_module(torch)
  path = tmp_path / 'pytorch_model.bin'
  torch.save(state, path)
  theirs = torch.load(path, weights_only=True, mmap=True)
  expected = {}
  for name, values in theirs.items():
    values = values.detach()
    if values.dtype == torch.bfloat16:
      expected[name] = values.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    else:
      expected[name] = values.numpy()
  assert_same(torch_files.open(path), expected)
  # What the message about the older format says to do.
  torch.save(state, path, _use_new_zipfile_serialization=False)
  with pytest.raises(ValueError, match='PyTorch before 1.6'):
    torch_files.open(path)
  torch.save(torch.load(path, weights_only=True), path)
  assert_same(torch_files.open(path), expected)


@pytest.mark.torch
@pytest.mark.slow
def test_what_pytorch_refuses_too(tmp_path):
  import torch

  path = tmp_path / 'a.bin'
  for content in ({'a': torch.zeros(2), 'b': Malicious(tmp_path / 'made')},
                  torch.nn.Linear(2, 2)):
    torch.save(content, path)
    with pytest.raises(pickle.UnpicklingError):
      torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match='a.bin is not weights alone'):
      torch_files.open(path)
  assert not (tmp_path / 'made').exists()
