"""Where rows and templates come from, and what has changed."""

from flipped_t5x.tasks import origins

OLD = {
    'sha256': '1', 'sha256_of_templates': '2', 'rate': 3.0, 'templates': 'x:y',
    'files': ('/a', '/b'),
}


def test_changed():
  assert origins.changed({'a': OLD}, {'a': OLD}) == []
  # Other files with the same rows, and what earlier versions did not record.
  assert origins.changed({'a': OLD}, {'a': OLD | {'files': ('/c',)}}) == []
  assert origins.changed({'a': {'sha256': '1'}}, {'a': OLD}) == []
  assert origins.changed(
      {'a': OLD}, {'a': OLD | {'sha256': '0', 'sha256_of_templates': '0'}}
  ) == ['a has other rows and templates (/a, /b, x:y)']
  assert origins.changed({'a': OLD}, {'a': OLD | {'rate': 4.0}}) == [
      'a has other share of the mixture (/a, /b, x:y)'
  ]


def test_other_datasets():
  assert origins.changed({'a': {}, 'b': {}}, {'b': {}, 'c': {}}) == [
      'a is in the mixture only then', 'c is in the mixture only now'
  ]
