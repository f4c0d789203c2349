"""Early stopping: which checkpoint is the best on held-out rows."""

from collections.abc import Mapping, Sequence
import pathlib
import shutil
from typing import Any

from flipped_t5x import files
from flipped_t5x.evaluation import evaluate
from flipped_t5x.inference import model as model_lib
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.weights import run_config
import numpy as np

SPLIT = 'validation'
ROWS = 100  # At most so many of each dataset are evaluated.
FEWEST = 10  # Of fewer rows, none is evaluated.
PATIENCE = 2  # Evaluations in a row that are no better.


def datasets_with_rows(datasets: Sequence[str]) -> list[str]:
  """The datasets that have enough validation rows to go by."""
  return [
      name for name in datasets
      if catalog.dataset(name).num_examples.get(SPLIT, 0) >= FEWEST
  ]


class BestStep:
  """Evaluates the checkpoints of a run on validation rows.

  The results of a step are in RUN/validation/STEP.json, so that an interrupted
  run resumes with them.
  """

  def __init__(
      self,
      run: pathlib.Path,
      settings: Mapping[str, Any],
      datasets: Sequence[str],
  ):
    """Opens the rows.

    Args:
      run: the folder of the run.
      settings: macro -> value of the run.
      datasets: datasets that have validation rows.
    """
    self._run = run
    vocabulary = pathlib.Path(settings['VOCABULARY'])
    self._vocabulary = tokenization.load_vocabulary(vocabulary)
    self._tasks = {
        name: batches.open_candidates(
            name, vocabulary, settings['INPUT_LENGTH'],
            settings['TARGET_LENGTH'], settings['FORMAT'],
            settings.get('MAX_FIELD_CHARS'), SPLIT, ROWS,
        )
        for name in datasets
    }

  def after_save(self, step: int, params: Mapping[str, Any]) -> bool:
    """Evaluates a step that is being saved; whether training is to stop.

    Args:
      step: the step.
      params: the weights.
    """
    config = run_config.RunConfig.read(self._run)
    self._evaluate(
        model_lib.Model(config, dict(params), self._vocabulary, step)
    )
    return self._stopped()

  def catch_up(self) -> None:
    """Evaluates saved steps that are not evaluated yet."""
    for step in self._saved():
      if step not in self.accuracies():
        self._evaluate(model_lib.load(self._checkpoint(step)))

  def is_over(self, steps: int) -> bool:
    """Whether nothing is left to train.

    Args:
      steps: the step to train to.
    """
    return steps in self.accuracies() or self._stopped()

  def accuracies(self) -> dict[int, float]:
    """Step -> accuracy, the mean over templates and then over datasets."""
    return {
        step: _accuracy(files.read_json(path))
        for step, path in sorted(
            (int(path.stem), path)
            for path in (self._run / SPLIT).glob('*.json')
        )
    }

  @property
  def best(self) -> int:
    """The step of the best accuracy; of several, the first."""
    found = self.accuracies()
    return max(found, key=found.__getitem__)

  def keep_best(self) -> None:
    """Removes all other checkpoints, so that the run's newest is the best."""
    for step in self._saved():
      if step != self.best:
        shutil.rmtree(self._checkpoint(step))

  def _evaluate(self, model: model_lib.Model) -> None:
    (self._run / SPLIT).mkdir(exist_ok=True)
    evaluate.evaluate(
        model, self._tasks, self._run / SPLIT / f'{model.step}.json',
        checkpoint=str(self._checkpoint(model.step)),
        about={'mixture': ','.join(self._tasks), 'limit': ROWS, 'split': SPLIT},
    )

  def _stopped(self) -> bool:
    """Whether the last evaluations were no better than one before them."""
    found = self.accuracies()
    return bool(found) and (
        sum(step > self.best for step in found) >= PATIENCE
    )

  def _saved(self) -> list[int]:
    folder = self._run / 'checkpoints'
    return sorted(int(p.name) for p in folder.glob('*') if p.name.isdigit())

  def _checkpoint(self, step: int) -> pathlib.Path:
    return self._run / 'checkpoints' / str(step)


def _accuracy(results: Mapping[str, Any]) -> float:
  return float(np.mean(
      [task['accuracy']['mean'] for task in results['tasks'].values()]
  ))
