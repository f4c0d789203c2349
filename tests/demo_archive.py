"""A small stand-in for vaderSentiment's source distribution, and for pip."""

import io
import pathlib
import subprocess
import tarfile

from flipped_t5x.tasks import sources

STEMS = sources.Vader._KINDS
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


def _texts(changes):
  texts = {}
  for stem, rows in zip(STEMS, (FILMS, *OTHERS), strict=True):
    lines = [f'{i}\t{v}\t{text}\r\n' for i, (v, text) in enumerate(rows, 1)]
    texts[stem] = ''.join(lines)
  return texts | changes


def _add(archive, name, content):
  info = tarfile.TarInfo(name)
  info.size = len(content)
  archive.addfile(info, io.BytesIO(content))


def packed(link=None, **changes):
  """Bytes of an archive with the layout of the real one.

  Args:
    link: a stem whose file is a symbolic link to the first file.
    **changes: stem -> another text for its file, or None for no file.
  """
  inner_bytes, outer_bytes = io.BytesIO(), io.BytesIO()
  with tarfile.open(fileobj=inner_bytes, mode='w:gz') as inner:
    for stem, text in _texts(changes).items():
      name = f'hutto_ICWSM_2014/{stem}_GroundTruth.txt'
      if stem == link:
        info = tarfile.TarInfo(name)
        info.type = tarfile.SYMTYPE
        info.linkname = f'{STEMS[0]}_GroundTruth.txt'
        inner.addfile(info)
      elif text is not None:
        _add(inner, name, text.encode())
  with tarfile.open(fileobj=outer_bytes, mode='w:gz') as outer:
    _add(outer, 'vaderSentiment-3.3.2/README.rst', b'readme')
    _add(outer, sources.Vader._INNER, inner_bytes.getvalue())
  return outer_bytes.getvalue()


class Pip:
  """In place of `subprocess.run`: puts a file where pip would."""

  def __init__(self, content=b'', error=''):
    self.content, self.error = content, error
    self.calls, self.requirements = [], []

  def __call__(self, command, **unused_kwargs):
    self.calls.append(command)
    self.requirements.append(pathlib.Path(command[-1]).read_text())
    folder = pathlib.Path(command[command.index('--dest') + 1])
    if not self.error:
      (folder / 'vadersentiment-3.3.2.tar.gz').write_bytes(self.content)
    return subprocess.CompletedProcess(
        command, bool(self.error), '', self.error
    )
