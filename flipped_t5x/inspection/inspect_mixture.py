"""What a mixture would feed a model: sizes, rates, templates, lengths, drops.

It answers the questions to ask before hours of an accelerator are spent on a
mixture. Sizes come from the catalog and from the rows that were found;
everything else is measured on a seeded sample of the rows by `measurement.py`.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import random
from typing import Any

from flipped_t5x import errors
from flipped_t5x.inspection import measurement
from flipped_t5x.inspection import units
from flipped_t5x.prompts import examples
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the numbers depend on, besides the data.

  Attributes:
    vocabulary: the file of the SentencePiece model, without sentinels.
    input_length: tokens of the encoder side, with EOS.
    target_length: tokens of the decoder side, with EOS.
    format: the text format; see `prompts/formats.py`.
    max_field_chars: see `templates.Template`.
    split: the split to inspect as evaluation reads it; None for the training
      splits of a training mixture, and for the evaluation splits of others.
    sample: the most rows of each dataset to measure.
    seed: the seed of the sample, the templates and the wrong options; what is
      drawn from a dataset does not depend on the other datasets.
  """

  vocabulary: pathlib.Path
  input_length: int
  target_length: int
  format: str = 'flipped'
  max_field_chars: int | None = None
  split: str | None = None
  sample: int = 1000
  seed: int = 42

  def __post_init__(self):
    formats.get(self.format)
    for name in ('input_length', 'target_length', 'sample'):
      if getattr(self, name) < 1:
        raise errors.UserError(f'{name} {getattr(self, name)} is not positive')


@dataclasses.dataclass(frozen=True)
class Draws:
  """A dataset's part in training.

  Attributes:
    rate: min(official training examples, cap): its weight in the mixture.
    share: its expected share of all draws, 0 to 1.
  """

  rate: float
  share: float


@dataclasses.dataclass(frozen=True)
class Inspected:
  """One dataset of a mixture.

  Attributes:
    name: its name in the catalog.
    split: the split.
    official: the number of rows according to the catalog.
    rows: the number of rows that were found.
    origin: where the rows came from; see `sources.store.Rows`.
    used: the number of rows to draw from or to evaluate, at most the limit.
    templates: the number of its templates.
    draws: its part in training; None in evaluation.
    measured: what was measured on a sample of the used rows.
  """

  name: str
  split: str
  official: int
  rows: int
  origin: Mapping[str, Any]
  used: int
  templates: int
  draws: Draws | None
  measured: measurement.Measured

  @property
  def uses_per_template(self) -> float:
    """How often each template is drawn: num_examples / num_templates."""
    return self.draws.rate / self.templates

  @property
  def candidates(self) -> float:
    """How many candidates evaluation is expected to score."""
    per_row = self.measured.units / self.measured.rows
    return self.used * self.templates * per_row

  def summary(self) -> dict[str, Any]:
    """The content as JSON."""
    if self.draws:
      part = dataclasses.asdict(self.draws)
      part['uses_per_template'] = self.uses_per_template
    else:
      part = {'candidates': self.candidates}
    return {
        'split': self.split, 'official': self.official, 'rows': self.rows,
        'used': self.used, 'source': self.origin['source'],
        'templates': self.templates, **part, **self.measured.summary(),
        'origin': self.origin,
    }


@dataclasses.dataclass(frozen=True)
class Inspection:
  """A mixture.

  Attributes:
    mixture: its name.
    evaluation: whether it was inspected as evaluation reads it.
    cap: the most examples that a dataset counts as in training.
    settings: what the numbers depend on.
    datasets: the datasets that were found, in the order of the mixture.
    left_out: dataset -> why it was not found.
    draws: the part of every dataset in training, including those left out;
      empty in evaluation.
  """

  mixture: str
  evaluation: bool
  cap: int
  settings: Settings
  datasets: Sequence[Inspected]
  left_out: Mapping[str, str]
  draws: Mapping[str, Draws]

  def summary(self) -> dict[str, Any]:
    """The content as JSON."""
    settings = dataclasses.asdict(self.settings)
    return {
        'mixture': self.mixture,
        'evaluation': self.evaluation,
        'cap': None if self.evaluation else self.cap,
        'settings': {**settings, 'vocabulary': str(self.settings.vocabulary)},
        'datasets': {d.name: d.summary() for d in self.datasets},
        'left_out': {
            name: {'reason': reason} | (
                dataclasses.asdict(self.draws[name]) if self.draws else {}
            )
            for name, reason in self.left_out.items()
        },
    }


def inspect(
    mixed: mixtures.Mixture,
    settings: Settings,
    num_examples: int = 0,
    skip_missing: bool = False,
    on_dataset: Callable[[str], None] = lambda name: None,
) -> Inspection:
  """Inspects every dataset of a mixture.

  Args:
    mixed: the mixture.
    settings: what the numbers depend on.
    num_examples: the most rows of each dataset to keep as text.
    skip_missing: whether to leave out the datasets that no source has.
    on_dataset: called with each dataset's name before it is measured.

  Returns:
    What was found.

  Raises:
    UserError: the mixture is of another format, or data do not fit the
      catalog.
    FileNotFoundError: no source has a dataset; the message says why for each.
  """
  if mixed.format not in ('flipped', settings.format):
    raise errors.UserError(
        f'{mixed.name} is not of the format {settings.format!r}'
    )
  evaluation = mixed.evaluation or settings.split is not None
  draws = {} if evaluation else _draws(mixed)
  splits, left_out = {}, {}
  for name in mixed.datasets:
    data = catalog.dataset(name)
    split = (settings.split or data.eval_split) if evaluation else 'train'
    try:
      data.open(split)
      splits[name] = split
    except FileNotFoundError as e:
      left_out[name] = str(e)
  if left_out and not (skip_missing and splits):
    raise FileNotFoundError(
        '\n'.join(left_out.values())
        + '\n--skip_missing leaves such datasets out'
    )
  datasets = []
  for name, split in splits.items():
    on_dataset(name)
    datasets.append(
        _inspect(name, split, draws.get(name), settings, num_examples)
    )
  return Inspection(
      mixed.name, evaluation, mixed.cap, settings, datasets, left_out, draws
  )


def _draws(mixed: mixtures.Mixture) -> Mapping[str, Draws]:
  try:
    rates = mixed.rates()
  except ValueError as e:
    raise errors.UserError(
        f'{e}; --split inspects it as evaluation reads it'
    ) from e
  total = sum(rates.values())
  return {name: Draws(rate, rate / total) for name, rate in rates.items()}


def _inspect(
    name: str,
    split: str,
    draws: Draws | None,
    settings: Settings,
    num_examples: int,
) -> Inspected:
  """Inspects one dataset, as training reads it if it has `draws`."""
  data = catalog.dataset(name)
  rows, used = data.open(split), data.sample(split)
  rng = random.Random(f'{settings.seed} {name}')
  numbers = rng.sample(used, min(settings.sample, len(used)))
  seeds = [rng.getrandbits(63) for _ in numbers]
  templates = data.load_templates(settings.max_field_chars)
  try:
    measured = measurement.measure(
        _make(name, templates, settings, training=draws is not None),
        rows, numbers, seeds, num_examples,
    )
  except ValueError as e:
    raise errors.UserError(f'{name}: {split} {e}') from e
  official = catalog.dataset(data.rows_of or name).num_examples[split]
  return Inspected(
      name, split, official, len(rows), rows.origin, len(used), len(templates),
      draws, measured,
  )


def _make(
    name: str, templates, settings: Settings, training: bool
) -> units.PairUnits | units.CandidateUnits:
  """What turns rows into units, as training or evaluation does."""
  rest = (
      tokenization.load_vocabulary(settings.vocabulary),
      {
          'inputs': settings.input_length,
          'wrong_inputs': settings.input_length,
          'targets': settings.target_length,
      },
      settings.format,
      collections.Counter(),
  )
  if training:
    return units.PairUnits(examples.DrawPair(name, templates, *rest))
  return units.CandidateUnits(
      [examples.ExpandOptions(name, t, *rest) for t in templates.values()]
  )
