"""Tests of weights/stored_arrays.py."""

from flipped_t5x.weights import stored_arrays
import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts


def stored(folder, values):
  """An array with chunks of half of each axis, as `write` writes it."""
  store = ts.open({
      'driver': 'zarr', 'kvstore': stored_arrays.kvstore(folder),
      'dtype': values.dtype.name, 'create': True,
      'metadata': {
          'shape': list(values.shape),
          'chunks': [max(1, n // 2) for n in values.shape],
      },
  }).result()
  stored_arrays.write(store, values)
  return store


@pytest.mark.parametrize('shape', ((), (0, 3), (5,), (300, 70), (7, 3, 11)))
@pytest.mark.parametrize('dtype', (np.float32, ml_dtypes.bfloat16, np.int8))
@pytest.mark.parametrize('piece_bytes', (50, 2**20))
def test_what_is_written_is_read(
    shape, dtype, piece_bytes, monkeypatch, tmp_path
):
  monkeypatch.setattr(stored_arrays, '_PIECE_BYTES', piece_bytes)
  values = np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)
  read = stored_arrays.read(stored(tmp_path, values))
  assert read.dtype == dtype
  np.testing.assert_array_equal(read, values)


def test_a_cpu_uses_what_was_read_as_it_is(tmp_path):
  values = np.arange(35, dtype=np.float32).reshape(5, 7)
  store = stored(tmp_path, values)
  for _ in range(20):  # Any array may happen to lie where a device's may.
    read = stored_arrays.read(store)
    placed = jax.device_put(read, jax.devices('cpu')[0])
    assert placed.unsafe_buffer_pointer() == read.ctypes.data
    np.testing.assert_array_equal(placed, values)
