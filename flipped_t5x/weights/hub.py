"""Models of the Hugging Face hub; only the files that are read are fetched."""

from collections.abc import Iterable
import pathlib
import re

from flipped_t5x import hub_errors
from flipped_t5x.prompts import hf_vocabulary
import huggingface_hub
from huggingface_hub import constants

# Weights are fetched in the first of these forms that a repository has.
_WEIGHTS = tuple(map(re.compile, (
    r'model(-\d+-of-\d+)?\.safetensors(\.index\.json)?',
    r'pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?',
)))
_CONFIG = 'config.json'
_OTHERS = frozenset((
    _CONFIG, 'flipped_t5x.json', 'generation_config.json', *hf_vocabulary.FILES,
))


def fetch(repo: str, revision: str | None = None) -> pathlib.Path:
  """Downloads a model, or finds it in the hub's cache.

  `huggingface_hub` reads `HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` and
  `HF_TOKEN`.

  Args:
    repo: the repository, `owner/name`.
    revision: a commit, tag or branch; `main` if None.

  Returns:
    The folder with its files.

  Raises:
    FileNotFoundError: the hub has no such repository or revision, or it holds
      no weights or no configuration.
    ConnectionError: the hub cannot be reached, and the cache does not have the
      model.
    PermissionError: the terms of the repository must be accepted first.
  """
  try:
    return _fetch(repo, revision)
  except Exception as e:
    explained = hub_errors.explained(e, repo, revision, 'model')
    if explained is None:
      raise
    searched = 'no such folder'
    if isinstance(explained, ConnectionError):
      searched += ', not in the cache of the hub'
    raise type(explained)(f'{repo}: {searched}, and {explained}') from e


def _fetch(repo: str, revision: str | None) -> pathlib.Path:
  """See `fetch`; raises the errors of `huggingface_hub`."""
  try:
    # Without a network, a download would be tried for 20 s; this is not.
    info = huggingface_hub.HfApi().model_info(
        repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
  except Exception as e:
    explained = hub_errors.explained(e, repo, revision, 'model')
    if isinstance(explained, ConnectionError):
      config = huggingface_hub.try_to_load_from_cache(
          repo, _CONFIG, revision=revision
      )
      if isinstance(config, str):
        return pathlib.Path(config).parent
    raise
  files = choose(file.rfilename for file in info.siblings or ())
  if _CONFIG not in files or files <= _OTHERS:
    raise FileNotFoundError(
        f'{repo} at {constants.ENDPOINT} is not a model with {_CONFIG} and'
        ' model.safetensors or pytorch_model.bin'
    )
  # The cache records the commit of this revision; the other files are then
  # taken from that commit.
  folder = pathlib.Path(huggingface_hub.hf_hub_download(
      repo, _CONFIG, revision=revision
  )).parent
  for file in sorted(files - {_CONFIG}):
    huggingface_hub.hf_hub_download(repo, file, revision=folder.name)
  return folder


def choose(names: Iterable[str]) -> set[str]:
  """The files of a repository that `hf_checkpoints.open` reads."""
  names = set(names)
  for pattern in _WEIGHTS:
    weights = set(filter(pattern.fullmatch, names))
    if weights:
      return weights | (names & _OTHERS)
  return names & _OTHERS
