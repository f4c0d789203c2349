"""`tokenizer.json` of a T5, as the `tokenizers` library writes it."""

import base64
from typing import Any

from sentencepiece import sentencepiece_model_pb2

SENTINELS = [f'<extra_id_{k}>' for k in range(100)]
SPECIAL = ['<pad>', '</s>', '<unk>']
WORDS = {'type': 'WhitespaceSplit'}
METASPACE = {
    'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always',
    'split': True,
}


def content(model: sentencepiece_model_pb2.ModelProto) -> dict[str, Any]:
  """The content of `tokenizer.json` for a SentencePiece model."""
  pieces = [[p.piece, p.score] for p in model.pieces]
  number = len(pieces)
  charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap)
  return {
      'version': '1.0',
      'added_tokens': [
          {'id': i, 'content': token, 'special': True} for i, token in (
              *enumerate(SPECIAL), *enumerate(SENTINELS[::-1], number))
      ],
      'normalizer': {
          'type': 'Precompiled', 'precompiled_charsmap': charsmap.decode(),
      },
      'pre_tokenizer': {
          'type': 'Sequence', 'pretokenizers': [WORDS, METASPACE],
      },
      'model': {
          'type': 'Unigram', 'unk_id': 2, 'byte_fallback': False,
          'vocab': pieces + [[token, 0.0] for token in SENTINELS[::-1]],
      },
  }
