"""Write the training rows of a mixture as SeqIO caches them.

For T5X and SeqIO; templates and wrong options are still drawn anew, and the
embedded engine needs no cache. Stopped, the same command goes on where it was.
To read the cache: seqio.add_global_cache_dirs([DIR]) and use_cached=True; in
T5X --seqio_additional_cache_dirs=DIR.

Example:
  flipped-t5x cache flipped_train --output_cache_dir caches
  flipped-t5x cache direct_train --output_cache_dir caches \\
    --splits train,validation
  flipped-t5x cache flipped_train --output_cache_dir caches --check
"""

import argparse

from flipped_t5x.tasks import mixtures

# The defaults are those of `tasks/cache.py`, which needs TensorFlow.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'mixture', help='a training mixture, or datasets separated by commas'
  )
  parser.add_argument(
      '--output_cache_dir', required=True, metavar='DIR',
      help='local folder; each task has a folder in it',
  )
  parser.add_argument(
      '--splits', default='train', help='separated by commas; by default train'
  )
  parser.add_argument(
      '--num_shards', type=int, default=64,
      help='files for each split, by default 64; T5X reads best with at least'
      ' as many as there are hosts',
  )
  parser.add_argument(
      '--seed', type=int, default=42, help="of the rows' order, by default 42"
  )
  parser.add_argument(
      '--check', action='store_true',
      help='write nothing; compare what is there with the rows that the tasks'
      ' have now, and with its checksums',
  )


def run(arguments: argparse.Namespace) -> None:
  mixture = mixtures.mixture(arguments.mixture)
  datasets = mixture.rates()
  # Here, because TensorFlow takes seconds that no other command needs.
  from flipped_t5x.tasks import cache  # pylint: disable=g-import-not-at-top
  from flipped_t5x.tasks import registry  # pylint: disable=g-import-not-at-top

  tasks = [registry.train_task(d, format=mixture.format) for d in datasets]
  splits = arguments.splits.split(',')
  if arguments.check:
    caches = cache.verify(tasks, arguments.output_cache_dir, splits)
  else:
    try:
      caches = cache.write(
          tasks, arguments.output_cache_dir, splits, arguments.num_shards,
          arguments.seed,
      )
    except KeyboardInterrupt as e:
      raise KeyboardInterrupt(
          'interrupted; what is written stays, the same command goes on'
      ) from e
  for c in caches:
    print(
        f'{c["folder"]} {c["split"]}: {c["examples"]:,} rows in {c["shards"]}'
        f' shards, {c["written"]} written now'
    )
  for task in tasks:
    for split in set(splits) - set(task.splits):
      print(f'{task.name} has no split {split}')
