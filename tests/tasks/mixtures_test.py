"""Mixtures: names, twins in other formats, shares, what is not trained on."""

from flipped_t5x.prompts import formats
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks.sources import pypi
import pytest

FOUR = {'paws/labeled_final', 'ag_news', 'imdb', 'cos_e/v1.11'}
EIGHT = FOUR | {'glue/qqp', 'dbpedia_14', 'rotten_tomatoes', 'social_i_qa'}
KEYS = {
    'demo': 2, 'demo_eval': 3, 'experiment_eval': 6, 'small': 9,
    'train_4': 4, 'train_8': 8, 'train': 20, 'nlp_eval': 14,
    'bigbench_eval': 21, 'label_generalization': 5,
}
EVALUATION = (
    'demo_eval', 'experiment_eval', 'nlp_eval', 'bigbench_eval',
    'label_generalization',
)


def test_names():
  assert set(mixtures.names()) == {
      f'{form}_{key}' for form in formats.FORMATS for key in KEYS
  }
  assert len(mixtures.names()) == 4 * 10


@pytest.mark.parametrize('key', KEYS)
def test_twins_differ_in_format_only(key):
  twins = {f: mixtures.mixture(f'{f}_{key}') for f in formats.FORMATS}
  flipped = twins['flipped']
  assert len(set(flipped.datasets)) == len(flipped.datasets) == KEYS[key]
  for form, twin in twins.items():
    assert twin.name == f'{form}_{key}'
    assert twin.format == form
    assert (twin.datasets, twin.cap, twin.evaluation) == (
        flipped.datasets, flipped.cap, flipped.evaluation
    )


@pytest.mark.parametrize('key', KEYS)
def test_datasets_of_the_role(key):
  roles = {
      catalog.dataset(name).role
      for name in mixtures.mixture(f'flipped_{key}').datasets
  }
  expected = {
      'demo_eval': {'demo', 'demo_eval'},
      'experiment_eval': {'demo', 'demo_eval'},
      'train_4': {'train'}, 'train_8': {'train'},
      'small': {'demo', 'train', 'extra'},
  }
  assert roles == expected.get(key, {key})


def test_ablations():
  assert set(mixtures.mixture('flipped_train_4').datasets) == FOUR
  assert set(mixtures.mixture('flipped_train_8').datasets) == EIGHT
  assert set(mixtures.mixture('flipped_train').datasets) > EIGHT


def test_shares_of_training():
  rates = mixtures.mixture('flipped_train').rates()
  assert len(rates) == 20
  assert rates['amazon_polarity'] == rates['yelp_review_full'] == 500_000.0
  assert rates['dbpedia_14'] == 500_000.0
  assert rates['glue/qqp'] == 363_846.0 and rates['qasc'] == 8_134.0
  # The sum of the published sizes, the three largest capped.
  assert sum(rates.values()) == 2_497_543.0
  assert mixtures.mixture('direct_train').rates() == rates


def test_shares_of_the_demo():
  mixture = mixtures.mixture('flipped_demo')
  assert mixture.cap == 10_000
  assert mixture.rates() == {
      'vader_sentiment': 8_479.0, 'vader_source': 10_000.0
  }
  assert mixtures.mixture('channel_demo').rates() == mixture.rates()
  assert mixtures.mixture('flipped_train').cap == catalog.CAP == 500_000


def test_shares_of_what_pypi_has():
  mixture = mixtures.mixture('flipped_small')
  datasets = [catalog.dataset(name) for name in mixture.datasets]
  assert len({d.cluster for d in datasets}) == 5
  rates = mixture.rates()
  assert rates['social_i_qa'] == 10_000.0  # 18 % of the draws.
  assert rates['commonsense_qa'] == 9_741.0
  assert rates['glue/mrpc_validation'] == 349.0
  assert sum(rates.values()) == 56_002.0
  for dataset in datasets:
    entries = dataset.package.split()
    known = [pypi.PACKAGES[e.partition(':')[0]].splits for e in entries]
    assert any(dataset.official_split('train') in splits for splits in known)


def test_what_pypi_has_is_not_evaluated_on():
  trained = mixtures.mixture('flipped_small').datasets
  for key in ('nlp_eval', 'bigbench_eval', 'label_generalization'):
    for name in mixtures.mixture(f'flipped_{key}').datasets:
      evaluated = catalog.dataset(name)
      assert not {name, evaluated.rows_of} & {*trained}
      for other in map(catalog.dataset, trained):
        assert not {*evaluated.package.split()} & {*other.package.split()}
        assert evaluated.hub != other.hub or not other.hub


def test_evaluation_of_the_demo_is_on_held_out_rows_of_it():
  trained = mixtures.mixture('flipped_demo').datasets
  for name in mixtures.mixture('flipped_experiment_eval').datasets:
    data = catalog.dataset(name)
    assert (data.rows_of or name) in trained
    assert data.eval_split == 'test'


@pytest.mark.parametrize('form', formats.FORMATS)
@pytest.mark.parametrize('key', EVALUATION)
def test_evaluation_is_not_trained_on(key, form):
  mixture = mixtures.mixture(f'{form}_{key}')
  assert mixture.evaluation
  with pytest.raises(
      ValueError, match=f'^{form}_{key} is for evaluation: .* zero-shot'
  ):
    mixture.rates()


@pytest.mark.parametrize('key', sorted(set(KEYS) - set(EVALUATION)))
def test_training_is_no_evaluation(key):
  mixture = mixtures.mixture(f'flipped_{key}')
  assert not mixture.evaluation
  for name, rate in mixture.rates().items():
    size = catalog.dataset(name).num_examples['train']
    assert rate == min(size, mixture.cap) > 0


def test_lists_of_datasets():
  mixture = mixtures.mixture('glue/mrpc,paws/labeled_final')
  assert mixture.name == 'glue/mrpc,paws/labeled_final'
  assert mixture.rates() == {'glue/mrpc': 3668.0, 'paws/labeled_final': 49401.0}
  assert mixture.format == 'flipped'
  assert mixtures.mixture('imdb').rates() == {'imdb': 25_000.0}
  several = mixtures.mixture('bigbench/winowhy,super_glue/cb')
  assert several.datasets == ('bigbench/winowhy', 'super_glue/cb')
  with pytest.raises(ValueError, match='bigbench/winowhy has no training spl'):
    several.rates()


@pytest.mark.parametrize(
    'name, message',
    (
        ('flipped_dmo', "'flipped_dmo'; nearest: .'flipped_demo'"),
        ('flipped_trian', "'flipped_trian'; nearest: .'flipped_train'"),
        ('drect_train', "'drect_train'; nearest: .'direct_train'"),
        ('glue/mrpc,glue/qpq', "'glue/qpq'; nearest: .'glue/qqp'"),
        ('glue/mrpc,', "no mixture or dataset ''"),
        ('', "no mixture or dataset ''"),
        ('zzz', "'zzz'; nearest: .*'flipped_train'"),  # Some that there are.
    ),
)
def test_unknown_names_give_the_nearest(name, message):
  with pytest.raises(ValueError, match=message):
    mixtures.mixture(name)


def test_lists_of_mixtures_and_datasets():
  both = mixtures.mixture('direct_train_4,commonsense_qa,imdb')
  assert both.datasets == (
      'paws/labeled_final', 'ag_news', 'imdb', 'cos_e/v1.11', 'commonsense_qa'
  )
  assert (both.format, both.cap, both.evaluation) == ('direct', 500_000, False)
  assert both.rates()['commonsense_qa'] == 9_741.0
  assert mixtures.mixture('flipped_train,flipped_nlp_eval').evaluation
  with pytest.raises(ValueError, match="formats .'direct', 'flipped'"):
    mixtures.mixture('direct_train,flipped_demo')
