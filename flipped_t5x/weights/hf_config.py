"""`config.json` of a T5 in a Hugging Face folder, read and written."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x.network import layers
from flipped_t5x.network import t5
from flipped_t5x.prompts import tokenization

# Field -> attribute of `T5Config`, and the field's default.
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
# Fields of which the network and the batches support one value.
_FIXED = {
    'is_encoder_decoder': True,
    'relative_attention_num_buckets': layers.NUM_BUCKETS,
    'relative_attention_max_distance': layers.MAX_DISTANCE,
    'layer_norm_epsilon': 1e-6,
    **_TOKENS,
}
# Not `gelu`: in Transformers it is exact, in Flax approximated by tanh.
_ACTIVATIONS = {
    'gelu_new': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'swish',
}

# What `transformers` calls int8 weights with a scale for each output channel;
# it reads them with the package compressed-tensors.
_INT8 = {
    'config_groups': {
        'group_0': {
            # Without it, compressed-tensors would take them to be packed.
            'format': 'int-quantized',
            'targets': ['Linear', 'Embedding'],
            'weights': {
                'num_bits': 8, 'strategy': 'channel', 'symmetric': True,
                'type': 'int',
            },
        },
    },
    'format': 'int-quantized',
    'ignore': ['re:.*relative_attention_bias'],
    'quant_method': 'compressed-tensors',
    'quantization_status': 'compressed',
}


@dataclasses.dataclass(frozen=True)
class Config:
  """The configuration of a T5.

  Attributes:
    network: the sizes. `logits_via_embedding` says whether the decoder's output
      is scaled, as it is in a T5 with a tied head.
    may_lack_head: whether the embedding is also the head if the weights have no
      head. Transformers 5 makes such a T5 1.1: tied, and not scaled.
  """

  network: network_lib.T5Config
  may_lack_head: bool


def read(path: pathlib.Path) -> Config:
  """Reads the configuration of a T5.

  Args:
    path: the file.

  Returns:
    The configuration; absent fields have the defaults of `transformers`.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: the network does not support such a model; the message names the
      field.
  """
  # A field that is null counts as absent.
  raw = {f: v for f, v in files.read_json(path).items() if v is not None}
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
  quantization = raw.get('quantization_config')
  if quantization and not _is_ours(quantization):
    raise errors.UserError(
        f'{path}: quantization_config is not supported, except that of int8'
        ' weights with a scale for each output channel: convert the model as it'
        ' was before quantization'
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
          # Before Transformers 5, tie_word_embeddings stood for both.
          logits_via_embedding=raw.get('scale_decoder_outputs', is_tied),
          int8_weights=bool(quantization),
      ),
      is_tied,
  )


def write(
    path: pathlib.Path, config: network_lib.T5Config, dtype: str
) -> None:
  """Writes `config.json`, and `generation_config.json` beside it.

  Args:
    path: the path of `config.json`.
    config: the network.
    dtype: the name of the type of those weights that are not in int8.

  Raises:
    UserError: `transformers` has no such activations.
  """
  files.write_json(path, dict(sorted({
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
      **({'quantization_config': _INT8} if config.int8_weights else {}),
  }.items())))
  files.write_json(path.with_name('generation_config.json'), dict(_TOKENS))


def _is_ours(quantization: Any) -> bool:
  """Whether it is `_INT8`, perhaps with fields that say no more."""
  if not isinstance(quantization, Mapping):
    return False
  return all(quantization.get(f) == value for f, value in _INT8.items())


def _sizes(path: pathlib.Path, raw: Mapping[str, Any]) -> dict[str, Any]:
  """The sizes, by the names of `T5Config`."""
  sizes: dict[str, Any] = {}
  for field, (name, default) in _SIZES.items():
    if field == 'num_decoder_layers':
      default = sizes['num_encoder_layers']
    sizes[name] = raw.get(field, default)
    try:
      t5.check_size(field, sizes[name], t5.MOST[name])
    except ValueError as e:
      raise errors.UserError(f'{path}: {e}') from e
  return sizes


def _activations(
    path: pathlib.Path, raw: Mapping[str, Any]
) -> tuple[str, ...]:
  """The feed-forward block's activations, by the names of T5X."""
  projection = str(raw.get('feed_forward_proj', 'relu'))
  activation = projection.removeprefix('gated-')
  is_gated = activation != projection
  if projection == 'gated-gelu':  # T5 1.1 means the approximated one by it.
    activation = 'gelu_new'
  # These two fields, if present, take precedence over `feed_forward_proj`.
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
  """`feed_forward_proj` for activations by the names of T5X."""
  if activations == ('gelu', 'linear'):
    return 'gated-gelu'
  names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
  first, *others = activations
  if first not in names or others not in ([], ['linear']):
    raise errors.UserError(f'Transformers has no mlp_activations {activations}')
  return f'gated-{names[first]}' if others else names[first]
