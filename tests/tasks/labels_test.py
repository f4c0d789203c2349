"""Other label words in tasks/labels.py: exact texts, and what it refuses."""

import re

from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import labels
import pytest

AGREE = {'yes': 'agree', 'no': 'disagree', 'maybe': 'unsure'}
SWAP = {'yes': 'no', 'no': 'yes', 'maybe': 'perhaps'}
DATASETS = ('wsc', 'cb', 'rte', 'imdb', 'paws')
RTE_PREMISE = 'No one knows Norway. Yes and no, they say.'
# Of each dataset: the template's name, an invented row, the options, what the
# encoder reads and the decoder writes in FLIPPED for "Disagree", the prompt.
TEXTS = {
    'wsc': (
        'does the pronoun refer to (agree/disagree)',
        {
            'text': 'No dog saw the cat. It was small.',
            'span1_text': 'No dog', 'span2_text': 'It', 'label': 1,
        },
        ('Disagree', 'Agree'),
        'input: No dog saw the cat. It was small. <extra_id_0> it <extra_id_1>'
        ' No dog <extra_id_2>\noutput: Disagree',
        '<extra_id_0> In the previous sentence, does the pronoun "'
        ' <extra_id_1> " refer to <extra_id_2> ? Agree or disagree?',
        'No dog saw the cat. It was small. In the previous sentence, does the'
        ' pronoun "it" refer to No dog? Agree or disagree?',
    ),
    'cb': (
        'can we infer (agree/disagree/unsure)',
        {
            'premise': 'maybe it rains. Yes, or no?',
            'hypothesis': 'It is no good.', 'label': 1,
        },
        ('Agree', 'Disagree', 'Unsure'),
        'input: <extra_id_0> maybe it rains. Yes, or no? <extra_id_1> It is no'
        ' good. <extra_id_2>\noutput: Disagree',
        '<extra_id_0> Suppose <extra_id_1> Can we infer that " <extra_id_2> "?'
        ' Agree, disagree, or unsure?',
        'Suppose maybe it rains. Yes, or no? Can we infer that "It is no'
        ' good."? Agree, disagree, or unsure?',
    ),
    'rte': (
        'MNLI crowdsource (agree/disagree)',
        {'premise': RTE_PREMISE, 'hypothesis': 'Is there no sea?', 'label': 1},
        ('Agree', 'Disagree'),
        f'input: {RTE_PREMISE} <extra_id_0> Is there no sea? <extra_id_1>\n'
        'output: Disagree',
        '<extra_id_0> Using only the above description and what you know about'
        ' the world, is " <extra_id_1> " definitely correct? Agree or'
        ' disagree?',
        f'{RTE_PREMISE} Using only the above description and what you know'
        ' about the world, is "Is there no sea?" definitely correct? Agree or'
        ' disagree?',
    ),
    'imdb': (  # Its text does not name the options.
        'Reviewer Enjoyment Yes No (agree/disagree)',
        {'text': 'I said no. Yes, I did.', 'label': 0},
        ('Disagree', 'Agree'),
        'input: I said no. Yes, I did. <extra_id_0>\noutput: Disagree',
        '<extra_id_0> Did the reviewer enjoy the movie?',
        'I said no. Yes, I did. Did the reviewer enjoy the movie?',
    ),
    'paws': (
        'Meaning (agree/disagree)',
        {'sentence1': 'No dog ran .', 'sentence2': 'no cat', 'label': 1},
        ('Disagree', 'Agree'),
        'input: <extra_id_0> No dog ran . <extra_id_1> no cat <extra_id_2>\n'
        'output: Disagree',
        '<extra_id_0> Sentence 1: <extra_id_1> Sentence 2: <extra_id_2>'
        ' Question: Do Sentence 1 and Sentence 2 express the same meaning?'
        ' Agree or Disagree?',
        'Sentence 1: No dog ran .\nSentence 2: no cat\nQuestion: Do Sentence 1'
        ' and Sentence 2 express the same meaning? Agree or Disagree?',
    ),
}


def load(name, max_field_chars=None):
  data = catalog.dataset(f'label_generalization/{name}')
  return data.load_templates(max_field_chars)


def relabel(prompt, words=AGREE, options='Yes ||| No', **row):
  """The row of a template with that prompt; the first option is right."""
  template = templates.Template(
      'my/set', 'name', f'{prompt} ||| {{{{ answer_choices[0] }}}}', options
  )
  return labels.RelabelledTemplate(template, words).render(row)


@pytest.mark.parametrize('name', DATASETS)
def test_texts_of_the_five_templates(name):
  title, row, options, inputs, targets, prompt = TEXTS[name]
  rendered = load(name)[title].render(row)
  assert rendered.options == options and rendered.gold == row['label']
  texts = [
      (text.inputs, text.targets)
      for text in (
          make(rendered, 'Disagree')
          for make in (formats.flipped, formats.direct, formats.channel)
      )
  ]
  assert texts == [
      (inputs, targets), (prompt, 'Disagree'), ('Disagree', prompt)
  ]


@pytest.mark.parametrize('name', DATASETS)
def test_a_meaning_keeps_its_word_whatever_the_order(name):
  loaded = load(name)
  original = next(iter(loaded.values()))
  assert type(original) is templates.Template
  meanings = [o.lower() for o in original.render(TEXTS[name][1]).options]
  pairs = labels.read(labels.LABEL_PAIRS)
  assert len(loaded) == 1 + len(pairs)
  for (title, template), words in zip(
      list(loaded.items())[1:], pairs, strict=True
  ):
    assert title == template.name == '{} ({})'.format(
        original.name,
        '/'.join(words[m] for m in ('yes', 'no', 'maybe') if m in meanings),
    )
    assert (template.dataset, template.metrics, template.eligible) == (
        original.dataset, original.metrics, True
    )
    for label in range(len(meanings)):
      row = TEXTS[name][1] | {'label': label}
      rendered, before = template.render(row), original.render(row)
      assert rendered.gold == before.gold == label
      assert [o.lower() for o in rendered.options] == [
          words[m] for m in meanings
      ]
      assert rendered.options == tuple(
          o.capitalize() for o in rendered.options
      )
      assert template.answer_choices == ' ||| '.join(rendered.options)
      # FLIPPED: the row's text and all chunks but the last are as they were.
      assert rendered.parts == before.parts
      assert rendered.chunks == template.chunks
      assert rendered.chunks[:-1] == before.chunks[:-1]
      assert (rendered.chunks[-1] == before.chunks[-1]) == (name == 'imdb')


def test_the_original_comes_first_and_nothing_is_compiled_again(monkeypatch):
  original = templates.load('super_glue/rte')['MNLI crowdsource']
  monkeypatch.setattr(
      templates.jinja_chunks, 'environment',
      lambda *_: pytest.fail('compiles again'),
  )
  loaded = labels.relabelled(original)
  assert next(iter(loaded.items())) == ('MNLI crowdsource', original)


@pytest.mark.parametrize(
    'text, expected',
    (
        ('Yes or no?', 'Agree or disagree?'),
        ('yes/No', 'agree/Disagree'),
        ('"yes", \'no\'; (Yes)', '"agree", \'disagree\'; (Agree)'),
        ('nothing, Norway, know, eyes, yes1, no_', None),
        ("no-one, yes-man, x-no, no's, no’s", None),
        ('YES or NO', None),  # Not a form that the option is written in.
        ('noé', None),
        ('maybe', None),  # Not an option here.
    ),
)
def test_whole_words_in_the_case_found(text, expected):
  rendered = relabel('{{ x }} ' + text, x='X')
  assert rendered.chunks == (f' {expected or text} ',)
  assert rendered.prompt == f'X {expected or text}'


@pytest.mark.parametrize(
    'options, expected',
    (
        ('Yes ||| No', ('Agree', 'Disagree')),
        ('no ||| yes', ('disagree', 'agree')),
        ('YES ||| NO', ('AGREE', 'DISAGREE')),
        ('maybe ||| No ||| YES', ('unsure', 'Disagree', 'AGREE')),
    ),
)
def test_options_keep_order_and_case(options, expected):
  rendered = relabel('Say yes, Yes or YES', options=options)
  assert rendered.options == expected and rendered.gold == 0
  upper = 'AGREE' if 'YES' in options else 'YES'
  assert rendered.prompt == f'Say agree, Agree or {upper}'


def test_words_that_swap_are_replaced_at_once():
  rendered = relabel('Yes, no, or maybe?', SWAP, 'Yes ||| No ||| Maybe')
  assert rendered.options == ('No', 'Yes', 'Perhaps')
  assert rendered.prompt == rendered.chunks[0].strip() == 'No, yes, or perhaps?'


@pytest.mark.parametrize(
    'prompt, expected',
    (
        ('No. Yes! No? Yes', 'No. Yes! No? Agree'),
        ('Yes or no?\nYes or no?\n', 'Yes or no?\nAgree or disagree?'),
        # The end of a line, or a stop without white space, is not the end.
        ('Yes or\nno: 1.yes', 'Agree or\ndisagree: 1.agree'),
        ('It is "no." Yes?', 'It is "no." Agree?'),
        ('(It is no!) Yes?', '(It is no!) Agree?'),
        ('yes, and no', 'agree, and disagree'),
    ),
)
def test_last_sentence_of_the_prompt(prompt, expected):
  rendered = relabel(prompt)
  assert formats.direct(rendered, 'Agree').inputs == expected
  assert formats.channel(rendered, 'Agree').targets == expected


def test_flipped_replaces_the_whole_last_chunk_direct_its_last_sentence():
  rendered = relabel('No {{ x }}, no. Yes or no?', x='no')
  assert rendered.chunks == ('No ', ', disagree. Agree or disagree? ')
  assert rendered.parts == (0, 'no', 1)
  assert rendered.prompt == 'No no, no. Agree or disagree?'


def test_inserted_text_without_a_full_stop():
  rendered = load('imdb')['Reviewer Enjoyment Yes No (agree/disagree)'].render(
      {'text': 'No plot. There is no fun', 'label': 0}
  )
  # The rule for DIRECT and CHANNEL is the sentence, whoever wrote its words.
  assert rendered.prompt == (
      'No plot. There is disagree fun Did the reviewer enjoy the movie?'
  )
  assert formats.flipped(rendered, 'Agree').inputs == (
      'input: No plot. There is no fun <extra_id_0>\noutput: Agree'
  )


def test_max_field_chars_and_dropped_rows():
  name = 'MNLI crowdsource (good/bad)'
  row = {'premise': 'a' * 30, 'hypothesis': 'b', 'label': 0}
  assert load('rte')[name].render(row).parts[0] == 'a' * 30
  assert load('rte', 10)[name].render(row).parts[0] == 'a' * 7 + '...'
  with pytest.raises(templates.Dropped, match='no label'):
    load('rte')[name].render(row | {'label': -1})


@pytest.mark.parametrize(
    'prompt, options, message',
    (
        ('{{ x }}', '{{ a }} ||| {{ b }}', 'depend on the row'),
        ('{{ x }}', 'True ||| False', r"options are \['True', 'False'\]"),
        ('{{ x }}', 'Yes ||| Maybe', 'options are'),
        ('{{ x }}', 'Yes', 'options are'),
        ('{{ x }}', 'Yes ||| yes', 'options are'),
        ('{{ x }}', 'Yes ||| No ||| Maybe ||| Never', 'options are'),
        ('{{ answer_choices | join(" or ") }}', 'Yes ||| No', 'inserts'),
    ),
)
def test_templates_that_cannot_be_relabelled(prompt, options, message):
  template = templates.Template(
      'my/set', 'title', prompt + '|||{{ answer_choices[0] }}', options
  )
  with pytest.raises(ValueError, match=f'my/set "title": .*{message}'):
    labels.relabelled(template)


def test_the_pairs():
  pairs = labels.read(labels.LABEL_PAIRS)
  assert len(pairs) == 20 and pairs[0] == AGREE
  words = [w for row in pairs for w in row.values()]
  assert len(set(words)) == 60  # So no pair appears twice, nor turned round.
  # None is in the five templates, where it would be taken for an option.
  literal = set()
  for name in DATASETS:
    chunks = next(iter(load(name).values())).chunks
    literal |= set(re.findall(r'\w+', ' '.join(chunks).lower()))
  assert {'yes', 'no', 'correct', 'enjoy'} <= literal
  assert not literal & set(words)
  assert all(re.fullmatch('[a-z]+', w) for w in words)


@pytest.mark.parametrize(
    'text, message',
    (
        ('yes,no\na,b\n', 'columns'),
        ('yes,no,maybe\na,b\n', 'line 2.*not three'),
        ('yes,no,maybe\na,b,c,d\n', 'line 2.*not three'),
        ('yes,no,maybe\na,,c\n', 'line 2.*not three'),
        ('yes,no,maybe\na,B,c\n', 'line 2.*not three'),
        ('yes,no,maybe\na,b,a\n', 'line 2.*a word appears twice'),
        ('yes,no,maybe\na,b,c\na,b,d\n', 'line 3.*yes and no appear twice'),
    ),
)
def test_pairs_that_are_refused(tmp_path, text, message):
  path = tmp_path / 'pairs.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    labels.read(path)
