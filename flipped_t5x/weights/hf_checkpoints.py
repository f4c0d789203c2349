"""T5 in the folders of Hugging Face.

    config.json              see weights/hf_config.py
    model.safetensors        or shards of it, and model.safetensors.index.json
    pytorch_model.bin        likewise; read where there are no safetensors
    spiece.model             see prompts/hf_vocabulary.py

Weights are read one at a time, and written one file at a time. Those of linear
layers are [out, in] in these folders and [in, out] in T5X.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x.network import layers
from flipped_t5x.prompts import hf_vocabulary
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import hf_config
from flipped_t5x.weights import quantization
from flipped_t5x.weights import safetensors_files
from flipped_t5x.weights import tensors
from flipped_t5x.weights import torch_files
import jax
import numpy as np

_CONFIG = 'config.json'
_SAFETENSORS = 'model.safetensors'
# In the order in which `from_pretrained` looks for them.
_READERS = {
    _SAFETENSORS: safetensors_files.open,
    'pytorch_model.bin': torch_files.open,
}
_INDEX = '.index.json'
_HEAD, _EMBEDDING = 'lm_head.weight', 'shared.weight'
_COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# Early conversions have this weight; no T5 uses it.
_UNUSED = (
    'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
)

_OUTSIDE_LAYERS = {
    'token_embedder/embedding': _EMBEDDING,
    'decoder/logits_dense/kernel': _HEAD,
} | {
    f'{side}/{name}': f'{side}.{hf_name}.weight'
    for side in ('encoder', 'decoder')
    for name, hf_name in (
        (f'{side}_norm/scale', 'final_layer_norm'),
        ('relpos_bias/rel_embedding',
         'block.0.layer.0.SelfAttention.relative_attention_bias'),
    )
}
_BLOCKS = {
    'encoder': {
        'attention': 'layer.0.SelfAttention',
        'pre_attention_layer_norm': 'layer.0.layer_norm',
        'mlp': 'layer.1.DenseReluDense',
        'pre_mlp_layer_norm': 'layer.1.layer_norm',
    },
    'decoder': {
        'self_attention': 'layer.0.SelfAttention',
        'pre_self_attention_layer_norm': 'layer.0.layer_norm',
        'encoder_decoder_attention': 'layer.1.EncDecAttention',
        'pre_cross_attention_layer_norm': 'layer.1.layer_norm',
        'mlp': 'layer.2.DenseReluDense',
        'pre_mlp_layer_norm': 'layer.2.layer_norm',
    },
}
MATRICES = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}


def open(
    path: pathlib.Path,
) -> tuple[network_lib.T5Config, dict[str, tensors.Tensor]]:
  """Opens a folder of T5, T5 1.1, Flan-T5 or what was trained from one.

  No weight is read, except an embedding that is stored under several names: its
  copies must be the same.

  Args:
    path: the folder.

  Returns:
    The configuration, and T5X's name -> tensor in the type that is stored, each
    layer by itself.

  Raises:
    FileNotFoundError: there is no such folder, or no configuration or weights
      in it.
    UserError: the network does not support the model, or files are damaged; the
      message names the file and the field or the tensors.
  """
  path = pathlib.Path(path)
  config = hf_config.read(path / _CONFIG)
  found, file = _open_weights(path)
  return config.network, renamed(
      config.network, found, file, config.may_lack_head
  )


def renamed(
    config: network_lib.T5Config,
    values: tensors.Tensors,
    source: str | os.PathLike[str],
    may_lack_head: bool = False,
) -> dict[str, tensors.Tensor]:
  """Gives Hugging Face's tensors the names and shapes of T5X.

  Args:
    config: the network.
    values: Hugging Face's name -> tensor; the embedding may be there under
      several names.
    source: where they are from, for messages.
    may_lack_head: whether the embedding is also the head if there is no head.

  Returns:
    T5X's name -> tensor, each layer by itself.

  Raises:
    UserError: they are not the weights of the network; the message names the
      tensors.
  """
  found = dict(values)
  found.pop(_UNUSED, None)
  _drop_copies(source, found, config.logits_via_embedding)
  if config.int8_weights:
    _drop_copies(
        source, found, config.logits_via_embedding, suffix=layers.SCALE
    )
  has_head = not config.logits_via_embedding
  if has_head and may_lack_head and _EMBEDDING in found:
    found.setdefault(_HEAD, found[_EMBEDDING])
  shapes = _shapes(config)
  wanted = names(config)
  problems = tensors.differences(found, {
      hf_name: _hf_shape(name, shapes[name])
      for name, (hf_name, _) in wanted.items()
  })
  if problems:
    raise errors.UserError(
        f'{source}: not the weights of {_CONFIG}: {problems}'
    )
  for name, tensor in found.items():
    in_int8 = tensor.dtype == np.int8 and name + layers.SCALE in found
    if not in_int8 and not jax.numpy.issubdtype(tensor.dtype, np.floating):
      raise errors.UserError(
          f'{source}: {name} is {tensor.dtype}, not a weight'
      )
  return {
      name: (
          found[hf_name].T if transposed else
          found[hf_name].reshape(shapes[name])
      )
      for name, (hf_name, transposed) in wanted.items()
  }


def write(
    folder: pathlib.Path,
    config: network_lib.T5Config,
    values: tensors.Tensors,
    vocabulary: pathlib.Path | None,
    *,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
  """Writes what `from_pretrained` reads, with the weights as safetensors.

  The weights of one file are in memory at a time.

  Args:
    folder: an empty folder.
    config: the network.
    values: T5X's name -> weight, layers stacked or each by itself; weights are
      stored in the types that they have.
    vocabulary: a SentencePiece model; None for a folder without a tokenizer.
    max_shard_bytes: the most bytes of weights in a file; a weight that is
      larger has a file to itself.

  Raises:
    UserError: the weights are not those of the network, or the vocabulary has
      more ids than the embedding has rows; the message names them.
  """
  values = tensors.unstacked(values)
  problems = tensors.differences(values, _shapes(config))
  if problems:
    raise errors.UserError(
        f'not the weights of their configuration: {problems}'
    )
  quantization.check_types(values, folder)
  dtypes = {
      tensor.dtype.name for tensor in values.values()
      if tensor.dtype != np.int8
  }
  # If there are several types, one that can represent all values.
  dtype = dtypes.pop() if len(dtypes) == 1 else 'float32'
  hf_config.write(folder / _CONFIG, config, dtype)
  if vocabulary is not None:
    size = tokenization.SentencePiece(vocabulary).vocab_size
    if size > config.vocab_size:
      raise errors.UserError(
          f'{vocabulary} has {size} ids, including sentinels, but the embedding'
          f' has only {config.vocab_size} rows'
      )
    hf_vocabulary.write(vocabulary, folder)
  _write_weights(folder, names(config), values, max_shard_bytes)


def _write_weights(
    folder: pathlib.Path,
    hf_names: Mapping[str, tuple[str, bool]],
    values: tensors.Tensors,
    max_shard_bytes: int,
) -> None:
  """Writes safetensors, with an index if there are several files."""
  # Slow to import, and not needed to read.
  import huggingface_hub

  by_hf_name = {}
  # In the order of `values`, in which a stack is read once for its layers.
  for name, tensor in values.items():
    hf_name, transposed = hf_names[name]
    by_hf_name[hf_name] = (
        tensor.T if transposed else
        tensor.reshape(_hf_shape(name, tensor.shape))
    )
  # Transformers shares the embedding with its uses, but not the scales of it.
  scales = by_hf_name.get(_EMBEDDING + layers.SCALE)
  if scales is not None:
    is_head_tied = _HEAD not in by_hf_name
    by_hf_name |= {n + layers.SCALE: scales for n in _uses(is_head_tied)}
  split = huggingface_hub.split_state_dict_into_shards_factory(
      by_hf_name,
      get_storage_size=lambda tensor: tensor.nbytes,
      filename_pattern=_SAFETENSORS.replace('.', '{suffix}.'),
      max_shard_size=max_shard_bytes,
  )
  for file, inside in split.filename_to_tensors.items():
    safetensors_files.write(
        folder / file, {name: by_hf_name[name] for name in inside}
    )
  if split.is_sharded:
    files.write_json(folder / f'{_SAFETENSORS}{_INDEX}', {
        'metadata': split.metadata, 'weight_map': split.tensor_to_filename,
    })


def names(config: network_lib.T5Config) -> dict[str, tuple[str, bool]]:
  """T5X's name -> Hugging Face's, and whether the matrix is transposed."""
  return {
      name: (hf_name(name), name.endswith(('/kernel', '/rel_embedding')))
      for name in _shapes(config)
  }


def _hf_shape(name: str, shape: tensors.Shape) -> tensors.Shape:
  """The shape that Hugging Face has for a weight, of a layer by itself."""
  if name.endswith(('/kernel', '/rel_embedding')):
    return shape[::-1]
  return (*shape, 1) if tensors.is_scale(name) else shape


def hf_name(name: str) -> str:
  """Hugging Face's name of a weight; layers are apart."""
  if tensors.is_scale(name):
    return hf_name(name.removesuffix(layers.SCALE)) + layers.SCALE
  if name in _OUTSIDE_LAYERS:
    return _OUTSIDE_LAYERS[name]
  side, layer, block, *matrix, _ = name.split('/')
  number = layer.removeprefix('layers_')
  matrix = [MATRICES.get(m, m) for m in matrix]
  return '.'.join(
      (side, 'block', number, _BLOCKS[side][block], *matrix, 'weight')
  )


def _shapes(config: network_lib.T5Config) -> dict[str, tuple[int, ...]]:
  """T5X's name -> shape, each layer by itself."""
  return tensors.shapes(dataclasses.replace(config, scan_layers=False))


def _open_weights(
    folder: pathlib.Path,
) -> tuple[dict[str, tensors.Tensor], pathlib.Path]:
  """Hugging Face's name -> tensor, and the file to name in errors."""
  for name, reader in _READERS.items():
    index = folder / f'{name}{_INDEX}'
    if (folder / name).is_file():
      return reader(folder / name), folder / name
    if index.is_file():
      return _open_shards(index, reader), index
  wanted = ', '.join(f'{name}, {name}{_INDEX}' for name in _READERS)
  inside = ', '.join(sorted(p.name for p in folder.iterdir()))
  raise FileNotFoundError(
      f'{folder} has no weights, none of {wanted}; it has {inside}'
  )


def _open_shards(
    index: pathlib.Path,
    reader: Callable[[pathlib.Path], dict[str, tensors.Tensor]],
) -> dict[str, tensors.Tensor]:
  """The tensors of all shards; each must have those that the index says."""
  weight_map = files.read_json(index).get('weight_map')
  if not isinstance(weight_map, dict):
    raise errors.UserError(f'{index} is damaged: it has no weight_map')
  names_of_files = sorted(set(weight_map.values()))
  places = {file: index.parent / file for file in names_of_files}
  for file, shard in places.items():
    # An index must not lead out of its folder.
    if pathlib.Path(file).name != file or not shard.is_file():
      raise errors.UserError(
          f'{index}: there is no file {file}, which it names'
      )
  found: dict[str, tensors.Tensor] = {}
  for file, shard in places.items():
    inside = reader(shard)
    listed = {name for name, place in weight_map.items() if place == file}
    for name in sorted(listed ^ inside.keys()):
      has, says = ('has', 'lacks') if name in inside else ('lacks', 'has')
      raise errors.UserError(
          f'{shard} {has} {name}, and {index.name} says that it {says} it'
      )
    found |= inside
  return found


def _drop_copies(
    source: str | os.PathLike[str],
    found: dict[str, tensors.Tensor],
    is_head_tied: bool,
    suffix: str = '',
) -> None:
  """Keeps the embedding under one name; UserError if its copies differ."""
  uses = [name + suffix for name in _uses(is_head_tied)]
  present = [name for name in uses if name in found]
  if not present:
    return
  first, *copies = present
  # By digest, so that no two of them are in memory.
  wanted = _digest(found[first]) if copies else None
  for name in copies:
    if _digest(found.pop(name)) != wanted:
      raise errors.UserError(
          f'{source}: {name} differs from {first}; {_CONFIG} says, by'
          ' tie_word_embeddings, that they are the same'
      )
  found[uses[0]] = found.pop(first)


def _uses(is_head_tied: bool) -> list[str]:
  """The embedding's names, first the one that it has here."""
  return [_EMBEDDING, *_COPIES, *([_HEAD] if is_head_tied else [])]


def _digest(tensor: tensors.Tensor) -> tuple[Any, ...]:
  values = np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8)
  return tensor.shape, tensor.dtype, hashlib.sha256(values.data).digest()
