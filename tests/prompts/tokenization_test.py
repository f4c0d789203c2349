"""Tests of prompts/tokenization.py: ids are SeqIO's; what is and is not cut."""

import random

from flipped_t5x import errors
from flipped_t5x.inference import encoded_queries
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import run_config
import pytest
import sentencepiece

TEXTS = (
    '', ' ', 'The old dog sees a river.', ' leading  and   double  spaces ',
    'line one\nline two\toutput: yes', '<extra_id_0>', '<extra_id_99>',
    '<extra_id_0> The dog <extra_id_1> likes <extra_id_2>',
    'the<extra_id_0>dog', '<extra_id_0>dog<extra_id_1>', '<extra_id_100>',
    '<extra_id_00>', '<extra_id_0', '</s> <pad> <unk> <s>', '▁the▁dog',
    'Ünïcödé ﬁlm ＦＵＬＬ wídth 漢字 ☃', 'a\u00a0b\u200bc\u3000d', 'x' * 300,
    '{{ jinja }} <b>html</b> 3.14 "quoted" it\'s',
)


class Words:
  """A vocabulary in which every word is one token."""

  vocab_size = 1000

  def __init__(self):
    self._ids = {'</s>': 1}
    self._ids |= {f'<extra_id_{k}>': 999 - k for k in range(100)}

  def encode(self, text):
    return [self._ids.setdefault(w, len(self._ids)) for w in text.split()]

  def decode(self, ids):
    words = {i: w for w, i in self._ids.items()}
    return ' '.join(words[i] for i in ids)


def encode_inputs(length, instance, label='output: x'):
  words = Words()
  text = formats.Text(instance, label, 'unused')
  tokens, truncated = tokenization.encode_inputs(words, text, length)
  return words.decode(tokens), truncated


def encode_targets(length, targets):
  words = Words()
  text = formats.Text(('unused',), 'unused', targets)
  tokens, truncated = tokenization.encode_targets(words, text, length)
  return words.decode(tokens), truncated


def test_ids_are_those_of_seqio(
    tiny_vocabulary_path, tiny_vocabulary, tiny_sentences
):
  seqio = pytest.importorskip('seqio')
  theirs = seqio.SentencePieceVocabulary(tiny_vocabulary_path, extra_ids=100)
  assert tiny_vocabulary.vocab_size == theirs.vocab_size == 200
  for text in (*TEXTS, *tiny_sentences):
    ids = tiny_vocabulary.encode(text)
    assert ids == list(theirs.encode(text)), text
    assert tiny_vocabulary.decode(ids) == theirs.decode(ids), text


def test_ids_are_those_of_t5(tiny_vocabulary):
  ids = tokenization.PAD_ID, tokenization.EOS_ID, tokenization.UNK_ID
  assert ids == (0, 1, 2)
  assert tiny_vocabulary.decode([1]) == ''
  assert tiny_vocabulary.encode('☃')[-1] == 2
  for k in (0, 1, 50, 99):
    assert tiny_vocabulary.encode(f'<extra_id_{k}>') == [199 - k]
    assert tiny_vocabulary.decode([199 - k]) == f'<extra_id_{k}>'
  ids = [i for text in TEXTS for i in tiny_vocabulary.encode(text)]
  assert {0, 1}.isdisjoint(ids)
  assert max(ids) == 199


def test_decode(tiny_vocabulary, tiny_sentences):
  for text in (*tiny_sentences, 'a dog <extra_id_1> the <extra_id_0> film'):
    assert tiny_vocabulary.decode(tiny_vocabulary.encode(text)) == text


@pytest.mark.parametrize('seed', range(5))
def test_tokens_of_the_pieces_are_those_of_the_whole(tiny_vocabulary, seed):
  rng = random.Random(seed)
  alphabet = 'aeiounrst  .,?!"\'\n\té2\u00a0\u200b\u3000▁漢ﬁ\u0301'
  for _ in range(300):
    pieces = [
        rng.choice((
            'input:', '<extra_id_0>', '<extra_id_12>', 'The old dog.',
            ''.join(rng.choices(alphabet, k=rng.randint(1, 20))).strip(),
        ))
        for _ in range(rng.randint(0, 6))
    ]
    label = rng.choice(('', 'output: yes', 'output: <extra_id_3> no good'))
    text = formats.Text(tuple(filter(None, pieces)), label, 'unused')
    tokens, truncated = tokenization.encode_inputs(tiny_vocabulary, text)
    assert tokens == [*tiny_vocabulary.encode(text.inputs), 1], text
    assert not truncated


INSTANCE = ('input:', '<extra_id_0>', 'a b c d e', '<extra_id_1>', 'f g h')
WHOLE = 'input: <extra_id_0> a b c d e <extra_id_1> f g h output: x </s>'


@pytest.mark.parametrize('length, expected', (
    (None, WHOLE),
    (15, WHOLE),
    (14, WHOLE),
    (13, 'input: <extra_id_0> a b c d <extra_id_1> f g h output: x </s>'),
    (10, 'input: <extra_id_0> a <extra_id_1> f g h output: x </s>'),
    (9, 'input: <extra_id_0> <extra_id_1> f g h output: x </s>'),
    (8, 'input: <extra_id_0> <extra_id_1> f g output: x </s>'),
    (6, 'input: <extra_id_0> <extra_id_1> output: x </s>'),
    (5, '<extra_id_0> <extra_id_1> output: x </s>'),
))
def test_the_longest_piece_of_the_instance_is_cut(length, expected):
  text, truncated = encode_inputs(length, INSTANCE)
  assert text == expected
  assert truncated == (expected != WHOLE)


@pytest.mark.parametrize('length, expected', (
    (5, '<extra_id_0> <extra_id_1> b x </s>'),
    (4, '<extra_id_0> <extra_id_1> x </s>'),
    (3, '<extra_id_1> x </s>'),
))
def test_words_are_cut_before_sentinels(length, expected):
  instance = ('<extra_id_0>', 'a', '<extra_id_1>', 'b')
  assert encode_inputs(length, instance, 'x') == (expected, True)


@pytest.mark.parametrize('seed', range(5))
def test_cut_inputs_keep_label_sentinels_and_eos(tiny_vocabulary, seed):
  rng = random.Random(seed)
  pieces = [' '.join(['the old film'] * rng.randint(0, 9)) for _ in range(4)]
  instance = ('input:', *(
      t for k, piece in enumerate(pieces) for t in (f'<extra_id_{k}>', piece)
  ))
  text = formats.Text(tuple(filter(None, instance)), 'output: yes', 'unused')
  label = [*tiny_vocabulary.encode('output: yes'), 1]
  whole, _ = tokenization.encode_inputs(tiny_vocabulary, text)
  sentinels = [199, 198, 197, 196]
  for length in range(len(label) + 5, len(whole) + 3):
    tokens, truncated = tokenization.encode_inputs(
        tiny_vocabulary, text, length
    )
    assert truncated == (length < len(whole))
    assert len(tokens) == min(length, len(whole))
    assert tokens[-len(label) :] == label
    assert [t for t in tokens if t in sentinels] == sentinels
    rest = iter(whole)  # Nothing is new, and the order is as it was.
    assert all(t in rest for t in tokens)


@pytest.mark.parametrize('length', (0, 1, 2, 3))
def test_no_room_beside_the_label(length):
  message = f"'output: x' has 2 .* in {length}"
  with pytest.raises(tokenization.TooLong, match=message) as error:
    encode_inputs(length, INSTANCE)
  assert error.value.reason == 'label too long'


def test_an_instance_that_is_empty():
  # CHANNEL: the label is all there is.
  assert encode_inputs(2, (), 'x') == ('x </s>', False)
  with pytest.raises(ValueError, match="'x' has 1 tokens"):
    encode_inputs(1, (), 'x')
  # DIRECT: no label.
  assert encode_inputs(3, ('a b c',), '') == ('a b </s>', True)


TARGETS = '<extra_id_0> Is <extra_id_1> good ?'


@pytest.mark.parametrize('length, expected', (
    (None, f'{TARGETS} </s>'),
    (6, f'{TARGETS} </s>'),
    (5, '<extra_id_0> Is <extra_id_1> good </s>'),
    (3, '<extra_id_0> Is </s>'),
))
def test_targets_end_with_eos_inside_the_length(length, expected):
  assert encode_targets(length, TARGETS) == (
      expected, expected != f'{TARGETS} </s>'
  )


@pytest.mark.parametrize('length', (0, 1, 2))
def test_targets_that_are_cut_to_nothing(length):
  message = f'cut to nothing at {length} tokens'
  with pytest.raises(tokenization.TooLong, match=message) as error:
    encode_targets(length, TARGETS)
  assert error.value.reason == 'target cut to nothing'


def test_targets_that_were_never_more():
  sentinels = '<extra_id_0> <extra_id_1>'
  assert encode_targets(None, sentinels) == (f'{sentinels} </s>', False)
  assert encode_targets(3, sentinels) == (f'{sentinels} </s>', False)
  with pytest.raises(tokenization.TooLong) as error:
    encode_targets(None, '')
  assert error.value.reason == 'empty target'


@pytest.mark.parametrize('content', (b'', b'This is text.\n', bytes(range(99))))
def test_a_file_that_is_no_model(tmp_path, content):
  path = tmp_path / 'bad.model'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='bad.model: not a SentencePiece model'):
    tokenization.SentencePiece(path)


def test_a_model_of_other_conventions(tmp_path, tiny_sentences):
  sentencepiece.SentencePieceTrainer.train(  # unk 0, bos 1, eos 2, no pad.
      sentence_iterator=iter(tiny_sentences), vocab_size=90, minloglevel=2,
      model_prefix=str(tmp_path / 'other'),
  )
  with pytest.raises(ValueError, match='other.model: pad, eos, unk are not'):
    tokenization.SentencePiece(tmp_path / 'other.model')


def test_training_is_deterministic(
    tmp_path, tiny_sentences, tiny_vocabulary_path
):
  path = tmp_path / 'new' / 'folder' / 'again.model'
  tokenization.train_vocabulary(iter(tiny_sentences), 200, path)
  assert path.read_bytes() == tiny_vocabulary_path.read_bytes()
  assert list(path.parent.iterdir()) == [path]
  tokenization.train_vocabulary(tiny_sentences[::2], 190, path)
  assert tokenization.SentencePiece(path).vocab_size == 190


@pytest.mark.parametrize('vocab_size', (0, 100, 105, 50_000))
def test_vocabulary_that_cannot_be_trained(
    vocab_size, tiny_sentences, tmp_path
):
  message = f'VOCAB_SIZE {vocab_size}: .* {vocab_size - 100} pieces and 100'
  with pytest.raises(errors.UserError, match=message):
    tokenization.train_vocabulary(
        tiny_sentences, vocab_size, tmp_path / 'a.model'
    )
  assert not list(tmp_path.iterdir())


def test_vocabularies_are_read_once(tiny_vocabulary_path, tiny_vocabulary):
  assert tokenization.load_vocabulary(tiny_vocabulary_path) is tiny_vocabulary


@pytest.mark.parametrize('text', ('bad \ud83d', 'caf\udce9', '\udce9' * 99))
def test_text_that_utf_8_cannot_have(text, tiny_vocabulary):
  with pytest.raises(errors.UserError) as error:
    tiny_vocabulary.encode(text)
  message = str(error.value)
  assert message.isascii() and 'is no character: half of a pair, or' in message
  lone = next(c for c in text if c >= '\ud800')
  assert message.startswith(
      f'{lone!a} at character {text.index(lone) + 1} of '
  )


def test_the_row_with_a_lone_surrogate_is_named(tiny_vocabulary, tiny_network):
  config = run_config.RunConfig(tiny_network, 'flipped', 48, 32, {})
  encoder = encoded_queries.Encoder(config, tiny_vocabulary)
  good = {'input': 'fine', 'instruction': 'What?', 'options': ['a', 'b']}
  for bad in (
      {'input': 'bad \ud83d'}, {'instruction': 'What \udce9?'},
      {'options': ['a', '\ud83d']},
  ):
    with pytest.raises(errors.UserError, match='^row 2: .* is no character'):
      encoder.encode_all(encoder.to_rank, [good, good | bad])


def test_pointer_of_git_lfs(tmp_path):
  path = tmp_path / 'spiece.model'
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
  with pytest.raises(ValueError, match=f'^{path} is only a pointer of Git LFS'):
    tokenization.SentencePiece(path)
