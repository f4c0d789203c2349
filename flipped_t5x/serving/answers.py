"""What the page asks a model: several users' questions in one batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
import warnings

from flipped_t5x import errors
from flipped_t5x.inference import encoded_queries
from flipped_t5x.inference import explanation_page
from flipped_t5x.inference import model as model_lib
from flipped_t5x.inference import queries

BATCH = 16  # Questions that are answered together.
MOST = {'text': 20_000, 'instruction': 4_000, 'label': 500}  # Characters.
MOST_LABELS = 50

Highlighted = list[tuple[str, str | None]]


class Answers:
  """Answers questions; the methods take and return columns, as Gradio does."""

  def __init__(self, model: model_lib.Model):
    self._model = model
    # A model that writes the label gives instructions no probability.
    self._explains = model.config.format != 'direct'

  def rank(
      self,
      texts: Sequence[str],
      instructions: Sequence[str],
      labels: Sequence[str],
  ) -> tuple[
      list[dict[str, float] | None], list[Highlighted | None], list[str]
  ]:
    """Ranks labels.

    Args:
      texts: the text of each question.
      instructions: the instruction of each.
      labels: the labels of each, one a line.

    Returns:
      For each question label -> probability, the best first; the tokens of the
      instruction, each with the label that makes it likelier than the mean of
      the labels does; and a message. The first two are None if something is
      wrong, and the message says what.
    """
    asked = [
        _checked(_to_rank, *given)
        for given in zip(texts, instructions, labels, strict=True)
    ]
    if not self._explains:
      ranked = _each(self._model.rank_batch, asked)
      return (
          [
              None if isinstance(found, str)
              else {r.option: r.probability for r in found}
              for found, _ in ranked
          ],
          [None] * len(asked), _messages(ranked),
      )
    explained = _each(self._model.explain_batch, asked)
    return (
        [
            None if isinstance(found, str)
            else dict(zip(found.options, map(float, found.probabilities),
                          strict=True))
            for found, _ in explained
        ],
        [
            None if isinstance(found, str) else found.words
            for found, _ in explained
        ],
        _messages(explained),
    )

  def figures(
      self,
      texts: Sequence[str],
      instructions: Sequence[str],
      labels: Sequence[str],
  ) -> tuple[list[str], list[str]]:
    """What `rank` says, as HTML, and its messages."""
    ranked, words, messages = self.rank(texts, instructions, labels)
    return [
        '' if found is None else explanation_page.html(found, coloured)
        for found, coloured in zip(ranked, words, strict=True)
    ], messages

  def guess(
      self, texts: Sequence[str], labels: Sequence[str]
  ) -> tuple[list[list[list[str]]], list[str]]:
    """Writes the instruction that the model takes each label to answer.

    Args:
      texts: the text of each question.
      labels: the labels of each, one a line.

    Returns:
      For each question a row for each label, with the label, the instruction
      and its log-probability; and a message.
    """
    rows: list[list[list[str]]] = []
    messages = []
    for given in zip(texts, labels, strict=True):
      asked = _checked(_to_guess, *given)
      if isinstance(asked, str):
        rows.append([])
        messages.append(asked)
        continue
      found = _each(self._model.guess_batch, asked)
      rows.append([
          [query['output'], g.instruction, f'{g.log_prob:.2f}']
          for query, (g, _) in zip(asked, found, strict=True)
          if not isinstance(g, str)
      ])
      messages.append(next((g for g, _ in found if isinstance(g, str)), ''))
    return rows, messages


def labels_of(text: str, fewest: int = 2) -> list[str]:
  """The labels of a text that has one a line.

  Raises:
    UserError: there are too few or too many, or one is too long or there twice.
  """
  found = [line.strip() for line in (text or '').splitlines() if line.strip()]
  if len(found) < fewest:
    raise errors.UserError(f'at least {fewest} labels are needed, one a line')
  if len(found) > MOST_LABELS:
    raise errors.UserError(
        f'{len(found)} labels are too many: {MOST_LABELS} can be ranked'
    )
  for label in found:
    _check_length('label', label)
    if found.count(label) > 1:
      raise errors.UserError(f'the label {label!r} is there twice')
  return found


def _to_rank(text: str, instruction: str, labels: str) -> dict[str, Any]:
  """A question, as `rank_batch` takes it; UserError if something is wrong."""
  for what, given in (('text', text), ('instruction', instruction)):
    _check_given(what, given)
  return {
      'input': text, 'instruction': instruction, 'options': labels_of(labels)
  }


def _to_guess(text: str, labels: str) -> list[dict[str, Any]]:
  """A question for each label; UserError if something is wrong."""
  _check_given('text', text)
  return [
      {'input': f'{text} <extra_id_0>', 'output': label}
      for label in labels_of(labels, fewest=1)
  ]


def _check_given(what: str, text: str) -> None:
  if not (text or '').strip():
    raise errors.UserError(f'the {what} is missing')
  _check_length(what, text)


def _check_length(what: str, text: str) -> None:
  if len(text) > MOST[what]:
    raise errors.UserError(
        f'the {what} has {len(text):,} characters; {MOST[what]:,} can be read'
    )


def _checked(make: Callable[..., Any], *given: str) -> Any:
  """What `make` returns, or as a text what is wrong."""
  try:
    return make(*given)
  except errors.UserError as e:
    return str(e)


def _each(
    function: Callable[..., list[Any]],
    asked: Sequence[Mapping[str, Any] | str],
) -> list[tuple[Any, str]]:
  """Calls a function of many rows, so that a wrong one does not stop the rest.

  Args:
    function: `rank_batch` or one like it.
    asked: the rows; a text stands for a row that is wrong.

  Returns:
    For each row the result, or what is wrong; and a note about what was cut.
  """
  results: dict[int, tuple[Any, str]] = {
      i: (row, '') for i, row in enumerate(asked) if isinstance(row, str)
  }
  while left := [i for i in range(len(asked)) if i not in results]:
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      try:
        found = function([asked[i] for i in left], progress=False)
      except queries.QueryError as e:
        results[left[e.index]] = e.reason, ''
        continue
    # Warnings of other threads are caught, too.
    cut = [
        w for w in caught if issubclass(w.category, encoded_queries.Truncated)
    ]
    if cut and len(left) > 1:  # Which of them is it?
      for i in left:
        results |= {i: _each(function, [asked[i]])[0]}
      break
    note = ' '.join(str(w.message) for w in cut)
    results |= {i: (f, note) for i, f in zip(left, found, strict=True)}
  return [results[i] for i in range(len(asked))]


def _messages(answered: Sequence[tuple[Any, str]]) -> list[str]:
  """What is wrong with each question, or what of it was cut."""
  return [
      found if isinstance(found, str) else note for found, note in answered
  ]
