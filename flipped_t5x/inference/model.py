"""Models: rank labels, guess the instruction, explain where labels differ.

    import flipped_t5x
    model = flipped_t5x.load('output/demo')
    model.rank(
        input='A warm, funny film.',
        instruction='Did the reviewer enjoy the movie?',
        options=['Yes', 'No'],
    )

Where there are many rows, a batch holds candidates of like lengths, whichever
rows they are of; a score does not depend on what else is in the batch.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from flipped_t5x import errors
from flipped_t5x import terminal
from flipped_t5x.inference import encoded_queries
from flipped_t5x.inference import explanation as explanation_lib
from flipped_t5x.inference import generation
from flipped_t5x.inference import queries
from flipped_t5x.inference import scoring
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import model_files
from flipped_t5x.weights import run_config
from flipped_t5x.weights import tensors
import jax
import jax.numpy as jnp
import numpy as np

BATCH_SIZE = 64
DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class Ranked:
  """One option of a text.

  Attributes:
    option: the option.
    log_prob: log P(instruction | input, option), the score that ranks.
    probability: the softmax of the options' scores.
  """

  option: str
  log_prob: float
  probability: float


@dataclasses.dataclass(frozen=True)
class Guess:
  """An instruction that the model wrote.

  Attributes:
    instruction: its text; in the format `flipped` with the sentinels that say
      where its parts stand.
    log_prob: its log-probability, EOS counted in.
    tokens: its tokens without EOS.
  """

  instruction: str
  log_prob: float
  tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """Weights with all that is needed to use them.

  Attributes:
    config: network, format, lengths and settings.
    params: the network's weights.
    vocabulary: its vocabulary.
    step: the training step of the weights; None where that is not known.
  """

  config: run_config.RunConfig
  params: dict = dataclasses.field(repr=False)
  vocabulary: tokenization.Vocabulary
  step: int | None

  def rank(
      self,
      *,
      input: str | None = None,  # pylint: disable=redefined-builtin
      instruction: str | None = None,
      options: Sequence[str] | None = None,
      dataset: str | None = None,
      template: str | templates.Template | None = None,
      row: Mapping[str, Any] | None = None,
  ) -> list[Ranked]:
    """Ranks options by how probable each makes the instruction.

    Args:
      input: the text to label.
      instruction: the instruction; `{{input}}` in it marks the text's place,
        else the text comes first.
      options: at least two labels.
      dataset: instead of the three above, the name of a dataset as promptsource
        or the catalog has it,
      template: the name of one of its templates, or a template,
      row: and the fields that it reads. The options are the template's.

    Returns:
      The options, best first; ties in the given order.

    Raises:
      UserError: too few options, ones that are equal or are the same tokens,
        no instruction, an unknown name, or a row that does not fit.
    """
    return _one(self.rank_batch, dict(
        input=input, instruction=instruction, options=options, dataset=dataset,
        template=template, row=row,
    ))

  def rank_batch(
      self,
      rows: Iterable[Mapping[str, Any]],
      batch_size: int = BATCH_SIZE,
      progress: bool = True,
  ) -> list[list[Ranked]]:
    """`rank` for many rows.

    Args:
      rows: the arguments of `rank`, a mapping for each row.
      batch_size: candidates a forward pass.
      progress: whether to show a bar.

    Returns:
      For each row what `rank` gives.

    Raises:
      queries.QueryError: a ValueError that names the row.
    """
    encoder = self._encoder
    found = encoder.of_each(encoder.to_rank, rows)
    scored = self._scored(found, batch_size, progress)
    return [
        _ranked(row.options, log_probs)
        for row, log_probs in zip(found, scored, strict=True)
    ]

  def guess(
      self,
      *,
      input: str | None = None,  # pylint: disable=redefined-builtin
      output: str | None = None,
      dataset: str | None = None,
      template: str | templates.Template | None = None,
      row: Mapping[str, Any] | None = None,
      num_beams: int = 1,
      max_length: int | None = None,
  ) -> Guess:
    """Writes the instruction that leads from an input to an output.

    Args:
      input: the text; the encoder reads `input: TEXT`, `output: LABEL`. A model
        of the format `flipped` knows places for the instruction's parts:
        `<extra_id_0>`, `<extra_id_1>` in the text, and writes what belongs
        there.
      output: the label; with a row, instead of the row's own.
      dataset: instead of an input, a dataset's name, see `rank`,
      template: one of its templates, whose places are shown but whose words are
        not,
      row: and the fields that it reads.
      num_beams: 1 takes the most probable token each time.
      max_length: the most tokens to write, EOS counted in; by default the
        model's target length.

    Returns:
      The instruction.

    Raises:
      UserError: something is missing, unknown or does not fit, or the model
        does not write instructions (formats `direct` and `channel`).
    """
    return _one(
        self.guess_batch,
        dict(
            input=input, output=output, dataset=dataset, template=template,
            row=row,
        ),
        num_beams=num_beams, max_length=max_length,
    )

  def guess_batch(
      self,
      rows: Iterable[Mapping[str, Any]],
      num_beams: int = 1,
      max_length: int | None = None,
      batch_size: int = BATCH_SIZE,
      progress: bool = True,
  ) -> list[Guess]:
    """`guess` for many rows; arguments as for `rank_batch`."""
    encoder = self._encoder
    found = encoder.of_each(encoder.to_guess, rows)
    with terminal.progress_bar(len(found), 'guess', progress) as bar:
      generated = generation.generate(
          self.config.network, self.params, [row.inputs[0] for row in found],
          max_length=(
              self.config.target_length if max_length is None else max_length
          ),
          num_beams=num_beams, batch_size=batch_size, progress=bar.update,
      )
    return [
        Guess(self._text(g.tokens), g.log_prob, g.tokens) for g in generated
    ]

  def explain(
      self,
      *,
      input: str | None = None,  # pylint: disable=redefined-builtin
      instruction: str | None = None,
      options: Sequence[str] | None = None,
      dataset: str | None = None,
      template: str | templates.Template | None = None,
      row: Mapping[str, Any] | None = None,
  ) -> explanation_lib.Explanation:
    """Log-probability of each token of the instruction under each option.

    Args:
      input: as for `rank`, and so are the others.
      instruction: the instruction.
      options: the labels.
      dataset: a dataset's name.
      template: the name of one of its templates, or a template.
      row: a row.

    Returns:
      The explanation; its sums over tokens are the scores of `rank`.

    Raises:
      UserError: see `rank`; or the model writes the label and not the
        instruction (format `direct`).
    """
    return _one(self.explain_batch, dict(
        input=input, instruction=instruction, options=options, dataset=dataset,
        template=template, row=row,
    ))

  def explain_batch(
      self,
      rows: Iterable[Mapping[str, Any]],
      batch_size: int = BATCH_SIZE,
      progress: bool = True,
  ) -> list[explanation_lib.Explanation]:
    """`explain` for many rows; arguments as for `rank_batch`."""
    encoder = self._encoder
    found = encoder.of_each(encoder.to_explain, rows)
    scored = self._scored(found, batch_size, progress)
    return [
        _explained(self.vocabulary, row, log_probs)
        for row, log_probs in zip(found, scored, strict=True)
    ]

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
    log_probs = scoring.token_log_probs(
        self.config.network, self.params, inputs, targets,
        batch_size=batch_size, length_multiple=length_multiple,
    )
    return np.array([values.sum() for values in log_probs], np.float32)

  def _text(self, tokens: Sequence[int]) -> str:
    # An embedding may have rows that no piece of the vocabulary belongs to.
    size = self.vocabulary.vocab_size
    return self.vocabulary.decode(
        [t if t < size else tokenization.UNK_ID for t in tokens]
    )

  @property
  def _encoder(self) -> encoded_queries.Encoder:
    return encoded_queries.Encoder(self.config, self.vocabulary)

  def _scored(
      self,
      rows: Sequence[encoded_queries.EncodedQuery],
      batch_size: int,
      progress: bool,
  ) -> list[list[np.ndarray]]:
    """For each row and option float32[tokens of the target]."""
    inputs = [tokens for row in rows for tokens in row.inputs]
    with terminal.progress_bar(len(inputs), 'candidate', progress) as bar:
      values = iter(scoring.token_log_probs(
          self.config.network, self.params, inputs,
          [tokens for row in rows for tokens in row.targets],
          batch_size=batch_size, progress=bar.update,
      ))
      scored = [[next(values) for _ in row.options] for row in rows]
    for i, log_probs in enumerate(scored):
      if not all(np.isfinite(values).all() for values in log_probs):
        raise queries.QueryError(
            i, 'a log-probability is not finite: the weights are damaged, or'
            ' their type is too narrow'
        )
    return scored


def _one(function: Callable[..., list[Any]], query, **options) -> Any:
  """The result of a function of many rows for one row, which has no number."""
  try:
    result, = function([query], progress=False, **options)
  except queries.QueryError as e:
    raise errors.UserError(e.reason) from e
  return result


def _ranked(
    options: Sequence[str], log_probs: Sequence[np.ndarray]
) -> list[Ranked]:
  scores = np.array([values.sum() for values in log_probs], np.float64)
  shares = np.exp(scores - scores.max())
  shares /= shares.sum()
  return [
      Ranked(options[i], float(scores[i]), float(shares[i]))
      for i in _best_first(log_probs)
  ]


def _explained(
    vocabulary: tokenization.Vocabulary,
    row: encoded_queries.EncodedQuery,
    log_probs: Sequence[np.ndarray],
) -> explanation_lib.Explanation:
  order = _best_first(log_probs)
  return explanation_lib.Explanation(
      explanation_lib.token_texts(vocabulary, row.targets[0]),
      tuple(row.options[i] for i in order),
      np.stack([log_probs[i] for i in order]),
  )


def _best_first(log_probs: Sequence[np.ndarray]) -> np.ndarray:
  """int[options]; equal scores in the given order."""
  return np.argsort([-values.sum() for values in log_probs], kind='stable')


def load(
    path_or_hub_name: str | os.PathLike[str],
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    format: str | None = None,  # pylint: disable=redefined-builtin
    input_length: int | None = None,
    target_length: int | None = None,
) -> Model:
  """Loads a model: ours, T5X's, or one in Hugging Face's form.

  Args:
    path_or_hub_name: a folder, or a checkpoint in it, see `weights/model_files.py`; or
      a name on the Hugging Face hub.
    vocabulary: a SentencePiece file, where the model has none of its own.
    dtype: of the weights and the activations, one of `DTYPES`; by default
      weights stay as they are stored, and activations are what the model's
      configuration says, float32 if it says nothing.
    revision: commit, branch or tag of a name on the hub.
    format: text format, see `prompts/formats.py`; by default the model's own, `flipped`
      if it has none. So are the lengths, 384 and 64 tokens if it has none.
    input_length: tokens that the encoder reads, EOS counted in.
    target_length: tokens that the decoder writes, EOS counted in.

  Returns:
    The model on JAX's default device, where its weights are put one by one.

  Raises:
    FileNotFoundError: there is no model, or no checkpoint in it.
    UserError: the weights do not fit the configuration, or the vocabulary not
      the weights, or there is no vocabulary, or an argument is wrong.
  """
  if dtype is not None and dtype not in DTYPES:
    raise errors.UserError(f'dtype {dtype!r} is not one of {DTYPES}')
  for name, length in (
      ('input_length', input_length), ('target_length', target_length)
  ):
    if length is not None and length < 1:
      raise errors.UserError(f'{name} is {length}; at least 1 is needed')
  if format is not None:
    formats.get(format)
  files = model_files.open(
      path_or_hub_name, revision=revision, vocabulary=vocabulary
  )
  if files.vocabulary is None:
    raise errors.UserError(
        f'{files.path} has no vocabulary beside its weights; `vocabulary` (in'
        ' the commands --vocabulary) names a SentencePiece file'
    )
  network = files.network
  if dtype is not None:
    network = dataclasses.replace(network, dtype=dtype)
  config = run_config.RunConfig(
      network,
      format or files.format,
      input_length or files.input_length,
      target_length or files.target_length,
      files.settings,
  )
  return Model(
      config, _on_device(files.tensors, dtype),
      tokenization.load_vocabulary(files.vocabulary), files.step,
  )


def _on_device(weights: tensors.Tensors, dtype: str | None) -> dict[str, Any]:
  """Reads weights one by one, so that the host never holds two of them."""
  params = {}
  for name, tensor in weights.items():
    if dtype is not None:
      tensor = tensor.astype(jnp.dtype(dtype))
    params[name] = jax.device_put(tensor.read()).block_until_ready()
  return tensors.tree(params)
