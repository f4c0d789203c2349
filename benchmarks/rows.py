"""What the sides of a benchmark get: weights, pairs and candidates."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import itertools
import pathlib
import sys
from typing import Any

from flipped_t5x import gin_config
from flipped_t5x import network as network_lib
from flipped_t5x.precompile import flops
from flipped_t5x.prompts import arrays
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches as task_batches
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks import vocabularies
from flipped_t5x.weights import hf_checkpoints
import gin
import numpy as np
import random_weights

DEMO, DEMO_EVAL = 'flipped_demo', 'flipped_demo_eval'
# Sets of the published mixture, long and short texts, all kinds of tasks.
TRAINING = (
    'glue/qqp,glue/mrpc,paws/labeled_final,ag_news,imdb,amazon_polarity,'
    'rotten_tomatoes,yelp_review_full,cos_e/v1.11,cosmos_qa,social_i_qa,qasc,'
    'sciq,quarel,quartz'
)
RANKED = (
    'super_glue/rte,super_glue/cb,super_glue/copa,winogrande/winogrande_xl,'
    'piqa,ai2_arc/ARC-Challenge'
)
MAX_FIELD_CHARS = 2048  # As promptsource cuts them.
_VOCAB_SIZE, _DEMO_VOCAB_SIZE = 32_000, 2048

# Candidates: their `inputs` and `targets`, and the numbers of their `rows`, of
# their `prompts`, a row in one template each, and of their `options`.
Task = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What the shipped gin files say.

  Attributes:
    network: sizes of the network.
    input_length: tokens of an encoder side.
    target_length: tokens of the decoder side.
    objective: lambda, eps, the learning rate and the norm of gradients, as
      arguments of `ours.Trainer` and `peer_t5.Trainer`.
  """

  network: network_lib.T5Config
  input_length: int
  target_length: int
  objective: Mapping[str, float]


def recipe(size: str, lora: bool = False) -> Recipe:
  """That of FLIPPED for T5 1.1 of a size.

  Args:
    size: 'small' to 'xxl', or 'demo'.
    lora: whether the network has adapters, those of adapters/lora.gin.
  """
  adapters = ['adapters/lora.gin'] if lora else []
  if size == 'demo':
    macros = gin_config.parse(['runs/scratch.gin', *adapters], [])
  else:
    macros = gin_config.parse(
        [
            'runs/train.gin', f'models/t5_1_1_{size}.gin',
            'methods/flipped.gin', *adapters,
        ],
        ["MODEL_DIR = 'none'", "ACTIVATION_DTYPE = 'float32'"],
    )
  return Recipe(
      gin.get_configurable(network_lib.T5Config)(),
      macros['INPUT_LENGTH'],
      macros['TARGET_LENGTH'],
      {
          'unlikelihood_weight': macros['LAMBDA'],
          'eps': macros['EPS'],
          'learning_rate': macros['LEARNING_RATE'],
          'max_gradient_norm': macros['MAX_GRADIENT_NORM'],
      },
  )


def vocabulary(
    path: pathlib.Path | None, mixture: str, network: network_lib.T5Config
) -> pathlib.Path:
  """The vocabulary that is given, or one trained on a mixture, once.

  Args:
    path: a SentencePiece file, or None.
    mixture: a mixture of `mixtures.py`.
    network: whose embedding must have room for it.

  Returns:
    The file.

  Raises:
    ValueError: the embedding is too small.
  """
  if path is None:
    print(
        f'training a vocabulary on {mixture}, unless the data folder has it;'
        ' this can take minutes, and --vocabulary FILE takes another',
        file=sys.stderr, flush=True,
    )
    most = _DEMO_VOCAB_SIZE if mixture == DEMO else _VOCAB_SIZE
    path = vocabularies.trained(mixture, min(most, network.vocab_size))
  size = tokenization.load_vocabulary(path).vocab_size
  if size > network.vocab_size:
    raise ValueError(
        f'{path} has {size} ids, and the network {network.vocab_size}'
    )
  return path


def write_weights(
    folder: pathlib.Path, network: network_lib.T5Config
) -> None:
  """Writes the weights of `random_weights.py` in Hugging Face's form.

  Args:
    folder: where they are written, unless it exists.
    network: the sizes.
  """
  if not folder.exists():
    unfinished = folder.with_name(f'{folder.name}.unfinished')
    unfinished.mkdir(parents=True)
    weights = random_weights.tensors(network)
    hf_checkpoints.write(unfinished, network, weights, None)
    unfinished.rename(folder)


def packed_pairs(
    mixture: str, vocabulary_path: pathlib.Path, setting: Recipe,
    batch_size: int, count: int, open_rows: int | None = None,
    target_length: int | None = None,
) -> list[arrays.Batch]:
  """The trainer's first batches of a mixture.

  Args:
    mixture: see `mixtures.mixture`.
    vocabulary_path: file of the SentencePiece model.
    setting: has the lengths.
    batch_size: rows; each has several pairs.
    count: number of batches.
    open_rows: rows that are packed at a time, see `TrainBatches`.
    target_length: tokens of the decoder side of a packed row, see there.

  Returns:
    `count` packed batches.
  """
  made = task_batches.TrainBatches(
      mixture, vocabulary_path, batch_size, setting.input_length,
      setting.target_length, seed=0, max_field_chars=MAX_FIELD_CHARS,
      open_rows=open_rows, packed_target_length=target_length,
  )
  return list(itertools.islice(made, count))


def unpacked(batch: arrays.Batch) -> list[dict[str, list[int]]]:
  """The pairs in a packed batch: `inputs`, `wrong_inputs`, `targets`."""
  names = {
      'inputs': ('encoder_input_tokens', 'encoder_segment_ids'),
      'wrong_inputs': (
          'wrong_encoder_input_tokens', 'wrong_encoder_segment_ids'
      ),
      'targets': ('decoder_target_tokens', 'decoder_segment_ids'),
  }
  return [
      {
          name: batch[tokens][row][batch[segments][row] == segment].tolist()
          for name, (tokens, segments) in names.items()
      }
      for row, last in enumerate(batch['decoder_segment_ids'].max(axis=1))
      for segment in range(1, last + 1)
  ]


def candidates(
    datasets: str, vocabulary_path: pathlib.Path, setting: Recipe, rows: int,
    templates: int | None = None,
) -> dict[str, Task]:
  """Options of rows in the templates that have use for them.

  Args:
    datasets: names in the catalog or of a mixture, separated by commas.
    vocabulary_path: file of the SentencePiece model.
    setting: has the lengths.
    rows: the most rows of a dataset.
    templates: the most templates of it; None for all.

  Returns:
    Dataset -> its candidates, template by template.
  """
  found = {}
  for name in mixtures.mixture(datasets).datasets:
    source = task_batches.open_candidates(
        name, vocabulary_path, setting.input_length, setting.target_length,
        max_field_chars=MAX_FIELD_CHARS, limit=rows,
    )
    some = [c for c in map(source.read, source.templates) if c.inputs]
    if some[:templates]:
      found[name] = _task(some[:templates])
  return found


def _task(templates: Sequence[arrays.Candidates]) -> Task:
  numbers = itertools.count()
  prompts = collections.defaultdict(lambda: next(numbers))
  task = {
      'inputs': [], 'targets': [], 'rows': [], 'prompts': [], 'options': [],
  }
  for template, some in enumerate(templates):
    rows = some.example_id.tolist()
    task['inputs'] += [np.asarray(t).tolist() for t in some.inputs]
    task['targets'] += [np.asarray(t).tolist() for t in some.targets]
    task['rows'] += rows
    task['prompts'] += [prompts[template, row] for row in rows]
    task['options'] += some.option_index.tolist()
  return task


def first(task: Task, number: int) -> Task:
  """The candidates of the first so many rows, in all templates."""
  rows = [*dict.fromkeys(task['rows'])][:number]
  kept = [i for i, row in enumerate(task['rows']) if row in rows]
  return {name: [values[i] for i in kept] for name, values in task.items()}


def forward(
    network: network_lib.T5Config, shapes: Iterable[Sequence[int]]
) -> float:
  """Operations of passes.

  Args:
    network: sizes.
    shapes: of each pass the rows of the encoder and of the decoder, and the
      lengths of inputs and targets.
  """
  return sum(
      encoder_rows * flops.encoder(network, source).total
      + decoder_rows * flops.decoder(network, source, target).total
      for encoder_rows, decoder_rows, source, target in shapes
  )
