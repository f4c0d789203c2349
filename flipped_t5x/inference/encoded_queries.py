"""Encodes queries as tokens, to be scored or to guess an instruction from."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any
import warnings

from flipped_t5x import errors
from flipped_t5x import terminal
from flipped_t5x.inference import queries
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import run_config

_SHOWN = 60  # Characters of a label in a message.


class Truncated(UserWarning):
  """Some rows were longer than the model's input or target length."""


@dataclasses.dataclass(frozen=True)
class EncodedQuery:
  """The tokens of one query.

  Attributes:
    options: the options to rank; for a guess, its output alone.
    inputs: encoder tokens of each option.
    targets: decoder tokens of each option; empty for a guess.
    cut_inputs: whether the instance was cut to the input length.
    cut_targets: whether a target was cut to the target length.
  """

  options: tuple[str, ...]
  inputs: list[list[int]]
  targets: list[list[int]]
  cut_inputs: bool
  cut_targets: bool


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Encodes queries; see `inference/queries.py` for what a query is.

  Attributes:
    config: the model's format, lengths and settings.
    vocabulary: the model's vocabulary.
  """

  config: run_config.RunConfig
  vocabulary: tokenization.Vocabulary

  def to_rank(self, query: Mapping[str, Any]) -> EncodedQuery:
    """Encodes a query with each of its options.

    Args:
      query: see `queries.render_to_rank`.

    Returns:
      The tokens of each option.

    Raises:
      UserError: the query is wrong (see `queries.render_to_rank`), two options
        have the same tokens, or a label leaves no room for the instance.
    """
    rendered = queries.render_to_rank(query, self._max_field_chars)
    make_text = formats.get(self.config.format)
    inputs: list[list[int]] = []
    targets: list[list[int]] = []
    cut_inputs = cut_targets = False
    for option in rendered.options:
      text = make_text(rendered, option)
      with self._naming(option):
        source, cut_input = tokenization.encode_inputs(
            self.vocabulary, text, self.config.input_length
        )
        target, cut_target = tokenization.encode_targets(
            self.vocabulary, text, self.config.target_length
        )
      for i, other in enumerate(zip(inputs, targets, strict=True)):
        if other == (source, target):
          raise self._same_tokens(rendered.options[i], option)
      inputs.append(source)
      targets.append(target)
      cut_inputs |= cut_input
      cut_targets |= cut_target
    return EncodedQuery(
        rendered.options, inputs, targets, cut_inputs, cut_targets
    )

  def to_explain(self, query: Mapping[str, Any]) -> EncodedQuery:
    """Encodes a query whose options all have the instruction as their target.

    Args:
      query: see `queries.render_to_rank`.

    Returns:
      The tokens of each option.

    Raises:
      UserError: see `to_rank`; or the model's format writes the label and not
        the instruction.
    """
    encoded = self.to_rank(query)
    if any(target != encoded.targets[0] for target in encoded.targets):
      raise errors.UserError(
          f'a model of the format {self.config.format} writes the label, so'
          ' there is no instruction whose tokens could be compared between the'
          ' options'
      )
    return encoded

  def to_guess(self, query: Mapping[str, Any]) -> EncodedQuery:
    """Encodes a query whose instruction is to be guessed.

    Args:
      query: see `queries.render_to_guess`.

    Returns:
      The encoder tokens of the instance and its label.

    Raises:
      UserError: the query is wrong (see `queries.render_to_guess`), the label
        leaves no room for the instance, or the model does not write
        instructions.
    """
    if self.config.format not in formats.WRITES_INSTRUCTION:
      raise errors.UserError(
          f'a model of the format {self.config.format} does not write'
          ' instructions; one of'
          f' {" or ".join(formats.WRITES_INSTRUCTION)} does'
      )
    rendered, output = queries.render_to_guess(query, self._max_field_chars)
    text = formats.get(self.config.format)(rendered, output)
    with self._naming(output):
      source, cut = tokenization.encode_inputs(
          self.vocabulary, text, self.config.input_length
      )
    return EncodedQuery((output,), [source], [], cut, False)

  @contextlib.contextmanager
  def _naming(self, label: str) -> Iterator[None]:
    """Adds the (shortened) label to the message of a `TooLong`."""
    try:
      yield
    except tokenization.TooLong as e:
      config = self.config
      raise errors.UserError(
          f'option {terminal.shortened(label, _SHOWN)!r}: {e.reason}; the model'
          f' reads {config.input_length} tokens and writes'
          f' {config.target_length}'
      ) from e

  def _same_tokens(self, *options: str) -> errors.UserError:
    first, second = (terminal.shortened(o, _SHOWN) for o in options)
    why = 'the vocabulary does not tell them apart'
    if len({tuple(self.vocabulary.encode(o)) for o in options}) > 1:
      why = (
          f'they begin alike, and only the first {self.config.target_length}'
          ' tokens are scored'
      )
    return errors.UserError(
        f'options {first!r} and {second!r} have the same tokens: {why}'
    )

  @property
  def _max_field_chars(self) -> int | None:
    """The most characters that a template inserts, as in training."""
    return self.config.settings.get('MAX_FIELD_CHARS')

  def encode_all(
      self,
      encode: Callable[[Mapping[str, Any]], EncodedQuery],
      rows: Iterable[Mapping[str, Any]],
  ) -> list[EncodedQuery]:
    """Encodes many rows, and warns once about those that were cut.

    Args:
      encode: `to_rank`, `to_explain` or `to_guess` of this encoder.
      rows: the queries.

    Returns:
      The tokens of each row.

    Raises:
      queries.QueryError: a row is wrong; the error has its number.
    """
    encoded = []
    for i, row in enumerate(rows):
      try:
        encoded.append(encode(row))
      except ValueError as e:
        raise queries.QueryError(i, str(e)) from e
    _warn(
        [query.cut_inputs for query in encoded],
        f'inputs were cut to {self.config.input_length} tokens: the instance,'
        ' never the label',
    )
    _warn(
        [query.cut_targets for query in encoded],
        f'targets were cut to {self.config.target_length} tokens: what follows'
        ' is not scored',
    )
    return encoded


def _warn(cut: Sequence[bool], what: str) -> None:
  if any(cut):
    warnings.warn(
        f'{sum(cut):,} of {len(cut):,} {what}', Truncated, stacklevel=4
    )
