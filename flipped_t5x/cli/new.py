"""Make a task of a table of your own texts and labels.

It reads CSV, TSV, JSON lines, Parquet, an Excel sheet or a dataset of the
Hugging Face hub, shows rows as the encoder and the decoder will see them, and
writes a folder with a catalog, templates and rows, some of them held out. What
is not given is asked for, in a terminal.

Example:
  flipped-t5x new reviews.csv --text review --label stars \\
    --labels "1=negative,2=negative,4=positive,5=positive" \\
    --instruction "{{text}} Is this review positive or negative?"
  flipped-t5x new pairs.jsonl --text premise --text hypothesis --label label
  flipped-t5x new quiz.parquet --text question --options A,B,C,D --label answer
"""

import argparse
import pathlib
import re
import sys

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import terminal
from flipped_t5x import vocabulary_files
from flipped_t5x.inspection import inspect_mixture
from flipped_t5x.new_task import conversion
from flipped_t5x.new_task import folder as folder_lib
from flipped_t5x.new_task import instructions
from flipped_t5x.new_task import labels
from flipped_t5x.new_task import preview
from flipped_t5x.new_task import questions
from flipped_t5x.tables import reading
from flipped_t5x.tasks.sources import hub
from flipped_t5x.tasks.sources import store
import rich.console
import rich.text

_HUB_NAME = re.compile(r'[\w.-]+(/[\w.-]+)?')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      'table', metavar='TABLE',
      help=f'a file ({", ".join(reading.SUFFIXES)}), or a dataset of the hub',
  )
  parser.add_argument(
      '--text', action='append', metavar='COLUMN',
      help='a column of texts; repeat it, or separate several by commas. Rows'
      ' are held out by the first',
  )
  parser.add_argument('--label', metavar='COLUMN', help='the label')
  parser.add_argument(
      '--labels', metavar='VALUE=WORD,...',
      help='words for the values of the label; rows with other values are'
      ' dropped; by default the names that the file gives them, or the values',
  )
  parser.add_argument(
      '--options', action='append', metavar='COLUMN',
      help='multiple choice: the columns of the options, repeated or separated'
      ' by commas; or one column of lists',
  )
  parser.add_argument(
      '--first_option', type=int, choices=(0, 1),
      help='multiple choice: whether labels count the options from 0 or 1',
  )
  parser.add_argument(
      '--instruction', action='append', metavar='TEXT',
      help='with {{text}} for the text, or {{COLUMN}} where there are several;'
      ' without, the texts come first. Repeat it for several wordings; by'
      ' default three general ones',
  )
  parser.add_argument('--name', help="the task's name; by default the file's")
  parser.add_argument(
      '--folder', metavar='DIR', help="a new folder; by default the task's name"
  )
  _add_reading_arguments(parser)


def _add_reading_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--encoding', default=reading.UTF8, help='of CSV and TSV (default utf-8)'
  )
  parser.add_argument('--sheet', help='of Excel; by default the first')
  parser.add_argument('--config', default='default', help='of the hub')
  parser.add_argument('--split', default='train', help='of the hub')
  parser.add_argument(
      '--revision', default='', help='a commit, branch or tag of the hub'
  )
  parser.add_argument(
      '--vocabulary', metavar='FILE',
      help='a SentencePiece file, or the folder of a run, to show rows with; by'
      f" default what {vocabulary_files.VARIABLE} says, or T5's own",
  )
  for side, tokens in (('input', 384), ('target', 64)):
    parser.add_argument(
        f'--{side}_length', type=int, metavar='TOKENS', default=tokens,
        help=f'the length to show rows with (default {tokens})',
    )
  parser.add_argument(
      '--examples', type=int, default=5, metavar='N',
      help='rows to show (default 5)',
  )


def run(arguments: argparse.Namespace) -> None:
  name, folder = _destination(arguments)
  table = _table(arguments)
  answers = _answers(arguments, table)
  settings = inspect_mixture.Settings(
      vocabulary_files.find(arguments.vocabulary), arguments.input_length,
      arguments.target_length,
  )
  task = _task(name, folder, table, answers, arguments.first_option)
  with task.written() as unfinished:
    measured = preview.measure(task, unfinished, settings, arguments.examples)
  console = rich.console.Console()
  preview.show(name, measured, settings, console)
  print(f'\n{terminal.visible(task.counts())}\n')
  for warning in [*task.warnings(), *preview.warnings(measured, settings)]:
    console.print(rich.text.Text(f'Note: {terminal.visible(warning)}'))
  print(f'{folder} written. To train a model, and to label a table with it:\n')
  for command in task.commands():
    print(f'  {command}')


def _destination(arguments: argparse.Namespace) -> tuple[str, pathlib.Path]:
  """The task's name, and its folder, which does not exist yet."""
  name = arguments.name
  if name is None:
    name = folder_lib.default_name(
        pathlib.PurePath(arguments.table).name.split('.')[0]
    )
  folder_lib.check_name(name)
  folder = files.local_path(arguments.folder or name, '--folder')
  if folder.exists():
    raise errors.UserError(f'{folder} is there already: give another --folder')
  if ',' in str(folder.absolute()):  # FLIPPED_T5X_SOURCES has commas.
    raise errors.UserError(f'{folder.absolute()}: a folder without a comma')
  return name, folder


def _table(arguments: argparse.Namespace) -> reading.Table:
  """The file, or the Parquet files of the hub."""
  path = files.local_path(arguments.table, 'TABLE')
  if path.exists() or not _HUB_NAME.fullmatch(arguments.table) or (
      arguments.table.lower().endswith(reading.SUFFIXES)
  ):
    return reading.read(path, arguments.encoding, arguments.sheet)
  try:
    _, paths = hub.fetch(
        arguments.table, arguments.config, arguments.split, arguments.revision
    )
  except store.Missing as e:
    raise errors.UserError(
        f'{arguments.table} is no file here; on the hub: {e}'
    ) from e
  return reading.of_parquet(arguments.table, paths)


def _answers(
    arguments: argparse.Namespace, table: reading.Table
) -> questions.Answers:
  """What the flags say, and answers to what they leave out."""
  known = questions.Answers(
      questions.columns_of(arguments.text, table, '--text'),
      arguments.label,
      questions.columns_of(arguments.options, table, '--options'),
      labels.parse(arguments.labels) if arguments.labels else {},
      arguments.instruction or (),
  )
  if known.texts and known.label is not None:
    return known
  return questions.ask(table, known, sys.stdin.isatty())


def _task(
    name: str,
    folder: pathlib.Path,
    table: reading.Table,
    answers: questions.Answers,
    first_option: int | None,
) -> folder_lib.Task:
  columns = conversion.Columns(answers.texts, answers.label, answers.options)
  columns.check(table)
  kind = conversion.kind_of(table, columns, answers.words, first_option)
  words = kind.words if isinstance(kind, labels.Words) else None
  wordings = answers.instructions or instructions.general(
      columns.fields, columns.label, words
  )
  return folder_lib.Task(
      name, folder, conversion.Conversion(table, columns, kind),
      instructions.sources(wordings, columns.fields, words),
  )
