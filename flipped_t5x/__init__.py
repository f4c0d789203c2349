"""Flipped learning in JAX: guess the instruction, rank the labels."""

import importlib
from typing import Any

__version__ = '0.1.0'

_LAZY = {'load': 'flipped_t5x.inference.model'}


def __getattr__(name: str) -> Any:
  """`load`, at first use: JAX takes most of a second to import."""
  if name in _LAZY:
    return getattr(importlib.import_module(_LAZY[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted([*globals(), *_LAZY])
