"""Vocabularies of Hugging Face folders: `spiece.model`, or `tokenizer.json`.

The folder of a T5 has the SentencePiece model itself, or the `tokenizer.json`
that the library `tokenizers` has made of it, from which the same model can be
made again. Neither model has the sentinels, which `tokenization.SentencePiece`
adds.
"""

import base64
from collections.abc import Mapping
import json
import pathlib
import shutil
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x.prompts import tokenization
from sentencepiece import sentencepiece_model_pb2

_SPIECE = 'spiece.model'
_TOKENIZER = 'tokenizer.json'
_SENTINELS = [f'<extra_id_{k}>' for k in range(tokenization.EXTRA_IDS)]
_SPECIAL = {'pad_token': '<pad>', 'eos_token': '</s>', 'unk_token': '<unk>'}
# The class is made at run time, and SentencePiece has no stubs of it.
_ModelProto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]


def spiece_path(folder: pathlib.Path) -> pathlib.Path | None:
  """The SentencePiece model's file in a folder; None if it has none."""
  path = folder / _SPIECE
  return path if path.is_file() else None


def write_spiece(folder: pathlib.Path, destination: pathlib.Path) -> None:
  """Writes the SentencePiece model of a folder, copied or made anew.

  Args:
    folder: has `spiece.model` or `tokenizer.json`.
    destination: the file to write.

  Raises:
    FileNotFoundError: the folder has neither.
    UserError: `tokenizer.json` is damaged or not that of a T5; the message says
      in what.
  """
  path = spiece_path(folder)
  if path:
    shutil.copyfile(path, destination)
    return
  path = folder / _TOKENIZER
  if not path.is_file():
    raise FileNotFoundError(
        f'{folder}: no vocabulary there, neither {_SPIECE} nor {_TOKENIZER}'
    )
  try:
    model = _model(json.loads(path.read_text('utf-8')))
  except _Unlike as e:
    raise errors.UserError(f'{path} is not a T5\'s: {e}') from None
  except Exception as e:  # A field is missing or of another type.
    raise errors.UserError(f'{path} is damaged: {str(e) or repr(e)}') from e
  destination.write_bytes(model.SerializeToString())


def write(vocabulary: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the files that `AutoTokenizer.from_pretrained(folder)` needs.

  Args:
    vocabulary: a SentencePiece model without sentinels.
    folder: the folder to write to.
  """
  shutil.copyfile(vocabulary, folder / _SPIECE)
  special = {**_SPECIAL, 'additional_special_tokens': _SENTINELS}
  files.write_json(folder / 'special_tokens_map.json', special)
  files.write_json(folder / 'tokenizer_config.json', {
      **special,
      'extra_ids': tokenization.EXTRA_IDS,
      'tokenizer_class': 'T5Tokenizer',
  })


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
  """Piece and score; ValueError unless the last 100 ids are the sentinels."""
  vocab = tokenizer['model']['vocab']
  # Added tokens may be among the pieces, too.
  tokens = {i: piece for i, (piece, _) in enumerate(vocab)} | {
      token['id']: token['content'] for token in tokenizer['added_tokens']
  }
  number = len(tokens) - tokenization.EXTRA_IDS
  last = [tokens.get(number + i) for i in range(tokenization.EXTRA_IDS)]
  if last != _SENTINELS[::-1] or number > len(vocab):
    others = sorted(
        token['content'] for token in tokenizer['added_tokens']
        if token['content'] not in (*_SENTINELS, *_SPECIAL.values())
    )
    message = 'its last ids are not <extra_id_99> to <extra_id_0>'
    if others:
      message += f'; it adds {others[:5]}'
    raise _Unlike(message)
  return vocab[:number]


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
