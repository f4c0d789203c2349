"""The folder of a new task: a catalog, templates, rows, and what was done."""

from collections.abc import Iterator, Mapping
import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import re
import shlex
from typing import IO

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import structure
from flipped_t5x import terminal
from flipped_t5x.new_task import conversion
from flipped_t5x.new_task import instructions
from flipped_t5x.new_task import labels
from flipped_t5x.prompts import templates as templates_lib
from flipped_t5x.tasks import catalog
from flipped_t5x.tasks import mixtures
from flipped_t5x.tasks.sources import store

CATALOG, TEMPLATES, README = 'catalog.csv', 'templates.yaml', 'README.md'
COLUMNS = 'columns.json'
PRETRAINED = 'pypi:flan_t5_small_titles'
_FEW = 10  # Rows of a label, below which a warning is given.
_MOST_SHOWN = 8  # Words of a table's own labels.


@dataclasses.dataclass(frozen=True)
class Task:
  """A task that is written to a folder.

  Attributes:
    name: the dataset's name.
    folder: the folder, which does not exist yet.
    conversion: makes the rows.
    templates: name -> template.
  """

  name: str
  folder: pathlib.Path
  conversion: conversion.Conversion
  templates: Mapping[str, templates_lib.Template]

  @contextlib.contextmanager
  def written(self) -> Iterator[pathlib.Path]:
    """Writes the folder, which appears when the block ends without an error.

    Yields:
      Where it is meanwhile.

    Raises:
      UserError: a row is wrong, or too few rows are left.
    """
    with files.new_folder(self.folder) as folder:
      self._write_rows(folder / self.name)
      files.write(
          folder / TEMPLATES, instructions.to_yaml(self.name, self.templates)
      )
      self._write_catalog(folder / CATALOG)
      files.write_json(
          folder / COLUMNS, dataclasses.asdict(self.conversion.columns)
      )
      files.write(folder / README, self._readme())
      yield folder

  def _write_rows(self, folder: pathlib.Path) -> None:
    folder.mkdir()
    held_out = None
    for _ in range(2):
      with contextlib.ExitStack() as stack:
        opened: dict[str, IO[str]] = {}
        for split, row in self.conversion.rows(held_out):
          if split not in opened:
            opened[split] = stack.enter_context(
                open(folder / f'{split}.jsonl', 'w', encoding='utf-8')
            )
          opened[split].write(json.dumps(row, ensure_ascii=False) + '\n')
      converted = self.conversion.converted
      if 'test' in converted.kept:
        break
      held_out = converted.lowest  # Of few rows, none may be held out by hash.
    if not {'train', 'test'} <= converted.kept.keys():
      dropped = ''.join(
          f'; {n} dropped: {why}' for why, n in converted.dropped.items()
      )
      raise errors.UserError(
          f'{self.conversion.table.name}: of {converted.rows} rows, too few are'
          ' left to train on some and hold out others: two different texts with'
          f' a label are the least{dropped}'
      )

  def _write_catalog(self, path: pathlib.Path) -> None:
    columns = self.conversion.columns
    fields = [*columns.fields.values(), instructions.LABEL]
    if columns.options:
      fields.append(instructions.OPTIONS)
    with open(path, 'w', encoding='utf-8', newline='') as f:
      # No numbers of rows: rows can be added to the files.
      writer = csv.writer(f, lineterminator='\n')
      writer.writerow(('name', 'templates', 'eval_split', 'fields', 'label'))
      writer.writerow((
          self.name, f'file:{TEMPLATES}', 'test', ' '.join(fields),
          instructions.LABEL,
      ))

  def warnings(self) -> list[str]:
    """What the user should know before training, one sentence each."""
    converted, found = self.conversion.converted, []
    for why, number in converted.dropped.items():
      found.append(f'{number:,} of {converted.rows:,} rows dropped: {why}')
    if converted.two_labels:
      shown = '; '.join(terminal.shortened(t, 60) for t in converted.shown)
      found.append(
          f'texts that stand there with two labels: {converted.two_labels:,}'
          f' (all kept), such as: {shown}'
      )
    kind = self.conversion.kind
    if isinstance(kind, labels.Words):
      found += [
          *self._named(kind),
          *self._rare(kind),
          *(
              ['the labels are numbers; words tell a model more: --labels'
               f' "{kind.words[0]}=...,{kind.words[1]}=..."']
              if all(re.fullmatch(r'[-+\d.,]+', w) for w in kind.words) else []
          ),
      ]
    return found

  def _named(self, kind: labels.Words) -> Iterator[str]:
    if kind.of_table:
      pairs = [f'{v}={kind.words[n]}' for v, n in kind.numbers.items()]
      more = ', ...' * (len(pairs) > _MOST_SHOWN)
      yield (
          "the labels have the names that the file's features give them:"
          f' {", ".join(pairs[:_MOST_SHOWN])}{more}; --labels gives others'
      )

  def _rare(self, kind: labels.Words) -> Iterator[str]:
    kept = self.conversion.converted.kept
    for word in kind.words:
      number = sum(split[word] for split in kept.values())
      if number < _FEW:
        yield (
            f'the label {word!r} has only {number}'
            f' {"row" if number == 1 else "rows"}'
        )
      elif not kept['test'][word]:
        yield f'no held-out row has the label {word!r}'

  def counts(self) -> str:
    """A table of the rows of each split and label, for people."""
    kept = self.conversion.converted.kept
    split_names = [s for s in store.SPLITS if s in kept]
    names = dict.fromkeys(w for s in split_names for w in sorted(kept[s]))
    if isinstance(self.conversion.kind, labels.Words):
      names = dict.fromkeys(self.conversion.kind.words)
    lines = [
        (terminal.shortened(name, 40), [kept[s][name] for s in split_names])
        for name in names
    ]
    lines.append(('all', [kept[s].total() for s in split_names]))
    return terminal.aligned([
        ('label', *split_names),
        *((name, *(f'{n:,}' for n in numbers)) for name, numbers in lines),
    ])

  def commands(self) -> list[str]:
    """What to do next: train a model, and label a table with it."""
    folder = shlex.quote(str(self.folder))
    suffix = self.conversion.table.suffix
    if suffix == '.xlsx':  # It is read, but not written.
      suffix = '.csv'
    return [
        f'flipped-t5x train {folder} --from {PRETRAINED}',
        f'flipped-t5x rank --checkpoint {folder}/run --task {folder}'
        f' --table TABLE{suffix} --output_file labelled{suffix}',
    ]

  def _readme(self) -> str:
    """What was done; what comes from the table stands in indented blocks."""
    made, columns = self.conversion, self.conversion.columns
    listed = [
        f'table     {made.table.name}',
        *(f'text      {c} -> {f}' for c, f in columns.fields.items()),
        f'label     {columns.label}',
        *(f'option    {c}' for c in columns.options),
    ]
    if isinstance(made.kind, labels.Words):
      listed += [
          f'{value} -> {made.kind.words[n]}'
          for value, n in made.kind.numbers.items()
      ]
    return '\n'.join([
        f'# {self.name}', '',
        'A task for flipped_t5x, written by `flipped-t5x new` from these'
        ' columns:', '', _block(listed), '',
        'Instructions, as they stand in `templates.yaml`:', '',
        _block([t.jinja for t in self.templates.values()]), '',
        'Rows of each split and label. A hash of the words of the first text'
        ' decides on\nthe split, so that no such text is in two of them:', '',
        _block(self.counts().splitlines()), '',
        *(
            ['To be noted:', '', _block(self.warnings()), '']
            if self.warnings() else []
        ),
        'Rows can be added to the files, and instructions to'
        ' `templates.yaml`; the'
        ' catalog\nneeds no change. To train a model, and to label other tables'
        ' of these columns:', '',
        _block(self.commands()), '',
        'The other commands know the task after', '',
        _block([
            'export FLIPPED_T5X_CATALOG="$PWD/catalog.csv"'
            ' FLIPPED_T5X_SOURCES="$PWD/,local,pypi,hub"'
        ]), '', 'in this folder.', '',
    ])


def _block(lines: list[str]) -> str:
  """An indented block of Markdown, in which nothing has a meaning."""
  return '\n'.join(
      '    ' + ' '.join(terminal.visible(line).split('\n')) for line in lines
  )


def read_columns(folder: pathlib.Path) -> conversion.Columns:
  """The columns of the tables of a folder that `flipped-t5x new` has written.

  Raises:
    UserError: it is no such folder, or the file is damaged.
  """
  path = _of_new(folder / COLUMNS)
  found = files.read_json(path)
  structure.check(found, 'columns', str(path), 'make the folder again')
  return conversion.Columns(**found)


def datasets(folder: pathlib.Path) -> list[str]:
  """The datasets of a task's folder, for which it is made known.

  Sets the variables of the environment that other commands read.

  Raises:
    UserError: the folder has no catalog, or the catalog is damaged.
  """
  found = catalog.read(_of_new(folder / CATALOG))
  os.environ.update(environment(folder))
  return list(found)


def _of_new(path: pathlib.Path) -> pathlib.Path:
  """A file of a folder that `flipped-t5x new` has written, if it is there."""
  if not path.is_file():
    raise errors.UserError(
        f'{path} is not found: `flipped-t5x new` makes such a folder of a table'
    )
  return path


def environment(folder: pathlib.Path) -> dict[str, str]:
  """The variables that make a task's folder known to all commands."""
  absolute = folder.absolute()
  return {
      'FLIPPED_T5X_CATALOG': str(absolute / CATALOG),
      'FLIPPED_T5X_SOURCES': f'{absolute}/,local,pypi,hub',
  }


def default_name(stem: str) -> str:
  """A dataset's name made of that of a file; a name that is free."""
  name = re.sub(r'\W+', '_', stem.lower(), flags=re.ASCII).strip('_') or 'task'
  if name in catalog.catalog() or name in mixtures.names():
    return f'my_{name}'
  return name


def check_name(name: str) -> None:
  """Raises `UserError` if a dataset cannot have this name."""
  if not re.fullmatch(r'\w[\w.-]*', name, flags=re.ASCII):
    raise errors.UserError(
        f'--name: {name!r} must be of letters, digits, - and _'
    )
  if name in catalog.catalog() or name in mixtures.names():
    raise errors.UserError(
        f'--name: {name!r} is the name of a dataset or mixture already'
    )
