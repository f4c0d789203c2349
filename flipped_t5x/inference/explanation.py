"""Which tokens of the instruction tell the options of a text apart."""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from flipped_t5x import terminal
from flipped_t5x.inference import explanation_page
from flipped_t5x.prompts import tokenization
import numpy as np

_OPTION_WIDTH = 20
_TOKEN_WIDTH = 24
_CLEARLY = 0.1  # Nats by which an option must make a token likelier.


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation:
  """The log-probability of each token of the instruction under each option.

  In a terminal it shows its `table`, and in a notebook bars of probabilities
  and coloured `words`.

  Attributes:
    tokens: the text of each token, including the space that it may begin with;
      `</s>` for the end-of-sequence token.
    options: the options, best first.
    log_probs: float32[options, tokens]. Their sum over the tokens is the score
      by which the options are ranked.
  """

  tokens: tuple[str, ...]
  options: tuple[str, ...]
  log_probs: np.ndarray

  @property
  def prediction(self) -> str:
    """The best option."""
    return self.options[0]

  @property
  def probabilities(self) -> np.ndarray:
    """float64[options]: the softmax of the scores, as `Ranked` has it."""
    return softmax([float(values.sum()) for values in self.log_probs])

  @property
  def differences(self) -> np.ndarray:
    """float32[options, tokens]: log-probabilities minus the options' mean."""
    return self.log_probs - self.log_probs.mean(axis=0, keepdims=True)

  @property
  def words(self) -> list[tuple[str, str | None]]:
    """Each token with the option that makes it likeliest, if one does clearly.

    Clearly is by a tenth of a nat more than the options do on average.
    """
    best = self.differences.argmax(axis=0)
    return [
        (
            token,
            self.options[row]
            if self.differences[row, i] >= _CLEARLY else None,
        )
        for i, (token, row) in enumerate(zip(self.tokens, best, strict=True))
    ]

  def __repr__(self) -> str:
    return self.table()

  def _repr_html_(self) -> str:
    return explanation_page.html(
        dict(zip(self.options, map(float, self.probabilities), strict=True)),
        self.words,
    )

  def table(self) -> str:
    """A text with a line for each token and a column for each option.

    The last column is the difference between the best and the second-best
    option, and the last line is the sum over the tokens. `▁` is a space.
    """
    rows = [(
        'token',
        *(terminal.shortened(o, _OPTION_WIDTH) for o in self.options),
        '1st - 2nd',
    )]
    lines = np.vstack([self.log_probs.T, self.log_probs.sum(axis=1)])
    for name, values in zip([*self.tokens, None], lines, strict=True):
      name = 'sum' if name is None else terminal.shortened(
          name.replace(' ', '▁') or '▁', _TOKEN_WIDTH
      )
      margin = f'{values[0] - values[1]:+.4f}'
      rows.append((name, *(f'{v:.4f}' for v in values), margin))
    return terminal.aligned(rows)

  def plot(self, where: Any) -> Any:
    """Draws `differences` as a heat map, options by tokens.

    Args:
      where: the file to write, or Matplotlib's axes to draw in.

    Returns:
      The figure.
    """
    # Imported here because Matplotlib takes as long to import as all the rest.
    from flipped_t5x.inference import explanation_plot

    shown = self.differences, self.options, self.tokens
    if isinstance(where, (str, os.PathLike)):
      return explanation_plot.write(*shown, where)
    return explanation_plot.draw(*shown, where)

  def to_json(self) -> dict[str, Any]:
    """The explanation as `flipped-t5x explain --json` writes it."""
    return {
        'prediction': self.prediction,
        'tokens': list(self.tokens),
        'options': [
            {
                'option': option,
                'log_prob': float(values.sum()),
                'token_log_probs': [float(v) for v in values],
            }
            for option, values in zip(
                self.options, self.log_probs, strict=True
            )
        ],
    }


def softmax(scores: Sequence[float] | np.ndarray) -> np.ndarray:
  """float64[n]: shares of 1 in proportion to the exponentials of the scores."""
  values = np.asarray(scores, np.float64)
  shares = np.exp(values - values.max())
  return shares / shares.sum()


def token_texts(
    vocabulary: tokenization.Vocabulary, tokens: Sequence[int]
) -> tuple[str, ...]:
  """The text of each token; joined, these are the decoded text.

  Args:
    vocabulary: the vocabulary.
    tokens: the tokens, with or without EOS at the end.

  Returns:
    What each token adds to the text before it; `</s>` for EOS.
  """
  texts, before = [], ''
  for i, token in enumerate(tokens):
    if token == tokenization.EOS_ID:
      texts.append('</s>')
      continue
    text = vocabulary.decode(tokens[: i + 1])
    texts.append(text[len(before) :])
    before = text
  return tuple(texts)
