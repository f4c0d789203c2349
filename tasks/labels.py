"""Label generalization: a template with other words for yes, no and maybe.

The paper (arXiv 2210.02969) asks whether a model still ranks well when the
label words are ones that it was not trained on, with 20 sets of words for each
of five templates. It names agree/disagree; its list is not public. Ours is
`label_pairs.csv`, so that scores compare between models here, not with the
paper's to the digit. The rows go from words that mean yes and no (agree,
true), over ones that judge (accept, good), to ones that are merely opposite
(hot, up); no word stands in the five templates already, which is why
correct/incorrect is missing.

A column is a meaning, and not a place among the options: `agree` stands for yes
both in `Yes ||| No` and in `No ||| Yes`. By place, the same words would mean
the opposite in every second dataset.

    RTE      "HYPOTHESIS" definitely correct? Yes or no? ||| Yes ||| No
          -> "HYPOTHESIS" definitely correct? Agree or disagree?
             ||| Agree ||| Disagree
"""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import functools
import pathlib
import re
from typing import Any

from flipped_t5x import errors
from flipped_t5x.prompts import jinja_chunks
from flipped_t5x.prompts import templates

LABEL_PAIRS = pathlib.Path(__file__).parent / 'label_pairs.csv'
_MEANINGS = ('yes', 'no', 'maybe')

# Closing quotes and brackets belong to the sentence that they end.
_SENTENCE_END = re.compile(r'[.?!]["\'”’)\]]*\s+')


@dataclasses.dataclass(frozen=True)
class RelabelledRow(templates.Rendered):
  """One row; `parts` and `chunks` are FLIPPED's, `prompt` is DIRECT's.

  Attributes:
    last_sentence_relabelled: the prompt, other words in its last sentence only.
  """

  last_sentence_relabelled: str

  @property
  def prompt(self) -> str:
    """What DIRECT reads and CHANNEL writes."""
    return self.last_sentence_relabelled


class RelabelledTemplate(templates.Template):
  """A template with other label words; what is compiled is the original's.

  The words change in the options and, where the text names the options, in the
  last chunk (FLIPPED) or in the last sentence of the prompt (DIRECT, CHANNEL),
  as the paper has it. A template whose text does not name them keeps its text.

  Whole words are replaced, all at once, in three forms: as the option is
  written, in lower case, and capitalised; the form stays. Hyphens and
  apostrophes make one word ("no-one", "no's"). Any other "no" counts as the
  option, also where it means "not any".

  A sentence ends with `.`, `?` or `!`, perhaps closing quotes or brackets, and
  white space; the end of a line alone does not end one. So "... correct? Yes or
  no?" ends in the sentence "Yes or no?". Text that the row inserted is part of
  the last sentence where it does not end in that way, and then its words are
  replaced too, by the rule: of the five templates only IMDB's has such rows
  (about 160 of 1,000 reviews, 5 of them with a "no" there). FLIPPED replaces
  literal text alone, and never touches what a row inserts.

  Attributes:
    chunks: as in `Template`, the last with the other words.
    answer_choices: the other words, in the original's order.
    label_words: the words for yes, no and, of three options, maybe.
    jinja: the original's source, unchanged.
  """

  def __init__(self, original: templates.Template, words: Mapping[str, str]):
    """Replaces the words of a template.

    Args:
      original: its options are yes and no, or yes, no and maybe, in any order.
      words: meaning ('yes', 'no', 'maybe') -> word in lower case.

    Raises:
      UserError: other options, options that depend on the row, or options that
        an expression inserts into the prompt.
    """
    vars(self).update(vars(original))  # `super().__init__` would compile.
    self._original, self._words = original, words
    old = self._fixed_options
    if old is None:
      raise self._error('its options depend on the row: nothing to relabel')
    meanings = [option.lower() for option in old]
    if sorted(meanings) not in (['no', 'yes'], ['maybe', 'no', 'yes']):
      raise self._error(
          f'its options are {old}; other words are for yes and no, or for yes,'
          ' no and maybe'
      )
    if 'answer_choices' in self.jinja.partition(jinja_chunks.SEPARATOR)[0]:
      raise self._error('inserts its options: only literal text is relabelled')
    self.label_words = tuple(words[m] for m in _MEANINGS if m in meanings)
    self.name = f'{original.name} ({"/".join(self.label_words)})'
    self._forms = {
        form: _in_case_of(form, words[option.lower()])
        for option in old
        for form in (option.lower(), option.capitalize(), option)
    }
    any_form = '|'.join(self._forms)
    self._pattern = re.compile(
        rf"(?<!\w)(?<!\w[-'’])(?:{any_form})(?!\w)(?![-'’]\w)"
    )
    self._fixed_options = [self._forms[option] for option in old]
    self.answer_choices = f' {jinja_chunks.SEPARATOR} '.join(
        self._fixed_options
    )
    self.chunks = (
        *self.chunks[:-1], *map(self._replace, self.chunks[-1:])
    )

  def cut_to(self, max_field_chars: int | None) -> 'RelabelledTemplate':
    """The same template with another `max_field_chars`."""
    return RelabelledTemplate(
        self._original.cut_to(max_field_chars), self._words
    )

  def render(self, row: Mapping[str, Any], seed: int = 0) -> RelabelledRow:
    """Renders one row; see `Template.render`."""
    return self._relabelled(self._original.render(row, seed))

  def render_prompt(
      self, row: Mapping[str, Any], seed: int = 0
  ) -> RelabelledRow:
    """Renders one row without its label; see `Template.render_prompt`."""
    return self._relabelled(self._original.render_prompt(row, seed))

  def _relabelled(self, rendered: templates.Rendered) -> RelabelledRow:
    prompt = rendered.prompt
    start = max((m.end() for m in _SENTENCE_END.finditer(prompt)), default=0)
    return RelabelledRow(
        rendered.parts,
        self.chunks,
        tuple(self._fixed_options),
        rendered.gold,
        prompt[:start] + self._replace(prompt[start:]),
    )

  def _replace(self, text: str) -> str:
    return self._pattern.sub(lambda match: self._forms[match[0]], text)


def relabelled(
    template: templates.Template,
) -> Mapping[str, templates.Template]:
  """A template with its own words, and with those of each row of the CSV.

  Args:
    template: see `RelabelledTemplate`.

  Returns:
    Name -> template: the given one first, then `NAME (agree/disagree)`, ...

  Raises:
    UserError: see `RelabelledTemplate`.
  """
  others = [RelabelledTemplate(template, w) for w in read(LABEL_PAIRS)]
  return {t.name: t for t in (template, *others)}


@functools.cache
def read(path: pathlib.Path) -> Sequence[Mapping[str, str]]:
  """The rows of a CSV with the columns yes, no and maybe.

  Args:
    path: the file; words are in lower case, `maybe` is for three options.

  Returns:
    For each row meaning -> word.

  Raises:
    UserError: other columns, a word that is missing or not in lower case, a
      word twice in a row, or two rows with the same words for yes and no.
  """
  rows, seen = [], set()
  with open(path, encoding='utf-8', newline='') as f:
    table = csv.DictReader(f)
    if table.fieldnames != list(_MEANINGS):
      raise errors.UserError(
          f'{path}: columns {table.fieldnames}, not {_MEANINGS}'
      )
    for row in table:
      words = list(row.values())
      where = f'{path}, line {table.line_num}: {words}'
      if not all(isinstance(w, str) and w.islower() for w in words):
        raise errors.UserError(f'{where}: not three words in lower case')
      if len(set(words)) < len(words):
        raise errors.UserError(
            f'{where}: a word appears twice'
        )
      if tuple(words[:2]) in seen:
        raise errors.UserError(
            f'{where}: the words for yes and no appear twice'
        )
      seen.add(tuple(words[:2]))
      rows.append(row)
  return tuple(rows)


def _in_case_of(form: str, word: str) -> str:
  """The word in the case of `form`: lower, upper or capitalised."""
  if form.islower():
    return word
  return word.upper() if form.isupper() else word[:1].upper() + word[1:]
