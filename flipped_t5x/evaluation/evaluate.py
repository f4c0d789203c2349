"""Ranks the options of every held-out example in every template.

A task is evaluated in chunks of rows, each in all templates, since what the
templates share is encoded once. Chunks are on disk as soon as they are done:
see `chunks.py`. All numbers come from the files, never from memory, so that an
evaluation that was stopped, and went on, has the same ones to the bit.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.metadata
import pathlib
import platform
import re
import shutil
import sys
from typing import Any, Protocol

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.evaluation import chunks as chunks_lib
from flipped_t5x.evaluation import prompt_bar
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.evaluation import suites
from flipped_t5x.evaluation import summary
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import scoring
from flipped_t5x.prompts import arrays
from flipped_t5x.weights import tensors
import jax
import numpy as np
import pyarrow

# The scores do not depend on it, but in their last bits.
CHUNK_ROWS = 256
_PROGRESS = '.progress'


class Task(Protocol):
  """Rows in templates, such as `tasks.batches.CandidateSource`.

  Attributes:
    cluster: which kind of task it is.
    metric: 'accuracy' or 'macro-F1'.
    numbers: numbers of the rows to evaluate.
    templates: names of the templates, in order.
    texts: JSON of what the candidates depend on, beside the rows.
    label_words: template -> its label words, where they are not its own.
    origin: JSON that says which rows these are.
  """

  cluster: str
  metric: str
  numbers: Sequence[int]
  templates: Mapping[str, Any]
  texts: Mapping[str, Any]
  label_words: Mapping[str, Sequence[str]]
  origin: Mapping[str, Any]

  def read(self, template: str, numbers: Sequence[int]) -> arrays.Candidates:
    """The candidates of some rows, with the texts of their options."""
    ...


def evaluate(
    model: model_lib.Model,
    tasks: Mapping[str, Task],
    path: pathlib.Path,
    *,
    checkpoint: str,
    suite: str | None = None,
    missing: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
  """Evaluates all templates of some tasks, or goes on with that.

  Args:
    model: the model.
    tasks: task -> its rows and templates.
    path: the results to write, a `.json`; the scores of single examples go into
      the folder of the same name without that, and into `.progress` there until
      all is done.
    checkpoint: what the model was loaded from.
    suite: the suite that these tasks are, see `evaluation/suites.py`.
    missing: task of the suite -> why it is not there.
    about: `mixture`, `limit`, `split`, as far as there are such.
    batch_size: rows of a forward pass.

  Returns:
    The content of the results: for each task examples, options, accuracy and
    macro-F1 with mean, median and standard deviation over templates, intervals,
    each template, baselines, ties, drops and where its data are from; groups of
    tasks; what is missing; and every setting.

  Raises:
    UserError: nothing to evaluate, or data or weights are damaged.
    KeyboardInterrupt: with a message; the chunks that are done are there.
  """
  sha256 = tensors.digest(model.params)
  shared = _fingerprint(model, sha256, batch_size, about or {})
  folder = path.with_suffix('')
  files_of = _file_names(tasks)
  chunks = {
      name: chunks_lib.Chunks(
          folder / _PROGRESS / files_of[name], {**shared, **_identity(task)}
      )
      for name, task in tasks.items()
  }
  try:
    _score_all(model, tasks, chunks, batch_size)
    # Moved to their place when all is done: the files are of one evaluation.
    finished = {
        name: _finish(
            task, chunks[name],
            folder / _PROGRESS / f'{files_of[name]}.parquet',
            f'{folder.name}/{files_of[name]}.parquet',
        )
        for name, task in tasks.items()
    }
  except KeyboardInterrupt as e:
    raise KeyboardInterrupt(
        'interrupted; run the same command again to resume, with at most'
        f' {CHUNK_ROWS} rows of a task to score again'
    ) from e
  found, missing = _without_unfit(finished, missing or {})
  for task in found.values():
    file = path.parent / task['scores']['file']
    (folder / _PROGRESS / file.name).replace(file)
  results = {
      'suite': suite,
      **(about or {}),
      'tasks': found,
      'missing': missing,
      'groups': (
          suites.groups(suites.get(suite), found, missing) if suite else []
      ),
      'checkpoint': {
          'path': checkpoint, 'step': model.step, 'sha256': sha256
      },
      'step': model.step,
      **_config(model),
      'versions': versions(),
  }
  files.write_json(path, results)
  shutil.rmtree(folder / _PROGRESS)
  return results


def _score_all(
    model: model_lib.Model,
    tasks: Mapping[str, Task],
    chunks: Mapping[str, chunks_lib.Chunks],
    batch_size: int,
) -> None:
  """Makes the chunks of all tasks that do not exist yet."""
  total = sum(len(t.numbers) * len(t.templates) for t in tasks.values())
  with prompt_bar.PromptBar(total) as bar:
    for name, task in tasks.items():
      _score(model, name, task, chunks[name], batch_size, bar)


def _without_unfit(
    finished: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
  """The tasks that have results, and why others are missing.

  Args:
    finished: task -> its results, see `_finish`.
    missing: task -> why it is not among them.

  Returns:
    The results, and `missing` with the tasks whose rows fit no template.

  Raises:
    UserError: no task has results.
  """
  found, missing = {}, dict(missing)
  for name, task in finished.items():
    for template, reason in task['unfit'].items():
      print(f'{name} "{template}" has no numbers: {reason}', file=sys.stderr)
    if 'templates' in task:
      found[name] = task
    else:
      missing[name] = 'no template has a row that fits it: ' + '; '.join(
          f'"{t}": {reason}' for t, reason in task['unfit'].items()
      )
  if not found:
    raise errors.UserError(
        '; '.join(f'{n}: {why}' for n, why in missing.items())
    )
  return found, missing


def _config(model: model_lib.Model) -> dict[str, Any]:
  config = dataclasses.asdict(model.config)
  return {**config, 'settings': dict(model.config.settings)}


def _fingerprint(
    model: model_lib.Model, sha256: str, batch_size: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
  """What the scores of all tasks depend on, in their last bit."""
  return {
      'checkpoint': sha256,
      **_config(model),
      'vocabulary': files.sha256(
          pathlib.Path(model.vocabulary.path).read_bytes()
      ),
      'batch_size': batch_size,
      'chunk_rows': CHUNK_ROWS,
      'limit': about.get('limit'),
      'split': about.get('split'),
      'versions': {
          **versions(), 'pyarrow': pyarrow.__version__,
          'device': jax.devices()[0].device_kind,
      },
  }


def _identity(task: Task) -> dict[str, Any]:
  return {
      'data': dict(task.origin),
      'rows': files.sha256(repr(list(task.numbers)).encode()),
      'templates': files.sha256(repr(sorted(task.texts.items())).encode()),
      'order of templates': list(task.templates),
  }


def _file_names(tasks: Sequence[str]) -> dict[str, str]:
  """Task -> its file's name; no two are the same, whatever the case."""
  found = {}
  for task in tasks:
    name = stem = re.sub(r'[^\w.-]+', '_', task)
    number = 2
    while name.lower() in map(str.lower, found.values()):
      name = f'{stem}-{number}'
      number += 1
    found[task] = name
  return found


def _score(
    model: model_lib.Model,
    name: str,
    task: Task,
    chunks: chunks_lib.Chunks,
    batch_size: int,
    bar: prompt_bar.PromptBar,
) -> None:
  """Makes the chunks of a task that are not there yet."""
  bar.name(name)
  for number, start in enumerate(range(0, len(task.numbers), CHUNK_ROWS)):
    rows = task.numbers[start : start + CHUNK_ROWS]
    prompts = len(rows) * len(task.templates)
    if number in chunks.done:
      bar.skip(prompts)
      continue
    found = {t: task.read(t, rows) for t in task.templates}
    inputs = [tokens for c in found.values() for tokens in c.inputs]
    scored = scoring.encode_once(
        model.config.network, model.params, inputs,
        [tokens for c in found.values() for tokens in c.targets],
        batch_size=batch_size, progress=bar.counter(prompts, len(inputs)),
    )
    chunks.add(
        number, _table(name, found, scored.log_probs),
        {
            'counts': {t: dict(c.counts) for t, c in found.items()},
            'candidates': len(inputs),
            'encoder_passes': scored.encoder_passes,
        },
    )


def _table(
    name: str,
    found: Mapping[str, arrays.Candidates],
    log_probs: Sequence[np.ndarray],
) -> pyarrow.Table:
  """The scored examples; the templates' candidates follow each other."""
  scores = iter([values.sum(dtype=np.float64) for values in log_probs])
  try:
    tables = [
        scored_examples.table(
            template, candidates, [next(scores) for _ in candidates.inputs]
        )
        for template, candidates in found.items()
    ]
  except ValueError as e:
    raise errors.UserError(f'{name} {e}') from e
  return scored_examples.join(tables, list(found))


def _finish(
    task: Task, chunks: chunks_lib.Chunks, path: pathlib.Path, file: str
) -> dict[str, Any]:
  """One task's results; without `templates` if no row fits any of them.

  Args:
    task: the task.
    chunks: all of its chunks.
    path: the file to write.
    file: what the results are to call it.
  """
  tables, about = chunks.read()
  counts = {name: {} for name in task.templates}
  for chunk in about:
    for name, of_chunk in chunk['counts'].items():
      for reason, n in of_chunk.items():
        counts[name][reason] = counts[name].get(reason, 0) + n
  counts = {name: dict(sorted(c.items())) for name, c in counts.items()}
  rows = scored_examples.join(tables, list(task.templates))
  found, results = {}, {}
  if rows.num_rows:
    scored_examples.write(rows, path)
    found = scored_examples.read(path)
    results = summary.summarize(
        {name: examples.ranked for name, examples in found.items()}, counts,
        {name: examples.scores for name, examples in found.items()},
    ) | {'scores': {
        'file': file,
        'sha256': files.sha256(path.read_bytes()),
    }}
    for name in found.keys() & task.label_words.keys():
      results['templates'][name]['label_words'] = list(task.label_words[name])
  return {
      'cluster': task.cluster,
      'metric': task.metric,
      **results,
      'unfit': {
          name: 'no row fits it'
          + ''.join(f', {n} {reason}' for reason, n in reasons.items())
          for name, reasons in counts.items() if name not in found
      },
      'candidates': sum(chunk['candidates'] for chunk in about),
      'encoder_passes': sum(chunk['encoder_passes'] for chunk in about),
      'data': dict(task.origin),
  }


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that compute."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'sentencepiece')
  return {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in packages},
  }
