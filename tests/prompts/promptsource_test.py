"""Promptsource's templates: rendered as plain Jinja renders them."""

import collections
import functools
import gzip
import json
import pathlib
import random
import re

from flipped_t5x.prompts import formats
from flipped_t5x.prompts import templates
import jinja2
import pytest

# Eligible templates of the published recipe: 20 training sets, 12 for testing.
TRAINING = {
    'glue/qqp': 6, 'paws/labeled_final': 11, 'glue/mrpc': 5, 'ag_news': 7,
    'dbpedia_14': 4, 'imdb': 11, 'amazon_polarity': 9, 'rotten_tomatoes': 10,
    'yelp_review_full': 7, 'cos_e/v1.11': 6, 'dream': 2, 'quail': 13,
    'quartz': 8, 'social_i_qa': 5, 'wiqa': 4, 'cosmos_qa': 12, 'qasc': 8,
    'quarel': 5, 'sciq': 5, 'app_reviews': 2,
}
EVALUATION = {
    'anli': 15, 'super_glue/cb': 15, 'super_glue/rte': 10,
    'super_glue/wsc.fixed': 10, 'winogrande/winogrande_xl': 6,
    'super_glue/wic': 10, 'super_glue/copa': 12, 'hellaswag': 7,
    'story_cloze/2016': 5, 'piqa': 7, 'ai2_arc/ARC-Challenge': 5,
    'openbookqa/main': 7,
}
DATASETS = (*TRAINING, *EVALUATION)
SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
PIPES = '\ue000'  # Stands for a `|||` of the data while Jinja renders.
RNG = random.Random()


# The oracle: promptsource's `Template.apply`, as plain Jinja.


@functools.cache
def plain_jinja(source):
  env = jinja2.Environment()
  env.globals['zip'] = zip
  # With the context, or Jinja would draw once, when it compiles.
  env.filters['choice'] = jinja2.pass_context(lambda _, v: RNG.choice(v))
  env.filters['most_frequent'] = lambda values: [
      v for v, n in collections.Counter(values).most_common()
      if n == collections.Counter(values).most_common(1)[0][1]
  ]
  return env.from_string(source)


def plain_render(source, fields, seed):
  """Renders; the data's `|||` do not count when the text is split."""
  RNG.seed(seed)
  text = plain_jinja(source).render(
      json.loads(json.dumps(fields).replace('|||', '\\ue000'))
  )
  return [p.strip().replace(PIPES, '|||') for p in text.split('|||')]


def expected(template, row, seed):
  """(prompt, options, gold), or why the row has to be dropped."""
  if row.get('label') == -1:
    return 'no label'
  options = plain_render(template.answer_choices, row, seed)
  prompt, *answer = plain_render(
      template.jinja, dict(row, answer_choices=options), seed
  )
  if not answer:
    return 'template does not apply'
  if len(set(options)) < len(options):
    return 'equal options'
  answer, = answer
  if template.name == 'Negation template for positive and negative':
    answer = answer.removesuffix(' review.')  # The only option with more text.
  if answer not in options:
    return 'answer is not an option' if answer else 'no answer'
  return prompt, tuple(options), options.index(answer)


def squeeze(text):
  return ''.join(text.split())


def check(template, row, seed):
  """Compares with the oracle; returns what was rendered, None if dropped."""
  want = expected(template, row, seed)
  if isinstance(want, str):
    with pytest.raises(templates.Dropped, match=f'^{want}$'):
      template.render(row, seed)
    return None
  rendered = template.render(row, seed)
  assert (rendered.prompt, rendered.options, rendered.gold) == want, template
  texts = [formats.flipped(rendered, o) for o in rendered.options]
  instance, targets = ' '.join(texts[0].instance), texts[0].targets
  for option, text in zip(rendered.options, texts, strict=True):
    assert text.inputs == f'{instance}\noutput: {option}'
    assert text.targets == targets
  nothing, *pieces = re.split('<extra_id_([0-9]+)>', targets)
  assert not nothing
  assert pieces[::2] == [str(k) for k in range(len(template.chunks))]
  put_back = re.sub(
      '<extra_id_([0-9]+)>', lambda m: pieces[2 * int(m[1]) + 1],
      instance.removeprefix('input:'),
  )
  assert squeeze(put_back) == squeeze(want[0]), template
  return rendered


@functools.cache
def invented_rows():
  rows = collections.defaultdict(list)
  path = pathlib.Path(__file__).parents[1] / 'testdata' / 'rows.jsonl'
  for line in path.read_text('utf-8').splitlines():
    entry = json.loads(line)
    rows[entry['dataset']].append(entry['row'])
  return rows


@pytest.mark.parametrize('dataset', DATASETS)
def test_eligible_templates(dataset):
  loaded = templates.load(dataset)
  assert len(loaded) == {**TRAINING, **EVALUATION}[dataset]
  for name, template in loaded.items():
    assert (template.dataset, template.name) == (dataset, name)
    assert template.eligible
    assert 1 <= len(template.chunks) <= 9


def test_totals():
  assert sum(len(templates.load(d)) for d in TRAINING) == 140
  assert sum(len(templates.load(d)) for d in EVALUATION) == 109


@pytest.mark.parametrize('dataset', DATASETS)
def test_invented_rows_as_plain_jinja(dataset):
  for template in templates.load(dataset).values():
    seen = set()
    for seed, row in enumerate(invented_rows()[dataset]):
      rendered = check(template, row, seed)
      seen.update(rendered.parts if rendered else ())
    # Every branch of the template was taken by some row.
    assert seen >= set(range(len(template.chunks))), template


@pytest.mark.parametrize('dataset', DATASETS)
def test_real_rows_as_plain_jinja(dataset):
  files = sorted((SHARED / dataset).glob('*.jsonl.gz'))
  if not files:
    pytest.skip(f'no real rows: ../shared/data/{dataset} is absent')
  rows = []
  for file in files:
    lines = gzip.decompress(file.read_bytes()).splitlines()
    rows += [json.loads(x) for x in lines[:: len(lines) // 13 + 1]]
  assert len(rows) <= 40
  for template in templates.load(dataset).values():
    checked = [check(template, r, i) for i, r in enumerate(rows)]
    assert any(checked), template


# Files in promptsource's form.


YAML = '''\
dataset: my
subset: set
templates:
  1: !Template
    name: ' good '
    jinja: a {{x}} ||| no
    answer_choices: no ||| yes
    metadata: !TemplateMetadata {metrics: [Accuracy, Other]}
  2: !Template
    name: not accuracy
    jinja: a ||| no
    answer_choices: no ||| yes
    metadata: !TemplateMetadata {metrics: [BLEU]}
  3: !Template
    name: no choices
    jinja: a ||| no
    answer_choices: null
    metadata: !TemplateMetadata {metrics: [Accuracy]}
'''


def test_load_file(tmp_path):
  path = tmp_path / 'templates.yaml'
  path.write_text(YAML)
  loaded = templates.load_file(path)
  assert [repr(t) for t in loaded.values()] == ['my/set "good"']
  assert loaded['good'].metrics == ('Accuracy', 'Other')


@pytest.mark.parametrize(
    'old, new, message',
    (
        ('||| yes', '||| no', "4: my/set \"good\": option 'no' appears twice"),
        ('a {{x}}', 'a {{x', '4: my/set "good": expected'),
    ),
)
def test_bad_template_of_a_file(tmp_path, old, new, message):
  path = tmp_path / 'templates.yaml'
  assert old in YAML
  path.write_text(YAML.replace(old, new))
  with pytest.raises(ValueError) as error:
    templates.load_file(path)
  assert str(error.value).startswith(f'{path}, line {message}')


def test_no_eligible_template(tmp_path):
  path = tmp_path / 'templates.yaml'
  path.write_text(YAML.replace('Accuracy', 'ROUGE'))
  with pytest.raises(ValueError, match=f'^{path}: no template has answer'):
    templates.load_file(path)


def test_same_name_twice(tmp_path):
  path = tmp_path / 'templates.yaml'
  second = YAML.replace('not accuracy', 'good').replace('BLEU', 'Accuracy')
  path.write_text(second)
  with pytest.raises(ValueError, match='my/set "good" appears twice'):
    templates.load_file(path)


def test_unknown_dataset():
  with pytest.raises(ValueError, match="no 'glue/qpq'; nearest: .'glue/qqp'"):
    templates.load('glue/qpq')
