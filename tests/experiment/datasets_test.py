"""The experiment's datasets: what is held out, and what all methods share."""

import collections
import re

from flipped_t5x.experiment import results as results_lib
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from flipped_t5x.tasks import batches
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
import pytest

TRAINED = mixtures.mixture('flipped_demo').datasets
PAIRS = tuple(
    tuple(results_lib.COLUMNS[column] for column in pair)
    for pair in results_lib.WORDS.items()
)
NEW = tuple(new for _, new in PAIRS)
ROW = {'text': 'Zzz.', 'label': 0}


def words(text):
  return set(re.findall(r"[\w']+", text.lower()))


def rendered_of(name):
  """What the templates of a dataset render around a text."""
  return [
      template.render(ROW)
      for template in catalog.dataset(name).load_templates().values()
  ]


def sets_of(name):
  return {r.options for r in rendered_of(name)}


def jinja_of(name):
  """The wordings, without the options that follow them."""
  templates = catalog.dataset(name).load_templates().values()
  return {t.jinja for t in templates}


def test_new_words_are_in_nothing_that_is_trained_on():
  trained = set()
  for name in TRAINED:
    for rendered in rendered_of(name):
      for make_text in formats.FORMATS.values():
        for option in rendered.options:
          text = make_text(rendered, option)
          trained.add(text.inputs.lower())
          trained.add(text.targets.lower())
  together = ' '.join(trained)
  assert 'positive' in together and 'tweet' in together
  for name in NEW:
    held_out = {w for options in sets_of(name) for w in options}
    for option in held_out:
      pattern = rf'\b{re.escape(option.lower())}\b'
      assert not re.search(pattern, together)


def test_numbers_of_sets_of_words():
  sentiment, source = NEW
  assert len(sets_of(sentiment)) == 10 and len(sets_of(source)) == 4
  phrases = [o for o in sets_of(sentiment) if any(' ' in w for w in o)]
  assert len(phrases) >= 3


@pytest.mark.parametrize('known, new', PAIRS)
def test_new_words_differ_from_known_ones_in_the_words_alone(known, new):
  rows_of = catalog.dataset(known).rows_of
  assert rows_of == catalog.dataset(new).rows_of
  assert sets_of(known) < {
      tuple(o.strip() for o in options) for options in sets_of(rows_of)
  }
  assert not sets_of(known) & sets_of(new)
  assert jinja_of(known) == jinja_of(new)
  assert len(jinja_of(known)) == 2 and not jinja_of(known) & jinja_of(rows_of)
  for name in (known, new):
    loaded = catalog.dataset(name).load_templates()
    number = collections.Counter(t.jinja for t in loaded.values())
    assert len(set(number.values())) == 1  # As many sets in each wording.
    for title, template in loaded.items():
      assert results_lib.words_of(title) == '/'.join(
          template.render(ROW).options
      )


@pytest.fixture(scope='module')
def vocabulary(data):
  """One with each word of the templates."""
  texts = ['input: output: row of train test ' + ' '.join(map(str, range(60)))]
  for name in TRAINED:
    for rendered in rendered_of(name):
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


def test_all_formats_have_the_same_rows_templates_and_order(vocabulary):
  found = {}
  for form, weight in (('flipped', 3.0), ('direct', 3.0), ('channel', 0.0)):
    stream = batches.TrainBatches(
        'flipped_demo', vocabulary.path, batch_size=128, input_length=96,
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
  assert len(set(prompts)) > 60 and len(set(labels)) > 10
  # DIRECT without unlikelihood draws the same, too.
  plain = batches.TrainBatches(
      'flipped_demo', vocabulary.path, batch_size=128, input_length=96,
      target_length=96, seed=5, pack=False, format='direct',
  )
  batch = next(plain)
  assert decode(vocabulary, batch, 'encoder_input_tokens') == prompts
  assert decode(vocabulary, batch, 'decoder_target_tokens') == labels
