"""`flipped-t5x train FOLDER --from MODEL`: a run on a task of one's own."""

import argparse
import pathlib
import types

from flipped_t5x import compilation_cache
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import gin_config
from flipped_t5x.cli import evaluate
from flipped_t5x.cli import report
from flipped_t5x.engine import train
from flipped_t5x.fine_tuning import best_step
from flipped_t5x.fine_tuning import plan
from flipped_t5x.new_task import folder as folder_lib
from flipped_t5x.weights import model_files
from flipped_t5x.weights import t5x_checkpoints
import gin

_ROWS = 200  # Of each dataset, before and after.
_GIN = 'run.gin'


def run(arguments: argparse.Namespace) -> None:
  """Trains, and evaluates before and after; see `cli/train.py`."""
  folder = files.local_path(arguments.folder, 'FOLDER')
  datasets = folder_lib.datasets(folder)
  run_folder = arguments.output or folder / 'run'
  gin_file = _gin_file(run_folder, datasets, arguments.from_, arguments.lora)
  settings = gin_config.parse([str(gin_file)], arguments.gin_overrides)
  started = settings['INITIAL_CHECKPOINT_PATH']
  if arguments.from_ not in (None, started):
    raise errors.UserError(
        f'{gin_file} starts from {started}, so --from {arguments.from_} needs'
        ' another --output'
    )
  lora = 'LORA_RANK' in settings
  if arguments.lora not in (None, lora):
    raise errors.UserError(
        f'{gin_file} trains {"adapters" if lora else "all weights"}, so'
        f' --{"no-" * lora}lora needs another --output'
    )
  if pathlib.Path(settings['MODEL_DIR']) != run_folder.absolute():
    raise errors.UserError(
        f'MODEL_DIR is {settings["MODEL_DIR"]}, but {gin_file} lies in'
        f' {run_folder.absolute()}: --output names the folder of a run'
    )
  asked = [
      '--method', settings['FORMAT'], '--mixture', settings['MIXTURE'],
      '--limit', str(_ROWS),
      '--input_length', str(settings['INPUT_LENGTH']),
      '--target_length', str(settings['TARGET_LENGTH']),
  ]
  if not settings.get('COMPILATION_CACHE', True):
    compilation_cache.use(False)
    asked.append('--no-compilation_cache')
  before, after = run_folder / 'before.json', run_folder / 'after.json'
  if not before.exists():
    _command(
        evaluate, started, *asked,
        '--vocabulary', settings['VOCABULARY'], '--output', str(before),
    )
  _train(run_folder, datasets, settings)
  newest, _ = t5x_checkpoints.newest(run_folder / 'checkpoints')
  if not after.exists() or files.read_json(after)['step'] != newest:
    _command(evaluate, str(run_folder), *asked, '--output', str(after))
  _command(report, str(after))
  _command(report, str(before), str(after), '--output', str(run_folder))


def _gin_file(
    run_folder: pathlib.Path,
    datasets: list[str],
    model: str | None,
    lora: bool | None,
) -> pathlib.Path:
  """The gin file of the run, which is written if it is not there yet."""
  path = run_folder / _GIN
  if path.exists():
    print(f'settings: {path}')
    return path
  if model is None:
    raise errors.UserError(
        '--from is needed: a model to start from, such as'
        f' {folder_lib.PRETRAINED}'
    )
  found = model_files.open(model)
  if found.vocabulary is None:
    raise errors.UserError(f'--from {model}: it has no vocabulary beside it')
  made = plan.make(
      datasets, run_folder, model, found, found.vocabulary, lora=lora
  )
  run_folder.mkdir(parents=True, exist_ok=True)
  files.write(path, made.gin_text())
  print(
      f'settings: {path}, for {made.rows:,} rows:'
      f' {made.macros["TRAIN_STEPS"]:,} steps of'
      f' {made.macros["BATCH_SIZE"]} examples\n{made.trained}'
  )
  return path


def _train(
    run_folder: pathlib.Path, datasets: list[str], settings: dict
) -> None:
  """Trains to the end, or until held-out rows are answered no better."""
  configured = gin.get_configurable(train.train)
  bound = gin.get_bindings(configured)
  validated = best_step.datasets_with_rows(datasets)
  if not validated:
    print(
        f'fewer than {best_step.FEWEST} validation rows: the last step is kept'
    )
    configured(**bound, settings=settings)
    return
  stopping = best_step.BestStep(run_folder, settings, validated)
  stopping.catch_up()
  if not stopping.is_over(settings['TRAIN_STEPS']):
    configured(**bound, settings=settings, after_save=stopping.after_save)
    stopping.catch_up()
  for step, accuracy in stopping.accuracies().items():
    mark = ', kept' if step == stopping.best else ''
    print(f'step {step}: accuracy {accuracy:.3f} on validation rows{mark}')
  stopping.keep_best()


def _command(module: types.ModuleType, *argv: str) -> None:
  """Runs another command of `flipped-t5x`."""
  parser = argparse.ArgumentParser()
  module.add_arguments(parser)
  module.run(parser.parse_args(argv))
