"""Data for the experiment's tests."""

import json

import demo_data
import pytest


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Small rows in place of the archive's, and a vocabulary for them."""
  folder = tmp_path_factory.mktemp('data')
  with pytest.MonkeyPatch.context() as patch:
    demo_data.cache_compilations(
        tmp_path_factory.getbasetemp() / 'compiled', patch
    )
    patch.setenv('FLIPPED_T5X_DATA', str(folder))
    patch.setenv('FLIPPED_T5X_SOURCES', 'local')
    patch.delenv('FLIPPED_T5X_CATALOG', raising=False)
    for name in ('vader_sentiment', 'vader_source'):
      for split, number in (('train', 60), ('validation', 2), ('test', 8)):
        path = folder / 'local' / name / f'{split}.jsonl'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(
            json.dumps({'text': f'row {i} of {split}', 'label': i % 2})
            + '\n'
            for i in range(number)
        ))
    yield folder
