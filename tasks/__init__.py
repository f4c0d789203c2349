"""Datasets, mixtures and, where SeqIO is used, its tasks by name.

Importing this reads nothing and registers nothing. Once SeqIO is imported too,
before or after, `seqio.get_mixture_or_task('flipped_train')` makes what it is
asked for; see `registry.py`. The embedded engine uses neither.
"""

import importlib

import wrapt


@wrapt.when_imported('seqio')
def _install(unused_seqio):
  # It installs itself at its end, which is yet to come if it is what imports
  # SeqIO.
  importlib.import_module('flipped_t5x.tasks.registry')
