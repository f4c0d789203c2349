"""Weights of ONNX files, by values computed by hand."""

import demo_onnx
from flipped_t5x.weights import onnx_files
import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper
import pytest


@pytest.fixture
def written(tmp_path):
  def write(tensors, products=()):
    path = tmp_path / 'model.onnx'
    path.write_bytes(demo_onnx.file(tensors, dict(products)))
    return path

  return write


def read(path):
  return {n: t.read() for n, t in onnx_files.open(path).items()}


def test_scales_and_zero_points(written):
  found = read(written({
      'a.weight_quantized': np.array([[138, 139, 0], [255, 137, 140]], 'uint8'),
      'a.weight_scale': np.float32(0.5),
      'a.weight_zero_point': np.uint8(138),
      # One for each column; no zero point.
      'b.weight_quantized': np.array([[-128, 1], [127, -1]], 'int8'),
      'b.weight_scale': np.array([1, 0.25], 'float32'),
      'norm.weight': np.array([1.5, -2], 'float32'),
  }))
  assert found.keys() == {'a.weight', 'b.weight', 'norm.weight'}
  assert found['a.weight'].tolist() == [[0, 0.5, -69], [58.5, -0.5, 1]]
  assert found['b.weight'].tolist() == [[-128, 0.25], [127, -0.25]]
  assert found['norm.weight'].tolist() == [1.5, -2]
  assert {v.dtype for v in found.values()} == {np.dtype('float32')}


def test_linear_layers_are_transposed_and_named_by_their_operation(written):
  path = written(
      {
          'onnx::MatMul_7_quantized': np.array([[1, 2, 3]], 'int8'),
          'onnx::MatMul_7_scale': np.array([1, 10, 100], 'float32'),
          'onnx::MatMul_7_zero_point': np.array([0, 1, 2], 'int8'),
          'onnx::MatMul_8': np.array([[4], [5]], 'float32'),
      },
      {
          '/enc/block.0/q/MatMul_quant': 'onnx::MatMul_7_quantized',
          '/lm_head/MatMul': 'onnx::MatMul_8',
      },
  )
  assert onnx_files.open(path)['enc.block.0.q.weight'].shape == (3, 1)
  found = {n: v.tolist() for n, v in read(path).items()}
  assert found == {
      'enc.block.0.q.weight': [[1], [10], [100]], 'lm_head.weight': [[4, 5]],
  }


@pytest.mark.parametrize('tensors, message', (
    ({'onnx::MatMul_7': np.ones((1, 2), 'float32')},
     'onnx::MatMul_7 is not a weight'),
    ({'a.weight': np.ones(2, 'int64')}, 'a.weight is INT64, not a weight'),
    ({'a.weight_quantized': np.ones((2, 3), 'int8')}, 'no scale of its shape'),
    ({'a.weight_quantized': np.ones((2, 3), 'int8'),
      'a.weight_scale': np.ones(2, 'float32')}, 'no scale of its shape'),
), ids=('no operation', 'integers', 'no scale', 'scale of rows'))
def test_what_is_no_weight(written, tensors, message):
  with pytest.raises(ValueError, match=f'model.onnx: .*{message}'):
    onnx_files.open(written(tensors))


def test_damaged_or_missing(tmp_path):
  path = tmp_path / 'model.onnx'
  with pytest.raises(FileNotFoundError):
    onnx_files.open(path)
  path.write_bytes(demo_onnx.damaged())
  with pytest.raises(ValueError, match=r'model\.onnx is damaged'):
    onnx_files.open(path)


def test_values_in_another_file(tmp_path):
  tensor = numpy_helper.from_array(np.ones(2, 'float32'), 'a.weight')
  tensor.ClearField('raw_data')
  tensor.data_location = onnx.TensorProto.EXTERNAL
  tensor.external_data.add(key='location', value='/etc/hostname')
  path = tmp_path / 'model.onnx'
  path.write_bytes(helper.make_model(
      helper.make_graph([], 'main', [], [], [tensor])
  ).SerializeToString())
  with pytest.raises(ValueError, match='a.weight is in another file'):
    onnx_files.open(path)
