"""Trained models: score candidates, rank the options of a text."""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib

from flipped_t5x import features
from flipped_t5x import formats
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x import templates
from flipped_t5x.engine import batches
from flipped_t5x.engine import checkpoints
import jax
import jax.numpy as jnp
import numpy as np

_INPUT = '{{input}}'


@dataclasses.dataclass(frozen=True)
class Model:
  """Weights with all that is needed to use them.

  Attributes:
    config: the run's configuration.
    params: the network's weights.
    vocabulary: its vocabulary.
    step: the training step of the weights.
  """

  config: checkpoints.RunConfig
  params: dict
  vocabulary: features.SentencePiece
  step: int

  def score(
      self,
      inputs: Sequence[Sequence[int]],
      targets: Sequence[Sequence[int]],
      batch_size: int = 256,
      length_multiple: int = 16,
  ) -> np.ndarray:
    """Log-probability of each target given its input.

    Args:
      inputs: encoder tokens of each candidate.
      targets: decoder tokens of each candidate.
      batch_size: candidates a forward pass.
      length_multiple: lengths are padded to a multiple of this.

    Returns:
      float32[n].
    """
    scores = np.zeros(len(inputs), np.float32)
    for chosen, batch in batches.score_batches(
        inputs, targets, batch_size, length_multiple
    ):
      values = _score(self.config.network, self.params, batch)
      scores[chosen] = np.asarray(values)[: len(chosen)]
    return scores

  def rank(
      self, instruction: str, text: str, options: Sequence[str]
  ) -> list[tuple[str, float]]:
    """Ranks options by the instruction's log-probability.

    Args:
      instruction: the instruction; `{{input}}` in it marks the text's place,
        else the text comes first.
      text: the text to label.
      options: at least two different labels.

    Returns:
      (option, score) pairs, best first; ties in the given order.

    Raises:
      ValueError: too few options, equal ones, or no instruction.
    """
    options = [o.strip() for o in options]
    if len(options) < 2 or len(set(options)) < len(options) or '' in options:
      raise ValueError(
          f'options {options}: at least two are needed, none empty, all'
          ' different'
      )
    if not instruction.replace(_INPUT, '').strip():
      raise ValueError('the instruction is empty; it is what is scored')
    rendered = rendered_text(instruction, text, tuple(options))
    make_text = formats.get(self.config.format)
    inputs, targets = [], []
    for option in options:
      pair = make_text(rendered, option)
      inputs.append(features.encode_inputs(
          self.vocabulary, pair, self.config.input_length)[0])
      targets.append(features.encode_targets(
          self.vocabulary, pair, self.config.target_length)[0])
    scores = self.score(inputs, targets, batch_size=len(options))
    order = np.argsort(-scores, kind='stable')
    return [(options[i], float(scores[i])) for i in order]


def rendered_text(
    instruction: str, text: str, options: tuple[str, ...]
) -> templates.Rendered:
  """An instruction and a text as if a template had been rendered."""
  if _INPUT not in instruction:
    instruction = f'{_INPUT} {instruction}'
  parts, chunks = [], []
  for i, literal in enumerate(instruction.split(_INPUT)):
    if i:
      parts.append(text)
    if literal:
      parts.append(len(chunks))
      chunks.append(literal)
  return templates.Rendered(tuple(parts), tuple(chunks), options, gold=0)


def load(path: str | pathlib.Path) -> Model:
  """Loads a run folder, or one step of it (`RUN/checkpoints/STEP`).

  Args:
    path: the folder.

  Returns:
    The model, with the newest step's weights if no step is named.

  Raises:
    FileNotFoundError: there is no run or no checkpoint.
    ValueError: the checkpoint does not fit the configuration.
  """
  path = pathlib.Path(path).expanduser().absolute()
  folder, step = path, None
  if path.parent.name == 'checkpoints' and path.name.isdigit():
    folder, step = path.parent.parent, int(path.name)
  config = checkpoints.RunConfig.read(folder)
  saver = checkpoints.Checkpoints(folder)
  step = saver.latest if step is None else step
  if step is None:
    raise FileNotFoundError(f'{folder}: no checkpoint has been saved yet')
  model = network_lib.Transformer(config.network)
  tokens = jnp.ones((1, 1), jnp.int32)
  shapes = jax.eval_shape(
      lambda: model.init(
          jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
      )['params']
  )
  params = saver.restore_params(step, shapes)
  saver.close()
  vocabulary = features.load_vocabulary(folder / 'sentencepiece.model')
  return Model(config, params, vocabulary, step)


@functools.partial(jax.jit, static_argnums=0)
def _score(config: network_lib.T5Config, params, batch) -> jax.Array:
  """float32[batch]: log-probabilities of the targets."""
  logits = network_lib.Transformer(config).apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      enable_dropout=False,
  )
  return objectives.sequence_scores(
      logits, batch['decoder_target_tokens'], batch['decoder_loss_weights']
  )
