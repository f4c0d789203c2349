"""The facts in catalog.csv: names, official numbers, templates, fields."""

import contextlib
import json
import pathlib

import demo_catalog
from flipped_t5x.prompts import templates
from flipped_t5x.tasks import catalog
import jinja2
from jinja2 import meta
import pytest

SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'

# Official numbers of training rows, and the templates that the recipe uses.
TRAINING = {
    'glue/qqp': (363846, 6), 'glue/mrpc': (3668, 5),
    'paws/labeled_final': (49401, 11), 'ag_news': (120000, 7),
    'dbpedia_14': (560000, 4), 'imdb': (25000, 11),
    'amazon_polarity': (3600000, 9), 'rotten_tomatoes': (8530, 10),
    'yelp_review_full': (650000, 7), 'app_reviews': (288065, 2),
    'cos_e/v1.11': (9741, 6), 'dream': (6116, 2), 'quail': (10246, 13),
    'quartz': (2696, 8), 'social_i_qa': (33410, 5), 'wiqa': (29808, 4),
    'cosmos_qa': (25262, 12), 'qasc': (8134, 8), 'quarel': (1941, 5),
    'sciq': (11679, 5),
}
# Of evaluation: official numbers of validation rows.
EVALUATION = {
    'anli/r1': (1000, 15), 'anli/r2': (1000, 15), 'anli/r3': (1200, 15),
    'super_glue/cb': (56, 15), 'super_glue/rte': (277, 10),
    'super_glue/wsc.fixed': (104, 10), 'winogrande/winogrande_xl': (1267, 6),
    'super_glue/wic': (638, 10), 'super_glue/copa': (100, 12),
    'hellaswag': (10042, 7), 'story_cloze/2016': (1871, 5), 'piqa': (1838, 7),
    'ai2_arc/ARC-Challenge': (299, 5), 'openbookqa/main': (500, 7),
}
BIGBENCH = {
    'code_line_description': 1, 'conceptual_combinations': 6,
    'hindu_knowledge': 1, 'known_unknowns': 1, 'language_identification': 1,
    'logic_grid_puzzle': 1, 'logical_deduction': 3, 'misconceptions': 1,
    'movie_dialog_same_or_different': 1, 'novel_concepts': 1, 'strategyqa': 1,
    'formal_fallacies_syllogisms_negation': 1, 'vitaminc_fact_verification': 1,
    'winowhy': 1,
}
SHIPPED = tuple(catalog.read(catalog.CATALOG))


def of_role(role):
  return [d for d in catalog.catalog().values() if d.role == role]


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
  return demo_catalog.isolate(tmp_path, monkeypatch)


def test_rows_of_the_catalog():
  datasets = catalog.catalog()
  for name, dataset in datasets.items():
    assert catalog.dataset(name) is dataset and dataset.name == name
    assert all(n > 0 for n in dataset.num_examples.values())
    source = catalog.dataset(dataset.rows_of) if dataset.rows_of else dataset
    assert dataset.eval_split in source.num_examples
    assert set(dataset.split_names) <= set(dataset.num_examples)
    # A commit, so that rows stay the same; the newest only where none is known.
    assert len(dataset.revision) in (0, 40)
    assert dataset.hub or not dataset.config
  # No line of the file is lost.
  lines = catalog.CATALOG.read_text().splitlines()
  assert len(lines) == len(datasets) + 1
  assert datasets['vader_source'].num_examples == {
      'train': 19753, 'validation': 935, 'test': 2759
  }


@pytest.mark.parametrize(
    'role, split, known',
    (('train', 'train', TRAINING), ('nlp_eval', 'validation', EVALUATION)),
)
def test_official_numbers(role, split, known):
  datasets = of_role(role)
  assert {
      d.name: (d.num_examples[split], len(d.load_templates())) for d in datasets
  } == known


def test_totals_of_templates():
  assert sum(number for _, number in TRAINING.values()) == 140
  # Anli's templates are the same for its three rounds.
  published = {d.templates: d for d in of_role('nlp_eval')}
  assert len(published) == 12
  assert sum(len(d.template_names()) for d in published.values()) == 109


def test_bigbench():
  datasets = of_role('bigbench_eval')
  clusters = [d.cluster for d in datasets]
  assert {c: clusters.count(c) for c in clusters} == BIGBENCH
  assert len(BIGBENCH) == 14
  for dataset in datasets:
    # It must never be trained on.
    assert set(dataset.num_examples) == {'test'} == {dataset.eval_split}
    assert dataset.limit is None  # Every example.
    assert dataset.package == dataset.name.replace('/', ':', 1)
    assert dataset.metric == 'accuracy'
    assert list(dataset.template_names()) == ['BIG-bench']  # Without its data.


def test_label_generalization():
  assert {
      (d.rows_of, d.templates.removeprefix('labels:'))
      for d in of_role('label_generalization')
  } == {
      ('super_glue/wsc.fixed', 'does the pronoun refer to'),
      ('super_glue/cb', 'can we infer'),
      ('super_glue/rte', 'MNLI crowdsource'),
      ('imdb', 'Reviewer Enjoyment Yes No'), ('paws/labeled_final', 'Meaning'),
  }
  for dataset in of_role('label_generalization'):
    original = catalog.dataset(dataset.rows_of)
    assert dataset.limit == 1000
    assert dataset.eval_split == original.eval_split
    name = dataset.templates.removeprefix('labels:')
    assert name in original.template_names()


def test_metrics():
  # Macro-F1 where the options are classes, accuracy where they are answers.
  classes = {
      'paraphrase identification', 'topic classification', 'sentiment',
      'natural language inference', 'word sense',
  }
  for dataset in (*of_role('train'), *of_role('nlp_eval')):
    if dataset.cluster != 'coreference':  # Winogrande has answers.
      assert (dataset.metric == 'macro-F1') == (dataset.cluster in classes)
  for dataset in of_role('label_generalization'):
    assert dataset.metric == catalog.dataset(dataset.rows_of).metric


@pytest.mark.parametrize('name', SHIPPED)
def test_fields_are_what_the_templates_read(name):
  dataset = catalog.dataset(name)
  kind = dataset.templates.partition(':')[0]
  if kind == 'bigbench':
    assert set(dataset.fields) == {'input', 'choices', 'label'}
    return
  if kind == 'labels':
    dataset = catalog.dataset(dataset.rows_of)
  environment = jinja2.Environment()
  environment.filters |= dict.fromkeys(('choice', 'most_frequent'), str)
  read = set()
  for template in dataset.load_templates().values():
    for source in (template.jinja, template.answer_choices):
      read |= meta.find_undeclared_variables(environment.parse(source))
  assert set(dataset.fields) == read - {'answer_choices', 'zip'}


@pytest.mark.parametrize(
    'name, options', (('vader_sentiment', 2), ('vader_source', 4))
)
def test_templates_of_the_demo(name, options):
  loaded = catalog.dataset(name).load_templates()
  assert len(loaded) == 10 if name == 'vader_sentiment' else len(loaded) >= 5
  for title, template in loaded.items():
    assert title == template.name and template.eligible
    rendered = template.render({'text': 'Some text.', 'label': options - 1})
    assert len(rendered.options) == len(set(rendered.options)) == options
    assert rendered.gold == options - 1
    assert 'Some text.' in rendered.prompt
    assert ''.join(template.chunks).strip()


@pytest.mark.parametrize(
    'name', [*TRAINING, *(n for n in EVALUATION if not n.startswith('anli'))]
)
def test_real_rows(name, monkeypatch):
  dataset = catalog.dataset(name)
  if not list((SHARED / name).glob(f'{dataset.eval_split}.jsonl.gz')):
    pytest.skip(f'no real rows: ../shared/data/{name} is absent')
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', str(SHARED))
  rows = dataset.open(dataset.eval_split)
  for template in dataset.load_templates().values():
    rendered = []
    for row in rows[0], rows[len(rows) // 2], rows[len(rows) - 1]:
      with contextlib.suppress(templates.Dropped):
        rendered.append(template.render(json.loads(row)))
    assert rendered or name in ('super_glue/copa',)  # Of one question type.


# The answers of these are among their options or in their prompts, too; wiqa
# has two templates that ask for another field.
_HIDDEN = ('sciq', 'sciq_validation', 'commonsense_qa', 'wiqa')


@pytest.mark.parametrize('name', SHIPPED)
def test_label_field_is_what_answers_alone_read(name):
  dataset = catalog.dataset(name)
  if dataset.templates.startswith(('bigbench', 'labels')):
    assert dataset.label == 'label' or dataset.rows_of
    return
  assert dataset.label in dataset.fields
  if name not in _HIDDEN:
    for template in dataset.load_templates().values():
      inferred = templates.Template(
          name, template.name, template.jinja, template.answer_choices
      )
      assert inferred._label_fields == {dataset.label}


@pytest.mark.parametrize(
    'name', [*TRAINING, *(n for n in EVALUATION if not n.startswith('anli'))]
)
def test_real_rows_without_a_label(name, monkeypatch):
  dataset = catalog.dataset(name)
  if not list((SHARED / name).glob(f'{dataset.eval_split}.jsonl.gz')):
    pytest.skip(f'no real rows: ../shared/data/{name} is absent')
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', str(SHARED))
  row = json.loads(dataset.open(dataset.eval_split)[0])
  for template in dataset.load_templates().values():
    assert template.has_label(row)
    for missing in ('', None, -1):
      with pytest.raises(templates.Dropped, match='^no label$'):
        template.render(row | {dataset.label: missing})
