"""Tests of prompts/examples.py, with templates written out here."""

import collections
import dataclasses
import json

from flipped_t5x.prompts import examples
from flipped_t5x.prompts import templates
import pytest

LETTERS = 'abcdefghij'
COLORS = ('red', 'green', 'blue', 'grey')
CHOICES = ' ||| '.join(COLORS)


class Characters:
  """A vocabulary of one id per character; what was encoded can be read."""

  vocab_size = 100 + 256

  def encode(self, text):
    for k in range(5):
      text = text.replace(f'<extra_id_{k}>', chr(self.vocab_size - 1 - k))
    return [ord(c) for c in text]

  def decode(self, ids):
    return ''.join(map(chr, ids))


VOCABULARY = Characters()


def make(*names, choices=CHOICES, jinja='{} {{{{x}}}}?'):
  return {
      name: templates.Template(
          'my/set', name,
          jinja.format(name) + ' ||| {{answer_choices[label]}}', choices,
      )
      for name in names
  }


def row(label=0, x='it', **more):
  return json.dumps({'x': x, 'label': label, **more})


def option(tokens):
  """The label in the tokens of an encoder side; the last token is EOS."""
  assert tokens[-1] == 1
  return VOCABULARY.decode(tokens[:-1]).split('output: ')[1]


def assert_uniform(counts, names):
  """Chi-square, at most 8 standard deviations above its mean."""
  assert set(counts) == set(names)
  mean = sum(counts.values()) / len(names)
  chi_square = sum((n - mean) ** 2 / mean for n in counts.values())
  assert chi_square < len(names) - 1 + 8 * (2 * (len(names) - 1)) ** 0.5


def test_a_pair():
  draw = examples.DrawPair('my_task', make('Ask'), VOCABULARY)
  pair = draw(row(label=2), seed=5)
  wrong = option(pair['wrong_inputs'])
  assert wrong in ('red', 'green', 'grey')
  for key, label in (('inputs', 'blue'), ('wrong_inputs', wrong)):
    tokens = pair[key]
    first, second = (chr(VOCABULARY.vocab_size - 1 - k) for k in range(2))
    assert VOCABULARY.decode(tokens[:-1]) == (
        f'input:{first}it{second}output: {label}'
    )
  assert pair['task'] == 'my_task' and pair['template'] == 'Ask'
  assert list(pair['options']) == list(COLORS)
  assert pair['option_index'] == 2
  assert not +draw.counts


def test_same_seed_same_pair():
  templates_of_task = make(*LETTERS)
  draw = examples.DrawPair('t', templates_of_task, VOCABULARY)
  again = examples.DrawPair('t', templates_of_task, VOCABULARY)
  pairs = [draw(row(), seed) for seed in range(200)]
  # Whatever was drawn before.
  assert [again(row(), s) for s in reversed(range(200))] == pairs[::-1]
  different = {(p['template'], option(p['wrong_inputs'])) for p in pairs}
  assert len(different) == 10 * 3


@pytest.mark.parametrize('gold', range(4))
def test_wrong_options_are_uniform_and_never_right(gold):
  draw = examples.DrawPair('t', make('Ask'), VOCABULARY)
  names = list(COLORS)
  pairs = [draw(row(gold), seed) for seed in range(3000)]
  assert {option(p['inputs']) for p in pairs} == {names[gold]}
  wrong = collections.Counter(option(p['wrong_inputs']) for p in pairs)
  del names[gold]
  assert_uniform(wrong, names)


def test_templates_are_uniform_and_independent_of_the_wrong_option():
  draw = examples.DrawPair('t', make(*LETTERS[:5]), VOCABULARY)
  pairs = [draw(row(), seed) for seed in range(5000)]
  assert_uniform(
      collections.Counter(p['template'] for p in pairs), LETTERS[:5]
  )
  assert_uniform(
      collections.Counter(
          (p['template'], option(p['wrong_inputs'])) for p in pairs
      ),
      [(t, o) for t in LETTERS[:5] for o in ('green', 'blue', 'grey')],
  )


def test_choice_in_a_template_is_drawn():
  draw = examples.DrawPair(
      't', make('Ask', jinja='{{{{["one", "two"] | choice}}}} {{{{x}}}} {}'),
      VOCABULARY,
  )
  first = collections.Counter(
      VOCABULARY.decode(draw(row(), seed)['inputs'])[6:9]
      for seed in range(1000)
  )
  assert_uniform(first, ('one', 'two'))


def test_drops_are_counted_by_reason():
  draw = examples.DrawPair(
      't', make('Ask', choices='{{options | join("|||")}}'), VOCABULARY
  )
  kept = [
      draw(row(label, options=options), 0)
      for label, options in (
          (0, ['u', 'v']), (-1, ['u', 'v']), (-1, ['u', 'v']), (0, ['u']),
          (0, ['u', 'u']), (1, ['u', 'v', 'w']),
      )
  ]
  assert [p is not None for p in kept] == [True, *[False] * 4, True]
  assert +draw.counts == {
      'no label': 2, 'fewer than two options': 1, 'equal options': 1
  }


def test_long_instances_are_cut_and_counted():
  lengths = {'inputs': 30, 'wrong_inputs': 28, 'targets': 12}
  draw = examples.DrawPair('t', make('Ask'), VOCABULARY, lengths)
  for x, cut in (('it', 0), ('x' * 99, 1)):
    pair = draw(row(x=x), 3)
    assert all(len(pair[k]) <= n for k, n in lengths.items())
    # The label is whole.
    assert option(pair['inputs']) == 'red'
    assert option(pair['wrong_inputs']) in ('green', 'blue', 'grey')
    assert draw.counts['truncated'] == cut


@pytest.mark.parametrize('cut', ('inputs', 'wrong_inputs', 'targets'))
def test_one_cut_side_is_enough_to_count(cut):
  lengths = {'inputs': 90, 'wrong_inputs': 90, 'targets': 90}
  long = examples.DrawPair('t', make('Ask'), VOCABULARY, lengths)
  length = len(long(row(x='x' * 40), 3)[cut])
  draw = examples.DrawPair(
      't', make('Ask'), VOCABULARY, lengths | {cut: length - 1}
  )
  draw(row(x='x' * 40), 3)
  assert (long.counts['truncated'], draw.counts['truncated']) == (0, 1)


@pytest.mark.parametrize(
    'text, message',
    (
        (row(label=7), 'my/set "Ask": .*x, label'),
        ('{"label": 1}', "my/set \"Ask\": 'x' is undefined"),
    ),
)
def test_errors_name_the_template(text, message):
  with pytest.raises(ValueError, match=message):
    examples.DrawPair('t', make('Ask'), VOCABULARY)(text, 0)
  with pytest.raises(ValueError, match=message):
    examples.ExpandOptions('t', make('Ask')['Ask'], VOCABULARY)(text, 0)


@pytest.mark.parametrize(
    'lengths, reason',
    (
        ({'targets': 2}, 'target cut to nothing'),
        ({'inputs': 9, 'wrong_inputs': 9}, 'label too long'),
    ),
)
def test_what_leaves_nothing_is_dropped_and_counted(lengths, reason):
  draw = examples.DrawPair('t', make('Ask'), VOCABULARY, lengths)
  expand = examples.ExpandOptions('t', make('Ask')['Ask'], VOCABULARY, lengths)
  assert draw(row(), 0) is None and expand(row(), 0) == []
  assert draw.counts == expand.counts == {reason: 1}


def test_options_that_are_the_same_tokens(tiny_vocabulary):
  stars = {'Rate': templates.Template(
      'my/set', 'Rate', 'Rate {{x}} ||| {{answer_choices[label]}}',
      '\u2605 ||| \u2605\u2605',
  )}
  draw = examples.DrawPair('t', stars, tiny_vocabulary)
  assert draw(row(label=1), 0) is None
  assert draw.counts == {'right and wrong option are the same tokens': 1}
  # DIRECT learns to write what it can, but not what it must not write too.
  direct = examples.DrawPair('t', stars, tiny_vocabulary, format='direct')
  assert direct(row(label=1), 0)
  direct = dataclasses.replace(direct, counts=draw.counts, unlikelihood=True)
  assert direct(row(label=1), 0) is None
  assert draw.counts == {'right and wrong option are the same tokens': 2}


def test_expand_options():
  expand = examples.ExpandOptions('t', make('Ask')['Ask'], VOCABULARY)
  candidates = expand(row(label=2), 17)
  names = list(COLORS)
  assert [option(c['inputs']) for c in candidates] == names
  assert [c['option_index'] for c in candidates] == [0, 1, 2, 3]
  assert [c['is_correct'] for c in candidates] == [False, False, True, False]
  assert {c['example_id'] for c in candidates} == {17}
  target = candidates[0]['targets']
  assert all(c['targets'] == target for c in candidates)
  # The target of training is the same, and so is the right input.
  pair = examples.DrawPair('t', make('Ask'), VOCABULARY)(row(label=2), 4)
  assert pair['targets'] == target
  assert pair['inputs'] == candidates[2]['inputs']


def test_expand_options_drops_and_cuts():
  expand = examples.ExpandOptions(
      't', make('Ask')['Ask'], VOCABULARY, {'inputs': 30, 'targets': 12}
  )
  assert expand(row(label=-1), 0) == []
  long = expand(row(x='x' * 99), 1)
  assert [len(c['inputs']) for c in long] == [30] * 4
  assert expand.counts == {'no label': 1, 'truncated': 4}


def test_truncated_counts_no_candidates_of_dropped_rows():
  # The instance is cut for the first option; the last leaves it no room.
  ask = templates.Template(
      't', 'Long', 'Is it? {{x}} ||| {{answer_choices[0]}}',
      'no ||| ' + 'y' * 99,
  )
  expand = examples.ExpandOptions('t', ask, VOCABULARY, {'inputs': 40})
  assert expand(row(x='x' * 60), 0) == []
  assert expand.counts == {'label too long': 1}


def test_channel_cuts_its_options():
  ask = templates.Template(
      't', 'Long', 'Is it? {{x}} ||| {{answer_choices[0]}}',
      'no ||| ' + 'y' * 99,
  )
  lengths = {'inputs': 40, 'targets': 99}
  expand = examples.ExpandOptions('t', ask, VOCABULARY, lengths, 'channel')
  short, long = expand(row(), 0)
  assert len(long['inputs']) == 40 and long['inputs'][-1] == 1
  assert len(short['inputs']) < 10
  assert expand.counts == {'truncated': 1}
  pair = examples.DrawPair(
      't', {'Long': ask}, VOCABULARY, lengths | {'wrong_inputs': 40}, 'channel'
  )(row(), 0)
  assert (pair['inputs'], pair['wrong_inputs']) == (
      short['inputs'], long['inputs']
  )


def test_formats():
  make_one = lambda name: examples.ExpandOptions(
      't', make('Ask')['Ask'], VOCABULARY, format=name
  )(row(), 0)
  targets = {
      name: [VOCABULARY.decode(c['targets'][:-1]) for c in make_one(name)]
      for name in ('flipped_plain', 'direct', 'channel')
  }
  assert targets == {
      'flipped_plain': ['Ask ?'] * 4,
      'direct': list(COLORS),
      'channel': ['Ask it?'] * 4,
  }
  with pytest.raises(ValueError, match='unknown format'):
    make_one('flip')


def test_direct_has_no_wrong_side():
  draw = examples.DrawPair('t', make('Ask'), VOCABULARY, format='direct')
  pair = draw(row(label=2), seed=0)
  assert 'wrong_inputs' not in pair
  assert VOCABULARY.decode(pair['inputs'][:-1]) == 'Ask it?'
  assert VOCABULARY.decode(pair['targets'][:-1]) == list(COLORS)[2]


def direct(choices=CHOICES, **kwargs):
  """DIRECT without unlikelihood, and with it."""
  without = examples.DrawPair(
      't', make(*LETTERS[:3], choices=choices), VOCABULARY, format='direct',
      **kwargs,
  )
  return without, dataclasses.replace(
      without, counts=collections.Counter(), unlikelihood=True
  )


def test_unlikelihood_gives_direct_a_wrong_label_and_changes_nothing_else():
  without, with_unlikelihood = direct()
  for seed in range(200):
    pair = dict(with_unlikelihood(row(label=seed % 4), seed))
    wrong = VOCABULARY.decode(pair.pop('wrong_targets')[:-1])
    assert wrong in COLORS and wrong != COLORS[seed % 4]
    assert pair == without(row(label=seed % 4), seed)


def test_wrong_labels_are_uniform():
  _, draw = direct()
  assert_uniform(
      collections.Counter(
          (pair['template'], VOCABULARY.decode(pair['wrong_targets'][:-1]))
          for pair in (draw(row(2), seed) for seed in range(4000))
      ),
      [(t, o) for t in LETTERS[:3] for o in ('red', 'green', 'grey')],
  )


@pytest.mark.parametrize('choices, kept, counts', (
    ('red ||| blueish', ('red', 'blue'), {'truncated': 1}),
    ('blueish ||| red', ('blue', 'red'), {'truncated': 1}),
    # No more than the part that is left can be told apart.
    ('greenish ||| greener', None,
     {'right and wrong option are the same tokens': 1}),
))
def test_wrong_labels_are_cut_as_right_ones(choices, kept, counts):
  _, draw = direct(choices, lengths={'targets': 5, 'wrong_targets': 5})
  pair = draw(row(), 0)
  assert +draw.counts == counts
  assert kept == (pair and tuple(
      VOCABULARY.decode(pair[k][:-1]) for k in ('targets', 'wrong_targets')
  ))
