"""Trains and evaluates the small models of `make experiment`, then compares.

Every method, lambda and seed is a run of its own, in OUTPUT/METHOD/SEED. A run
that is complete is skipped, and one that was stopped is resumed. What a run is,
is in `gin/experiment/`; what it is compared by, in `experiment/report.py`; what
it is for, in `docs/experiment.md`.

Example:
  python -m flipped_t5x.experiment --seeds 0 --methods flipped direct
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import gin_config
from flipped_t5x.cli import main as cli
from flipped_t5x.experiment import report

MIXTURE = 'experiment_all'  # With the format before it.


@dataclasses.dataclass(frozen=True)
class Method:
  """What the runs of one method have in common.

  Attributes:
    gin: name of the file in `gin/experiment`.
    overrides: macro -> value, over those of the file.
  """

  gin: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# In the order of the tables.
METHODS = {
    'flipped': Method('flipped'),
    'no_unlikelihood': Method('no_unlikelihood'),
    'direct': Method('direct'),
    'direct_unlikelihood': Method('direct_unlikelihood'),
    'channel': Method('channel'),
    # Lambda is 3 in `flipped`, and 0 in `no_unlikelihood`.
    'flipped_lambda_1': Method('flipped', {'LAMBDA': 1.0}),
    'flipped_lambda_10': Method('flipped', {'LAMBDA': 10.0}),
}


@dataclasses.dataclass(frozen=True)
class TrainingRun:
  """One model.

  Attributes:
    method: a name in `METHODS`.
    seed: the seed of its weights and of all draws.
    folder: where it is trained and evaluated.
    overrides: macro -> value, over those of the method.
  """

  method: str
  seed: int
  folder: pathlib.Path
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def arguments(self) -> list[str]:
    """The arguments of `flipped-t5x train`."""
    method = METHODS[self.method]
    macros = {
        **method.overrides, **self.overrides, 'SEED': self.seed,
        'MODEL_DIR': str(self.folder),
    }
    return [
        f'--gin_file=experiment/{method.gin}.gin',
        *(f'--gin.{name}={value!r}' for name, value in macros.items()),
    ]

  def settings(self) -> dict[str, Any]:
    """All macros, as the run will have them."""
    rest, overrides = cli.split_overrides(self.arguments)
    macros = gin_config.parse([rest[0].removeprefix('--gin_file=')], overrides)
    return json.loads(json.dumps(macros))  # As results have them.

  def complete(self, settings: Mapping[str, Any]) -> bool:
    """Whether it is trained and evaluated.

    Args:
      settings: what `settings()` gave.

    Raises:
      UserError: the folder has results of other settings.
    """
    path = self.results(settings)
    if not path.is_file():
      return False
    results = files.read_json(path)
    differences = [
        f'{name} was {results["settings"].get(name)!r}, now {value!r}'
        for name, value in settings.items()
        if name != 'MODEL_DIR' and results['settings'].get(name) != value
    ]
    if differences:
      raise errors.UserError(
          f'{path} is of other settings ({"; ".join(differences)}): remove'
          f' {self.folder}, or choose another --output'
      )
    return results['step'] == settings['TRAIN_STEPS']

  def results(self, settings: Mapping[str, Any]) -> pathlib.Path:
    """The file that the evaluation writes."""
    return self.folder / f'results_{settings["FORMAT"]}_{MIXTURE}.json'

  def do(self) -> int:
    """Trains and evaluates, as far as it is not done; a shell's status."""
    settings = self.settings()
    if self.complete(settings):
      print(f'{self.folder}: complete')
      return 0
    print(f'{self.folder}: training and evaluating', flush=True)
    return cli.main(['train', *self.arguments]) or cli.main([
        'eval', '--checkpoint', str(self.folder), '--mixture',
        f'{settings["FORMAT"]}_{MIXTURE}',
    ])


def runs(
    output: pathlib.Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
) -> list[TrainingRun]:
  """The runs, seed by seed: all methods with the first seed come first.

  Raises:
    UserError: an unknown method; the message lists those there are.
  """
  for method in methods:
    if method not in METHODS:
      raise errors.UserError(f'no method {method!r}; there are {list(METHODS)}')
  return [
      TrainingRun(
          method, seed, output / method / str(seed), dict(overrides or {})
      )
      for seed in seeds for method in methods
  ]


def main(argv: Sequence[str] | None = None) -> int:
  """Does what is asked for, then writes the tables; see the module."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
      '--output', type=pathlib.Path, default=pathlib.Path('output/experiment')
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument(
      '--methods', nargs='+', default=list(METHODS), choices=tuple(METHODS),
      metavar='METHOD', help=f'some of {", ".join(METHODS)}',
  )
  parser.add_argument(
      '--tables_only', action='store_true',
      help='make the tables of what is there',
  )
  given, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
  if overrides:
    parser.error('runs are as gin/experiment says: no --gin. flags')
  arguments = parser.parse_args(given)
  try:
    if not arguments.tables_only:
      for run in runs(arguments.output, arguments.methods, arguments.seeds):
        status = run.do()
        if status:
          return status
    # Of all that is there, not only of what was asked for.
    report.write(arguments.output, tuple(METHODS))
  except (errors.UserError, OSError) as e:
    print(f'experiment: {e}', file=sys.stderr)
    return 1
  return 0
