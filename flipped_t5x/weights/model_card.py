"""The README.md of an exported model: what is known of it, and no more."""

from collections.abc import Iterator
from collections.abc import Mapping
import json
import math
from typing import Any

from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
from flipped_t5x.weights import model_files
from flipped_t5x.weights import run_config

_TEXT, _INSTRUCTION = 'A warm, funny film.', 'Did the reviewer enjoy the movie?'
_OPTIONS = ('Yes', 'No')
_EXAMPLE = templates.Rendered(
    (_TEXT, 0), (f' {_INSTRUCTION}',), _OPTIONS, gold=0
)


def markdown(
    name: str, files: model_files.ModelFiles, dtypes: set[str]
) -> str:
  """The card.

  Args:
    name: the model's name, that of its folder.
    files: the model that was converted. What is measured of it is read from
      the results beside it.
    dtypes: types of the exported weights.

  Returns:
    Markdown with the hub's front matter.
  """
  settings = dict(files.settings)
  origin = settings.pop(run_config.CONVERTED_FROM, None)
  parts = [
      '---', 'library_name: transformers', 'tags: [t5, jax, flipped_t5x]',
      '---', '', f'# {name}', '',
      '<!-- Who made it, of what data, under which license: yours to say. Add'
      ' `license:` above. -->', '',
  ]
  if settings:
    parts += [*_trained(files, settings), *_inputs(files)]
  elif origin or files.kind != model_files.NATIVE:
    parts += [f'Weights converted from `{origin or files.path}`.', '']
  parts += [*_use(name, files), *_measured(files, dtypes)]
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
  writes_label = files.format in formats.WRITES_LABEL
  parts = [
      f'A T5 that reads {"a prompt" if writes_label else "a text and a label"}'
      f' and writes {"the label" if writes_label else "the instruction"}, in'
      f' the format `{files.format}` of flipped_t5x'
  ]
  if settings.get('LAMBDA'):
    parts[0] += (
        f': {"DIRECT" if writes_label else "flipped learning"} ([arXiv'
        ' 2210.02969](https://arxiv.org/abs/2210.02969)) with unlikelihood'
        f' weighted {settings["LAMBDA"]}'
    )
  parts[0] += '.'
  if settings.get('MIXTURE'):
    parts[0] += f' Trained on `{settings["MIXTURE"]}`'
    parts[0] += f' for {files.step:,} steps.' if files.step else '.'
  start = settings.get('INITIAL_CHECKPOINT_PATH')
  if start:
    parts[0] += f' It started from `{start}`.'
  return [*parts, '']


def _inputs(files: model_files.ModelFiles) -> list[str]:
  """What the encoder reads and the decoder writes, by example."""
  text = formats.get(files.format)(_EXAMPLE, _OPTIONS[0])
  scored = (
      'label given the prompt'
      if files.format in formats.WRITES_LABEL
      else 'second text given the first with that option in it'
  )
  return [
      '## Inputs', '',
      f'Of the text "{_TEXT}", the instruction "{_INSTRUCTION}" and the label'
      f' "{_OPTIONS[0]}" the encoder reads (at most {files.input_length}'
      ' tokens)',
      '', '```', text.inputs, '```', '',
      f'and the decoder writes (at most {files.target_length} tokens)', '',
      '```', text.targets, '```', '',
      'To classify, take the option with the highest log-probability of the'
      f' {scored}.', '',
  ]


def _use(name: str, files: model_files.ModelFiles) -> list[str]:
  text = formats.get(files.format)(_EXAMPLE, _OPTIONS[0])
  return [
      '## Use', '', '```python',
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
  stored = {tensor.dtype.name for tensor in files.tensors.values()}
  for path in sorted(files.path.glob('results*.json')):
    results = json.loads(path.read_text())
    if results.get('step') != files.step or 'tasks' not in results:
      continue
    mixture = results.get('mixture') or files.settings.get('MIXTURE')
    yield from (f'## Ranking held-out examples: {mixture}', '')
    yield from _table(
        ('task', 'examples', 'accuracy', 'macro-F1', 'majority', 'random'),
        (
            (
                task, f'{r["examples"]:,}', _spread(r['accuracy']),
                _spread(r['macro_f1']), f'{r["majority_accuracy"]:.3f}',
                f'{r["random_accuracy"]:.3f}',
            ) for task, r in results['tasks'].items()
        ),
    )
    yield from (
        '',
        'Mean ± standard deviation over templates; majority and random are the'
        ' accuracy of the most frequent label and of a uniform draw.'
        + ' At most {limit} examples a dataset.'.format(**results)
        * bool(results.get('limit'))
        + f' Measured with the weights in {_list(stored)}.'
        * (stored != dtypes),
        '',
    )


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


def _table(header, rows) -> list[str]:
  return [
      f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |'
      for line in (header, ['---'] * len(header), *rows)
  ]
