"""Datasets, mixtures and, where SeqIO is used, its tasks by name.

Importing this reads nothing and registers nothing. Once SeqIO is imported too,
before or after, `seqio.get_mixture_or_task('flipped_train')` makes what it is
asked for; see `registry.py`. The embedded engine uses neither.
"""

import wrapt


@wrapt.when_imported('seqio')
def _install(unused_seqio):
  from flipped_t5x.tasks import registry  # pylint: disable=g-import-not-at-top

  registry.install()
