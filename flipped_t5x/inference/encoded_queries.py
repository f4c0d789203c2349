"""Queries as tokens: what is scored, and what a guess starts from."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
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
_GUESSING_FORMATS = ('flipped', 'flipped_plain')


class Truncated(UserWarning):
  """Some rows were longer than the model reads or writes."""


@dataclasses.dataclass(frozen=True)
class EncodedQuery:
  """The options of one text, or the one output of a guess.

  Attributes:
    options: the options.
    inputs: encoder tokens for each.
    targets: decoder tokens for each; none for a guess.
    cut_inputs: whether an instance was cut.
    cut_targets: whether a target was cut.
  """

  options: tuple[str, ...]
  inputs: list[list[int]]
  targets: list[list[int]]
  cut_inputs: bool
  cut_targets: bool


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Makes candidates of queries, see `inference/queries.py`.

  Attributes:
    config: the model's format, lengths and settings.
    vocabulary: its vocabulary.
  """

  config: run_config.RunConfig
  vocabulary: tokenization.Vocabulary

  def to_rank(self, query: Mapping[str, Any]) -> EncodedQuery:
    """All options of a query.

    Raises:
      UserError: the query is wrong, see `queries.render_to_rank`; two options
        are the same tokens; or a label leaves no room for the instance.
    """
    rendered = queries.render_to_rank(query, self._max_field_chars)
    make_text = formats.get(self.config.format)
    inputs, targets = [], []
    cut_inputs = cut_targets = False
    for option in rendered.options:
      text = make_text(rendered, option)
      with self._short(option):
        source, cut = tokenization.encode_inputs(
            self.vocabulary, text, self.config.input_length
        )
        cut_inputs |= cut
        target, cut = tokenization.encode_targets(
            self.vocabulary, text, self.config.target_length
        )
        cut_targets |= cut
      for i, other in enumerate(zip(inputs, targets, strict=True)):
        if other == (source, target):
          raise self._same_tokens(rendered.options[i], option)
      inputs.append(source)
      targets.append(target)
    return EncodedQuery(
        rendered.options, inputs, targets, cut_inputs, cut_targets
    )

  def to_explain(self, query: Mapping[str, Any]) -> EncodedQuery:
    """As `to_rank`; ValueError too where the target is not the instruction."""
    found = self.to_rank(query)
    if any(target != found.targets[0] for target in found.targets):
      raise errors.UserError(
          f'a model of the format {self.config.format} writes the label: no'
          ' instruction has a probability under each option to be compared'
      )
    return found

  def to_guess(self, query: Mapping[str, Any]) -> EncodedQuery:
    """The output of a query.

    Raises:
      UserError: the query is wrong, see `queries.render_to_guess`; the label
        leaves no room; or the model does not write instructions.
    """
    if self.config.format not in _GUESSING_FORMATS:
      raise errors.UserError(
          f'a model of the format {self.config.format} does not write'
          f' instructions; one of {" or ".join(_GUESSING_FORMATS)} does'
      )
    rendered, output = queries.render_to_guess(query, self._max_field_chars)
    with self._short(output):
      source, cut = tokenization.encode_inputs(
          self.vocabulary, formats.get(self.config.format)(rendered, output),
          self.config.input_length,
      )
    return EncodedQuery((output,), [source], [], cut, False)

  @contextlib.contextmanager
  def _short(self, label: str) -> Iterator[None]:
    """Says of what does not fit whose it is, and not all of its text."""
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
          f'they begin alike, and the first {self.config.target_length} are'
          ' scored'
      )
    return errors.UserError(
        f'options {first!r} and {second!r} are the same tokens: {why}'
    )

  @property
  def _max_field_chars(self) -> int | None:
    """Templates insert as much of a field as they did in training."""
    return self.config.settings.get('MAX_FIELD_CHARS')

  def of_each(
      self,
      encode: Callable[[Mapping[str, Any]], EncodedQuery],
      rows: Iterable[Mapping[str, Any]],
  ) -> list[EncodedQuery]:
    """All rows by one of the three above; warns once of those that were cut.

    Raises:
      queries.QueryError: names the row that is wrong.
    """
    found = []
    for i, row in enumerate(rows):
      try:
        found.append(encode(row))
      except ValueError as e:
        raise queries.QueryError(i, str(e)) from e
    _warn(
        [c.cut_inputs for c in found],
        f'inputs were cut to {self.config.input_length} tokens: the instance,'
        ' never the label',
    )
    _warn(
        [c.cut_targets for c in found],
        f'targets were cut to {self.config.target_length} tokens: what follows'
        ' is not scored',
    )
    return found


def _warn(cut: Sequence[bool], what: str) -> None:
  if any(cut):
    warnings.warn(
        f'{sum(cut):,} of {len(cut):,} {what}', Truncated, stacklevel=4
    )
