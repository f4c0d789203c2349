"""Show the results of a run as a table, report.md and plots.

Example:
  flipped-t5x report output/demo
  flipped-t5x report output/demo/results_flipped_nlp_eval.json
  flipped-t5x report gs://BUCKET/flipped_xl/eval
"""

import argparse

from flipped_t5x import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'run',
      help='folder of a run that eval has evaluated, or a results file in it;'
      ' or the output folder of t5x.eval or t5x.infer',
  )


def run(arguments: argparse.Namespace) -> None:
  report.write(arguments.run)
