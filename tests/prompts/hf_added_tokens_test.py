"""Tokens beside `spiece.model`: the ids of Hugging Face's tokenizer, or errors.

Where the library transformers is installed, ids are compared with its own.
"""

import json
import re

from flipped_t5x.prompts import formats
from flipped_t5x.prompts import hf_vocabulary
from flipped_t5x.prompts import tokenization
from flipped_t5x.weights import convert
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import hub
from flipped_t5x.weights import model_files
from flipped_t5x.weights import tensors
import hf_tokenizer
import pytest
from sentencepiece import sentencepiece_model_pb2

TEXTS = (
    '', 'The old dog.', '{', 'a{b}c {d}  }', 'one\ntwo\n\n three \n', '{{x}}',
    '<sep>The dog<sep> likes <sepp> <se', 'ＦＵＬＬ ｛ｗ｝ ﬁ', 'The  <obj> dog',
    'input: <extra_id_0> the {film}\noutput: yes', '<extra_id_9>{<extra_id_8>',
)
NEW = ['{', '}', '\n', '<sep>', '<sepp>']


@pytest.fixture
def folder(tmp_path, tiny_vocabulary_path):
  """A folder as `convert --to hf` writes it, of 200 ids."""
  hf_vocabulary.write(tiny_vocabulary_path, tmp_path)
  (tmp_path / 'config.json').write_text('{"model_type": "t5"}')
  return tmp_path


def change_json(path, **fields):
  content = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(content | fields))


def decoder(*tokens, first=200, **flags):
  """`added_tokens_decoder` of some tokens."""
  plain = dict.fromkeys(
      ('lstrip', 'rstrip', 'single_word', 'normalized', 'special'), False
  )
  return {
      str(first + i): {'content': t, **plain, **flags}
      for i, t in enumerate(tokens)
  }


def add(folder, how):
  """Adds tokens in one of the ways that there are; the new ones."""
  config = folder / 'tokenizer_config.json'
  if how == 'added_tokens.json':
    tokens = ['{', '}', '<sep>', '<sepp>']
    change_json(folder / how, **{t: 200 + i for i, t in enumerate(tokens)})
    return tokens
  if how == 'tokenizer.json':
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((folder / 'spiece.model').read_bytes())
    content = hf_tokenizer.content(model)
    plain = decoder('')['200']
    content['added_tokens'] = [
        plain | token for token in content['added_tokens']
    ] + [{'id': int(i), **token} for i, token in decoder(*NEW).items()]
    (folder / how).write_text(json.dumps(content))
    return NEW
  if how == 'special':
    names = [f'<extra_id_{k}>' for k in range(100)] + ['<sep>', '<obj>']
    for path in (config, folder / 'special_tokens_map.json'):
      change_json(path, additional_special_tokens=names)
    return ['<sep>', '<obj>']
  tokens = decoder(*NEW)
  if how == 'mixed':
    for content in ('{', '<sep>', '<sepp>'):
      entry, = (t for t in tokens.values() if t['content'] == content)
      entry['normalized'] = True
  change_json(config, added_tokens_decoder=tokens)
  return NEW


WAYS = ('added_tokens.json', 'decoder', 'mixed', 'tokenizer.json')


def load(folder):
  return tokenization.SentencePiece(hf_vocabulary.find(folder))


@pytest.mark.torch
@pytest.mark.parametrize('how', WAYS)
def test_same_ids_as_transformers(how, folder, monkeypatch, tmp_path):
  import transformers

  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  added = add(folder, how)
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  ours = load(folder)
  assert ours.vocab_size == len(theirs) == 200 + len(added)
  assert list(ours.added) == added
  for text in TEXTS:
    assert ours.encode(text) == theirs(text).input_ids[:-1], text
  # What `convert` writes is the same again.
  copy = tmp_path / 'copy'
  copy.mkdir()
  hf_vocabulary.write(ours.path, copy)
  (copy / 'config.json').write_text('{"model_type": "t5"}')
  again = transformers.AutoTokenizer.from_pretrained(copy)
  for text in TEXTS:
    assert again(text).input_ids == theirs(text).input_ids, text
  assert tokenization.is_same(load(copy).path, ours.path)


def test_ids_by_hand(folder, tiny_vocabulary, monkeypatch, tmp_path):
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  add(folder, 'decoder')
  ours = load(folder)
  old, dog = tiny_vocabulary.encode('old'), tiny_vocabulary.encode('dog')
  assert ours.encode('old{dog} \nold') == [*old, 200, *dog, 201, 202, *old]
  # The longest of those that begin at a place.
  assert ours.encode('<sepp>dog<sep>') == [204, *dog, 203]
  # The ids of sentinels are as before.
  assert ours.encode('<extra_id_0>{<extra_id_99>') == [199, 200, 100]
  assert ours.first_sentinel == 100
  text = formats.Text(('input: old {',), 'output: dog', '<extra_id_0> dog }')
  tokens, cut = tokenization.encode_inputs(ours, text, None)
  assert tokens == [*ours.encode(text.inputs), tokenization.EOS_ID] and not cut
  assert 202 in tokens  # The line feed between instance and label.
  # Neither `{` nor the line feed is taken for a sentinel.
  only = formats.Text(('<extra_id_1> {{{{',), 'dog', '<extra_id_0> {')
  length = len(ours.encode('\ndog')) + 3
  assert tokenization.encode_inputs(ours, only, length)[0][:2] == [198, 200]
  with pytest.raises(tokenization.TooLong, match='cut to nothing'):
    tokenization.encode_targets(ours, only, 2)
  assert tokenization.encode_targets(ours, only, 3) == ([199, 200, 1], False)


def test_convert_keeps_added_tokens(
    folder, tiny_network, tiny_params, tiny_vocabulary_path, monkeypatch,
    tmp_path,
):
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  hf_checkpoints.write(
      folder, tiny_network, tensors.from_arrays(tiny_params),
      tiny_vocabulary_path,
  )
  add(folder, 'decoder')
  ids = load(folder).encode('a {dog}\n')
  assert {200, 201, 202} < {*ids}
  for source, copy in ((folder, 'run'), (tmp_path / 'run', 'hf')):
    convert.convert(source, tmp_path / copy, progress=False)
    found = model_files.open(tmp_path / copy).vocabulary
    assert tokenization.SentencePiece(found).encode('a {dog}\n') == ids
    # As the vocabulary of another model, too.
    named = model_files.open(tmp_path / 'run', vocabulary=tmp_path / copy)
    assert tokenization.SentencePiece(named.vocabulary).added == tuple(NEW)


def test_special_tokens_without_ids(folder, monkeypatch, tmp_path):
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  added = add(folder, 'special')
  config = folder / 'tokenizer_config.json'
  content = json.loads(config.read_text())
  content.pop('extra_ids')
  config.write_text(json.dumps(content))
  assert list(load(folder).added) == added
  # As some versions write them: each with a name.
  change_json(
      folder / 'special_tokens_map.json', additional_special_tokens=None,
      extra_special_tokens={'a': added[0], 'b': {'content': added[1]}},
  )
  assert list(load(folder).added) == added[:2]


@pytest.mark.parametrize('name, content', (
    ('special_tokens_map.json', {'additional_special_tokens': [{'text': '{'}]}),
    ('special_tokens_map.json', {'additional_special_tokens': [7]}),
    ('special_tokens_map.json', {'extra_special_tokens': '{'}),
    ('tokenizer_config.json', {'extra_ids': '100'}),
    ('tokenizer_config.json',
     {'added_tokens_decoder': {'x': {'content': 'y'}}}),
    ('tokenizer_config.json', {'added_tokens_decoder': {'200': '{'}}),
    ('tokenizer_config.json', {'added_tokens_decoder': {'200': {}}}),
    ('tokenizer_config.json', {'added_tokens_decoder': []}),
    ('added_tokens.json', {'{': '200'}),
    ('added_tokens.json', {'{': None}),
), ids=str)
def test_files_of_another_structure_are_named(name, content, folder):
  path = folder / name
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=f'^{re.escape(str(path))}: .*copy'):
    hf_vocabulary.find(folder)


def test_nothing_added(folder, tiny_vocabulary, monkeypatch, tmp_path):
  monkeypatch.setenv('FLIPPED_T5X_DATA', str(tmp_path / 'data'))
  assert hf_vocabulary.find(folder) == folder / 'spiece.model'
  # Sentinels may be listed, too.
  names = [f'<extra_id_{k}>' for k in reversed(range(100))]
  change_json(
      folder / 'tokenizer_config.json',
      added_tokens_decoder=decoder(
          '<pad>', '</s>', '<unk>', first=0, special=True
      ) | decoder(*names, first=100, special=True),
  )
  assert hf_vocabulary.find(folder) == folder / 'spiece.model'
  (folder / 'tokenizer_config.json').unlink()
  (folder / 'special_tokens_map.json').unlink()
  assert hf_vocabulary.find(folder) == folder / 'spiece.model'


@pytest.mark.parametrize('number', (300, 28, 0))
def test_other_numbers_of_sentinels(number, folder):
  change_json(folder / 'tokenizer_config.json', extra_ids=number)
  with pytest.raises(
      ValueError, match=rf'tokenizer_config.json: {number} sentinels'
  ):
    hf_vocabulary.find(folder)
  names = [f'<extra_id_{k}>' for k in range(number)]
  change_json(folder / 'tokenizer_config.json', extra_ids=100)
  change_json(
      folder / 'special_tokens_map.json', additional_special_tokens=names
  )
  if number:
    with pytest.raises(ValueError, match=f'{number} sentinels'):
      hf_vocabulary.find(folder)


@pytest.mark.parametrize('tokens, message', (
    (decoder('{', first=201), "token '{' cannot be .* id is 201 where 200"),
    (decoder('{', first=150), "'{' cannot .* id 150 is that of '<extra_id_49>"),
    (decoder('<extra_id_0>'), "'<extra_id_0>' cannot be used: it is a token"),
    (decoder('x', 'x', first=7), "'x' cannot be used: its id 7 is that of"),
    (decoder('{', single_word=True), "'{' cannot be .* single_word"),
    (decoder('\n', normalized=True), r"'\\n' cannot .* needs \"normalized\""),
    (decoder(' '), "' ' cannot be used: as a space"),
    (decoder('\n') | decoder('{', first=201, lstrip=True),
     r"takes the white space beside it \(lstrip, rstrip\), and '\\n' is a"),
))
def test_tokens_that_cannot_be_used(tokens, message, folder):
  path = folder / 'tokenizer_config.json'
  change_json(path, added_tokens_decoder=tokens)
  with pytest.raises(ValueError, match=f'^{re.escape(str(path))}: .*{message}'):
    hf_vocabulary.find(folder)


def test_piece_as_added_token(folder, tiny_vocabulary, tiny_vocabulary_path):
  model = tokenization.read_model(tiny_vocabulary_path)
  piece = model.pieces[9].piece
  change_json(
      folder / 'tokenizer_config.json',
      added_tokens_decoder=decoder(piece, first=9),
  )
  with pytest.raises(ValueError, match='it is a piece of the model, too'):
    hf_vocabulary.find(folder)


def test_tokenizer_json_of_another_model(folder):
  add(folder, 'tokenizer.json')
  path = folder / 'tokenizer.json'
  content = json.loads(path.read_text())
  content['model']['vocab'][9][0] = '▁another'
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='tokenizer.json has other pieces than'):
    hf_vocabulary.find(folder)


def test_model_with_sentinels_of_its_own(tmp_path, tiny_vocabulary_path):
  model = tokenization.read_model(tiny_vocabulary_path)
  model.pieces[9].piece = '<extra_id_0>'
  (tmp_path / 'own.model').write_bytes(model.SerializeToString())
  with pytest.raises(ValueError, match='own.model.* has sentinels of its own'):
    tokenization.SentencePiece(tmp_path / 'own.model')


def test_hub_fetches_what_adds_tokens():
  names = {
      'config.json', 'model.safetensors', 'spiece.model', 'added_tokens.json',
      'tokenizer_config.json', 'special_tokens_map.json', 'tokenizer.json',
  }
  assert hub.choose({*names, 'README.md', 'tf_model.h5'}) == names
