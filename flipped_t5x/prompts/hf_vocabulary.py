"""Vocabularies of Hugging Face folders: `spiece.model`, or `tokenizer.json`.

The folder of a T5 has the SentencePiece model itself, or the `tokenizer.json`
that the library `tokenizers` has made of it, from which the same model can be
made again. Neither model has the sentinels, which `tokenization.SentencePiece`
adds. Files beside it may add more tokens, see `hf_added_tokens.py`.
"""

import base64
from collections.abc import Mapping
import json
import pathlib
import shutil
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.prompts import hf_added_tokens
from flipped_t5x.prompts import tokenization
from sentencepiece import sentencepiece_model_pb2

_SPIECE = 'spiece.model'
_TOKENIZER = 'tokenizer.json'
# The vocabulary itself, and all that the ids of a folder depend on.
MODELS = (_SPIECE, _TOKENIZER)
FILES = (*MODELS, *hf_added_tokens.FILES)
_SENTINELS = [f'<extra_id_{k}>' for k in range(tokenization.EXTRA_IDS)]
_SPECIAL = {'pad_token': '<pad>', 'eos_token': '</s>', 'unk_token': '<unk>'}
# The class is made at run time, and SentencePiece has no stubs of it.
_ModelProto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """The vocabulary of a folder; None if it has none.

  Args:
    folder: a Hugging Face folder.

  Returns:
    Its `spiece.model`; or, if it has none or adds tokens to it, a file that is
    made in the data folder.

  Raises:
    UserError: see `write_spiece`.
  """
  spiece = folder / _SPIECE
  sources = [folder / name for name in FILES if (folder / name).is_file()]
  if not {spiece, folder / _TOKENIZER} & {*sources}:
    return None
  if spiece in sources and not _read(folder)[1]:
    return spiece
  digest = files.sha256(b''.join(
      files.sha256(path.read_bytes()).encode() for path in sources
  ))
  path = files.data_folder() / 'vocabularies' / f'hf-{digest[:16]}.model'
  if not path.is_file():
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as unfinished:
      write_spiece(folder, unfinished)
  return path


def write_spiece(folder: pathlib.Path, destination: pathlib.Path) -> None:
  """Writes the SentencePiece model of a folder, copied or made anew.

  Args:
    folder: has `spiece.model` or `tokenizer.json`, and perhaps files that add
      tokens.
    destination: the file to write.

  Raises:
    FileNotFoundError: the folder has neither.
    UserError: `tokenizer.json` is damaged or not that of a T5, is that of
      another model than `spiece.model`, or a token cannot be added; the message
      says what.
  """
  model, added = _read(folder)
  if added:
    tokenization.add_sentinels(model)
    for token in added:
      model.pieces.add(
          piece=token.content, type=_ModelProto.SentencePiece.USER_DEFINED,
          score=token.score,
      )
  elif (folder / _SPIECE).is_file():
    shutil.copyfile(folder / _SPIECE, destination)
    return
  destination.write_bytes(model.SerializeToString())


def _read(folder: pathlib.Path) -> tuple[Any, list[hf_added_tokens.Token]]:
  """The `ModelProto` of a folder, and the tokens that it adds."""
  spiece, tokenizer = folder / _SPIECE, folder / _TOKENIZER
  own = None
  if spiece.is_file():
    own = tokenization.read_model(spiece)
  elif not tokenizer.is_file():
    raise FileNotFoundError(
        f'{folder}: no vocabulary there, neither {_SPIECE} nor {_TOKENIZER}'
    )
  if not tokenizer.is_file():
    return own, hf_added_tokens.read(folder, _pieces(own))
  model, added = _of_tokenizer(tokenizer)
  if own is not None and _pieces(own) != _pieces(model):
    raise errors.UserError(
        f'{tokenizer} has other pieces than {spiece}: delete the one that is'
        ' not that of the model'
    )
  return own or model, added


def _pieces(model: Any) -> list[str]:
  return [piece.piece for piece in model.pieces]


def _of_tokenizer(
    path: pathlib.Path,
) -> tuple[Any, list[hf_added_tokens.Token]]:
  """The `ModelProto` of a `tokenizer.json`, and the tokens that it adds."""
  try:
    content = json.loads(path.read_text('utf-8'))
    model = _model(content)
    added = hf_added_tokens.added(
        path, {t['id']: t for t in content['added_tokens']},
        _pieces(model),
    )
  except _Unlike as e:
    raise errors.UserError(f'{path} is not a T5\'s: {e}') from None
  except errors.UserError:
    raise
  except Exception as e:  # A field is missing or of another type.
    files.check_is_fetched(path)
    raise errors.UserError(f'{path} is damaged: {str(e) or repr(e)}') from e
  return model, added


def write(vocabulary: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the files that `AutoTokenizer.from_pretrained(folder)` needs.

  Args:
    vocabulary: a SentencePiece model; see `tokenization.SentencePiece`.
    folder: the folder to write to.
  """
  found = tokenization.load_vocabulary(vocabulary)
  special = {**_SPECIAL, 'additional_special_tokens': _SENTINELS}
  config = {
      **special,
      'extra_ids': tokenization.EXTRA_IDS,
      'tokenizer_class': 'T5Tokenizer',
  }
  if found.added:
    model = _ModelProto.FromString(vocabulary.read_bytes())
    first = found.first_sentinel + tokenization.EXTRA_IDS
    config['added_tokens_decoder'] = {
        str(first + i): hf_added_tokens.Token(p.piece, p.score).as_json()
        for i, p in enumerate(model.pieces[first:])
    }
    del model.pieces[found.first_sentinel :]
    (folder / _SPIECE).write_bytes(model.SerializeToString())
  else:
    shutil.copyfile(vocabulary, folder / _SPIECE)
  files.write_json(folder / 'special_tokens_map.json', special)
  files.write_json(folder / 'tokenizer_config.json', config)


class _Unlike(errors.UserError):
  """No SentencePiece model of a T5 gives the ids of this tokenizer."""


def _model(tokenizer: Mapping[str, Any]) -> Any:
  """The `ModelProto` of the SentencePiece model of a `tokenizer.json`."""
  unigram = tokenizer['model']
  # The first versions of `tokenizers` wrote no type.
  if unigram.get('type', 'Unigram') != 'Unigram':
    raise _Unlike(f'its model is {unigram["type"]}, not Unigram')
  for field, wanted in (
      ('unk_id', tokenization.UNK_ID), ('byte_fallback', False)
  ):
    if unigram.get(field, wanted) != wanted:
      raise _Unlike(f'its {field} is {unigram[field]}, not {wanted}')
  piece_type = _ModelProto.SentencePiece
  kinds = {
      tokenization.PAD_ID: piece_type.CONTROL,
      tokenization.EOS_ID: piece_type.CONTROL,
      tokenization.UNK_ID: piece_type.UNKNOWN,
  }
  model = _ModelProto()
  for i, (piece, score) in enumerate(_without_sentinels(tokenizer)):
    kind = kinds.get(i, piece_type.NORMAL)
    model.pieces.add(piece=piece, score=score, type=kind)
  _check_spaces(tokenizer)
  trainer = model.trainer_spec
  trainer.model_type = trainer.UNIGRAM
  trainer.vocab_size = len(model.pieces)
  trainer.pad_id, trainer.eos_id = tokenization.PAD_ID, tokenization.EOS_ID
  trainer.unk_id, trainer.bos_id = tokenization.UNK_ID, -1
  normalizer = model.normalizer_spec
  normalizer.precompiled_charsmap = _charsmap(tokenizer)
  normalizer.add_dummy_prefix = True
  normalizer.remove_extra_whitespaces = True
  normalizer.escape_whitespaces = True
  return model


def _without_sentinels(tokenizer: Mapping[str, Any]) -> list[tuple[str, float]]:
  """Piece and score; UserError unless the sentinels follow the pieces."""
  vocab = tokenizer['model']['vocab']
  # Added tokens may be among the pieces, too.
  tokens = {i: piece for i, (piece, _) in enumerate(vocab)} | {
      token['id']: token['content'] for token in tokenizer['added_tokens']
  }
  ids = {content: i for i, content in tokens.items()}
  first = ids.get(_SENTINELS[-1], len(tokens))
  found = [tokens.get(first + i) for i in range(tokenization.EXTRA_IDS)]
  last = first + len(_SENTINELS)
  added = {token['id'] for token in tokenizer['added_tokens']}
  if (
      found != _SENTINELS[::-1] or first > len(vocab)
      or any(i not in added for i in range(last, len(vocab)))
  ):
    raise _Unlike(
        'its pieces are not followed by <extra_id_99> to <extra_id_0>, and by'
        f' nothing else but added tokens; it adds {_others(tokenizer)}'
    )
  return vocab[:first]


def _others(tokenizer: Mapping[str, Any]) -> list[str]:
  return [
      token['content'] for token in tokenizer['added_tokens']
      if token['content'] not in (*_SENTINELS, *_SPECIAL.values())
  ][:5]


def _flat(
    part: Mapping[str, Any] | None, field: str
) -> list[Mapping[str, Any]]:
  """The parts of a normalizer or pre-tokenizer.

  Args:
    part: the normalizer or pre-tokenizer.
    field: the field of a sequence that has its parts.
  """
  if part is None:
    return []
  return part[field] if part['type'] == 'Sequence' else [part]


def _check_spaces(tokenizer: Mapping[str, Any]) -> None:
  """UserError unless words are split and marked as SentencePiece does."""
  parts = _flat(tokenizer['pre_tokenizer'], 'pretokenizers')
  if [p['type'] for p in parts] != ['WhitespaceSplit', 'Metaspace']:
    raise _Unlike(f'its pre_tokenizer is {[p["type"] for p in parts]}')
  marker = parts[-1]
  # Older files say `add_prefix_space` instead of a scheme.
  scheme = 'always' if marker.get('add_prefix_space', True) else 'never'
  scheme = marker.get('prepend_scheme', scheme)
  if (marker['replacement'], scheme) != ('▁', 'always'):
    raise _Unlike(f'its Metaspace is {marker}')


def _charsmap(tokenizer: Mapping[str, Any]) -> bytes:
  """How characters are normalized, as SentencePiece compiles it."""
  parts = _flat(tokenizer['normalizer'], 'normalizers')
  others = [p for p in parts if p['type'] != 'Precompiled']
  # SentencePiece itself does what these others do, removing spaces.
  if len(parts) - len(others) != 1 or any(
      p['type'] != 'Strip' and p.get('pattern') != {'Regex': ' {2,}'}
      for p in others
  ):
    raise _Unlike(f'its normalizer is {[p["type"] for p in parts]}')
  return base64.b64decode(*(
      p['precompiled_charsmap'] for p in parts if p['type'] == 'Precompiled'
  ))
