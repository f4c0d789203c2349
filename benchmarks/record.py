"""What a benchmark has measured so far, shown at once and kept in a file."""

import argparse
from collections.abc import Iterable, Mapping
import json
import os
import sys
import time
from typing import Any

# These change what is shown, or how much is measured, but no number.
_ANY = ('json', 'rounds', 'quick')


class Record:
  """The results of rounds, with which the same command goes on.

  Attributes:
    facts: what else was found out, name -> JSON; kept with the next round.
    rounds: for each round, what was measured -> the result.
  """

  def __init__(self, arguments: argparse.Namespace):
    """Reads the file of `--json`, if it is given and exists.

    Args:
      arguments: the benchmark's, with `json` and `rounds`.

    Raises:
      ValueError: the file is of other arguments, or no such file.
    """
    self._path = arguments.json
    self._wanted = arguments.rounds
    self._start = time.monotonic()
    self._arguments = {
        name: str(value) for name, value in vars(arguments).items()
        if name not in _ANY
    }
    self.facts: dict[str, Any] = {}
    self.rounds: list[dict[str, Any]] = []
    if self._path is not None and self._path.exists():
      self._read()

  def _read(self) -> None:
    try:
      found = json.loads(self._path.read_text())
      arguments, rounds = found.pop('arguments'), found.pop('rounds')
    except (ValueError, KeyError, TypeError, AttributeError) as e:
      raise ValueError(
          f'--json {self._path} exists and has no rounds of a benchmark: name'
          ' another file'
      ) from e
    if arguments != self._arguments:
      differ = [
          f'--{name} {arguments.get(name)}'
          for name in {**arguments, **self._arguments}
          if arguments.get(name) != self._arguments.get(name)
      ]
      raise ValueError(
          f'--json {self._path} has rounds of other settings'
          f' ({", ".join(differ)}): name another file, or remove it'
      )
    self.facts, self.rounds = found, rounds
    self.say(f'{self._path} has {len(rounds)} rounds; going on')

  def is_done(self, names: Iterable[str]) -> bool:
    """Whether all rounds have these results."""
    return all(
        self.has(number, name) for name in names
        for number in range(self._wanted)
    )

  def has(self, number: int, name: str) -> bool:
    """Whether round `number`, from 0, has a result of this name."""
    return number < len(self.rounds) and name in self.rounds[number]

  def add(self, number: int, name: str, result: Any, seconds: float) -> None:
    """Keeps a result, and says so.

    Args:
      number: the round's, from 0; it has begun, or is the next one.
      name: what was measured.
      result: JSON.
      seconds: how long it took.
    """
    if number == len(self.rounds):
      self.rounds.append({})
    self.rounds[number][name] = result
    self.say(f'round {number + 1} of {self._wanted}: {name}, {seconds:.1f} s')
    self.write(self.facts)

  def say(self, text: str) -> None:
    """Prints a line to stderr, with the time since the start."""
    passed = time.monotonic() - self._start
    print(f'[{passed:5.0f} s] {text}', file=sys.stderr, flush=True)

  def write(self, results: Mapping[str, Any]) -> None:
    """Writes results, and the rounds, to the file of `--json`."""
    if self._path is None:
      return
    unfinished = self._path.with_name(f'{self._path.name}.unfinished')
    unfinished.write_text(json.dumps(
        {**results, 'rounds': self.rounds, 'arguments': self._arguments},
        indent=2,
    ) + '\n')
    os.replace(unfinished, self._path)
