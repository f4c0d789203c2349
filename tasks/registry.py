"""Datasets of the catalog as SeqIO tasks and mixtures, made when looked up.

After `import flipped_t5x.tasks`, SeqIO's registries hold, by name:

  FORMAT_DATASET                  trains: template and wrong option are drawn
  FORMAT_DATASET_score_TEMPLATE   ranks the options of every row
  FORMAT_train, FORMAT_nlp_eval   and the other mixtures of `mixtures.py`

where FORMAT is `flipped`, `flipped_plain`, `direct` or `channel`, and names are
as in the catalog with `_` for what SeqIO does not allow: `flipped_glue_qqp`.
Score tasks have one more split, `eval`: the one that the catalog says to
evaluate on, at most as many rows as it says.

SeqIO's registries are replaced by ones that make what they are asked for.
Through SeqIO's public API all 1,952 tasks would be made on import: that takes
0.94 s instead of 0.12 s in each process, and one faulty row of a catalog of
one's own would fail the import instead of the one task.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import functools
import itertools
import os
import pathlib
import re
from typing import Any

from flipped_t5x import errors
from flipped_t5x import vocabulary_files
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import metrics
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks import origins as origins_lib
from flipped_t5x.tasks import preprocessors
from flipped_t5x.tasks import row_source
import seqio

_SCORE = '_score_'


def vocabulary(
    path: str | os.PathLike[str] | None = None,
) -> seqio.SentencePieceVocabulary:
  """A vocabulary of the tasks.

  Args:
    path: see `vocabulary_files.find`; a file may also be in a bucket. T5's own
      is fetched when it is first used.
  """
  named = path or os.environ.get(vocabulary_files.VARIABLE) or (
      vocabulary_files.T5
  )
  if named == vocabulary_files.T5:
    file = vocabulary_files.LazyT5()
  elif '://' in os.fspath(named):
    file = os.fspath(named)
  else:
    file = str(vocabulary_files.find(named))
    added = tokenization.load_vocabulary(pathlib.Path(file)).added
    if added:
      raise errors.UserError(
          f'{file}: SeqIO and T5X cannot read the tokens that were added to'
          f' this vocabulary, such as {added[0]!r}; use flipped-t5x train and'
          ' eval'
      )
  return seqio.SentencePieceVocabulary(file, extra_ids=tokenization.EXTRA_IDS)


def register(
    name: str,
    vocabulary: str | os.PathLike[str] | None = None,
    max_field_chars: int | None = None,
) -> seqio.Mixture:
  """Registers a mixture and its tasks with settings of one's own.

  Args:
    name: a mixture of `mixtures.py`, or datasets, separated by commas.
    vocabulary: see `vocabulary`.
    max_field_chars: see `templates.Template`.

  Returns:
    The mixture, which SeqIO finds by its name from now on: that of the mixture,
    in place of the one with the default settings, or `flipped_DATASET_DATASET`.
  """
  mixture = mixtures.mixture(name)
  if name not in mixtures.names():
    name = f'{mixture.format}_{_slug(name)}'
  return _put(seqio.MixtureRegistry, _seqio_mixture(
      name, mixture, mixture.format, mixture.evaluation, vocabulary,
      max_field_chars,
  ))


def _seqio_mixture(
    name: str,
    mixture: mixtures.Mixture,
    format: str,
    evaluation: bool,
    vocabulary: str | os.PathLike[str] | None = None,
    max_field_chars: int | None = None,
) -> seqio.Mixture:
  """A mixture of score tasks or of training tasks, which are registered."""
  if evaluation:
    tasks = [
        (task, 1.0)
        for d in mixture.datasets
        for task in score_tasks(
            d, vocabulary, format, max_field_chars
        ).values()
    ]
  else:
    tasks = [
        (train_task(d, vocabulary, format, max_field_chars), rate)
        for d, rate in mixture.rates().items()
    ]
  return seqio.Mixture(name, tasks)


def feature_lengths(
    input_length: int, target_length: int, unlikelihood_weight: float
) -> Mapping[str, int]:
  """Lengths of a training task's features, for T5X's gin files.

  Args:
    input_length: tokens of each encoder side, EOS counted in.
    target_length: tokens of each decoder side, EOS counted in.
    unlikelihood_weight: lambda; where it is 0, DIRECT draws no wrong label.

  Returns:
    Feature -> the most tokens; of features that a task does not have, too.
  """
  lengths = {
      'inputs': input_length,
      'wrong_inputs': input_length,
      'targets': target_length,
  }
  if unlikelihood_weight:
    lengths['wrong_targets'] = target_length
  return lengths


def training_mixture(
    name: str,
    unlikelihood_weight: float,
    format: str,
    use_cached: bool = False,
) -> str:
  """The name of a mixture, once it is known that a model can be trained on it.

  For T5X's gin files: T5X itself would compile the model first.

  Args:
    name: a mixture or task of SeqIO's registries, or mixtures and datasets as
      `mixtures.mixture` takes them.
    unlikelihood_weight: lambda.
    format: the format that the checkpoint will be said to be of.
    use_cached: whether rows are read from caches that SeqIO has written.

  Returns:
    A name in SeqIO's registries.

  Raises:
    UserError: there is none of that name, it is of another format, it is for
      evaluation, it has no wrong side although lambda is not 0, or a cache is
      missing.
  """
  name = _in_seqio(name, format, evaluation=False)
  if _ranks(name):
    raise errors.UserError(
        f'MIXTURE {name!r} is for evaluation: it has wrong options as targets.'
        f' Take a mixture for training, such as {format}_train'
    )
  sides = seqio.get_mixture_or_task(name).output_features
  if unlikelihood_weight and not {'wrong_inputs', 'wrong_targets'} & {*sides}:
    raise errors.UserError(
        f'MIXTURE {name!r} has no wrong_inputs or wrong_targets, and LAMBDA is'
        f' {unlikelihood_weight}: take a mixture with them, such as'
        f' {format}_train, or set LAMBDA = 0'
    )
  if use_cached:
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
      if not task.cache_dir:
        raise errors.UserError(
            f'USE_CACHED_TASKS is True, but {task.name} has no cache'
            f' in {seqio.get_global_cache_dirs()}: seqio_cache_tasks makes it;'
            ' name its folder in --seqio_additional_cache_dirs, or leave out'
            ' USE_CACHED_TASKS'
        )
  return name


def evaluation_mixture(name: str, format: str) -> str:
  """The name of a mixture, once it is known that its options can be ranked.

  Args:
    name: see `training_mixture`. A dataset stands for its score tasks.
    format: the format in which the checkpoint is evaluated.

  Returns:
    A name in SeqIO's registries.

  Raises:
    UserError: there is none of that name, it is of another format, or it is not
      for evaluation.
  """
  name = _in_seqio(name, format, evaluation=True)
  if not _ranks(name):
    raise errors.UserError(
        f'MIXTURE {name!r} has no options to rank: take one for evaluation,'
        f' such as {format}_nlp_eval, or a dataset as the catalog names it'
    )
  return name


def origins(
    name: str, split: str = 'train', use_cached: bool = False
) -> dict[str, dict[str, Any]]:
  """Where the rows and templates of a mixture come from.

  Args:
    name: a mixture or task in SeqIO's registries.
    split: the split that is read of each task that has it.
    use_cached: whether rows are read from caches of SeqIO, of which nothing is
      known here.

  Returns:
    Dataset -> its origin, see `origins.of`, with its `rate` in training; tasks
    of other packages are left out.
  """
  found: dict[str, dict[str, Any]] = {}
  provider = seqio.get_mixture_or_task(name)
  for task in () if use_cached else seqio.get_subtasks(provider):
    source = task.source
    if not isinstance(source, row_source.RowSource) or split not in task.splits:
      continue
    data = source.dataset
    if data.name not in found:
      found[data.name] = origins_lib.of(
          data, source.real_split(split), data.load_templates()
      )
      if split == 'train' and isinstance(provider, seqio.Mixture):
        found[data.name]['rate'] = provider.get_rate(task)
  return found


def _in_seqio(name: str, format: str, evaluation: bool) -> str:
  """A name in SeqIO's registries, of a format; see `training_mixture`."""
  if not any(
      name in registry.names()
      for registry in (seqio.MixtureRegistry, seqio.TaskRegistry)
  ):
    mixture = mixtures.mixture(name)
    named = any(part in mixtures.names() for part in name.split(','))
    own = mixture.format if named else format
    _check_format(name, own, format)
    name = f'{format}_{_slug(name)}' + ('_ranked' if evaluation else '')
    _put(seqio.MixtureRegistry, _seqio_mixture(
        name, mixture, format, mixture.evaluation or evaluation
    ))
    return name
  _check_format(name, max(
      (f for f in formats.FORMATS if name.startswith(f'{f}_')), key=len,
      default=format,
  ), format)
  return name


def _check_format(name: str, own: str, format: str) -> None:
  if own != format:
    raise errors.UserError(
        f'MIXTURE {name!r} is of the format {own!r}, and FORMAT is {format!r}:'
        f' take {format}_{name.removeprefix(f"{own}_")}, or another method'
    )


def _ranks(name: str) -> bool:
  """Whether all tasks of a mixture or task rank options."""
  return all(
      metrics.rank_options in task.metric_fns
      for task in seqio.get_subtasks(seqio.get_mixture_or_task(name))
  )


class _TrainTask(seqio.Task):
  """A task whose rows come in another order in each epoch.

  SeqIO keeps sets of less than 10,000 rows in memory, in the order of the first
  epoch. Rows are read by number, which is as fast.
  """

  def get_dataset(self, *args, **kwargs):
    return super().get_dataset(*args, **{**kwargs, 'try_in_mem_cache': False})


def train_task(
    name: str,
    vocabulary: str | os.PathLike[str] | None = None,
    format: str = 'flipped',
    max_field_chars: int | None = None,
) -> seqio.Task:
  """Registers a training task: a template and a wrong option drawn per row.

  Args:
    name: a dataset of the catalog.
    vocabulary: see `register`.
    format: see `prompts/formats.py`.
    max_field_chars: see `templates.Template`.

  Returns:
    The task `FORMAT_NAME`, with `inputs`, `targets` and `wrong_inputs`; in
    DIRECT with `wrong_targets` instead where a length is asked for them.
  """
  data = catalog.dataset(name)
  sides = dict.fromkeys(('inputs', 'targets'), _feature(vocabulary))
  side = formats.wrong_side(format, unlikelihood=True)
  sides[side] = _feature(vocabulary, required=side == 'wrong_inputs')
  splits = [s for s in ('train', 'validation') if s in data.num_examples]
  return _put(seqio.TaskRegistry, _TrainTask(
      f'{format}_{_slug(name)}',
      source=row_source.RowSource(data, {s: s for s in splits}),
      preprocessors=[
          # Before any draw: templates and options stay random when cached.
          seqio.CacheDatasetPlaceholder(),
          preprocessors.PairPreprocessor(
              name, functools.partial(data.load_templates, max_field_chars),
              format,
          ),
      ],
      output_features=sides,
      shuffle_buffer_size=None,  # The source shuffles a whole split.
  ))


def score_tasks(
    name: str,
    vocabulary: str | os.PathLike[str] | None = None,
    format: str = 'flipped',
    max_field_chars: int | None = None,
) -> Mapping[str, seqio.Task]:
  """Registers a scoring task for each template of a dataset.

  Args:
    name: a dataset of the catalog.
    vocabulary: see `register`.
    format: see `prompts/formats.py`.
    max_field_chars: see `templates.Template`.

  Returns:
    Template name -> task `FORMAT_NAME_score_TEMPLATE`, with `inputs` and
    `targets`, judged by `metrics.rank_options`.
  """
  return {
      template: _score_task(
          catalog.dataset(name), slug, template, vocabulary, format,
          max_field_chars,
      )
      for slug, template in _template_slugs(name).items()
  }


def _score_task(
    data, slug, template, vocabulary, form, max_field_chars
) -> seqio.Task:
  owner = catalog.dataset(data.rows_of or data.name)
  return _put(seqio.TaskRegistry, seqio.Task(
      f'{form}_{_slug(data.name)}{_SCORE}{slug}',
      source=row_source.RowSource(data, {
          **{s: s for s in owner.num_examples},
          row_source.EVAL_SPLIT: data.eval_split,
      }),
      preprocessors=[
          preprocessors.OptionsPreprocessor(
              data.name,
              functools.partial(_load, data, template, max_field_chars), form,
          ),
      ],
      output_features=dict.fromkeys(
          ('inputs', 'targets'), _feature(vocabulary)
      ),
      postprocess_fn=metrics.candidate,
      metric_fns=[metrics.rank_options],
      shuffle_buffer_size=None,
  ))


def _load(
    data: catalog.Dataset, template: str, max_field_chars: int | None
) -> templates_lib.Template:
  return data.load_templates(max_field_chars)[template]


def _feature(
    path: str | os.PathLike[str] | None, required: bool = True
) -> seqio.Feature:
  return seqio.Feature(vocabulary(path), add_eos=True, required=required)


def _put(registry, provider):
  """Adds a task or mixture, in place of one of that name."""
  registry._REGISTRY[provider.name] = provider
  return provider


def _slug(name: str) -> str:
  """A name as SeqIO allows it."""
  return re.sub(r'[^\w.]+', '_', name).strip('_')


def _template_slugs(dataset: str) -> Mapping[str, str]:
  """Slug -> template of a dataset; equal slugs get a number."""
  slugs = {}
  for template in catalog.dataset(dataset).template_names():
    slug = re.sub(r'\W+', '_', template).strip('_')
    for number in itertools.count(2):
      if slug not in slugs:
        break
      slug = f'{slug.removesuffix(f"_{number - 1}")}_{number}'
    slugs[slug] = template
  return slugs


class _OnDemand(collections.UserDict):
  """A registry of SeqIO that makes what it is asked for.

  SeqIO looks names up with `in`, `[]` and `keys()`, which come here.
  """

  def __init__(
      self,
      registered: Mapping,
      make: Callable[[str], bool],
      names: Callable[[], Iterator[str]],
  ):
    super().__init__(registered)
    self._make = make
    self._names = names

  def __contains__(self, name) -> bool:
    return name in self.data or self._make(name)

  def __missing__(self, name):
    if not self._make(name):
      raise KeyError(name)
    return self.data[name]

  def __len__(self) -> int:
    return sum(1 for _ in self)

  def __iter__(self) -> Iterator[str]:
    return iter(dict.fromkeys((*self.data, *self._names())))


def _make_task(name: str) -> bool:
  """Registers the task of that name; False if the catalog has none."""
  for form in sorted(formats.FORMATS, key=len, reverse=True):
    if not name.startswith(f'{form}_'):
      continue
    slug, mark, template = name.removeprefix(f'{form}_').partition(_SCORE)
    for data in catalog.catalog().values():
      if _slug(data.name) != slug:
        continue
      if not mark and 'train' in data.num_examples:
        train_task(data.name, format=form)
        return True
      if mark and template in _template_slugs(data.name):
        _score_task(
            data, template, _template_slugs(data.name)[template], None, form,
            None,
        )
        return True
  return False


def _make_mixture(name: str) -> bool:
  if name not in mixtures.names():
    return False
  register(name)
  return True


def _task_names() -> Iterator[str]:
  for form in formats.FORMATS:
    for data in catalog.catalog().values():
      if 'train' in data.num_examples:
        yield f'{form}_{_slug(data.name)}'
      for slug in _template_slugs(data.name):
        yield f'{form}_{_slug(data.name)}{_SCORE}{slug}'


def install() -> None:
  """Makes SeqIO's registries find what the catalog has; once is enough."""
  for registry, make, names in (
      (seqio.TaskRegistry, _make_task, _task_names),
      (seqio.MixtureRegistry, _make_mixture, mixtures.names),
  ):
    registered = registry._REGISTRY
    if not isinstance(registered, _OnDemand):
      registry._REGISTRY = _OnDemand(registered, make, names)


install()
