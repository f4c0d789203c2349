"""Show the results of runs as a table, an HTML page, Markdown and plots.

The files for one run are written beside its results. Several runs are compared
with the first of them, and the files are written into the current folder.

Example:
  flipped-t5x report output/demo
  flipped-t5x report output/demo/results_nlp.json
  flipped-t5x report gs://BUCKET/flipped_xl/eval
  flipped-t5x report output/flipped output/direct output/channel \\
    --output compared
"""

import argparse

from flipped_t5x.reports import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'runs', nargs='+', metavar='RUN',
      help='the folder of an evaluated run, a file of results in it, or the'
      ' output folder of t5x.eval or t5x.infer',
  )
  parser.add_argument(
      '--output', metavar='DIR_OR_FILE',
      help='another folder for the files, or a file for the page, ending in'
      ' .html; the other files are written beside it',
  )


def run(arguments: argparse.Namespace) -> None:
  report.write(arguments.runs, arguments.output)
