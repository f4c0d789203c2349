"""Trains, evaluates and compares the models of `make experiment`.

Every method and seed has its own run in OUTPUT/METHOD/SEED, and the weights
that all of them start from are evaluated in OUTPUT/start. What is complete is
skipped, and what was interrupted is resumed. The settings of the runs are in
gin/experiment/; docs/experiment.md describes the experiment.

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
from flipped_t5x import gin_config
from flipped_t5x import structure
from flipped_t5x.cli import local_paths
from flipped_t5x.cli import main as cli
from flipped_t5x.experiment import report

# In the order of the tables; each is a file in gin/experiment.
METHODS = ('flipped', 'no_unlikelihood', 'direct', 'channel')
START = 'start'
_MIXTURE = 'experiment_eval'  # Its name is FORMAT_experiment_eval.
ROWS = 60  # Of each task; what is evaluated costs as much as the training.


@dataclasses.dataclass(frozen=True)
class TrainingRun:
  """The training and evaluation of one model.

  Attributes:
    method: one of `METHODS`.
    seed: the seed of all draws.
    folder: the folder of the run.
    curve: whether earlier steps than the last are evaluated, too.
    overrides: macro -> value, overriding those of the method.
  """

  method: str
  seed: int
  folder: pathlib.Path
  curve: bool = False
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def arguments(self) -> list[str]:
    """The arguments of `flipped-t5x train`."""
    macros = {
        **self.overrides, 'SEED': self.seed, 'MODEL_DIR': str(self.folder)
    }
    return [
        f'--gin_file=experiment/{self.method}.gin',
        *(f'--gin.{name}={value!r}' for name, value in macros.items()),
    ]

  def settings(self) -> dict[str, Any]:
    """All macros of the run, as its results will have them."""
    rest, overrides = cli.split_overrides(self.arguments)
    macros = gin_config.parse([rest[0].removeprefix('--gin_file=')], overrides)
    return json.loads(json.dumps(macros))

  def results(self, settings: Mapping[str, Any]) -> pathlib.Path:
    """The file of results of the last step."""
    return self.folder / f'results_{settings["FORMAT"]}_{_MIXTURE}.json'

  def evaluations(
      self, settings: Mapping[str, Any]
  ) -> dict[pathlib.Path, list[str]]:
    """File of results -> the arguments of `flipped-t5x eval` that write it.

    Args:
      settings: the return value of `settings()`.
    """
    period, steps = settings['CHECKPOINT_PERIOD'], settings['TRAIN_STEPS']
    models = {self.results(settings): self.folder}
    for step in range(period, steps if self.curve else 0, period):
      models[self.folder / 'steps' / f'{step}.json'] = (
          self.folder / 'checkpoints' / str(step)
      )
    return {
        path: _evaluation(str(model), settings['FORMAT'], path)
        for path, model in models.items()
    }

  def check(self, settings: Mapping[str, Any]) -> None:
    """Raises UserError if the folder has results with other settings."""
    path = self.results(settings)
    if not path.is_file():
      return
    results = structure.read_results(path)
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

  def do(self) -> int:
    """Does what is not done yet; returns the exit status."""
    settings = self.settings()
    self.check(settings)
    evaluations = {
        path: arguments
        for path, arguments in self.evaluations(settings).items()
        if not path.is_file()
    }
    if not evaluations:
      print(f'{self.folder}: complete')
      return 0
    print(f'{self.folder}: training and evaluating', flush=True)
    return cli.main(['train', *self.arguments]) or _evaluate(evaluations)


def _evaluation(model: str, form: str, path: pathlib.Path) -> list[str]:
  """The arguments of `flipped-t5x eval` that write the results of a model."""
  return [
      'eval', model, '--mixture', f'{form}_{_MIXTURE}', '--limit', str(ROWS),
      '--output', str(path),
  ]


def _evaluate(evaluations: Mapping[pathlib.Path, list[str]]) -> int:
  """Evaluates, one after the other; returns the first status that is not 0."""
  for path, arguments in evaluations.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    status = cli.main(arguments)
    if status:
      return status
  return 0


def evaluate_start(output: pathlib.Path, runs_: Sequence[TrainingRun]) -> int:
  """Evaluates the weights that runs start from, in the format of each method.

  Args:
    output: the folder of all runs.
    runs_: the runs.

  Returns:
    The exit status.
  """
  evaluations = {}
  for run in runs_:
    settings = run.settings()
    form = settings['FORMAT']
    path = output / START / f'results_{form}_{_MIXTURE}.json'
    if not path.is_file():
      evaluations[path] = [
          *_evaluation(settings['INITIAL_CHECKPOINT_PATH'], form, path),
          '--method', form,
          '--input_length', str(settings['INPUT_LENGTH']),
          '--target_length', str(settings['TARGET_LENGTH']),
      ]
  return _evaluate(evaluations)


def runs(
    output: pathlib.Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
) -> list[TrainingRun]:
  """Lists the runs: all methods with the first seed, then with the next.

  The runs of the first seed are evaluated at earlier steps, too.

  Args:
    output: the folder of all runs.
    methods: some of `METHODS`.
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
          method, seed, output / method / str(seed), seed == seeds[0],
          dict(overrides or {}),
      )
      for seed in seeds for method in methods
  ]


def main(argv: Sequence[str] | None = None) -> int:
  """The command, see the module; returns the exit status."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
      '--output', type=local_paths.local,
      default=pathlib.Path('output/experiment'),
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument(
      '--methods', nargs='+', default=list(METHODS), choices=METHODS,
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
      made = runs(arguments.output, arguments.methods, arguments.seeds)
      status = evaluate_start(arguments.output, made)
      for run in made:
        status = status or run.do()
      if status:
        return status
    # From all complete runs, not only the methods that were asked for.
    report.write(arguments.output, METHODS)
  except (errors.UserError, OSError) as e:
    print(f'experiment: {e}', file=sys.stderr)
    return 1
  return 0
