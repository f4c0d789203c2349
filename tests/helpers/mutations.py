"""Seeded damage to files: bytes, JSON and whole folders."""

from collections.abc import Callable
import copy
import json
import pathlib
import random
from typing import Any

# What stands in the place of a value.
ODD = (
    None, True, 0, -1, 1.5, 10**400, float('nan'), float('inf'), '', 'x', '\0',
    '\ud800', [], {}, [[]], {'a': {}}, 'x' * 1000, '../../x', '1',
)


def damaged(content: bytes, rng: random.Random) -> bytes:
  """The content after an accident: cut short, overwritten, or mixed up."""
  if not content:
    return b'\xff'
  start = rng.randrange(len(content))
  end = min(start + rng.choice((1, 1, 4, 100)), len(content))
  noise = rng.randbytes(end - start)
  return rng.choice((
      content[:start],
      content[:start] + noise + content[end:],
      content[:start] + noise + content[start:],
      content[:start] + content[end:],
      content[:start] + content[start:end] * 2 + content[end:],
      content[:start] + bytes(end - start) + content[end:],
      content[:start] + bytes([content[start] ^ 1 << rng.randrange(8)])
      + content[start + 1 :],
      b'', noise,
  ))


def changed_json(value: Any, rng: random.Random) -> Any:
  """JSON with one value removed, replaced, renamed, or nested too deeply."""
  value = copy.deepcopy(value)
  places = list(_places(value))
  if not places:
    return rng.choice(ODD)
  holder, key = rng.choice(places)
  how = rng.randrange(5)
  if how == 0:
    del holder[key]
  elif how == 1 and isinstance(holder, dict):
    holder[rng.choice(('', 'other', '\0', 'x' * 300))] = holder.pop(key)
  elif how == 2 and rng.random() < 0.2:
    deep: Any = 1
    for _ in range(rng.choice((200, 400))):
      deep = [deep]
    holder[key] = deep
  else:
    holder[key] = rng.choice(ODD)
  return value


def _places(value):
  """(holder, key) of each value inside."""
  if isinstance(value, dict):
    pairs = list(value.items())
  elif isinstance(value, list):
    pairs = list(enumerate(value))
  else:
    return
  for key, inner in pairs:
    yield value, key
    yield from _places(inner)


def mutate_file(path: pathlib.Path, rng: random.Random) -> None:
  """Damages a file; JSON and JSON lines every other time in one value."""
  content = path.read_bytes()
  change: Callable[[], bytes] = lambda: damaged(content, rng)
  if rng.random() < 0.5:
    if path.suffix == '.json':
      change = lambda: json.dumps(
          changed_json(json.loads(content), rng)
      ).encode()
    elif '.jsonl' in path.name:
      change = lambda: _changed_line(content, rng)
  path.write_bytes(change())


def _changed_line(content: bytes, rng: random.Random) -> bytes:
  lines = content.splitlines(keepends=True)
  i = rng.randrange(len(lines))
  lines[i] = json.dumps(
      changed_json(json.loads(lines[i]), rng)
  ).encode() + b'\n'
  return b''.join(lines)
