"""Named mixtures: which datasets, proportional to size, each capped."""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib

from flipped_t5x import errors
from flipped_t5x.prompts import formats
from flipped_t5x.tasks import catalog

_DEMO = ('vader_sentiment', 'vader_source')
_EXPLICIT = {
    'demo': _DEMO,
    # Held-out rows; then words that are never a label in training.
    'demo_eval': (*_DEMO, 'vader_sentiment_words'),
    # Held-out rows; then in wordings, and with words, never trained on.
    'experiment_eval': tuple(
        f'{name}{what}' for name in _DEMO
        for what in ('', '_reworded', '_words')
    ),
    # Whatever can be had from PyPI and is not evaluated on.
    'small': (
        'vader_sentiment', 'vader_product', 'commonsense_qa', 'social_i_qa',
        'sciq_validation', 'wiki_description', 'glue/mrpc_validation',
        'wiki_describes', 'wiki_topic',
    ),
    # The paper's ablation of the number of sets, arXiv 2210.02969.
    'train_4': ('paws/labeled_final', 'ag_news', 'imdb', 'cos_e/v1.11'),
    'train_8': (
        'paws/labeled_final', 'ag_news', 'imdb', 'cos_e/v1.11', 'glue/qqp',
        'dbpedia_14', 'rotten_tomatoes', 'social_i_qa',
    ),
}
_ROLES = ('train', 'nlp_eval', 'bigbench_eval', 'label_generalization')
_EVALUATION = ('demo_eval', 'experiment_eval', *_ROLES[1:])
_CAPS = {
    # The smaller set is the harder one: the cap gives it 46 % of the draws.
    'demo': 10_000,
    # As large as the second largest set: without it, every second draw would be
    # one of social_i_qa's 33,410 rows.
    'small': 10_000,
}


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Datasets that are trained on, or evaluated, together.

  Attributes:
    name: the mixture's name.
    datasets: names in the catalog.
    cap: the most examples that a dataset counts as.
    format: the text format that the name stands for.
    evaluation: whether it is for evaluation only.
  """

  name: str
  datasets: Sequence[str]
  cap: int = catalog.CAP
  format: str = 'flipped'
  evaluation: bool = False

  def rates(self) -> Mapping[str, float]:
    """Dataset -> min(official training examples, cap): its share of the draws.

    Raises:
      UserError: the mixture is for evaluation, or a dataset has no training
        split.
    """
    if self.evaluation:
      raise errors.UserError(
          f'{self.name} is for evaluation: a model trained on it would not be'
          ' judged zero-shot'
      )
    rates = {}
    for name in self.datasets:
      data = catalog.dataset(name)
      if 'train' not in data.num_examples:
        raise errors.UserError(f'{name} has no training split')
      rates[name] = float(min(data.num_examples['train'], self.cap))
    return rates


def names() -> Sequence[str]:
  """The names of all mixtures: `FORMAT_KEY` in every format."""
  return [f'{f}_{k}' for f in formats.FORMATS for k in (*_EXPLICIT, *_ROLES)]


def mixture(name: str) -> Mixture:
  """A mixture by name, or several names and datasets, separated by commas.

  Args:
    name: such as `flipped_train`, its twin `direct_train`, `glue/mrpc`, or
      `flipped_train,my_dataset`.

  Raises:
    UserError: there is none of that name (gives the nearest), or they are of
      different formats.
  """
  parts = name.split(',')
  if len(parts) == 1:
    return _find(name)
  found = [_find(part) for part in parts]
  form = {m.format for m in found if m.name in names()} or {'flipped'}
  if len(form) > 1:
    raise errors.UserError(
        f'{name}: mixtures of different formats {sorted(form)}'
    )
  return Mixture(
      name,
      tuple(dict.fromkeys(d for m in found for d in m.datasets)),
      format=form.pop(),
      evaluation=any(m.evaluation for m in found),
  )


def _find(name: str) -> Mixture:
  datasets = catalog.catalog()
  for form in sorted(formats.FORMATS, key=len, reverse=True):
    key = name.removeprefix(f'{form}_')
    if key == name:
      continue
    cap = _CAPS.get(key, catalog.CAP)
    if key in _EXPLICIT:
      return Mixture(
          name, _EXPLICIT[key], cap, form, key in _EVALUATION
      )
    if key in _ROLES:
      chosen = tuple(d.name for d in datasets.values() if d.role == key)
      return Mixture(name, chosen, cap, form, key in _EVALUATION)
  if name not in datasets:
    known = [*names(), *datasets]
    near = difflib.get_close_matches(name, known) or known[:9]
    raise errors.UserError(f'no mixture or dataset {name!r}; nearest: {near}')
  return Mixture(name, (name,))
