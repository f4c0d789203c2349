"""Ranks the options of every held-out example in every template.

A task is evaluated in chunks of rows. A chunk has its rows in all templates, as
text that templates share is encoded only once. It is written as soon as it is
scored, see `chunks.py`. All results are computed from these files, never from
memory, so they are the same to the bit whether or not the evaluation was
interrupted and resumed.

Several hosts (`engine/hosts.py`) share out the chunks that are not written yet,
every n-th to each of n. A host has all weights on its own devices, and scores
without the others; they meet before and after. Host 0 computes the results.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import re
import shutil
import sys
from typing import Any, Protocol

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.engine import agreement
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

# Scores depend on it in their last bits only.
CHUNK_ROWS = 256
_PROGRESS = '.progress'


class Task(Protocol):
  """The rows and templates of a task.

  `tasks.batches.CandidateSource` is one for the datasets of the catalog; any
  object with these attributes can be evaluated.

  Attributes:
    cluster: the kind of task, such as 'sentiment'; suites average over it.
    metric: what the task is judged by, 'accuracy' or 'macro-F1'.
    numbers: the numbers of the rows to evaluate, ascending.
    templates: name -> template, in the order of the results. Only the names are
      used here.
    texts: template -> JSON of what its candidates depend on, beside the rows.
      An unfinished evaluation is resumed only if these are the same.
    label_words: template -> its label words, for templates whose own label
      words were replaced; see `tasks/labels.py`.
    origin: JSON that identifies the rows, with a `split`.
  """

  cluster: str
  metric: str
  numbers: Sequence[int]
  templates: Mapping[str, Any]
  texts: Mapping[str, Any]
  label_words: Mapping[str, Sequence[str]]
  origin: Mapping[str, Any]

  def read(self, template: str, numbers: Sequence[int]) -> arrays.Candidates:
    """Reads the candidates of some rows, with the texts of their options.

    Args:
      template: a key of `templates`.
      numbers: some of `self.numbers`.
    """
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
  """Evaluates all templates of some tasks, or resumes such an evaluation.

  Args:
    model: the model.
    tasks: task -> its rows and templates.
    path: the file of results to write, a `.json`. The scores of single examples
      are written into the folder of the same name without `.json`, and until
      everything is done into `.progress` in that folder.
    checkpoint: what the model was loaded from.
    suite: the suite that these tasks belong to, see `evaluation/suites.py`.
    missing: task of the suite -> why it cannot be evaluated.
    about: the `mixture`, `limit` and `split` that were asked for, for the
      results.
    batch_size: the number of rows in a forward pass.

  Returns:
    The content of the results, see docs/evaluation.md; empty on hosts other
    than the first.

  Raises:
    UserError: no row fits any template, data or weights are damaged, another
      evaluation is writing to `path`, or the hosts have different files.
    KeyboardInterrupt: the evaluation was interrupted; the message says how to
      resume it.
  """
  about = about or {}
  sha256 = tensors.digest(model.params)
  shared = _fingerprint(model, sha256, batch_size, about)
  identities = {name: identity(task) for name, task in tasks.items()}
  agreement.check_same({**shared, **identities})
  with alone(path):
    progress = path.with_suffix('') / _PROGRESS
    chunks = _open_chunks(
        progress, {name: {**shared, **own} for name, own in identities.items()}
    )
    content: dict[str, Any] = {}
    try:
      _score_all(model, tasks, chunks, batch_size)
      agreement.wait()
      with agreement.fail_together():
        if agreement.is_first():
          found, missing = _without_unfit(
              _finish_all(tasks, chunks, progress), missing or {}
          )
          content = {
              'suite': suite,
              **about,
              'tasks': found,
              'missing': missing,
              'groups': _groups(suite, found, missing),
              'checkpoint': {
                  'path': checkpoint, 'step': model.step, 'sha256': sha256,
                  'sha256_of_vocabulary': shared['vocabulary'],
              },
              'step': model.step,
              **_config(model),
              'versions': versions(),
          }
          for task in chunks.values():
            task.check()
          _put_in_place(path, progress, content)
    except KeyboardInterrupt as e:
      raise KeyboardInterrupt(
          'interrupted; run the same command again to resume, with at most'
          f' {CHUNK_ROWS} rows of a task to score again'
      ) from e
  return content


@contextlib.contextmanager
def alone(path: pathlib.Path) -> Iterator[None]:
  """Keeps other evaluations away from a file of results and its scores.

  Args:
    path: the file of results.

  Raises:
    UserError: another evaluation is writing there.
  """
  with agreement.alone_in(
      path.with_suffix(''), str(path), 'give another --output'
  ):
    yield


def _open_chunks(
    progress: pathlib.Path, facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, chunks_lib.Chunks]:
  """Opens the chunks of all tasks, on host 0 before the others join it.

  Args:
    progress: the folder `.progress`.
    facts: task -> what its scores depend on.
  """
  names = _file_names(list(facts))

  def open_all(joins: bool) -> dict[str, chunks_lib.Chunks]:
    return {
        task: chunks_lib.Chunks(progress / names[task], facts[task], joins)
        for task in facts
    }

  chunks: dict[str, chunks_lib.Chunks] = {}
  with agreement.fail_together():
    if agreement.is_first():
      chunks = open_all(joins=False)
  with agreement.fail_together():
    if not agreement.is_first():
      chunks = open_all(joins=True)
  done = {task: sorted(opened.done) for task, opened in chunks.items()}
  first, *_ = agreement.gather(json.dumps(done).encode())
  for task, numbers in json.loads(first).items():
    chunks[task].done = set(numbers)
  return chunks


def _score_all(
    model: model_lib.Model,
    tasks: Mapping[str, Task],
    chunks: Mapping[str, chunks_lib.Chunks],
    batch_size: int,
) -> None:
  """Writes this host's share of the chunks that are not written yet."""
  unwritten = [
      (name, number)
      for name, task in tasks.items()
      for number in range(_num_chunks(task)) if number not in chunks[name].done
  ]
  share = unwritten[jax.process_index() :: jax.process_count()]
  others = set(unwritten) - set(share)
  total = sum(
      len(_rows(task, number)) * len(task.templates)
      for name, task in tasks.items()
      for number in range(_num_chunks(task)) if (name, number) not in others
  )
  with prompt_bar.PromptBar(total, agreement.is_first()) as bar:
    for name, task in tasks.items():
      numbers = [number for of, number in share if of == name]
      _score(model, name, task, chunks[name], numbers, batch_size, bar)


def _num_chunks(task: Task) -> int:
  return -(-len(task.numbers) // CHUNK_ROWS)


def _rows(task: Task, number: int) -> Sequence[int]:
  """The numbers of the rows of a chunk."""
  return task.numbers[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS]


def _finish_all(
    tasks: Mapping[str, Task],
    chunks: Mapping[str, chunks_lib.Chunks],
    progress: pathlib.Path,
) -> dict[str, dict[str, Any]]:
  """Task -> its results, see `_finish`; all hosts have written their chunks."""
  names = _file_names(list(tasks))
  for name, task in tasks.items():
    chunks[name].wait_for(_num_chunks(task))
  return {
      name: _finish(task, chunks[name], progress / f'{names[name]}.parquet')
      for name, task in tasks.items()
  }


def _put_in_place(
    path: pathlib.Path, progress: pathlib.Path, content: Mapping[str, Any]
) -> None:
  """Moves the files of scores out of `.progress`, and writes the results.

  This is done after all tasks are finished, so that the files in place are
  always those of one evaluation.
  """
  for results in content['tasks'].values():
    file = path.parent / results['scores']['file']
    (progress / file.name).replace(file)
  files.write_json(path, content)
  shutil.rmtree(progress)


def _without_unfit(
    finished: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
  """Separates the tasks with results from those whose rows fit no template.

  Args:
    finished: task -> its results, see `_finish`.
    missing: task -> why it could not be evaluated.

  Returns:
    The tasks that have results; and `missing` together with the others.

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


def _groups(
    suite: str | None,
    tasks: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
) -> list[dict[str, Any]]:
  """The groups and averages of a suite; none without a suite."""
  if suite is None:
    return []
  return suites.groups(suites.get(suite), tasks, missing)


def _config(model: model_lib.Model) -> dict[str, Any]:
  """The model's configuration as JSON."""
  config = dataclasses.asdict(model.config)
  return {**config, 'settings': dict(model.config.settings)}


def _fingerprint(
    model: model_lib.Model, sha256: str, batch_size: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
  """What the scores of all tasks depend on, down to their last bits."""
  return {
      'checkpoint': sha256,
      **_config(model),
      'vocabulary': files.sha256(
          pathlib.Path(model.vocabulary.path).read_bytes()
      ),
      'batch_size': batch_size,
      'mesh': dict(model.partitioner.shape),
      'chunk_rows': CHUNK_ROWS,
      'limit': about.get('limit'),
      'split': about.get('split'),
      'versions': {
          **versions(), 'pyarrow': pyarrow.__version__,
          'device': jax.devices()[0].device_kind,
      },
  }


def identity(task: Task) -> dict[str, Any]:
  """JSON of what the scores of one task depend on, beside the model."""
  return {
      'data': dict(task.origin),
      'rows': files.sha256(repr(list(task.numbers)).encode()),
      'templates': files.sha256(repr(sorted(task.texts.items())).encode()),
      'order of templates': list(task.templates),
  }


def _file_names(tasks: Sequence[str]) -> dict[str, str]:
  """Task -> a file name; no two names differ in upper and lower case only."""
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
    numbers: Sequence[int],
    batch_size: int,
    bar: prompt_bar.PromptBar,
) -> None:
  """Writes chunks of a task.

  Args:
    model: the model.
    name: the task's name.
    task: the task.
    chunks: its chunks; those that are written already count as done.
    numbers: the chunks to write.
    batch_size: the number of rows in a forward pass.
    bar: counts prompts.
  """
  bar.name(name)
  for number in sorted(chunks.done.union(numbers)):
    rows = _rows(task, number)
    prompts = len(rows) * len(task.templates)
    if number not in numbers:
      bar.skip(prompts)
      continue
    found = {t: task.read(t, rows) for t in task.templates}
    inputs = [tokens for c in found.values() for tokens in c.inputs]
    scored = scoring.encode_once(
        model.config.network, model.params, inputs,
        [tokens for c in found.values() for tokens in c.targets],
        batch_size=batch_size, progress=bar.counter(prompts, len(inputs)),
        partitioner=model.partitioner,
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
  """The scored examples of one chunk.

  Args:
    name: the task's name, for errors.
    found: template -> its candidates.
    log_probs: for each candidate of each template, in this order, float32
      [tokens].
  """
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
    task: Task, chunks: chunks_lib.Chunks, path: pathlib.Path
) -> dict[str, Any]:
  """Computes the results of a task whose chunks are all written.

  Args:
    task: the task.
    chunks: its chunks.
    path: the file to write the scored examples to, in the folder `.progress`;
      it is named in the results as it will be after it has been moved up.

  Returns:
    The results, see docs/evaluation.md; without `templates` and all numbers if
    no row fits any template.
  """
  tables, about = chunks.read()
  counts = _total_counts(task, about)
  rows = scored_examples.join(tables, list(task.templates))
  found, results = {}, {}
  if rows.num_rows:
    scored_examples.write(rows, path)
    found = scored_examples.read(path)
    results = summary.summarize(
        {name: examples.ranked for name, examples in found.items()}, counts,
        {name: examples.options for name, examples in found.items()},
        {name: examples.scores for name, examples in found.items()},
    )
    results['scores'] = {
        'file': f'{path.parent.parent.name}/{path.name}',
        'sha256': files.sha256(path.read_bytes()),
    }
    for name in found.keys() & task.label_words.keys():
      results['templates'][name]['label_words'] = list(task.label_words[name])
  return {
      'cluster': task.cluster,
      'metric': task.metric,
      **results,
      'unfit': {
          name: ', '.join([
              'no row fits it', *(f'{n} {why}' for why, n in reasons.items())
          ])
          for name, reasons in counts.items() if name not in found
      },
      'candidates': sum(chunk['candidates'] for chunk in about),
      'encoder_passes': sum(chunk['encoder_passes'] for chunk in about),
      'data': dict(task.origin),
  }


def _total_counts(
    task: Task, about: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, int]]:
  """Template -> reason -> the number of rows or candidates, of all chunks."""
  totals = {name: {} for name in task.templates}
  for chunk in about:
    for name, counts in chunk['counts'].items():
      for reason, number in counts.items():
        totals[name][reason] = totals[name].get(reason, 0) + number
  return {name: dict(sorted(total.items())) for name, total in totals.items()}


def versions() -> dict[str, str]:
  """The versions of Python and of the packages that scores depend on."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'sentencepiece')
  return {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in packages},
  }
