"""The experiment's datasets: what is held out, and what all methods share."""

import re

from flipped_t5x.experiment import results as results_lib
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
import pytest

TRAINED = 'vader_kind'
NEW = ('vader_kind_new', 'vader_kind_invented')
ROW = {'text': 'Zzz.', 'label': 0}


def words(text):
  return set(re.findall(r"[\w']+", text.lower()))


def drawn(name, number=400):
  """All that the templates of a dataset render around a text."""
  for template in catalog.dataset(name).load_templates().values():
    for seed in range(number):
      yield template.render(ROW, seed)


def sets_of(name):
  return {r.options for r in drawn(name)}


def test_held_out_words_are_in_nothing_that_is_trained_on():
  trained = set()
  for rendered in drawn(TRAINED):
    trained |= words(rendered.prompt) | words(' '.join(rendered.options))
    for make_text in formats.FORMATS.values():
      for option in rendered.options:
        text = make_text(rendered, option)
        trained |= words(text.inputs) | words(text.targets)
  assert {'film', 'night', 'kind', 'zzz'} <= trained
  for name in NEW:
    held_out = {w for options in sets_of(name) for w in options}
    assert len(held_out) >= 6
    assert not held_out & trained


def test_known_words_are_those_that_are_trained_on():
  assert len(sets_of(TRAINED)) == 16
  assert sets_of('vader_kind_reworded') == sets_of(TRAINED)
  assert sets_of('vader_kind_known') < sets_of(TRAINED)


def test_words_are_drawn_alike_for_all_wordings():
  loaded = catalog.dataset(TRAINED).load_templates().values()
  for seed in range(20):
    assert len({t.render(ROW, seed).options for t in loaded}) == 1


def wordings(name):
  templates = catalog.dataset(name).load_templates().values()
  return {t.jinja for t in templates}


def test_held_out_wordings_are_other_ones():
  trained, held_out = wordings(TRAINED), wordings('vader_kind_reworded')
  assert not trained & held_out and len(held_out) >= 2
  assert len(trained) == len(catalog.dataset(TRAINED).load_templates())
  for name in NEW:  # Nothing but the words is new.
    assert wordings(name) == wordings('vader_kind_known') < trained


def test_templates_of_words_are_called_by_them():
  for column in results_lib.OF_WORDS:
    dataset = catalog.dataset(results_lib.COLUMNS[column])
    for title, template in dataset.load_templates().items():
      rendered = template.render(ROW)
      assert title.removesuffix(' (named)') == '/'.join(rendered.options)
      named = all(o in rendered.prompt for o in rendered.options)
      assert named == title.endswith(' (named)')


@pytest.fixture(scope='module')
def vocabulary(data):
  """One with each word of the templates."""
  texts = ['input: output: row of train test ' + ' '.join(map(str, range(60)))]
  for rendered in drawn(TRAINED, 60):
    texts += [rendered.prompt, ' '.join(rendered.options)]
  path = data / 'words.model'
  tokenization.train_vocabulary(dict.fromkeys(texts), 240, path)
  return tokenization.load_vocabulary(path)


def decode(vocabulary, batch, name):
  """The texts of the rows of one array of a batch."""
  return [
      vocabulary.decode([int(token) for token in row if token > 1]).strip()
      for row in batch[name]
  ]


def test_all_formats_have_the_same_rows_templates_words_and_order(vocabulary):
  found = {}
  for form, weight in (('flipped', 3.0), ('direct', 3.0), ('channel', 0.0)):
    stream = batches.TrainBatches(
        'flipped_experiment', vocabulary.path, batch_size=128, input_length=96,
        target_length=96, seed=5, pack=False, format=form,
        unlikelihood_weight=weight,
    )
    batch = next(stream)
    found[form] = [
        decode(vocabulary, batch, f'{side}_tokens')
        for side in ('encoder_input', 'decoder_target')
    ]
    if weight:
      side = 'encoder_input' if form == 'flipped' else 'decoder_target'
      found[f'{form} wrong'] = decode(
          vocabulary, batch, f'wrong_{side}_tokens'
      )
    assert not any(any(c.values()) for c in stream.counts.values())
  prompts, labels = found['direct']
  assert found['channel'] == [labels, prompts]
  wrong_labels = found['direct wrong']
  for i, (inputs, instruction) in enumerate(
      zip(*found['flipped'], strict=True)
  ):
    instance, _, label = inputs.partition('output: ')
    assert label == labels[i] != wrong_labels[i]
    assert found['flipped wrong'][i] == f'{instance}output: {wrong_labels[i]}'
    assert re.search(r'row \d+ of train', inputs)[0] in prompts[i]
    chunks = re.split(r'<extra_id_\d+>', instruction)
    assert all(chunk.strip() in prompts[i] for chunk in chunks)
  # Rows, words and wordings are not always the same ones.
  assert len(set(prompts)) > 60 and len(set(labels)) > 20
  # DIRECT without unlikelihood draws the same, too.
  plain = batches.TrainBatches(
      'flipped_experiment', vocabulary.path, batch_size=128, input_length=96,
      target_length=96, seed=5, pack=False, format='direct',
  )
  batch = next(plain)
  assert decode(vocabulary, batch, 'encoder_input_tokens') == prompts
  assert decode(vocabulary, batch, 'decoder_target_tokens') == labels
