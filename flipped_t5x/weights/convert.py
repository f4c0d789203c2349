"""Converts models between Hugging Face, T5X and this project."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files as files_lib
from flipped_t5x import locks
from flipped_t5x import terminal
from flipped_t5x.network import adapters
from flipped_t5x.prompts import formats
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import logits_check
from flipped_t5x.weights import lora_files
from flipped_t5x.weights import model_card
from flipped_t5x.weights import model_files
from flipped_t5x.weights import quantization
from flipped_t5x.weights import run_config
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import tensors as tensors_lib
import numpy as np
import tqdm

KINDS = (
    model_files.HF, model_files.NATIVE, model_files.T5X, model_files.PEFT
)
# Not float16, in which T5's activations overflow.
DTYPES = ('float32', 'bfloat16', 'int8')
_GB = 10**9


@dataclasses.dataclass(frozen=True)
class Converted:
  """The outcome of a conversion.

  Attributes:
    path: the folder that was written.
    kind: one of `KINDS`.
    nbytes: the bytes of the weights.
    notes: what the user should know.
    difference: the largest difference of logits; None if not checked.
    largest: the largest absolute logit; None if not checked.
  """

  path: pathlib.Path
  kind: str
  nbytes: int
  notes: tuple[str, ...]
  difference: float | None = None
  largest: float | None = None


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: str | None = None,
    scan_layers: bool | None = None,
    dtype: str | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    max_shard_bytes: int = 5 * _GB,
    step: int | None = None,
    revision: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    check: bool = False,
    progress: bool = True,
) -> Converted:
  """Converts a model, which need not fit in memory.

  One tensor is in memory at a time or, for `hf`, those of one file. Where
  layers are stacked, one tensor holds all layers.

  Args:
    source: a folder or the name of a repository of the hub; see
      `weights/model_files.py`.
    destination: a local folder that does not exist. It appears once everything
      is written.
    to: one of `KINDS`; by default `hf` for a native run, `native` for others.
    scan_layers: whether layers are stacked in what is written; by default as in
      the source. `hf` never stacks them.
    dtype: one of `DTYPES`; by default the types in the source.
    vocabulary: a SentencePiece file, or `t5` for T5's own, for a source without
      one.
    max_shard_bytes: for `hf`, the most bytes of weights in a file.
    step: which checkpoint of a run; by default the newest.
    revision: a commit, tag or branch of a repository of the hub.
    overrides: `format`, `input_length` and `target_length` in place of the
      source's; a value of None counts as absent.
    check: whether to compare logits on random inputs before and after. This
      needs memory for all weights of one model.
    progress: whether to show a bar.

  Raises:
    FileExistsError: the destination exists; nothing was read.
    FileNotFoundError: the source does not exist.
    OSError: the disk has too little room; the message says how much is needed.
    UserError: the source is damaged or contradicts itself, or cannot be
      converted to what is asked for.
  """
  destination = _check_destination(destination)
  before = _overridden(model_files.open(
      source, revision=revision, vocabulary=vocabulary, step=step
  ), overrides or {})
  after = _planned(before, to, scan_layers, dtype, str(source))
  result = Converted(
      destination, after.kind, after.nbytes, _check_vocabulary(after)
  )
  _check_room(destination, after.nbytes)
  # Before any weights are read, in case it cannot be made.
  card = _card(destination.name, before, after, str(source))
  with _alone(destination):
    compare = None
    if check:
      logits_check.check_memory(max(before.nbytes, after.nbytes))
      compare = logits_check.Comparison(before)
    with (
        _new_folder(destination, after.nbytes) as folder,
        _counted(after, progress) as counted,
    ):
      _write(folder, counted, card, max_shard_bytes, _base(before))
      written = model_files.open(folder)  # Reads names, shapes and vocabulary.
      if compare is not None:
        difference, largest = compare.with_other(written)
        if dtype is None and difference > 1e-4 * largest:
          raise errors.UserError(
              f'{source}: logits differ by {difference:.3g} after the'
              f' conversion, the largest being {largest:.3g}'
          )
        result = dataclasses.replace(
            result, difference=difference, largest=largest
        )
  return result


def _card(
    name: str,
    before: model_files.ModelFiles,
    after: model_files.ModelFiles,
    source: str,
) -> str:
  """The model card; '' unless the model is converted to `hf`."""
  if after.kind != model_files.HF:
    return ''
  dtypes = {tensor.dtype.name for tensor in after.tensors.values()}
  return model_card.markdown(name, before, source, dtypes)


def _check_destination(path: str | os.PathLike[str]) -> pathlib.Path:
  if files_lib.is_remote(path):
    raise errors.UserError(
        f'{path}: the destination must be a local folder; copy it from there'
    )
  path = pathlib.Path(os.path.abspath(pathlib.Path(path).expanduser()))
  if path.exists() or path.is_symlink():
    raise FileExistsError(
        f'{path} exists; choose another destination, or delete it'
    )
  return path


def _overridden(
    files: model_files.ModelFiles, overrides: Mapping[str, Any]
) -> model_files.ModelFiles:
  given = {k: v for k, v in overrides.items() if v is not None}
  for name, value in given.items():
    if name == 'format':
      formats.get(value)
    elif value < 1:
      raise errors.UserError(f'{name} is {value}; at least 1 is needed')
  return dataclasses.replace(files, **given)


def _planned(
    files: model_files.ModelFiles,
    to: str | None,
    scan_layers: bool | None,
    dtype: str | None,
    origin: str,
) -> model_files.ModelFiles:
  """The model as it will be written."""
  if to is None:
    is_native = files.kind == model_files.NATIVE
    to = model_files.HF if is_native else model_files.NATIVE
  if to not in KINDS:
    raise errors.UserError(f'unknown kind {to!r}; known: {", ".join(KINDS)}')
  of_layers = to in (model_files.HF, model_files.PEFT)
  if scan_layers and of_layers:
    raise errors.UserError(
        'Hugging Face does not stack layers: leave out --scan_layers'
    )
  if scan_layers is None:
    scan_layers = files.network.scan_layers and not of_layers
  values, network = files.tensors, files.network
  if to == model_files.PEFT:
    if not network.lora_rank:
      raise errors.UserError(f'{origin} has no adapters to write as {to}')
    values = {n: t for n, t in values.items() if adapters.is_adapter(n)}
  elif network.lora_rank:
    values = lora_files.merged(network, values)
    network = network.without_adapters()
  if not scan_layers:
    values = tensors_lib.unstacked(values)
  if dtype is not None:
    values = quantization.astype(values, dtype)
  in_int8 = quantization.is_quantized(values)
  if in_int8 and to == model_files.T5X:
    raise errors.UserError(
        f'{origin}: T5X cannot read int8 weights: give --dtype float32 or'
        ' bfloat16, or --to native or hf'
    )
  if scan_layers:
    values = tensors_lib.stacked(values)
  return dataclasses.replace(
      files,
      kind=to,
      network=dataclasses.replace(
          network, scan_layers=scan_layers, int8_weights=in_int8
      ),
      tensors=values,
      settings={
          **files.settings, run_config.CONVERTED_FROM: origin
      },
  )


def _check_vocabulary(after: model_files.ModelFiles) -> tuple[str, ...]:
  """A note if there is no vocabulary; UserError if one is needed."""
  if after.vocabulary is not None:
    return ()
  if after.kind == model_files.NATIVE:
    raise errors.UserError(
        f'{after.path} has no vocabulary: name a SentencePiece file with'
        " --vocabulary; --vocabulary t5 is T5's own"
    )
  return (
      f'{after.path} has no vocabulary, so none is written; --vocabulary adds'
      ' one',
  )


def _check_room(destination: pathlib.Path, nbytes: int) -> None:
  """Raises OSError if the disk has too little room."""
  parent = next(p for p in destination.parents if p.exists())
  free = shutil.disk_usage(parent).free
  needed = _needed(nbytes)
  if free < needed:
    raise OSError(
        f'{destination}: too little room on disk: {needed / _GB:.1f} GB are'
        f' needed, {free / _GB:.1f} GB are free'
    )


def _needed(nbytes: int) -> int:
  """Bytes on disk, of weights that compression makes no smaller."""
  return nbytes + nbytes // 50 + 10**6


@contextlib.contextmanager
def _alone(destination: pathlib.Path) -> Iterator[None]:
  """Keeps other conversions away from the destination."""
  with (
      files_lib.made(destination.parent),
      locks.held(
          destination.with_name(f'.{destination.name}.lock'), str(destination),
          'choose another destination',
      ),
  ):
    yield


@contextlib.contextmanager
def _new_folder(
    destination: pathlib.Path, nbytes: int
) -> Iterator[pathlib.Path]:
  """A folder that becomes the destination if the block raises nothing."""
  try:
    with files_lib.new_folder(destination) as folder:
      yield folder
  except FileExistsError:
    raise
  except OSError as e:
    raise OSError(
        f'{destination} could not be written, and nothing of it is left: {e};'
        f' it needs {_needed(nbytes) / _GB:.2f} GB'
    ) from e


@contextlib.contextmanager
def _counted(
    files: model_files.ModelFiles, progress: bool
) -> Iterator[model_files.ModelFiles]:
  """The same model, with a bar that shows how much of it has been read."""
  bar = tqdm.tqdm(
      total=files.nbytes, unit='B', unit_scale=True, dynamic_ncols=True,
      disable=not progress, mininterval=0.1 if sys.stderr.isatty() else 30,
  )

  def counted(name: str, tensor: tensors_lib.Tensor) -> tensors_lib.Tensor:

    def read() -> np.ndarray:
      try:
        values = tensor.read()
      except OSError as e:  # Here, OSError is for the destination alone.
        raise errors.UserError(
            f'{files.path}: {name} cannot be read: {e}'
        ) from e
      bar.update(tensor.nbytes)
      return values

    return dataclasses.replace(tensor, read=read)

  with bar:
    yield dataclasses.replace(files, tensors={
        name: counted(name, tensor) for name, tensor in files.tensors.items()
    })


def _base(files: model_files.ModelFiles) -> str:
  """The model that the adapters of a model adapt; '' if it has none."""
  if not files.network.lora_rank:
    return ''
  if files.kind == model_files.PEFT:
    return lora_files.base_of(pathlib.Path(files.path))
  return str(files.settings['INITIAL_CHECKPOINT_PATH'])


def _write(
    folder: pathlib.Path,
    files: model_files.ModelFiles,
    card: str,
    max_shard_bytes: int,
    base: str,
) -> None:
  """Writes a model.

  Args:
    folder: an empty folder.
    files: the model.
    card: the model card of `hf`.
    max_shard_bytes: for `hf`, the most bytes of weights in a file.
    base: for `peft`, the model that the adapters adapt.
  """
  if files.kind in (model_files.HF, model_files.PEFT):
    if files.kind == model_files.HF:
      hf_checkpoints.write(
          folder, files.network, files.tensors, files.vocabulary,
          max_shard_bytes=max_shard_bytes,
      )
    else:
      lora_files.write(folder, files.network, files.tensors, base)
    fields = dataclasses.asdict(files.run_config)
    del fields['network']  # That is in config.json.
    files_lib.write_json(
        folder / model_files.HF_SIDECAR, {**fields, 'step': files.step}
    )
    if card:
      files_lib.write(folder / 'README.md', terminal.visible(card))
    return
  step = files.step or 0
  if files.kind == model_files.NATIVE:
    path = t5x_checkpoints.write(
        files.tensors, step, folder / 'checkpoints', t5x_checkpoints.ZSTD
    )
    path.rename(path.with_name(str(step)))
  else:
    t5x_checkpoints.write(files.tensors, step, folder)
  files.run_config.write(folder)
  if files.vocabulary is not None:
    shutil.copyfile(files.vocabulary, folder / model_files.VOCABULARY)
