"""Vocabularies that are trained once, on training text."""

import demo_data
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import vocabularies


def test_vocabulary_is_trained_once(tmp_path, monkeypatch):
  demo_data.install(tmp_path, monkeypatch)
  monkeypatch.setattr(vocabularies, '_TEMPLATE_REPEATS', 2)  # Is faster.
  calls = []
  train = tokenization.train_vocabulary

  def count(*args):
    calls.append(args)
    train(*args)

  monkeypatch.setattr(tokenization, 'train_vocabulary', count)
  paths = [vocabularies.trained(demo_data.MIXTURE, 205) for _ in range(2)]
  assert len(calls) == 1 and paths[0] == paths[1]
  assert paths[0].is_relative_to(tmp_path)
  vocabulary = tokenization.SentencePiece(paths[0])
  assert vocabulary.vocab_size == 205
  # Another size is another file, and the first stays.
  other = vocabularies.trained(demo_data.MIXTURE, 200)
  assert other != paths[0] and len(calls) == 2
  assert tokenization.SentencePiece(other).vocab_size == 200
  # So are other texts.
  path = demo_data.local_file(tmp_path, 'tiny_mood', 'train')
  text = path.read_text()
  path.write_text(text.replace('dull', 'grim'))
  catalog._open.cache_clear()
  assert vocabularies.trained(demo_data.MIXTURE, 205) != paths[0]
  assert len(calls) == 3
  assert paths[0].exists()
  path.write_text(text)
  catalog._open.cache_clear()
  assert vocabularies.trained(demo_data.MIXTURE, 205) == paths[0]
  # Templates were read, and so were training rows, but no other split.
  texts = list(vocabularies._texts(demo_data.MIXTURE))
  assert any('Did the reviewer enjoy it?' in t for t in texts)
  assert 'negative ||| positive' in texts
  for name in demo_data.ROWS:
    rows = demo_data.rows(name)
    assert {r['text'] for r in rows['train']} <= set(texts)
    assert not {r['text'] for r in rows['test'] + rows['validation']} & set(
        texts
    )
