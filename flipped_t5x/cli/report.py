"""Show the results of a run as a table, report.md and plots.

Example:
  flipped-t5x report runs/demo
  flipped-t5x report runs/demo/results_flipped_nlp_eval.json
"""

import argparse
import pathlib

from flipped_t5x import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'run', type=pathlib.Path,
      help='folder of a run that eval has evaluated, or a results file in it',
  )


def run(arguments: argparse.Namespace) -> None:
  report.write(arguments.run)
