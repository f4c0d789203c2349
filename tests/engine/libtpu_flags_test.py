"""Tests of libtpu_flags.py."""

import os

from flipped_t5x.engine import libtpu_flags
import pytest


@pytest.mark.parametrize('before, kept', (
    (None, ''),
    ('--a=1', '--a=1'),
    ('--a=1  --fibers_default_thread_stack_size=99',
     '--a=1 --fibers_default_thread_stack_size=99'),
))
def test_flags_that_are_set_stay(monkeypatch, before, kept):
  monkeypatch.delenv('LIBTPU_INIT_ARGS', raising=False)
  if before is not None:
    monkeypatch.setenv('LIBTPU_INIT_ARGS', before)
  assert not libtpu_flags.are_set()
  libtpu_flags.set_defaults()
  assert libtpu_flags.are_set()
  once = os.environ['LIBTPU_INIT_ARGS']
  assert once.startswith(kept)
  names = [flag.split('=')[0] for flag in once.split()]
  assert len(names) == len(set(names)) == 2 + ('--a' in once)
  assert '--fibers_default_thread_stack_size' in names
  libtpu_flags.set_defaults()
  assert os.environ['LIBTPU_INIT_ARGS'] == once
