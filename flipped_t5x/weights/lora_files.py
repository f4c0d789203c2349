"""Adapters: merged into the weights they adapt, and in the folders of PEFT.

    adapter_config.json          rank, alpha, targets, and the base model
    adapter_model.safetensors    A as [rank, in] and B as [out, rank]

The names are those of PEFT's LoRA for Transformers' T5.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import os
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x.network import adapters
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import quantization
from flipped_t5x.weights import safetensors_files
from flipped_t5x.weights import tensors as tensors_lib
import numpy as np

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
_SUFFIXES = {adapters.A: 'lora_A.weight', adapters.B: 'lora_B.weight'}
# PEFT's name of a layer of some T5 -> the name here.
_TARGETS = {peft: name for name, peft in hf_checkpoints.MATRICES.items()} | {
    name: name for name in ('wi', 'wi_0', 'wi_1', 'wo')
}
# Fields of a configuration -> the values that mean plain LoRA.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    'bias': ('none',), 'use_rslora': (False,), 'use_dora': (False,),
    'rank_pattern': ({},), 'alpha_pattern': ({},), 'modules_to_save': (None,),
    'layers_to_transform': (None,), 'fan_in_fan_out': (False,),
    'exclude_modules': (None,), 'lora_bias': (False,),
    'trainable_token_indices': (None,), 'target_parameters': (None,),
}


def merged(
    network: network_lib.T5Config, values: tensors_lib.Tensors
) -> dict[str, tensors_lib.Tensor]:
  """The weights of the network that computes the same without adapters.

  Args:
    network: the network, with adapters.
    values: its weights.

  Returns:
    W + (alpha / rank) A B in place of each adapted W, in W's type or, for int8,
    in float32, and all other weights; layers are apart.
  """
  apart = tensors_lib.unstacked(values)
  if quantization.is_quantized(apart):
    trained = {n: t for n, t in apart.items() if adapters.is_adapter(n)}
    apart = quantization.dequantized(
        {n: t for n, t in apart.items() if n not in trained}, 'float32'
    ) | trained
  return {
      name: _merged(apart, name, network.lora.scale)
      for name in apart if not adapters.is_adapter(name)
  }


def _merged(
    values: tensors_lib.Tensors, name: str, scale: float
) -> tensors_lib.Tensor:
  path = name.removesuffix('/kernel')
  a, b = values.get(f'{path}/{adapters.A}'), values.get(f'{path}/{adapters.B}')
  weight = values[name]
  if a is None or b is None:
    return weight

  def read() -> np.ndarray:
    product = a.read().astype(np.float32) @ b.read().astype(np.float32)
    total = weight.read().astype(np.float32) + scale * product
    return total.astype(weight.dtype)

  return dataclasses.replace(weight, read=read)


def write(
    folder: pathlib.Path,
    network: network_lib.T5Config,
    values: tensors_lib.Tensors,
    base: str,
) -> None:
  """Writes the adapters alone, as PEFT reads them.

  Args:
    folder: an existing folder.
    network: the network, with adapters.
    values: its weights.
    base: the name or folder of the model that they adapt.
  """
  lora = network.lora
  files.write_json(folder / CONFIG, {
      'peft_type': 'LORA', 'task_type': 'SEQ_2_SEQ_LM',
      'base_model_name_or_path': base, 'inference_mode': True, 'r': lora.rank,
      'lora_alpha': lora.alpha, 'lora_dropout': 0.0,
      'target_modules': sorted(
          hf_checkpoints.MATRICES.get(name, name) for name in lora.targets
      ),
      **{name: plain for name, (plain,) in _PLAIN.items()},
  })
  found = {}
  for name, tensor in tensors_lib.unstacked(values).items():
    if adapters.is_adapter(name):
      found[_peft_name(name)] = tensor.T
  safetensors_files.write(folder / WEIGHTS, found)


def _peft_name(name: str) -> str:
  path, _, kind = name.rpartition('/')
  matrix = hf_checkpoints.hf_name(f'{path}/kernel').removesuffix('weight')
  return f'{_PREFIX}{matrix}{_SUFFIXES[kind]}'


def base_of(folder: pathlib.Path) -> str:
  """The name or folder of the model that the adapters of a folder adapt."""
  return str(_read_config(folder)['base_model_name_or_path'])


def read(
    folder: pathlib.Path, base: network_lib.T5Config
) -> tuple[network_lib.T5Config, dict[str, tensors_lib.Tensor]]:
  """Opens adapters in PEFT's form.

  Args:
    folder: the folder.
    base: the network that they adapt.

  Returns:
    The network with adapters, and their weights alone, layers apart.

  Raises:
    UserError: they are of another kind than plain LoRA, or do not fit the base.
  """
  config = _read_config(folder)
  targets = config['target_modules']
  if not isinstance(targets, list) or not set(targets) <= _TARGETS.keys():
    raise errors.UserError(
        f'{folder / CONFIG}: target_modules {targets!r} must be a list of'
        f' {sorted(_TARGETS)}'
    )
  names = {_TARGETS[target] for target in targets}
  network = dataclasses.replace(
      base, scan_layers=False, lora_rank=config['r'],
      lora_alpha=float(config['lora_alpha']),
      # PEFT, too, passes over those that the base does not have.
      lora_targets=tuple(sorted(names.intersection(base.linear_layers))),
  )
  found = safetensors_files.open(folder / WEIGHTS)
  values, wanted = {}, dict(_adapter_shapes(network))
  for name in wanted:
    if (peft := _peft_name(name)) in found:
      values[name] = found.pop(peft).T
  problems = tensors_lib.differences(values | found, wanted)
  if problems:
    raise errors.UserError(
        f'{folder / WEIGHTS} is not of {CONFIG} and its base model: {problems}'
    )
  return network, values


def _adapter_shapes(
    network: network_lib.T5Config,
) -> Iterator[tuple[str, tensors_lib.Shape]]:
  for name, shape in tensors_lib.shapes(network).items():
    if adapters.is_adapter(name):
      yield name, shape


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / CONFIG
  config = files.read_json(path)
  for name in ('base_model_name_or_path', 'r', 'lora_alpha', 'target_modules'):
    if config.get(name) is None:
      raise errors.UserError(f'{path}: {name} is missing')
  if config.get('peft_type') != 'LORA':
    raise errors.UserError(
        f'{path}: peft_type is {config.get("peft_type")!r}; only LORA is read'
    )
  for name, plain in _PLAIN.items():
    if config.get(name) not in (*plain, None, [], {}):
      raise errors.UserError(
          f'{path}: {name} is {config[name]!r}; only plain LoRA is read'
      )
  return config


def is_folder(folder: os.PathLike[str]) -> bool:
  """Whether a folder has adapters in PEFT's form."""
  return (pathlib.Path(folder) / CONFIG).is_file()
