"""What the encoder reads and the decoder writes: FLIPPED, DIRECT, CHANNEL.

    template  Suppose {{premise}} Can we infer "{{hypothesis}}"? ||| {{answer}}
    FLIPPED   input: <extra_id_0> PREMISE <extra_id_1> HYPOTHESIS <extra_id_2>
              output: ANSWER
           -> <extra_id_0> Suppose <extra_id_1> Can we infer " <extra_id_2> "?
    DIRECT    Suppose PREMISE Can we infer "HYPOTHESIS"?  ->  ANSWER
    CHANNEL   ANSWER  ->  Suppose PREMISE Can we infer "HYPOTHESIS"?

A format is a function of a rendered prompt and one option; it returns `Text`.
"""

from collections.abc import Callable
import dataclasses

from flipped_t5x import errors
from flipped_t5x.prompts import templates

MAX_CHUNKS = 100  # T5's vocabularies have 100 sentinels.


@dataclasses.dataclass(frozen=True)
class Text:
  """The two sides of one candidate.

  Attributes:
    instance: what the encoder reads first, in pieces that a space separates;
      the longest is cut when there is too much.
    label: what the encoder reads last; never cut.
    targets: what the decoder writes.
  """

  instance: tuple[str, ...]
  label: str
  targets: str

  @property
  def inputs(self) -> str:
    """The encoder's whole text."""
    return '\n'.join(filter(None, (' '.join(self.instance), self.label)))


Format = Callable[[templates.Rendered, str], Text]


def flipped(rendered: templates.Rendered, option: str) -> Text:
  """FLIPPED: the instruction from the instance and the label.

  Sentinels mark the places of the instruction's chunks. The target lists the
  chunks of every branch, so that it is the same for every row and option of a
  template; see arXiv 2210.02969, section 3.

  Args:
    rendered: a row in a template.
    option: the candidate label.

  Returns:
    `input: <extra_id_0> ...`, `output: OPTION` and `<extra_id_0> ...`.
  """
  return Text(
      _pieces('input:', *(
          _sentinel(p) if isinstance(p, int) else p for p in rendered.parts
      )),
      f'output: {option}',
      ' '.join(_pieces(*(
          piece
          for k, chunk in enumerate(rendered.chunks)
          for piece in (_sentinel(k), chunk)
      ))),
  )


def flipped_plain(rendered: templates.Rendered, option: str) -> Text:
  """FLIPPED without sentinels, as in the model card's free generation."""
  return Text(
      _pieces('input:', *(p for p in rendered.parts if isinstance(p, str))),
      f'output: {option}',
      ' '.join(_pieces(*rendered.chunks)),
  )


def direct(rendered: templates.Rendered, option: str) -> Text:
  """DIRECT: the label from the prompt, as T0 is trained."""
  return Text((rendered.prompt,), '', option)


def channel(rendered: templates.Rendered, option: str) -> Text:
  """CHANNEL: the prompt from the label (Min et al. 2022, arXiv 2108.04106)."""
  return Text((), option, rendered.prompt)


FORMATS: dict[str, Format] = {
    f.__name__: f for f in (flipped, flipped_plain, direct, channel)
}


# The formats whose decoder writes the instruction alone.
WRITES_INSTRUCTION = (flipped.__name__, flipped_plain.__name__)
# The formats whose decoder writes the label. Their wrong side has wrong targets
# instead of wrong inputs.
WRITES_LABEL = frozenset((direct.__name__,))


def wrong_side(name: str, unlikelihood: bool) -> str | None:
  """The token feature that a wrong label adds to a training pair.

  Args:
    name: the name of a format.
    unlikelihood: whether lambda is not 0.

  Returns:
    `wrong_inputs`, even without unlikelihood, since training logs P(wrong). If
    the decoder writes the label, `wrong_targets` with unlikelihood and None
    without.
  """
  if name not in WRITES_LABEL:
    return 'wrong_inputs'
  return 'wrong_targets' if unlikelihood else None


def get(name: str) -> Format:
  """The format with a name; a UserError lists the names if it is unknown."""
  if name not in FORMATS:
    raise errors.UserError(
        f'unknown format {name!r}; choose one of {sorted(FORMATS)}'
    )
  return FORMATS[name]


def _sentinel(k: int) -> str:
  if k >= MAX_CHUNKS:
    raise errors.UserError(
        f'chunk {k}: a template may have at most {MAX_CHUNKS} chunks'
    )
  return f'<extra_id_{k}>'


def _pieces(*texts: str) -> tuple[str, ...]:
  return tuple(filter(None, (t.strip() for t in texts)))
