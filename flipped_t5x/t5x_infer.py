"""What `t5x.infer` writes: candidates chunk by chunk, then ranked examples.

A chunk may end in the middle of an example's options. So `write_candidates`
writes each candidate with its score, and `merge_examples` writes one JSON line
for each example when all chunks of a shard are done:

  task, template    the dataset and the template, as the catalog names them
  example_id        number of the row in its split
  options           the options' texts
  scores            log-probability of the instruction given each of them
  prediction        number of the option that scores highest, first of equals
  gold              number of the right option
  tied              whether another option scores as high as the prediction
  checkpoint, step  the weights that the scores come from

Shards are cut between rows, so that no example is in two of them.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import json
import pathlib
import re
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import locks
from flipped_t5x import ranking
from flipped_t5x import structure
import numpy as np

_PLACE = ('example_id', 'option_index', 'is_correct')
_FEATURES = (*_PLACE, 'num_options', 'option', 'task', 'template')
_CHUNK = re.compile(r'-chunk(\d+)')


def write_candidates(
    path: str,
    inferences: tuple[Sequence[float], Mapping[str, Any]],
    task_ds: Any,
    mode: str,
    vocabulary: Any = None,
    checkpoint: str | None = None,
) -> None:
  """The `write_fn` of `t5x.infer`: one JSON line for each candidate.

  Args:
    path: the file of the chunk.
    inferences: the scores, and what T5X adds to them.
    task_ds: `tf.data.Dataset` of the candidates, in the order of the scores.
    mode: the mode of `t5x.infer`.
    vocabulary: not used.
    checkpoint: the name of the weights, the same for all chunks of a shard.

  Raises:
    UserError: the mode is not `score`; or another job is writing the same
      shard.
  """
  del vocabulary
  if mode != 'score':
    raise errors.UserError(
        f'infer.mode is {mode!r}; options are ranked by "score"'
    )
  if not files.is_remote(path):
    shard = pathlib.Path(path).parent
    locks.hold_until_exit(
        shard.with_name(f'.{shard.name}.lock'), str(shard),
        'choose another SHARD_ID or INFER_OUTPUT_DIR',
    )
  with epath.Path(path).open('w', encoding='utf-8') as f:
    for score, features in zip(
        inferences[0], task_ds.as_numpy_iterator(), strict=True
    ):
      candidate = {'checkpoint': checkpoint, 'score': float(score)}
      for name in _FEATURES:
        value = features[name]
        candidate[name] = (
            value.decode() if isinstance(value, bytes) else value.item()
        )
      f.write(json.dumps(candidate, ensure_ascii=False) + '\n')


def merge_examples(
    output_dir: str, output_fname: str, tmp_dir: str, step: int | None
) -> None:
  """The `merge_fn` of `t5x.infer`: the examples of a shard, from its chunks.

  Args:
    output_dir: the folder of the result.
    output_fname: its name.
    tmp_dir: the folder of the chunks.
    step: the training step of the weights.

  Raises:
    UserError: a chunk is missing, chunks are of different checkpoints, or see
      `rank_candidates`.
  """
  chunks = {}
  for path in epath.Path(tmp_dir).iterdir():
    match = _CHUNK.fullmatch(path.name.removeprefix(output_fname))
    if match:
      chunks[int(match[1])] = path
  missing = sorted(set(range(max(chunks, default=0))) - chunks.keys())
  if missing:
    raise errors.UserError(f'{tmp_dir}: chunk {missing[0]} is missing')
  candidates = [
      candidate
      for number in sorted(chunks)
      for candidate in structure.read_lines(
          chunks[number], 'candidate', f'delete {tmp_dir}, and infer again'
      )
  ]
  checkpoints = {c.get('checkpoint') for c in candidates}
  if len(checkpoints) > 1:
    raise errors.UserError(
        f'{tmp_dir}: begun with another checkpoint ({sorted(checkpoints)}):'
        ' delete the folder, or set another INFER_OUTPUT_DIR'
    )
  try:
    examples = rank_candidates(candidates)
  except ValueError as e:
    raise errors.UserError(f'{tmp_dir}: {e}') from e
  with epath.Path(output_dir, output_fname).open('w', encoding='utf-8') as f:
    for example in examples:
      for checkpoint in checkpoints:
        example |= {'checkpoint': checkpoint, 'step': step}
      f.write(json.dumps(example, ensure_ascii=False) + '\n')
  # T5X deletes the folder next. If it is stopped while doing so, the rest must
  # not look like a finished shard.
  for path in epath.Path(tmp_dir).glob('input.ckpt*'):
    path.unlink()


def rank_candidates(
    candidates: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """Groups the candidates of one task and template by example.

  Args:
    candidates: `score` and the features of `examples.ExpandOptions` but the
      tokens, in any order.

  Returns:
    The fields of the result but `checkpoint` and `step`, by `example_id`.

  Raises:
    UserError: a candidate is missing or appears twice, or see `ranking.rank`.
  """
  candidates = sorted(
      candidates, key=lambda c: (c['example_id'], c['option_index'])
  )
  examples = []
  for example_id, group in itertools.groupby(
      candidates, lambda c: c['example_id']
  ):
    options = list(group)
    numbers = [c['option_index'] for c in options]
    if numbers != list(range(options[0]['num_options'])):
      twice = len(set(numbers)) < len(numbers)
      fault = 'appears twice' if twice else 'is missing'
      raise errors.UserError(f'example {example_id}: an option {fault}')
    examples.append({
        'task': options[0]['task'],
        'template': options[0]['template'],
        'example_id': example_id,
        'options': [c['option'] for c in options],
        'scores': [c['score'] for c in options],
    })
  ranked = ranking.rank(
      [c['score'] for c in candidates],
      *(np.array([c[name] for c in candidates], int) for name in _PLACE),
  )
  for i, example in enumerate(examples):
    example |= {
        'prediction': int(ranked.prediction[i]),
        'gold': int(ranked.gold[i]),
        'tied': bool(ranked.tied[i]),
    }
  return examples
