"""Folders of runs with results as `flipped-t5x eval` writes them."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x.evaluation import scored_examples
from flipped_t5x.evaluation import suites
from flipped_t5x.evaluation import summary
from flipped_t5x.prompts import arrays
import numpy as np
import pyarrow as pa

NETWORK = network_lib.T5Config(
    vocab_size=32, emb_dim=8, num_heads=2, num_encoder_layers=3,
    num_decoder_layers=1, head_dim=4, mlp_dim=16,
)
SETTINGS = {'LAMBDA': 3.0, 'EPS': 0.01, 'SEED': 42, 'MAX_FIELD_CHARS': None}


@dataclasses.dataclass(frozen=True)
class Task:
  """What a run says of a task.

  Attributes:
    right: template -> bool[n], which rows it ranks right.
    gold: int[n].
    num_options: of each row.
    first: number of the first row.
    cluster: which kind of task it is.
    metric: what it is judged by.
    label_words: template -> its label words, of those with other words.
  """

  right: Mapping[str, Sequence[bool]]
  gold: Sequence[int]
  num_options: int = 2
  first: int = 0
  cluster: str = 'sentiment'
  metric: str = 'accuracy'
  label_words: Mapping[str, Sequence[str]] = dataclasses.field(
      default_factory=dict
  )


def share(right: int, rows: int = 40) -> list[bool]:
  """Right on the first rows, and wrong on the others."""
  return [i < right for i in range(rows)]


def task(
    rights: Mapping[str, int], rows: int = 40, num_options: int = 2, **more
) -> Task:
  """A task whose templates are right on their first so many rows."""
  return Task(
      {name: share(n, rows) for name, n in rights.items()},
      [i % num_options for i in range(rows)], num_options, **more,
  )


# Two tasks of the suite nlp.
TASKS = {
    'super_glue/rte': task(
        {'A': 30, 'B': 20}, metric='macro-F1',
        cluster='natural language inference',
    ),
    'hellaswag': task({'C': 10}, num_options=4, cluster='sentence completion'),
}
LOG = [
    {'step': s, 'likelihood': 2 / s, 'unlikelihood': 0.1 * s - 0.15,
     'prob_right': 0.1 * s, 'prob_wrong': 0.05, 'loss': 1.0}
    for s in (1, 2, 3)
]


def write(
    folder: pathlib.Path,
    tasks: Mapping[str, Task],
    suite: str = 'seen',
    examples: bool = True,
    missing: Mapping[str, str] | None = None,
    **more: Any,
) -> pathlib.Path:
  """Writes results, and files of examples; returns the file of results.

  Args:
    folder: the run's.
    tasks: what it says of them.
    suite: the suite.
    examples: whether there are files of examples.
    missing: task -> why it is not there.
    **more: keys of the results to add or to change.
  """
  suffix = '' if suite == 'seen' else f'_{suite}'
  path = folder / f'results{suffix}.json'
  path.with_suffix('').mkdir(parents=True, exist_ok=True)
  found = {
      name: _task(name, values, path, examples)
      for name, values in tasks.items()
  }
  results = {
      'suite': suite,
      'mixture': 'flipped_demo',
      'limit': None,
      'split': None,
      'tasks': found,
      'missing': dict(missing or {}),
      'groups': suites.groups(suites.get(suite), found, missing or {}),
      'checkpoint': {'path': 'output/x', 'step': 7, 'sha256': folder.name},
      'step': 7,
      'format': 'flipped',
      'input_length': 48,
      'target_length': 32,
      'network': dataclasses.asdict(NETWORK),
      'settings': SETTINGS,
      'versions': {'python': '3.11.7', 'jax': '0.10.2'},
  } | more
  path.write_text(json.dumps(results))
  return path


def write_nlp(folder: pathlib.Path) -> pathlib.Path:
  """Writes `TASKS` with two tasks missing, and `LOG`; returns the folder."""
  write(folder, TASKS, 'nlp', missing={
      'anli/r1': 'anli/r1: no source has it', 'super_glue/cb': 'gone',
  })
  (folder / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in LOG)
  )
  return folder


def _task(name, values, path, examples) -> dict[str, Any]:
  file = path.with_suffix('') / f'{name.replace("/", "_")}.parquet'
  scored_examples.write(table(values), file)
  found = scored_examples.read(file)
  results = {
      'cluster': values.cluster,
      'metric': values.metric,
      **summary.summarize(
          {t: scored.ranked for t, scored in found.items()},
          {t: {'truncated': 1} for t in found},
          {t: scored.options for t, scored in found.items()},
          {t: scored.scores for t, scored in found.items()},
      ),
      'unfit': {},
      'candidates': 200,
      'encoder_passes': 50,
      'data': {
          'split': 'test', 'source': 'pypi', 'rows': len(values.gold),
          'sha256': files.sha256(name.encode()),
      },
  }
  for template, words in values.label_words.items():
    results['templates'][template]['label_words'] = list(words)
  if examples:
    results['scores'] = {
        'file': f'{path.stem}/{file.name}',
        'sha256': files.sha256(file.read_bytes()),
    }
  else:
    file.unlink()
  return results


def table(values: Task) -> pa.Table:
  """The scored examples of a task."""
  tables = [_table(t, right, values) for t, right in values.right.items()]
  return scored_examples.join(tables, list(values.right))


def _table(template, right, values):
  """The right option, or the next one, scores 0, the others -1."""
  gold, options = np.array(values.gold), values.num_options
  prediction = np.where(right, gold, (gold + 1) % options)
  number = np.tile(np.arange(options), len(gold))
  scores = np.where(number == np.repeat(prediction, options), 0.0, -1.0)
  candidates = arrays.Candidates(
      inputs=[], targets=[],
      example_id=np.repeat(np.arange(len(gold)) + values.first, options),
      option_index=number,
      is_correct=number == np.repeat(gold, options),
      counts={}, options=[f'option {i}' for i in number],
  )
  return scored_examples.table(template, candidates, scores)


def options_of(candidates: arrays.Candidates) -> list[list[str]]:
  """The options of each example, in ascending order of `example_id`."""
  found: dict[int, list[str]] = {}
  for i, text in zip(candidates.example_id, candidates.options, strict=True):
    found.setdefault(int(i), []).append(text)
  return [found[i] for i in sorted(found)]


def change(path: pathlib.Path, *keys: str, value: Any) -> None:
  """Sets a value deep in a file of results."""
  results = json.loads(path.read_text())
  inner = results
  for key in keys[:-1]:
    inner = inner[key]
  inner[keys[-1]] = value
  path.write_text(json.dumps(results))


def drop(path: pathlib.Path, *keys: str) -> None:
  """Takes keys out of results and out of their tasks, as in older files."""
  results = json.loads(path.read_text())
  for part in (results, *results['tasks'].values()):
    for key in keys:
      part.pop(key, None)
  path.write_text(json.dumps(results))
