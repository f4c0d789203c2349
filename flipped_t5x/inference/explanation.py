"""Where the options of a text differ: each instruction token under each."""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from flipped_t5x import terminal
from flipped_t5x.prompts import tokenization
import numpy as np

_OPTION_WIDTH = 20
_TOKEN_WIDTH = 24


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
  """Log-probability of each token of the instruction under each option.

  Attributes:
    tokens: the text of each token, with a space that it begins with; `</s>`
      for the end-of-sequence token.
    options: the options, best first.
    log_probs: float32[options, tokens]; the sum over the tokens is the score
      that ranks.
  """

  tokens: tuple[str, ...]
  options: tuple[str, ...]
  log_probs: np.ndarray

  @property
  def prediction(self) -> str:
    """The best option."""
    return self.options[0]

  @property
  def differences(self) -> np.ndarray:
    """float32[options, tokens]: log-probabilities less the options' mean."""
    return self.log_probs - self.log_probs.mean(axis=0, keepdims=True)

  def table(self) -> str:
    """A line for each token (`▁` is a space), a column for each option.

    The last column is by how much the best option makes the token more probable
    than the second; the last line is the sum over the tokens.
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
    """Draws a heat map: a row for each option, a column for each token.

    Args:
      where: the file to write, or Matplotlib's axes to draw in. The colours
        show `differences`, whose values are printed where there is room.

    Returns:
      The figure.
    """
    # Imported here: Matplotlib takes as long to import as all the rest.
    from flipped_t5x.inference import explanation_plot

    draw = explanation_plot.draw
    if isinstance(where, (str, os.PathLike)):
      draw = explanation_plot.write
    return draw(self.differences, self.options, self.tokens, where)

  def to_json(self) -> dict[str, Any]:
    """What the JSON of the command holds, as lists and texts."""
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


def token_texts(
    vocabulary: tokenization.Vocabulary, tokens: Sequence[int]
) -> tuple[str, ...]:
  """Text of each token; joined, they are the decoded text.

  Args:
    vocabulary: the vocabulary.
    tokens: EOS, if it is there, last.

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
