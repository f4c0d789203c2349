"""Models of the Hugging Face hub: the files that are needed, and no others."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import pathlib
import re

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors

# The first of these that a repository has; never the same weights twice.
_WEIGHTS = tuple(map(re.compile, (
    r'model(-\d+-of-\d+)?\.safetensors(\.index\.json)?',
    r'pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?',
)))
_CONFIG = 'config.json'
_OTHERS = frozenset((
    _CONFIG, 'flipped_t5x.json', 'generation_config.json', 'spiece.model',
    'special_tokens_map.json', 'tokenizer.json', 'tokenizer_config.json',
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
    FileNotFoundError: there is no such repository or revision, or no weights
      and configuration in it.
    ConnectionError: the hub cannot be reached, and the cache does not have it.
    PermissionError: the repository's terms must be accepted first.
  """
  with _plain_errors(repo, revision):
    try:
      # A download tries for 20 s when there is no network; this does not.
      info = huggingface_hub.HfApi().model_info(
          repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
      )
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as e:
      if isinstance(e, errors.HfHubHTTPError) and not _is_overloaded(e):
        raise
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
    # By its name, which the cache then knows; the others are of that version.
    folder = pathlib.Path(huggingface_hub.hf_hub_download(
        repo, _CONFIG, revision=revision
    )).parent
    for file in sorted(files - {_CONFIG}):
      huggingface_hub.hf_hub_download(repo, file, revision=folder.name)
    return folder


def choose(files: Iterable[str]) -> set[str]:
  """Those of a repository's files that `hf_checkpoints.open` reads."""
  files = set(files)
  for pattern in _WEIGHTS:
    weights = set(filter(pattern.fullmatch, files))
    if weights:
      return weights | (files & _OTHERS)
  return files & _OTHERS


def _is_overloaded(error: Exception) -> bool:
  status = error.response.status_code
  return status >= 500 or status == 429


@contextlib.contextmanager
def _plain_errors(repo: str, revision: str | None) -> Iterator[None]:
  """One sentence for each reason why the hub does not give a model."""
  hub = constants.ENDPOINT
  try:
    yield
  except errors.GatedRepoError as e:  # Also a RepositoryNotFoundError.
    raise PermissionError(
        f'{repo} is gated: accept its terms at {hub}/{repo} and set HF_TOKEN'
    ) from e
  except errors.RepositoryNotFoundError as e:
    raise FileNotFoundError(
        f'{repo}: no such folder here, and no such model at {hub}, or a private'
        ' one: set HF_TOKEN'
    ) from e
  except errors.RevisionNotFoundError as e:
    raise FileNotFoundError(
        f'{repo} at {hub} has no revision {revision}'
    ) from e
  except errors.OfflineModeIsEnabled as e:
    raise ConnectionError(
        f'{repo}: no such folder here, not in the cache of the hub, and'
        f' HF_HUB_OFFLINE forbids to ask {hub}'
    ) from e
  # HTTPError is that of the HTTP library of huggingface_hub, whichever that is:
  # no answer. A HfHubHTTPError is one, too, but of an answer.
  except (errors.LocalEntryNotFoundError, errors.HTTPError) as e:
    if isinstance(e, errors.HfHubHTTPError) and not _is_overloaded(e):
      raise
    why = str(e.__cause__ or e).strip() or type(e).__name__
    raise ConnectionError(
        f'{repo}: no such folder here, not in the cache of the hub, and {hub}'
        ' cannot be reached'
        f' ({why.splitlines()[0]}): try again later'
    ) from e
