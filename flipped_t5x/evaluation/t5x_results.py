"""Reads the files of T5X's runs as results like those of `evaluate.py`.

`t5x.infer` writes the files of `t5x_infer.py` into its folder. `t5x.eval`, and
`t5x.train` where it evaluates, write those of SeqIO into the subfolder
`inference_eval`: TASK-metrics.jsonl with a line for each step, and
TASK-STEP.jsonl with a line for each candidate. The run's macros are in
`config.gin` in the same folder.
"""

from collections.abc import Iterator, Sequence
import re
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import gin_config
from flipped_t5x import ranking
from flipped_t5x import structure
from flipped_t5x import t5x_infer
from flipped_t5x.evaluation import summary
import numpy as np

_SHARD = re.compile(r'(.+)-score\.jsonl-(\d+)-of-(\d+)')
_UNFINISHED = re.compile(r'tmp-(.+)-(\d+)-of-(\d+)')
_CANDIDATES = re.compile(r'(.+)-(\d{6,})\.jsonl')
_EVALUATED = 'inference_eval'
_DONE = '.COMPLETED'
_AGAIN = 'run T5X again into a new folder, or copy the file again'
_Examples = list[dict[str, Any]]  # See `t5x_infer.py`.


def found_in(folder: epath.Path) -> bool:
  """Whether a folder has files of T5X that `read` can read."""
  if not folder.is_dir():
    return False
  names = [path.name for path in folder.iterdir()]
  return _EVALUATED in names or any(
      pattern.fullmatch(name.removesuffix(_DONE))
      for pattern in (_SHARD, _UNFINISHED) for name in names
  )


def read(folder: epath.Path) -> dict[str, Any]:
  """Reads a folder of T5X.

  Args:
    folder: INFER_OUTPUT_DIR, EVAL_OUTPUT_DIR, or the MODEL_DIR of a training
      that evaluates. In the last two, the newest step that all tasks have is
      read.

  Returns:
    The content of a `results.json`, without what T5X does not write; see
    "Results of T5X" in docs/evaluation.md. Tasks and templates are in
    alphabetical order.

  Raises:
    UserError: a file is missing, unfinished or damaged, and the message names
      it; or the files are of different checkpoints or formats.
  """
  ranked, options, step = _predictions(folder)
  settings = _settings(folder / gin_config.T5X_CONFIG)
  tasks = {}
  for task, templates in sorted(ranked.items()):
    templates = dict(sorted(templates.items()))
    tasks[task] = summary.summarize(
        templates, {name: {} for name in templates}, options[task]
    )
    for values in tasks[task]['templates'].values():
      values['counts'] = None
    tasks[task]['data'] = {'split': settings.get('SPLIT', 'eval')}
  results = {
      'tasks': tasks,
      'mixture': settings.get('EVAL_MIXTURE', settings.get('MIXTURE')),
      'step': step,
      'format': settings.get('FORMAT'),
      'input_length': settings.get('INPUT_LENGTH'),
      'target_length': settings.get('TARGET_LENGTH'),
      'network': {},
      'settings': settings,
      'versions': {},
  }
  structure.check_results(results, folder)
  return results


def _settings(config: epath.Path) -> dict[str, Any]:
  if not config.is_file():
    return {}
  try:
    return gin_config.macros_of(config.read_text())
  except UnicodeDecodeError as e:
    raise errors.UserError(f'{config}: not UTF-8: {e}; {_AGAIN}') from e


def _predictions(
    folder: epath.Path,
) -> tuple[dict[str, dict[str, ranking.Predictions]],
           dict[str, dict[str, list[list[str]]]], int]:
  """Reads task -> template -> predictions, their options, and their step."""
  names = sorted(path.name for path in folder.iterdir())
  if any(_SHARD.fullmatch(n.removesuffix(_DONE)) for n in names) or any(
      _UNFINISHED.fullmatch(n) for n in names
  ):
    found = _inferred(folder, names)
  else:
    found = _evaluated(folder / _EVALUATED)
  ranked, options, weights, step = {}, {}, {}, None
  for name, examples in found:
    if not examples:
      raise errors.UserError(f'{folder}: {name}: no row fits its template')
    step = _the_same(folder, weights, name, examples)
    task, template = examples[0]['task'], examples[0]['template']
    if template in ranked.setdefault(task, {}):
      raise errors.UserError(
          f'{folder}: {task} "{template}" appears twice, the second time as'
          f' {name}: evaluate each format into a folder of its own'
      )
    examples = _in_order(folder, name, examples)
    ranked[task][template] = _ranked(examples)
    options.setdefault(task, {})[template] = [e['options'] for e in examples]
  return ranked, options, step


def _inferred(
    folder: epath.Path, names: Sequence[str]
) -> Iterator[tuple[str, _Examples]]:
  """SeqIO's name of each task, and its examples from all shards."""
  shards = {}
  for name in names:
    unfinished = _UNFINISHED.fullmatch(name)
    # T5X makes the folder of a shard anew each time, even of a finished one.
    if unfinished and '{}-score.jsonl-{}-of-{}{}'.format(
        *unfinished.groups(), _DONE
    ) not in names:
      raise errors.UserError(
          f'{folder / name}: t5x.infer has not finished this; the same command'
          ' resumes it'
      )
    match = _SHARD.fullmatch(name.removesuffix(_DONE))
    if match:
      shards.setdefault(match[1], set()).add(match[3])
  for task, numbers in shards.items():
    if len(numbers) > 1:
      raise errors.UserError(
          f'{folder}: {task} has files of {" and of ".join(sorted(numbers))}'
          ' shards; delete the older ones'
      )
    number, = numbers
    examples = []
    for i in range(int(number)):
      name = f'{task}-score.jsonl-{i:05}-of-{number}'
      for needed in (name, name + _DONE):
        if needed not in names:
          raise errors.UserError(
              f'{folder / needed} is missing: t5x.infer has not finished shard'
              f' {i} of {number}'
          )
      examples += _lines(folder / name, 'example')
    yield task, examples


def _evaluated(folder: epath.Path) -> Iterator[tuple[str, _Examples]]:
  """SeqIO's name of each task, and its examples, at the newest common step."""
  steps, tasks = {}, set()
  for path in folder.iterdir():
    if path.name.endswith('-metrics.jsonl'):
      tasks.add(path.name.removesuffix('-metrics.jsonl'))
    elif match := _CANDIDATES.fullmatch(path.name):
      steps.setdefault(int(match[2]), {})[match[1]] = path
  step = max((s for s, p in steps.items() if p.keys() >= tasks), default=None)
  if step is None or not tasks:
    raise errors.UserError(
        f'{folder}: no step has a TASK-STEP.jsonl of every task (tasks:'
        f' {sorted(tasks)}, steps: {sorted(steps)}); SeqIO writes them if its'
        ' JSONLogger has write_n_results = None'
    )
  for task in sorted(tasks):
    path = steps[step][task]
    candidates = [
        {**line['input'], 'score': line['score']}
        for line in _lines(path, 'scored')
    ]
    for number, candidate in enumerate(candidates, 1):
      structure.check(
          candidate, 'candidate', f'{path}, line {number}', _AGAIN
      )
    try:
      examples = t5x_infer.rank_candidates(candidates)
    except ValueError as e:
      raise errors.UserError(f'{path}: {e}') from e
    metrics = folder / f'{task}-metrics.jsonl'
    logged = [
        m.get('examples') for m in _lines(metrics, 'seqio_metrics')
        if m['step'] == step
    ]
    if logged[-1:] != [len(examples)]:
      raise errors.UserError(
          f'{path}: {len(examples)} examples; {metrics.name} says'
          f' {logged[-1] if logged else "nothing"} for step {step}'
      )
    yield task, [e | {'step': step} for e in examples]


def _lines(path: epath.Path, kind: str) -> Iterator[dict[str, Any]]:
  return structure.read_lines(path, kind, _AGAIN)


def _the_same(
    folder: epath.Path,
    weights: dict[tuple[str | None, int], str],
    name: str,
    examples: _Examples,
) -> int:
  """Checks that all examples so far are of the same weights.

  Args:
    folder: the folder of the run, for the error.
    weights: (checkpoint, step) -> the first task that has it. Those of
      `examples` are added.
    name: SeqIO's name of the task.
    examples: its examples.

  Returns:
    The step.

  Raises:
    UserError: the weights differ.
  """
  for e in examples:
    weights.setdefault((e.get('checkpoint'), e['step']), name)
  if len(weights) > 1:
    found = ', '.join(f'{task} of {which}' for which, task in weights.items())
    raise errors.UserError(f'{folder}: different checkpoints: {found}')
  (_, step), = weights
  return step


def _in_order(
    folder: epath.Path, name: str, examples: _Examples
) -> _Examples:
  """The examples of one template by `example_id`.

  Raises:
    UserError: one appears twice, or has not the options that it names.
  """
  ids, counts = np.unique(
      [e['example_id'] for e in examples], return_counts=True
  )
  if np.any(counts > 1):
    raise errors.UserError(
        f'{folder}: {name}: example {ids[counts > 1][0]} appears twice'
    )
  for e in examples:
    if max(e['prediction'], e['gold']) >= len(e['options']):
      raise errors.UserError(
          f'{folder}: {name}: example {e["example_id"]} has'
          f' {len(e["options"])} options, and not the one that was predicted or'
          f' is right; {_AGAIN}'
      )
  return sorted(examples, key=lambda e: e['example_id'])


def _ranked(examples: _Examples) -> ranking.Predictions:
  return ranking.Predictions(
      example_id=np.array([e['example_id'] for e in examples]),
      prediction=np.array([e['prediction'] for e in examples]),
      gold=np.array([e['gold'] for e in examples]),
      num_options=np.array([len(e['options']) for e in examples]),
      tied=np.array([e['tied'] for e in examples]),
  )
