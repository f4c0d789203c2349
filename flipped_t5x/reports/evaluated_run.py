"""Evaluated runs: their results and training logs, as reports need them."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import re
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import structure
from flipped_t5x import terminal
from flipped_t5x.evaluation import t5x_results

_ALL_IN_ONE = 'results.json'
_LEFT_OUT = re.compile(r'(.+?): (.*)', re.DOTALL)
_RELATIVE_BUCKETS = 32  # `num_buckets` of T5's relative positions.


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
  """An evaluated run.

  Attributes:
    name: what reports call it.
    path: the file of results, which is not written yet in a folder of T5X.
    results: its content, see `evaluation/evaluate.py`.
    log: the lines of `metrics.jsonl`; None if it was trained elsewhere.
    of_t5x: whether the results are made from T5X's files.
  """

  name: str
  path: epath.Path
  results: Mapping[str, Any]
  log: Sequence[Mapping[str, float]] | None
  of_t5x: bool = False

  @property
  def suffix(self) -> str:
    """`_nlp` of `results_nlp.json`, `_mine` of `mine.json`."""
    stem = self.path.stem
    if stem.startswith('results'):
      return stem.removeprefix('results')
    return f'_{stem}'


def read(run: str | os.PathLike[str]) -> EvaluatedRun:
  """Reads the results of a run.

  Args:
    run: a run's folder with `results.json`, or a file of results; or a folder
      of T5X, see `evaluation/t5x_results.py`.

  Raises:
    FileNotFoundError: the run has not been evaluated, or the file does not
      exist; the message names other results in the folder.
    UserError: it is not a file of results, or is damaged; or see
      `t5x_results.read`.
  """
  run = files.any_path(run)
  if t5x_results.found_in(run):
    results = terminal.visible(t5x_results.read(run))
    return EvaluatedRun(
        _name(run), run / _ALL_IN_ONE, results, None, of_t5x=True
    )
  path = run / _ALL_IN_ONE if run.suffix != '.json' else run
  folder = path.parent
  if not path.is_file():
    raise FileNotFoundError(f'{path} does not exist; {_instead(folder)}')
  results = terminal.visible(structure.read_results(path))
  log = folder / 'metrics.jsonl'
  lines = structure.read_log(log) if log.is_file() else None
  return EvaluatedRun(_name(folder), path, results, lines)


def _instead(folder: epath.Path) -> str:
  """What to do if a file of results does not exist."""
  others = sorted(folder.glob('results*.json')) if folder.is_dir() else []
  if others:
    return f'there is {" or ".join(map(str, others))}'
  return f'evaluate the run first: flipped-t5x eval --checkpoint {folder}'


def read_all(runs: Sequence[str | os.PathLike[str]]) -> list[EvaluatedRun]:
  """Reads several runs and gives them names that differ.

  Raises:
    UserError: a file of results appears twice; or see `read`.
    FileNotFoundError: see `read`.
  """
  found = [read(run) for run in runs]
  paths = [_absolute(run.path) for run in found]
  for i, path in enumerate(paths):
    if path in paths[:i]:
      raise errors.UserError(
          f'{path} appears twice; give different runs'
      )
  names = unique_names(paths)
  return [
      dataclasses.replace(run, name=name)
      for run, name in zip(found, names, strict=True)
  ]


def unique_names(paths: Sequence[epath.Path]) -> list[str]:
  """Short names for files of results, all different.

  Args:
    paths: files of results, all different.

  Returns:
    The last parts of each folder, as many as are needed to tell it from the
    others. If several files are in one folder, their names are added.
  """
  names = []
  for path in paths:
    parts = path.parent.parts
    others = {p.parent.parts for p in paths} - {parts}
    enough = next(
        n for n in range(1, len(parts) + 1)
        if all(other[-n:] != parts[-n:] for other in others)
    )
    name = '/'.join(parts[-enough:])
    if sum(p.parent == path.parent for p in paths) > 1:
      name += f'/{path.stem}'
    names.append(terminal.visible(name))
  return names


def _name(folder: epath.Path) -> str:
  return terminal.visible(_absolute(folder).name or str(folder))


def _absolute(path: epath.Path) -> epath.Path:
  """The path without `..` and `.`; paths of buckets are absolute already."""
  return path if '://' in str(path) else path.resolve()


def missing(results: Mapping[str, Any]) -> dict[str, str]:
  """Task -> why it was not evaluated."""
  if 'missing' in results:
    return {
        # It is the first line of an error, which may end in a colon.
        name: why.removeprefix(f'{name}: ').rstrip(':')
        for name, why in results['missing'].items()
    }
  found = {}
  for line in results.get('left_out', ()):  # Older results.
    match = _LEFT_OUT.fullmatch(line)
    found[match[1] if match else line] = match[2] if match else ''
  return found


def limit(results: Mapping[str, Any]) -> int | None:
  """The most rows of each dataset that were ranked; None for all."""
  return results.get('limit')


def sample(results: Mapping[str, Any]) -> str | None:
  """How many rows were ranked, as a sentence, if there was a limit."""
  most = limit(results)
  numbers = [task['examples'] for task in results['tasks'].values()]
  if most is None or not numbers:
    return None
  rows = ' to '.join(f'{n:,}' for n in sorted({min(numbers), max(numbers)}))
  return f'Evaluated on {rows} rows of each dataset; the limit was {most:,}.'


def splits(results: Mapping[str, Any]) -> str:
  """The splits of all tasks: `test`, `test or validation`."""
  return ' or '.join(
      sorted({t['data']['split'] for t in results['tasks'].values()})
  )


def num_parameters(network: Mapping[str, Any]) -> int | None:
  """The number of weights of a T5, by its sizes; None if they are not known.

  Args:
    network: the fields of `network.T5Config`; empty in results of T5X.
  """
  if not network:
    return None
  width, emb = network['num_heads'] * network['head_dim'], network['emb_dim']
  attention = 4 * emb * width
  mlp = (len(network['mlp_activations']) + 1) * emb * network['mlp_dim']
  encoder = network['num_encoder_layers'] * (attention + mlp + 2 * emb)
  decoder = network['num_decoder_layers'] * (2 * attention + mlp + 3 * emb)
  stacks = 2 * (emb + _RELATIVE_BUCKETS * network['num_heads'])
  embeddings = 1 if network.get('logits_via_embedding') else 2
  return (
      embeddings * network['vocab_size'] * emb + encoder + decoder + stacks
  )


def million(parameters: int) -> str:
  """`1.5 million`, `2.8 billion`."""
  if parameters >= 1e9:
    return f'{parameters / 1e9:.3g} billion'
  return f'{parameters / 1e6:.3g} million'
