"""SentencePiece models of Hugging Face's folders, copied and made anew."""

import json

from flipped_t5x.prompts import hf_vocabulary
from flipped_t5x.prompts import tokenization
import hf_tokenizer
from hf_tokenizer import METASPACE
from hf_tokenizer import SENTINELS
from hf_tokenizer import WORDS
import pytest
from sentencepiece import sentencepiece_model_pb2

TEXTS = (
    '', ' ', '\n', 'The old dog sees a river.', '  two  spaces \t and a tab ',
    'input: <extra_id_0> the film\noutput: yes', 'line one\nline two\r\n three',
    '<extra_id_0> The dog <extra_id_1> likes <extra_id_2>', '<extra_id_99>',
    '<extra_id_100> <extra_id_0', '▁the▁dog', 'x' * 300, 'DOG Dog dOG',
    'Ünïcödé ﬁlm ＦＵＬＬ wídth 漢字 ☃ ½ ① …', 'a\u00a0b\u200bc\u3000d\u2028e',
    'e\u0301 \u0301 n\u0303o', '{{ jinja }} <b>html</b> 3.14 "quoted" it\'s',
    'cafe\u0301 Å ⁵ ㎏ ﷺ', '\u0007bell \ufeffmark \x7f', '👍🏽 family 👩‍👩‍👧',
)


@pytest.fixture
def model(tiny_vocabulary_path):
  """The SentencePiece model that everything is made of."""
  model = sentencepiece_model_pb2.ModelProto()
  model.ParseFromString(tiny_vocabulary_path.read_bytes())
  return model


def changed(content, path, value):
  """Content with the entry at `a/b/c` changed; None takes it away."""
  content = json.loads(json.dumps(content))
  *parents, last = path.split('/')
  entry = content
  for name in parents:
    entry = entry[name]
  entry.pop(last, None)
  if value is not None:
    entry[last] = value
  return content


def write(folder, content):
  (folder / 'tokenizer.json').write_text(json.dumps(content))
  hf_vocabulary.write_spiece(folder, folder / 'made.model')
  return tokenization.SentencePiece(folder / 'made.model')


def assert_same_ids(one, other, texts):
  assert one.vocab_size == other.vocab_size
  for text in texts:
    ids = one.encode(text)
    assert ids == other.encode(text), text
    assert one.decode(ids) == other.decode(ids), text


OLD_METASPACE = {
    'type': 'Metaspace', 'replacement': '▁', 'add_prefix_space': True,
}
SPACES = {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': ' '}


def test_made_of_tokenizer_json(
    tmp_path, model, tiny_vocabulary, tiny_sentences
):
  content = hf_tokenizer.content(model)
  pieces = content['model']['vocab']
  for path, value in (
      ('version', '1.0'),
      ('model/type', None),  # As `tokenizers` wrote it in 2020.
      ('pre_tokenizer/pretokenizers', [WORDS, OLD_METASPACE]),
      ('normalizer', {'type': 'Sequence', 'normalizers': [
          content['normalizer'], {'type': 'Strip', 'strip_right': True}, SPACES,
      ]}),
      ('model/vocab', pieces[:-100]),  # The sentinels are added tokens alone.
      ('added_tokens', []),  # Or pieces alone.
  ):
    made = write(tmp_path, changed(content, path, value))
    assert_same_ids(made, tiny_vocabulary, (*TEXTS, *tiny_sentences))
  written = sentencepiece_model_pb2.ModelProto()
  written.ParseFromString((tmp_path / 'made.model').read_bytes())
  assert [(p.piece, p.score, p.type) for p in written.pieces] == [
      (p.piece, p.score, p.type) for p in model.pieces]


@pytest.mark.parametrize('path, value, message', (
    ('model/type', 'BPE', 'its model is BPE, not Unigram'),
    ('model/unk_id', 3, 'its unk_id is 3, not 2'),
    ('model/byte_fallback', True, 'its byte_fallback is True'),
    ('pre_tokenizer', None, r'its pre_tokenizer is \[\]'),
    ('pre_tokenizer', METASPACE, r"its pre_tokenizer is \['Metaspace'\]"),
    ('pre_tokenizer/pretokenizers', [WORDS, METASPACE | {
        'prepend_scheme': 'never'}], "its Metaspace is .*'never'"),
    ('pre_tokenizer/pretokenizers', [WORDS, METASPACE | {'replacement': '_'}],
     "its Metaspace is .*'_'"),
    ('normalizer', None, r'its normalizer is \[\]'),
    ('normalizer', {'type': 'NFKC'}, r"its normalizer is \['NFKC'\]"),
))
def test_tokenizers_that_are_not_of_t5(tmp_path, model, path, value, message):
  content = hf_tokenizer.content(model)
  if value is None:
    content[path] = None
  else:
    content = changed(content, path, value)
  with pytest.raises(ValueError, match=f"json is not a T5's: {message}"):
    write(tmp_path, content)
  assert not (tmp_path / 'made.model').exists()


def test_other_normalizers(tmp_path, model):
  content = hf_tokenizer.content(model)
  for other in ({'type': 'Lowercase'}, content['normalizer'],
                SPACES | {'pattern': {'String': 'a'}}):
    content['normalizer'] = {
        'type': 'Sequence',
        'normalizers': [hf_tokenizer.content(model)['normalizer'], other],
    }
    with pytest.raises(ValueError, match="its normalizer is .'Precompiled', "):
      write(tmp_path, content)


def test_other_sentinels(tmp_path, model):
  content = hf_tokenizer.content(model)
  content['added_tokens'] = content['added_tokens'][:3]
  content['model']['vocab'] = content['model']['vocab'][:-100]
  with pytest.raises(ValueError, match='its pieces are not foll'):
    write(tmp_path, content)
  content = hf_tokenizer.content(model)
  # The first of the sentinels in the order of their names.
  for token, name in zip(content['added_tokens'][3:], SENTINELS, strict=True):
    token['content'] = name
  with pytest.raises(ValueError, match='its pieces are not foll'):
    write(tmp_path, content)


@pytest.mark.parametrize('content', (
    '', '{', '[]', '{}', '{"model": {"type": "Unigram"}}', 'null',
))
def test_damaged(tmp_path, content):
  (tmp_path / 'tokenizer.json').write_text(content)
  with pytest.raises(ValueError, match='tokenizer.json is damaged: .'):
    hf_vocabulary.write_spiece(tmp_path, tmp_path / 'made.model')


def test_the_file_itself_comes_first(
    tmp_path, model, tiny_vocabulary, tiny_vocabulary_path, tiny_sentences
):
  assert hf_vocabulary.find(tmp_path) is None
  with pytest.raises(FileNotFoundError, match=(
      'no vocabulary there, neither spiece.model nor tokenizer.json')):
    hf_vocabulary.write_spiece(tmp_path, tmp_path / 'made.model')
  content = hf_tokenizer.content(model)
  (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
  hf_vocabulary.write(tiny_vocabulary_path, tmp_path)
  path = hf_vocabulary.find(tmp_path)
  assert path == tmp_path / 'spiece.model'
  assert_same_ids(
      tokenization.SentencePiece(path), tiny_vocabulary, tiny_sentences
  )
  hf_vocabulary.write_spiece(tmp_path, tmp_path / 'made.model')
  assert (tmp_path / 'made.model').read_bytes() == path.read_bytes()


@pytest.mark.torch
@pytest.mark.slow
def test_ids_are_those_of_transformers(
    tmp_path, tiny_vocabulary_path, tiny_vocabulary, tiny_sentences
):
  import transformers

  folder, saved = tmp_path / 'written', tmp_path / 'saved'
  folder.mkdir()
  hf_vocabulary.write(tiny_vocabulary_path, folder)
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  assert len(theirs) == tiny_vocabulary.vocab_size == 200
  theirs.save_pretrained(saved)
  assert not (saved / 'spiece.model').exists()
  hf_vocabulary.write_spiece(saved, tmp_path / 'made.model')
  made = tokenization.SentencePiece(tmp_path / 'made.model')
  again = transformers.AutoTokenizer.from_pretrained(saved)
  for text in (*TEXTS, *tiny_sentences):
    ids = [*tiny_vocabulary.encode(text), tokenization.EOS_ID]
    assert theirs(text).input_ids == ids, text
    assert again(text).input_ids == ids, text
    assert [*made.encode(text), tokenization.EOS_ID] == ids, text


@pytest.mark.torch
@pytest.mark.slow
def test_where_transformers_has_other_ids(
    tmp_path, tiny_vocabulary_path, tiny_vocabulary
):
  """A special token in a text is one to it, whatever is around it.

  And of all characters, one is white space to it and not to SentencePiece.
  """
  import transformers

  hf_vocabulary.write(tiny_vocabulary_path, tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  for text, ids in (
      ('the<extra_id_0>', [*tiny_vocabulary.encode('the'), 199]),
      ('<extra_id_0>dog', [199, *tiny_vocabulary.encode('dog')]),
      ('the </s>', [*tiny_vocabulary.encode('the'), 1]),
      ('<pad> <unk>', [0, 2]),
      ('the \x85 dog', tiny_vocabulary.encode('the dog')),
  ):
    assert theirs(text).input_ids == [*ids, 1]
    assert tiny_vocabulary.encode(text) != ids
