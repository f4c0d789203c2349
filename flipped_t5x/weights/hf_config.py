"""`config.json` of a T5, in Hugging Face's words and in T5X's."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import network as network_lib
from flipped_t5x.network import layers
from flipped_t5x.prompts import tokenization

# Field -> attribute of `T5Config`, and what a field is that is left out.
_SIZES = {
    'vocab_size': ('vocab_size', 32128),
    'd_model': ('emb_dim', 512),
    'd_kv': ('head_dim', 64),
    'd_ff': ('mlp_dim', 2048),
    'num_heads': ('num_heads', 8),
    'num_layers': ('num_encoder_layers', 6),
    'num_decoder_layers': ('num_decoder_layers', None),
}
_TOKENS = {
    'pad_token_id': tokenization.PAD_ID,
    'eos_token_id': tokenization.EOS_ID,
    'decoder_start_token_id': tokenization.PAD_ID,
}
# What the network and the batches know no other value of.
_FIXED = {
    'is_encoder_decoder': True,
    'relative_attention_num_buckets': layers.NUM_BUCKETS,
    'relative_attention_max_distance': layers.MAX_DISTANCE,
    'layer_norm_epsilon': 1e-6,
    **_TOKENS,
}
# No `gelu`: it is exact there, and approximated by tanh in Flax.
_ACTIVATIONS = {
    'gelu_new': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'swish',
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What there is to know of a T5 in a folder.

  Attributes:
    network: its sizes. `logits_via_embedding` is whether the decoder's output
      is scaled as that of a T5 with a tied head.
    may_lack_head: whether the embedding is the head where a folder has none.
      Transformers 5 makes T5 1.1 so: tied, and not scaled.
  """

  network: network_lib.T5Config
  may_lack_head: bool


def read(path: pathlib.Path) -> Config:
  """Reads the configuration of a T5.

  Args:
    path: the file.

  Returns:
    The configuration; what it leaves out is as `transformers` has it.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it is not that of a model that this network is; the message
      names the field.
  """
  # null is as good as nothing.
  raw = {f: v for f, v in read_json(path).items() if v is not None}
  if raw.get('model_type') != 't5':
    raise errors.UserError(
        f'{path}: model_type {raw.get("model_type")!r} is not supported, only'
        " 't5'; mT5 and umT5 have other vocabularies, and umT5 other biases"
    )
  for field, value in _FIXED.items():
    if raw.get(field, value) != value:
      raise errors.UserError(
          f'{path}: {field} {raw[field]!r} is not supported, only {value!r}'
      )
  if raw.get('quantization_config'):
    raise errors.UserError(
        f'{path}: quantization_config is not supported: weights are wanted as'
        ' they were before'
    )
  dropout_rate = raw.get('dropout_rate', 0.1)
  if not isinstance(dropout_rate, (int, float)):
    raise errors.UserError(
        f'{path}: dropout_rate {dropout_rate!r} is not a number'
    )
  is_tied = raw.get('tie_word_embeddings', True)
  return Config(
      network_lib.T5Config(
          **_sizes(path, raw),
          mlp_activations=_activations(path, raw),
          dropout_rate=float(dropout_rate),
          # Before Transformers 5, one field said both.
          logits_via_embedding=raw.get('scale_decoder_outputs', is_tied),
      ),
      is_tied,
  )


def write(
    path: pathlib.Path, config: network_lib.T5Config, dtype: str
) -> None:
  """Writes the configuration, and beside it that of generation.

  Args:
    path: the file.
    config: the network.
    dtype: the type of the weights.

  Raises:
    UserError: `transformers` has no such activations.
  """
  write_json(path, dict(sorted({
      **{f: getattr(config, name) for f, (name, _) in _SIZES.items()},
      **_FIXED,
      'architectures': ['T5ForConditionalGeneration'],
      'dropout_rate': config.dropout_rate,
      'dtype': dtype,
      'feed_forward_proj': _projection(config.mlp_activations),
      'initializer_factor': 1.0,
      'model_type': 't5',
      'tie_word_embeddings': config.logits_via_embedding,
      'use_cache': True,
  }.items())))
  write_json(path.with_name('generation_config.json'), dict(_TOKENS))


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a mapping; UserError names the file."""
  try:
    content = json.loads(path.read_text('utf-8'))
  except ValueError as e:
    raise errors.UserError(f'{path} is damaged: {e}') from e
  if not isinstance(content, dict):
    raise errors.UserError(f'{path} is damaged: a {type(content).__name__}')
  return content


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a mapping."""
  path.write_text(json.dumps(content, indent=2) + '\n')


def _sizes(path: pathlib.Path, raw: Mapping[str, Any]) -> dict[str, int]:
  """The sizes by T5X's names."""
  sizes = {}
  for field, (name, default) in _SIZES.items():
    # Unless told otherwise, both sides are as deep.
    default = default or sizes['num_encoder_layers']
    sizes[name] = raw.get(field, default)
    if type(sizes[name]) is not int or sizes[name] < 1:
      raise errors.UserError(f'{path}: {field} {raw[field]!r} is not a size')
  return sizes


def _activations(
    path: pathlib.Path, raw: Mapping[str, Any]
) -> tuple[str, ...]:
  """The feed-forward block's activations, in T5X's words."""
  projection = str(raw.get('feed_forward_proj', 'relu'))
  activation = projection.removeprefix('gated-')
  is_gated = activation != projection
  if projection == 'gated-gelu':  # T5 1.1 is older than the exact one.
    activation = 'gelu_new'
  # What that comes to may be written, too, and then counts.
  activation = str(raw.get('dense_act_fn', activation))
  if activation not in _ACTIVATIONS:
    raise errors.UserError(
        f'{path}: feed_forward_proj {projection!r}, the activation being'
        f' {activation!r}, is not supported; activations are'
        f' {", ".join(_ACTIVATIONS)}'
    )
  if raw.get('is_gated_act', is_gated):
    return _ACTIVATIONS[activation], 'linear'
  return (_ACTIVATIONS[activation],)


def _projection(activations: tuple[str, ...]) -> str:
  """`feed_forward_proj` for T5X's words."""
  if activations == ('gelu', 'linear'):
    return 'gated-gelu'
  names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
  first, *others = activations
  if first not in names or others not in ([], ['linear']):
    raise errors.UserError(f'Transformers has no mlp_activations {activations}')
  return 'gated-' * len(others) + names[first]
