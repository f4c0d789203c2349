"""The files of a model, whichever program wrote them.

    RUN/, RUN/checkpoints/STEP/     of the embedded engine ('native')
    config.json, model.safetensors  a Hugging Face folder ('hf')
    RUN/, RUN/checkpoint_STEP/      of T5X ('t5x'), also in a bucket, gs://...
    owner/name                      a repository of the Hugging Face hub

Only the first says which text format and lengths the model was trained with.
`flipped-t5x convert` puts that beside what it writes: `config.json` and
`sentencepiece.model` beside T5X's checkpoint, `flipped_t5x.json` in a Hugging
Face folder. Of others the format and lengths are those of the published FLIPPED
models.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x.network import layers
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import hf_vocabulary
from flipped_t5x.weights import run_config
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import tensors as tensors_lib

HF, NATIVE, T5X = 'hf', 'native', 't5x'
CONFIG, VOCABULARY = 'config.json', 'sentencepiece.model'
HF_SIDECAR = 'flipped_t5x.json'
INPUT_LENGTH, TARGET_LENGTH = 384, 64  # Of the published FLIPPED-11B.
_HUB_NAME = re.compile(r'[\w-][\w.-]*/[\w-][\w.-]*')
_LAYER = re.compile(r'(encoder|decoder)/(?:layers_(\d+)|\1)/(.+)')


@dataclasses.dataclass(frozen=True)
class ModelFiles:
  """A model that has not been read yet.

  Attributes:
    kind: HF, NATIVE or T5X.
    path: the folder that holds everything, or the checkpoint.
    network: its sizes; `scan_layers` as the tensors are.
    tensors: its weights.
    vocabulary: a SentencePiece model without sentinels; None if there is none.
    format: text format, see `prompts/formats.py`.
    input_length: tokens of the encoder side.
    target_length: tokens of the decoder side.
    settings: macro -> value of the run that trained it, as far as known.
    step: the training step of the weights; None if unknown.
  """

  kind: str
  path: epath.Path
  network: network_lib.T5Config
  tensors: tensors_lib.Tensors
  vocabulary: pathlib.Path | None = None
  format: str = formats.flipped.__name__
  input_length: int = INPUT_LENGTH
  target_length: int = TARGET_LENGTH
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  step: int | None = None

  @property
  def run_config(self) -> run_config.RunConfig:
    """What a run folder would say of the model."""
    return run_config.RunConfig(
        self.network, self.format, self.input_length, self.target_length,
        self.settings,
    )

  @property
  def nbytes(self) -> int:
    return sum(tensor.nbytes for tensor in self.tensors.values())


def open(  # pylint: disable=redefined-builtin
    path: str | os.PathLike[str],
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    step: int | None = None,
) -> ModelFiles:
  """Opens a model; none of its weights are read.

  Args:
    path: a folder, see above; what `resolve` gives for a repository.
    vocabulary: a SentencePiece file, or a folder with one, in place of the
      model's own.
    step: which checkpoint of a run; by default the newest.

  Returns:
    The model. Without a vocabulary it is for the caller to say that one is
    needed, and that --vocabulary names it.

  Raises:
    FileNotFoundError: there is no model, no such step or no such vocabulary.
    UserError: the weights are not those of a T5, or not those that the
      configuration says, files are damaged, or the vocabulary has more ids than
      the embedding has rows.
  """
  folder = epath.Path(path).expanduser()
  found = (_open_hf if _is_hf(folder) else _open_checkpoint)(folder, step)
  if vocabulary is not None:
    found = dataclasses.replace(found, vocabulary=_vocabulary(vocabulary))
  problems = tensors_lib.differences(
      found.tensors, tensors_lib.shapes(found.network)
  )
  if problems:
    raise errors.UserError(
        f'{found.path}: the weights are not those of its configuration:'
        f' {problems}'
    )
  if found.vocabulary is not None:
    size = tokenization.load_vocabulary(found.vocabulary).vocab_size
    if size > found.network.vocab_size:
      raise errors.UserError(
          f'{found.vocabulary} has {size} ids, its 100 sentinels counted in,'
          f' but token_embedder/embedding of {found.path} only'
          f' {found.network.vocab_size} rows: it is the vocabulary of another'
          ' model'
      )
  return found


def resolve(
    path_or_name: str | os.PathLike[str], revision: str | None = None
) -> epath.Path:
  """A folder: a path, or a model of the hub, downloaded where need be.

  Args:
    path_or_name: a path, which wins if it exists, or `owner/name`.
    revision: a commit, tag or branch of the hub's repository.

  Returns:
    The folder.

  Raises:
    FileNotFoundError: there is neither such a folder nor such a model.
    ConnectionError, PermissionError: see `hub_models.fetch`.
  """
  path = files.any_path(path_or_name)
  if not _HUB_NAME.fullmatch(os.fspath(path_or_name)) or path.exists():
    return path
  # Here, because it takes a third of a second.
  from flipped_t5x.weights import hub  # pylint: disable=g-import-not-at-top

  return epath.Path(hub.fetch(os.fspath(path_or_name), revision))


def _is_hf(folder: epath.Path) -> bool:
  """Whether there is a configuration that is not of ours."""
  path = folder / CONFIG
  return path.is_file() and 'network' not in _read_json(path)


def _open_hf(folder: epath.Path, step: int | None) -> ModelFiles:
  if step is not None:
    raise errors.UserError(f'{folder}: a Hugging Face folder has no steps')
  folder = pathlib.Path(os.path.abspath(folder))
  network, tensors = hf_checkpoints.open(folder)
  said = folder / HF_SIDECAR
  return ModelFiles(
      HF, epath.Path(folder), network, tensors, _hf_vocabulary(folder),
      **(_sidecar(said) if said.is_file() else {}),
  )


def _sidecar(path: pathlib.Path) -> dict[str, Any]:
  said = _read_json(path)
  names = ('format', 'input_length', 'target_length', 'settings', 'step')
  if said.keys() != set(names):
    raise errors.UserError(
        f'{path} has {sorted(said)} where {sorted(names)} belong'
    )
  formats.get(said['format'])
  return said


def _hf_vocabulary(folder: pathlib.Path) -> pathlib.Path | None:
  """Its SentencePiece model, made anew in the data folder where need be."""
  found = hf_vocabulary.spiece_path(folder)
  tokenizer = folder / 'tokenizer.json'
  if found is not None or not tokenizer.is_file():
    return found
  # Here, because few folders need it.

  digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()[:16]
  path = files.data_folder() / 'vocabularies' / f'tokenizer-{digest}.model'
  if not path.is_file():
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.{os.getpid()}')
    try:
      hf_vocabulary.write_spiece(folder, unfinished)
      unfinished.replace(path)
    finally:
      unfinished.unlink(missing_ok=True)
  return path


def _open_checkpoint(folder: epath.Path, step: int | None) -> ModelFiles:
  """A run, or a checkpoint of one; `folder` may be either."""
  path = _find(folder, step)
  tensors, step = t5x_checkpoints.open(path)
  is_native = path.parent.name == 'checkpoints'
  run = path.parent.parent if is_native else path.parent
  if not ((run / CONFIG).is_file() and 'network' in _read_json(run / CONFIG)):
    return ModelFiles(
        T5X, path, infer_network(tensors, path), tensors, step=step
    )
  config = run_config.RunConfig.read(run)
  vocabulary = run / VOCABULARY
  return ModelFiles(
      NATIVE if is_native else T5X, run,
      # A checkpoint may have been taken from a run of the other kind.
      dataclasses.replace(
          config.network, scan_layers=tensors_lib.is_stacked(tensors)
      ),
      tensors,
      pathlib.Path(vocabulary) if vocabulary.is_file() else None,
      config.format, config.input_length, config.target_length,
      config.settings, step,
  )


def _find(folder: epath.Path, step: int | None) -> epath.Path:
  """The checkpoint; FileNotFoundError says what there is."""
  if step is not None:
    steps = t5x_checkpoints.steps(folder)
    if step not in steps:
      raise FileNotFoundError(
          f'{folder}: no checkpoint of step {step}; there are:'
          f' {", ".join(map(str, steps)) or "none"}'
      )
    return steps[step]
  if (folder / CONFIG).is_file() and not t5x_checkpoints.steps(folder):
    raise FileNotFoundError(f'{folder}: no checkpoint has been saved yet')
  try:
    return t5x_checkpoints.find(folder)
  except FileNotFoundError as e:
    raise FileNotFoundError(
        f'{e}; a model is the folder of a run, a checkpoint of it or of T5X, or'
        ' a Hugging Face folder with config.json'
    ) from e


def infer_network(
    tensors: tensors_lib.Tensors, path: os.PathLike[str] | str
) -> network_lib.T5Config:
  """The sizes of a T5 from the shapes of its weights.

  Args:
    tensors: name -> what has a shape.
    path: where they lie, for messages.

  Returns:
    The sizes; gated feed-forward layers are taken for those of T5 1.1, others
    for those of T5 1.0.

  Raises:
    UserError: they are not the weights of a T5 that `network/t5.py` can be.
  """

  def shape(name: str) -> tuple[int, ...]:
    if name not in tensors:
      raise errors.UserError(
          f'{path}: not the weights of a T5: {name} is missing, there are'
          f' {", ".join(list(tensors)[:3])}, ...'
      )
    return tensors[name].shape

  matches = list(filter(None, map(_LAYER.fullmatch, tensors)))
  own_biases = [m[0] for m in matches if m[3].startswith('relpos_bias/')]
  if own_biases:
    raise errors.UserError(
        f'{path}: {own_biases[0]}: each layer has position biases of its own,'
        ' as in umT5 and in T5X\'s network scalable_t5; here a stack shares one'
    )
  vocab_size, emb_dim = shape('token_embedder/embedding')
  num_heads, buckets = shape('encoder/relpos_bias/rel_embedding')
  if buckets != layers.NUM_BUCKETS:
    raise errors.UserError(
        f'{path}: {buckets} buckets of relative positions; {layers.NUM_BUCKETS}'
        ' are supported'
    )
  scanned = tensors_lib.is_stacked(tensors)
  first = 'encoder/' + ('encoder' if scanned else 'layers_0')
  width = shape(f'{first}/attention/query/kernel')[-1]
  gated = f'{first}/mlp/wi_0/kernel' in tensors

  def number(side: str) -> int:
    if scanned:
      return shape(f'{side}/{side}/mlp/wo/kernel')[1]
    numbers = [int(m[2]) for m in matches if m[1] == side]
    return max(numbers, default=-1) + 1

  return network_lib.T5Config(
      vocab_size=vocab_size,
      emb_dim=emb_dim,
      num_heads=num_heads,
      num_encoder_layers=number('encoder'),
      num_decoder_layers=number('decoder'),
      head_dim=width // num_heads,
      mlp_dim=shape(f'{first}/mlp/wi{"_0" * gated}/kernel')[-1],
      mlp_activations=('gelu', 'linear') if gated else ('relu',),
      logits_via_embedding='decoder/logits_dense/kernel' not in tensors,
      scan_layers=scanned,
  )


def _vocabulary(path: str | os.PathLike[str]) -> pathlib.Path:
  """A SentencePiece file, itself or in a folder."""
  path = pathlib.Path(path).expanduser().absolute()
  if not path.is_dir():
    candidates = [path]
  else:
    candidates = [path / VOCABULARY, path / 'spiece.model']
  for file in candidates:
    if file.is_file():
      return file
  raise FileNotFoundError(
      f'{" and ".join(map(str, candidates))}: no such vocabulary'
  )


def _read_json(path: os.PathLike[str]) -> dict[str, Any]:
  try:
    content = json.loads(epath.Path(path).read_text())
  except ValueError as e:
    raise errors.UserError(f'{path} is damaged: {e}') from e
  if not isinstance(content, dict):
    raise errors.UserError(f'{path} is not a configuration')
  return content
