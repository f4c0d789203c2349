"""Makes token features of rows, in plain Python, one call per row.

`DrawPair` makes training examples and `ExpandOptions` candidates to score.
`tasks/preprocessors.py` wraps them for SeqIO and `tasks/batches.py` for Grain.
"""

import collections
from collections.abc import Mapping
import dataclasses
import json
import random
from typing import Any

from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.prompts import tokenization

TRUNCATED = 'truncated'
SAME_TOKENS = 'right and wrong option are the same tokens'
# In this order; a pair that several of them reject counts for the first.
_ENCODERS = {
    'inputs': tokenization.encode_inputs,
    'wrong_inputs': tokenization.encode_inputs,
    'targets': tokenization.encode_targets,
    'wrong_targets': tokenization.encode_targets,
}


@dataclasses.dataclass(frozen=True)
class DrawPair:
  """Draws a template and a wrong option for a row.

  Attributes:
    task: the task's name, for messages and for the feature `task`.
    templates: the templates to draw from, uniformly.
    vocabulary: the vocabulary.
    lengths: the most tokens, including EOS, of `inputs`, `targets` and their
      `wrong_` twins; features without a length are not cut.
    format: the name of the text format, see `prompts/formats.py`.
    counts: reason -> number of rows dropped so far; `truncated` -> number of
      pairs cut.
    unlikelihood: whether lambda is not 0, see `formats.wrong_side`.
  """

  task: str
  templates: Mapping[str, templates_lib.Template]
  vocabulary: tokenization.Vocabulary
  lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  format: str = 'flipped'
  counts: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  unlikelihood: bool = False

  def __call__(self, row: bytes | str, seed: int) -> dict[str, Any] | None:
    """Makes one training pair.

    Args:
      row: field name -> value, as JSON.
      seed: the seed of all draws for this row.

    Returns:
      The tokens `inputs`, `targets` and the feature of `formats.wrong_side`;
      the texts `task`, `template` and `options`; and `option_index`, the number
      of the right option. None if the row is dropped.

    Raises:
      ValueError: the row does not fit the template; the message names it.
    """
    rng = random.Random(seed)
    names = list(self.templates)
    template = self.templates[names[rng.randrange(len(names))]]
    try:
      rendered = template.render(json.loads(row), seed=rng.getrandbits(32))
    except templates_lib.Dropped as e:
      self.counts[str(e)] += 1
      return None
    make_text = formats.get(self.format)
    right = make_text(rendered, rendered.options[rendered.gold])
    texts = {'inputs': right, 'targets': right}
    side = formats.wrong_side(self.format, self.unlikelihood)
    if side:
      wrong = rng.randrange(len(rendered.options) - 1)
      if wrong >= rendered.gold:
        wrong += 1
      texts[side] = make_text(rendered, rendered.options[wrong])
    pair, truncated = {}, False
    try:
      for name, encode in _ENCODERS.items():
        if name in texts:
          pair[name], cut = encode(
              self.vocabulary, texts[name], self.lengths.get(name)
          )
          truncated |= cut
    except tokenization.TooLong as e:
      self.counts[e.reason] += 1
      return None
    if side and pair[side] == pair[side.removeprefix('wrong_')]:
      self.counts[SAME_TOKENS] += 1  # For example, stars that are all <unk>.
      return None
    self.counts[TRUNCATED] += truncated
    return {
        **pair,
        'task': self.task,
        'template': template.name,
        'options': rendered.options,
        'option_index': rendered.gold,
    }


@dataclasses.dataclass(frozen=True)
class ExpandOptions:
  """Makes a candidate of each option of a row, in one template.

  Attributes:
    task: the task's name, for messages and for the feature `task`.
    template: the template.
    vocabulary: the vocabulary.
    lengths: the most tokens, including EOS, of `inputs` and `targets`; features
      without a length are not cut.
    format: the name of the text format, see `prompts/formats.py`.
    counts: reason -> number of rows dropped so far; `truncated` -> number of
      candidates cut.
  """

  task: str
  template: templates_lib.Template
  vocabulary: tokenization.Vocabulary
  lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  format: str = 'flipped'
  counts: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )

  def __call__(self, row: bytes | str, index: int) -> list[dict[str, Any]]:
    """Makes the candidates of a row, in the order of its options.

    Args:
      row: field name -> value, as JSON.
      index: the number of the row in its split, which is also the seed of the
        template's random choices.

    Returns:
      For each option the tokens `inputs` and `targets`; `example_id` (which is
      `index`), `option_index`, `is_correct` and `num_options`; and the texts
      `option`, `task` and `template`. Empty if the row is dropped.

    Raises:
      ValueError: the row does not fit the template; the message names it.
    """
    try:
      rendered = self.template.render(json.loads(row), seed=index)
    except templates_lib.Dropped as e:
      self.counts[str(e)] += 1
      return []
    make_text = formats.get(self.format)
    candidates, truncated = [], 0
    for number, option in enumerate(rendered.options):
      text = make_text(rendered, option)
      try:
        inputs, cut_inputs = tokenization.encode_inputs(
            self.vocabulary, text, self.lengths.get('inputs')
        )
        targets, cut_targets = tokenization.encode_targets(
            self.vocabulary, text, self.lengths.get('targets')
        )
      except tokenization.TooLong as e:
        self.counts[e.reason] += 1
        return []  # A row counts only with all of its options.
      truncated += cut_inputs or cut_targets
      candidates.append({
          'inputs': inputs,
          'targets': targets,
          'example_id': index,
          'option_index': number,
          'is_correct': number == rendered.gold,
          'num_options': len(rendered.options),
          'option': option,
          'task': self.task,
          'template': self.template.name,
      })
    self.counts[TRUNCATED] += truncated
    return candidates
