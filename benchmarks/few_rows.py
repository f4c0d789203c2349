"""What few labelled rows are worth: `flipped-t5x train FOLDER` beside TF-IDF.

For each task and number of rows, a table of so many texts and labels goes
the way of docs/getting_started.md: `flipped-t5x new` makes a task of it, which
holds some of the rows out, `flipped-t5x train FOLDER --from MODEL` trains, and
`flipped-t5x rank --task` labels rows that none of them has seen, before and
after. The peer is logistic regression on TF-IDF of words and pairs of words
(scikit-learn), which learns from all rows of the table and labels the same
rows.

The texts are those of PyPI, see docs/data.md; smaller tables are parts of
larger ones. What is done is kept in --output, and the same command resumes.

Example:
  python benchmarks/few_rows.py
  python benchmarks/few_rows.py --tasks reviews --rows 16,64
"""

import argparse
from collections.abc import Mapping, Sequence
import csv
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import time
from typing import Any

import flags
from flipped_t5x.cli import local_paths
from flipped_t5x.tasks import catalog
import rich.console
import rich.table
from sklearn import feature_extraction
from sklearn import linear_model
from sklearn import pipeline

_MAX_CHARS = 300  # Of a text.
# In the folder of a table; what is done of it is there.
_TABLE, _TEST, _TASK, _FOUND = 'rows.csv', 'test.csv', 'task', 'found.json'
_BEFORE, _AFTER = 'before.csv', 'after.csv'


@dataclasses.dataclass(frozen=True)
class Task:
  """A question about texts.

  Attributes:
    dataset: in the catalog; its rows have a `text` and a `label`.
    words: the labels in words, by number.
    instruction: as `flipped-t5x new` takes it.
  """

  dataset: str
  words: Sequence[str]
  instruction: str


TASKS = {
    'reviews': Task(
        'vader_sentiment', ('negative', 'positive'),
        '{{text}} Is this film review positive or negative?',
    ),
    'kinds': Task(
        'vader_source',
        ('movie review', 'product review', 'news article', 'tweet'),
        '{{text}} What kind of text is this?',
    ),
    'topics': Task(
        'wiki_topic',
        ('people', 'biology and health', 'geography', 'physical sciences',
         'society', 'the arts', 'technology', 'history', 'everyday life',
         'philosophy and religion', 'mathematics'),
        '{{text}} What is the topic of this article?',
    ),
}


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--tasks', default=','.join(TASKS))
  parser.add_argument('--rows', type=flags.counts, default='16,64,256')
  parser.add_argument('--test_rows', type=flags.count, default=200)
  parser.add_argument('--model', default='pypi:flan_t5_small_titles')
  parser.add_argument('--seed', type=int, default=0, help='of the rows')
  parser.add_argument(
      '--output', type=local_paths.local,
      default=pathlib.Path('output/few_rows'),
  )
  parser.add_argument(
      '--train', default='', metavar='FLAGS',
      help='more flags of `flipped-t5x train`, separated by blanks',
  )
  arguments = parser.parse_args()
  names = arguments.tasks.split(',')
  if unknown := sorted(set(names) - TASKS.keys()):
    parser.error(f'--tasks {unknown[0]}: it is none of {", ".join(TASKS)}')
  results = []
  for name in names:
    for rows in arguments.rows:
      folder = arguments.output / f'{name}_{rows}_{arguments.seed}'
      results.append({'task': name, 'rows': rows} | _one(
          TASKS[name], rows, folder, arguments
      ))
  print_table(results)


def _one(
    task: Task, rows: int, folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Trains on one table, or reads what was found before.

  Returns:
    `before`, `after` and `peer`, accuracies on the same rows; `step`, whose
    weights were kept; and the `seconds` of `train`.
  """
  path = folder / _FOUND
  settings = {
      'model': arguments.model, 'test_rows': arguments.test_rows,
      'train': arguments.train,
  }
  if path.exists():
    found = json.loads(path.read_text())
    if found['settings'] != settings:
      sys.exit(f'{path} is of {found["settings"]}: give another --output')
    return found['results']
  print(f'{folder} ...', file=sys.stderr, flush=True)
  folder.mkdir(parents=True, exist_ok=True)
  table = _texts(task, 'train', rows, arguments.seed)
  test = _texts(task, 'test', arguments.test_rows, arguments.seed)
  _write(folder / _TABLE, ('text', 'label'), table)
  _write(folder / _TEST, ('text',), [(text,) for text, _ in test])
  made = folder / _TASK
  # A label of none of a few rows is not known to the peer either.
  words = [w for w in task.words if w in {label for _, label in table}]
  if not made.exists():
    _flipped_t5x(
        'new', folder / _TABLE, '--text', 'text', '--label', 'label',
        '--labels', ','.join(f'{w}={w}' for w in words),
        '--instruction', task.instruction, '--folder', made, '--name', _TASK,
    )
  start = time.perf_counter()
  _flipped_t5x(
      'train', made, '--from', arguments.model, *arguments.train.split()
  )
  seconds = time.perf_counter() - start
  for model, labelled in ((arguments.model, _BEFORE), (made / 'run', _AFTER)):
    _flipped_t5x(
        'rank', '--checkpoint', model, '--task', made, '--table',
        folder / _TEST, '--output_file', folder / labelled,
    )
  right = [label for _, label in test]
  after = json.loads((made / 'run/after.json').read_text())
  results = {
      'before': _accuracy(_labels(folder / _BEFORE), right),
      'after': _accuracy(_labels(folder / _AFTER), right),
      'peer': _accuracy(peer(table, [text for text, _ in test]), right),
      'most_frequent': max(map(right.count, right)) / len(right),
      'step': after['step'],
      'seconds': seconds,
  }
  path.write_text(json.dumps(
      {'settings': settings, 'results': results}, indent=2
  ) + '\n')
  return results


def _texts(
    task: Task, split: str, number: int, seed: int
) -> list[tuple[str, str]]:
  """Texts and labels in words; few are the beginning of more."""
  rows = catalog.dataset(task.dataset).open(split)
  order = list(range(len(rows)))
  random.Random(f'{task.dataset} {split} {seed}').shuffle(order)
  drawn = [json.loads(rows[i]) for i in order[:number]]
  return [(r['text'][:_MAX_CHARS], task.words[r['label']]) for r in drawn]


def peer(
    table: Sequence[tuple[str, str]], texts: Sequence[str]
) -> Sequence[str]:
  """The labels that logistic regression on TF-IDF gives to texts."""
  labels = [label for _, label in table]
  if len(set(labels)) == 1:
    return labels[:1] * len(texts)
  model = pipeline.make_pipeline(
      feature_extraction.text.TfidfVectorizer(
          ngram_range=(1, 2), sublinear_tf=True
      ),
      linear_model.LogisticRegression(C=10, max_iter=1000),
  )
  return list(model.fit([text for text, _ in table], labels).predict(texts))


def _accuracy(found: Sequence[str], right: Sequence[str]) -> float:
  return sum(map(str.__eq__, found, right)) / len(right)


def _labels(path: pathlib.Path) -> list[str]:
  with path.open(newline='') as f:
    return [row['predicted_label'] for row in csv.DictReader(f)]


def _write(
    path: pathlib.Path, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
  with path.open('w', newline='') as f:
    csv.writer(f).writerows([columns, *rows])


def _flipped_t5x(*arguments: Any) -> None:
  """Runs a command; its output goes to standard error."""
  words = [str(a) for a in arguments]
  done = subprocess.run(
      [sys.executable, '-m', 'flipped_t5x.cli.main', *words],
      stdout=sys.stderr, check=False,
  )
  if done.returncode:
    sys.exit(f'few_rows.py: flipped-t5x {" ".join(words)} failed')


def print_table(results: Sequence[Mapping[str, Any]]) -> None:
  """Prints accuracies, a line for each table."""
  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for name in results[0]:
    table.add_column(name.replace('_', ' '), justify='right')
  for row in results:
    table.add_row(*(
        f'{v:.3f}' if isinstance(v, float) and k != 'seconds'
        else f'{v:.0f}' if k == 'seconds' else f'{v}' for k, v in row.items()
    ))
  rich.console.Console(width=120).print(table)


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  main()
