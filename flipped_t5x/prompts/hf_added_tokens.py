"""Tokens that files beside `spiece.model` add to it.

    tokenizer.json           its `added_tokens` alone count, where it is there
    tokenizer_config.json    `added_tokens_decoder`, `extra_ids`
    added_tokens.json        text -> id, of older versions
    special_tokens_map.json  `additional_special_tokens`

A T5 has 100 sentinels behind its pieces. More tokens can follow them, and are
then found in a text before anything else, see `prompts/added_tokens.py`. Any
other layout is an error, since the model would read other ids than those that
it was trained with.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import re
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import structure
from flipped_t5x.prompts import added_tokens
from flipped_t5x.prompts import tokenization

_CONFIG = 'tokenizer_config.json'
_ADDED = 'added_tokens.json'
_SPECIAL_MAP = 'special_tokens_map.json'
FILES = (_CONFIG, _ADDED, _SPECIAL_MAP)
_SENTINEL = re.compile(r'<extra_id_(\d+)>')


@dataclasses.dataclass(frozen=True)
class Token:
  """A token that follows the sentinels.

  Attributes:
    content: its text.
    score: where it is looked for, see `prompts/added_tokens.py`.
  """

  content: str
  score: float

  def as_json(self) -> dict[str, Any]:
    """An entry of `added_tokens_decoder`."""
    return {
        'content': self.content, 'lstrip': False, 'rstrip': False,
        'normalized': self.score == added_tokens.IN_NORMALIZED_TEXT,
        'single_word': False, 'special': False,
    }


def read(folder: pathlib.Path, pieces: Sequence[str]) -> list[Token]:
  """The tokens that a folder without `tokenizer.json` adds.

  Args:
    folder: a Hugging Face folder.
    pieces: those of its `spiece.model`.

  Returns:
    The tokens behind the sentinels, in the order of their ids.

  Raises:
    UserError: a token cannot be added, or there are not 100 sentinels; the
      message names the file and the token.
  """
  config = _read(folder / _CONFIG, 'tokenizer_config')
  special = config
  if 'added_tokens_decoder' not in config:
    special = config | _read(folder / _SPECIAL_MAP, 'tokenizer_config')
  listed = [
      token for field in ('additional_special_tokens', 'extra_special_tokens')
      for token in _contents(special.get(field) or ())
  ]
  sentinels = sum(1 for token in listed if _SENTINEL.fullmatch(token))
  number = config.get('extra_ids', sentinels or tokenization.EXTRA_IDS)
  for count in (number, sentinels or number):
    if count != tokenization.EXTRA_IDS:
      raise errors.UserError(
          f'{folder / _CONFIG}: {count} sentinels (extra_ids); this project'
          f' reads T5s with {tokenization.EXTRA_IDS}'
      )
  path, found = folder / _CONFIG, config.get('added_tokens_decoder')
  if found is None:
    path = folder / _ADDED
    found = {
        i: {'content': token, 'normalized': token not in listed}
        for token, i in _read(path, 'added_tokens').items()
    }
  tokens = {int(i): dict(token) for i, token in found.items()}
  # Those without an id are given the next ones.
  known = {token['content'] for token in tokens.values()}
  end = max((len(pieces) + tokenization.EXTRA_IDS - 1, *tokens)) + 1
  more = [
      t for t in dict.fromkeys(listed)
      if t not in known and not _SENTINEL.fullmatch(t)
  ]
  tokens |= {
      end + i: {'content': token, 'normalized': False}
      for i, token in enumerate(more)
  }
  return added(path, tokens, pieces)


def _read(path: pathlib.Path, kind: str) -> dict[str, Any]:
  if not path.is_file():
    return {}
  found = files.read_json(path)
  structure.check(found, kind, str(path), 'copy the file again')
  return found


def _contents(tokens: Sequence[Any] | Mapping[str, Any]) -> list[str]:
  """The texts of special tokens; some versions give each a name."""
  if isinstance(tokens, Mapping):
    tokens = list(tokens.values())
  return [t['content'] if isinstance(t, Mapping) else t for t in tokens]


def added(
    path: pathlib.Path,
    tokens: Mapping[int, Mapping[str, Any]],
    pieces: Sequence[str],
) -> list[Token]:
  """Checks added tokens.

  Args:
    path: the file that they are from, for messages.
    tokens: id -> the fields of an `AddedToken`.
    pieces: those of the SentencePiece model.

  Returns:
    The tokens behind the sentinels, in the order of their ids.

  Raises:
    UserError: see `read`.
  """
  first = len(pieces) + tokenization.EXTRA_IDS
  found: list[Token] = []
  for i, token in sorted(tokens.items()):
    content = token['content']
    if i < first:
      last = first - 1 - i
      own = f'<extra_id_{last}>' if i >= len(pieces) else pieces[i]
      if content != own:
        raise _error(path, token, f'its id {i} is that of {own!r}')
      if i > tokenization.UNK_ID and i < len(pieces):
        raise _error(path, token, 'it is a piece of the model, too')
      continue
    if i != first + len(found):
      raise _error(
          path, token, f'its id is {i} where {first + len(found)} is the next'
      )
    if content in pieces or _SENTINEL.fullmatch(content):
      raise _error(path, token, 'it is a token of the model, too')
    found.append(_token(path, token))
  if any(t['lstrip'] or t['rstrip'] for t in map(_flags, tokens.values())):
    spaces = [t for t in found if not t.content.strip()]
    if spaces:
      raise errors.UserError(
          f'{path}: a token takes the white space beside it (lstrip, rstrip),'
          f' and {spaces[0].content!r} is a token'
      )
  return found


def _token(path: pathlib.Path, token: Mapping[str, Any]) -> Token:
  content, flags = token['content'], _flags(token)
  if flags['single_word']:
    raise _error(path, token, 'single_word is not supported')
  if not content.strip(' ') or (
      flags['normalized'] and not content.strip()
  ):
    raise _error(
        path, token,
        "as a space it would be found between all words; a line feed needs"
        f' "normalized": false in added_tokens_decoder of {_CONFIG}'
    )
  if flags['normalized']:
    return Token(content, added_tokens.IN_NORMALIZED_TEXT)
  return Token(content, added_tokens.IN_TEXT)


def _flags(token: Mapping[str, Any]) -> dict[str, bool]:
  """What is not said has the defaults of `tokenizers.AddedToken`."""
  return {
      flag: bool(token.get(flag, default)) for flag, default in (
          ('lstrip', False), ('rstrip', False), ('single_word', False),
          ('normalized', not token.get('special', False)),
      )
  }


def _error(
    path: pathlib.Path, token: Mapping[str, Any], why: str
) -> errors.UserError:
  return errors.UserError(
      f'{path}: the token {token["content"]!r} cannot be used: {why}'
  )
