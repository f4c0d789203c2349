"""Examples/s from rows on disk to training batches: this project and a peer.

Both sides get the same JSON rows of a mixture in the same order, draw one of
the same templates for each and a wrong option, and tokenize three sequences an
example: an input with the right label, one with a wrong label, and a target.
Rounds alternate between the sides; warm-up is not timed. Each side is one
process on the same cores, and cuts a field at promptsource's 2,048 characters.

Ours is `TrainBatches` as the trainer opens it. It shuffles and mixes the sets
while the clock runs, draws another row where a template cannot use one, keeps
the whole label when it cuts an input, puts several examples in a row of the
batch, and makes every array that the model reads.

The peer is `Template.apply` of promptsource 0.2.3 and the T5 tokenizer of
Transformers, made from the same vocabulary. It has every advantage we know of:
shuffling and mixing are done before the clock starts; templates and their fixed
options are loaded once; the tokenizer is the one in Rust, on all cores, and
takes a whole batch in a call, which pads it too. What `apply` cannot tell, the
peer need not do: its input is the whole prompt and a label, its target the
literal text of the template, without sentinels and cut out before the clock
starts. It goes on where a template cannot use a row, packs nothing, and makes
no decoder inputs, weights or positions.

Example:
  FLIPPED_T5X_SOURCES=FOLDER/,pypi python benchmarks/pipeline.py --json out.json
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import random
import re
import statistics
import tempfile
import time
from typing import Any

import flags
from flipped_t5x import files
from flipped_t5x.cli import local_paths
from flipped_t5x.prompts import examples
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import grain
from promptsource import templates as promptsource
import rich.console
import rich.table
import transformers

# Sets of the published mixture, long and short texts, all kinds of tasks.
MIXTURE = (
    'glue/qqp,glue/mrpc,paws/labeled_final,ag_news,imdb,amazon_polarity,'
    'rotten_tomatoes,yelp_review_full,cos_e/v1.11,cosmos_qa,social_i_qa,qasc,'
    'sciq,quarel,quartz'
)
LENGTHS = {'inputs': 384, 'wrong_inputs': 384, 'targets': 64}
MAX_FIELD_CHARS = 2048
BATCH_SIZE = 64  # Packed rows, of about 180 examples.
PEER_BATCH_SIZE = 256  # Examples; larger ones are no faster.
WARM_UP = 1024  # Examples: more than our pipeline reads ahead.
VOCAB_SIZES = (32_000, 16_000, 8_000, 4_000, 2_000, 1_000)
_VOCABULARY_ROWS = 2000  # Of each set.
_EXPRESSION = re.compile(r'{{.*?}}|{%.*?%}', re.DOTALL)
_PACKAGES = (
    'grain', 'numpy', 'promptsource', 'sentencepiece', 'tokenizers',
    'transformers',
)

# Row of the table -> key of the results.
_SIDES = {
    'ours': 'ours',
    '  draw and tokenize alone': 'ours_unpacked',
    'peer': 'peer',
}

Row = tuple[str, bytes]  # The dataset's name, and JSON.


def read_rows(mixture: str, seed: int, count: int) -> list[Row]:
  """The first rows that `TrainBatches` reads, in its order."""
  rates = mixtures.mixture(mixture).rates()
  datasets = []
  for number, name in enumerate(rates):
    data = catalog.dataset(name)
    rows = data.open('train')
    datasets.append(
        grain.MapDataset.source(data.sample('train'))
        .seed(seed + number)
        .shuffle()
        .repeat()
        .map(lambda i, name=name, rows=rows: (name, rows[i]))
    )
  mixed = grain.MapDataset.mix(datasets, list(rates.values()))
  return [mixed[i] for i in range(count)]


def train_vocabulary(mixture: str) -> pathlib.Path:
  """A vocabulary of 32,000 ids, or of what the mixture's text allows.

  Trained on up to 2,000 rows of each set and on the templates; kept in the data
  folder.
  """
  texts = ['input: output:']
  for name in mixtures.mixture(mixture).datasets:
    data = catalog.dataset(name)
    rows = data.open('train')
    count = min(len(rows), _VOCABULARY_ROWS)
    for i in random.Random(0).sample(range(len(rows)), count):
      values = json.loads(rows[i]).values()
      texts += [value for value in values if isinstance(value, str)]
    for template in data.load_templates().values():
      texts += [*template.chunks, template.answer_choices]
  digest = hashlib.sha256('\0'.join(texts).encode()).hexdigest()[:12]
  folder = files.data_folder() / 'vocabularies'
  path = folder / f'benchmark-{digest}.model'
  for vocab_size in VOCAB_SIZES:
    if path.is_file():
      return path
    try:
      tokenization.train_vocabulary(texts, vocab_size, path)
    except RuntimeError as e:
      if 'Vocabulary size' not in str(e):
        raise
  return path


class Ours:
  """Our pipeline, and alone the part of it that makes single examples."""

  def __init__(self, mixture: str, vocabulary: pathlib.Path):
    self._mixture, self._vocabulary = mixture, vocabulary
    self._draws = {
        name: examples.DrawPair(
            name, catalog.dataset(name).load_templates(MAX_FIELD_CHARS),
            tokenization.load_vocabulary(vocabulary), LENGTHS,
        )
        for name in mixtures.mixture(mixture).datasets
    }

  def batches(self, seed: int) -> Iterator[int]:
    """Makes packed batches; yields the number of examples in each."""
    for batch in batches.TrainBatches(
        self._mixture, self._vocabulary, BATCH_SIZE, LENGTHS['inputs'],
        LENGTHS['targets'], seed, max_field_chars=MAX_FIELD_CHARS,
    ):
      yield int(batch['decoder_segment_ids'].max(axis=1).sum())

  def pairs(self, rows: Sequence[Row]) -> Iterator[int]:
    """Draws and tokenizes in a plain loop; yields 1 an example."""
    for seed, (name, row) in enumerate(itertools.cycle(rows)):
      yield int(self._draws[name](row, seed) is not None)


class Peer:
  """Promptsource and the tokenizer of Transformers.

  Attributes:
    rendering: seconds outside the tokenizer so far, mostly in `Template.apply`.
    tokenizing: seconds in the tokenizer so far.
    examples: examples made so far.
  """

  def __init__(self, mixture: str, vocabulary: pathlib.Path):
    self.rendering = self.tokenizing = 0.0
    self.examples = 0
    # Transformers finds the file only by this name, in a folder; a path given
    # as `vocab_file` makes an empty vocabulary, and no error.
    with tempfile.TemporaryDirectory() as folder:
      pathlib.Path(folder, 'spiece.model').write_bytes(vocabulary.read_bytes())
      self._tokenizer = transformers.T5Tokenizer.from_pretrained(folder)
    size = tokenization.load_vocabulary(vocabulary).vocab_size
    if not self._tokenizer.is_fast or len(self._tokenizer) != size:
      raise ValueError(f'{self._tokenizer}: not a fast tokenizer of {size} ids')
    self._templates = {}
    for name in mixtures.mixture(mixture).datasets:
      kind, _, known_as = catalog.dataset(name).templates.partition(':')
      if kind != 'promptsource':
        raise ValueError(f'{name}: promptsource has no templates of it')
      loaded = promptsource.DatasetTemplates(*known_as.split('/')).templates
      self._templates[name] = [
          (t, t.get_fixed_answer_choices_list(),
           _EXPRESSION.sub(' ', t.jinja.partition('|||')[0]))
          for t in loaded.values()
          if t.answer_choices and 'Accuracy' in (t.metadata.metrics or ())
      ]

  def batches(self, rows: Sequence[Row], seed: int) -> Iterator[int]:
    """Makes padded batches; yields the number of examples in each."""
    random.seed(seed)
    rows = itertools.cycle(rows)  # More are needed where some have no use.
    made = (pair for row in rows if (pair := self._pair(*row)) is not None)
    while True:
      start = time.perf_counter()
      pairs = list(itertools.islice(made, PEER_BATCH_SIZE))
      rendered = time.perf_counter()
      for texts, length in zip(
          zip(*pairs, strict=True), LENGTHS.values(), strict=True
      ):
        self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=length,
            return_tensors='np',
        )
      self.rendering += rendered - start
      self.tokenizing += time.perf_counter() - rendered
      self.examples += len(pairs)
      yield len(pairs)

  def _pair(self, dataset: str, row: bytes) -> tuple[str, str, str] | None:
    """Input, wrong input and target; None if the row has no use."""
    row = json.loads(row)
    template, options, target = random.choice(self._templates[dataset])
    prompt, *answer = template.apply(row)
    if options is None:
      options = template.get_answer_choices_list(row)
    wrong = [o for o in options if [o] != answer]
    if answer in ([], ['']) or not wrong:
      return None
    right, = answer
    return (
        f'{prompt}\noutput: {right}',
        f'{prompt}\noutput: {random.choice(wrong)}',
        target,
    )


def speed(made: Iterator[int], count: int) -> float:
  """Examples/s of at least `count` examples after warm-up."""
  warm = done = 0
  while warm < WARM_UP:
    warm += next(made)
  start = time.perf_counter()
  while done < count:
    done += next(made)
  return done / (time.perf_counter() - start)


def measure(
    mixture: str, vocabulary: pathlib.Path, count: int, rounds: int
) -> dict[str, Any]:
  """Times all sides in alternating rounds.

  Args:
    mixture: a mixture of promptsource's sets, see `mixtures.mixture`.
    vocabulary: file of the SentencePiece model.
    count: examples a round and side.
    rounds: number of rounds; each has rows of its own.

  Returns:
    Examples/s of each side and round, and, warm-up counted in, where the peer's
    microseconds an example go.
  """
  ours, peer = Ours(mixture, vocabulary), Peer(mixture, vocabulary)
  speeds = {'ours': [], 'peer': [], 'ours_unpacked': []}
  for seed in range(rounds):
    rows = read_rows(mixture, seed, count + WARM_UP)
    speeds['ours'].append(speed(ours.batches(seed), count))
    speeds['peer'].append(speed(peer.batches(rows, seed), count))
    speeds['ours_unpacked'].append(speed(ours.pairs(rows), count))
  return {
      'examples_per_second': speeds,
      'peer_microseconds': {
          'Template.apply': 1e6 * peer.rendering / peer.examples,
          'the tokenizer': 1e6 * peer.tokenizing / peer.examples,
      },
  }


def table(results: Mapping[str, Any]) -> rich.table.Table:
  """Median and range of each side, and the ratio of the medians."""
  shown = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for name in ('', 'examples/s', 'min .. max', 'us/example'):
    shown.add_column(name, justify='right' if name else 'left')
  for name, key in _SIDES.items():
    speeds = results['examples_per_second'][key]
    shown.add_row(
        name, f'{statistics.median(speeds):,.0f}',
        f'{min(speeds):,.0f} .. {max(speeds):,.0f}',
        f'{1e6 / statistics.median(speeds):,.0f}',
    )
  for name, microseconds in results['peer_microseconds'].items():
    shown.add_row(f'  of it {name}', '', '', f'{microseconds:,.0f}')
  shown.add_row('ours / peer', f'{results["ratio_of_medians"]:.2f}')
  return shown


def main():
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
      '--mixture', default=MIXTURE,
      help="a mixture, or sets separated by commas, with promptsource's"
      ' templates',
  )
  parser.add_argument(
      '--vocabulary', type=local_paths.local, metavar='FILE',
      help='a SentencePiece model; by default one is trained on the rows',
  )
  parser.add_argument(
      '--examples', type=flags.count, default=4000, help='a round and side'
  )
  parser.add_argument('--rounds', type=flags.count, default=5)
  parser.add_argument(
      '--cores', type=flags.count, default=2, help='the most CPU cores to use'
  )
  parser.add_argument(
      '--json', type=local_paths.local, metavar='FILE',
      help='also write all numbers',
  )
  arguments = parser.parse_args()
  # Before any thread starts; threads that are started inherit it.
  cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
  os.sched_setaffinity(0, cores)
  vocabulary = arguments.vocabulary or train_vocabulary(arguments.mixture)
  results = {
      'mixture': arguments.mixture,
      'vocab_size': tokenization.load_vocabulary(vocabulary).vocab_size,
      'examples': arguments.examples,
      'cores': len(cores),
      'versions': {p: importlib.metadata.version(p) for p in _PACKAGES},
      **measure(
          arguments.mixture, vocabulary, arguments.examples, arguments.rounds
      ),
  }
  medians = {
      side: statistics.median(speeds)
      for side, speeds in results['examples_per_second'].items()
  }
  results['ratio_of_medians'] = medians['ours'] / medians['peer']
  rich.console.Console().print(table(results))
  if arguments.json:
    arguments.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  main()
