"""Ranks the options of every held-out example in every template."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import importlib.metadata
import platform
from typing import Any

from flipped_t5x import inference
from flipped_t5x import ranking
from flipped_t5x.engine import batches
import numpy as np
import tqdm

ReadCandidates = Callable[..., batches.Candidates]


def evaluate(
    model: inference.Model,
    tasks: Mapping[str, Sequence[str]],
    read_candidates: ReadCandidates,
    batch_size: int = 256,
) -> dict[str, Any]:
  """Evaluates all templates of some tasks.

  Args:
    model: the model.
    tasks: task -> names of its templates.
    read_candidates: (task, template) -> candidates.
    batch_size: candidates a forward pass.

  Returns:
    The content of `results.json`: for each task examples, options, accuracy and
    macro-F1 with mean, median and standard deviation over templates and for
    each template, baselines, ties, drops and where its data are from; and
    every setting.
  """
  results = {}
  total = sum(map(len, tasks.values()))
  with tqdm.tqdm(total=total, unit='template', dynamic_ncols=True) as bar:
    for task, templates in tasks.items():
      ranked, counts = {}, {}
      for template in templates:
        bar.set_postfix_str(f'{task}: {template}')
        candidates = read_candidates(task, template)
        if not len(candidates.example_id):
          raise ValueError(
              f'{task} "{template}": no row fits it'
              f' ({dict(candidates.counts)})'
          )
        ranked[template] = rank(model, candidates, batch_size)
        counts[template] = candidates.counts
        bar.update()
      results[task] = {
          **summarize(ranked, counts), 'data': candidates.origin
      }
  return {
      'tasks': results,
      'step': model.step,
      'format': model.config.format,
      'input_length': model.config.input_length,
      'target_length': model.config.target_length,
      'network': dataclasses.asdict(model.config.network),
      'settings': dict(model.config.settings),
      'versions': versions(),
  }


def rank(
    model: inference.Model, candidates: batches.Candidates, batch_size: int
) -> ranking.Ranked:
  """Scores candidates and takes the best option of each example."""
  scores = model.score(candidates.inputs, candidates.targets, batch_size)
  return ranking.rank(
      scores, candidates.example_id, candidates.option_index,
      candidates.is_correct,
  )


def summarize(
    ranked: Mapping[str, ranking.Ranked],
    counts: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
  """One task's results from those of its templates."""
  templates = {}
  for name, r in ranked.items():
    constant = ranking.majority(r.gold)
    templates[name] = {
        'examples': len(r.gold),
        'options': sorted({int(n) for n in r.num_options}),
        'accuracy': ranking.accuracy(r.prediction, r.gold),
        'macro_f1': ranking.macro_f1(r.prediction, r.gold),
        'majority_accuracy': ranking.accuracy(constant, r.gold),
        'majority_macro_f1': ranking.macro_f1(constant, r.gold),
        'random_accuracy': ranking.random_accuracy(r.num_options),
        'ties': int(r.tied.sum()),
        'counts': dict(counts[name]),
    }

  def mean(key):
    return float(np.mean([t[key] for t in templates.values()]))

  return {
      'examples': max(t['examples'] for t in templates.values()),
      'options': sorted({n for t in templates.values() for n in t['options']}),
      'accuracy': ranking.spread([t['accuracy'] for t in templates.values()]),
      'macro_f1': ranking.spread([t['macro_f1'] for t in templates.values()]),
      'majority_accuracy': mean('majority_accuracy'),
      'majority_macro_f1': mean('majority_macro_f1'),
      'random_accuracy': mean('random_accuracy'),
      'ties': sum(t['ties'] for t in templates.values()),
      'templates': templates,
  }


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that compute."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'sentencepiece')
  return {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in packages},
  }
