"""Trains, evaluates and compares the small models of `make experiment`.

Every method, lambda and seed has its own run in OUTPUT/METHOD/SEED. Complete
runs are skipped, and interrupted runs are resumed. The settings of the runs are
in gin/experiment/; docs/experiment.md describes the experiment.

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

MIXTURE = 'experiment_all'  # Its name is FORMAT_experiment_all.


@dataclasses.dataclass(frozen=True)
class Method:
  """What the runs of one method have in common.

  Attributes:
    gin: the name of the file in gin/experiment, without its ending.
    overrides: macro -> value, overriding those in the file.
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
  """The training and evaluation of one model.

  Attributes:
    method: a key of `METHODS`.
    seed: the seed of the weights and of all draws.
    folder: the folder of the run.
    overrides: macro -> value, overriding those of the method.
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
    """All macros of the run, as its results will have them."""
    rest, overrides = cli.split_overrides(self.arguments)
    macros = gin_config.parse([rest[0].removeprefix('--gin_file=')], overrides)
    return json.loads(json.dumps(macros))

  def complete(self, settings: Mapping[str, Any]) -> bool:
    """Whether the run is trained and evaluated.

    Args:
      settings: the return value of `settings()`.

    Raises:
      UserError: the folder has results with other settings.
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
          f'{path} has other settings ({"; ".join(differences)}): remove'
          f' {self.folder}, or choose another --output'
      )
    return results['step'] == settings['TRAIN_STEPS']

  def results(self, settings: Mapping[str, Any]) -> pathlib.Path:
    """The file of results that the evaluation writes."""
    return self.folder / f'results_{settings["FORMAT"]}_{MIXTURE}.json'

  def do(self) -> int:
    """Trains and evaluates unless that is done; returns the exit status."""
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
  """Lists the runs: all methods with the first seed, then with the next.

  Args:
    output: the folder of all runs.
    methods: keys of `METHODS`.
    seeds: the seeds.
    overrides: macro -> value, overriding those of all methods.

  Raises:
    UserError: a method is unknown; the message lists the known ones.
  """
  for method in methods:
    if method not in METHODS:
      raise errors.UserError(
          f'unknown method {method!r}; known are {", ".join(METHODS)}'
      )
  return [
      TrainingRun(
          method, seed, output / method / str(seed), dict(overrides or {})
      )
      for seed in seeds for method in methods
  ]


def main(argv: Sequence[str] | None = None) -> int:
  """The command, see the module; returns the exit status."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
      '--output', type=pathlib.Path, default=pathlib.Path('output/experiment')
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument(
      '--methods', nargs='+', default=list(METHODS), choices=tuple(METHODS),
      metavar='METHOD',
      help=f'methods to run, by default all: {", ".join(METHODS)}',
  )
  parser.add_argument(
      '--tables_only', action='store_true',
      help='only write the tables, from the runs that are complete',
  )
  given, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
  if overrides:
    parser.error('--gin. flags are not allowed; edit gin/experiment instead')
  arguments = parser.parse_args(given)
  try:
    if not arguments.tables_only:
      for run in runs(arguments.output, arguments.methods, arguments.seeds):
        status = run.do()
        if status:
          return status
    # From all complete runs, not only the methods that were asked for.
    report.write(arguments.output, tuple(METHODS))
  except (errors.UserError, OSError) as e:
    print(f'experiment: {e}', file=sys.stderr)
    return 1
  return 0
