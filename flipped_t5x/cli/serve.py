"""Serve a page and an API on this machine: rank, guess and explain.

The page ranks labels for a text, colours the words of the instruction by the
label that makes them likelier, guesses the instruction, and labels a table. It
needs the extra `serve`, and loads nothing from elsewhere.

Example:
  flipped-t5x serve output/demo
  flipped-t5x serve output/demo --host 0.0.0.0 --auth name:password
"""

import argparse
import importlib.util
import pathlib
import tempfile

from flipped_t5x import errors
from flipped_t5x.cli import rank
from flipped_t5x.cli import ranked_table
from flipped_t5x.cli import rows
from flipped_t5x.inference import model as model_lib
from flipped_t5x.tables import reading

MOST_ROWS = 10_000  # Of a table.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  rows.add_model_arguments(parser, 'checkpoint', metavar='MODEL')
  parser.add_argument(
      '--host', default='127.0.0.1',
      help='the address to listen on; by default only this machine can connect',
  )
  parser.add_argument(
      '--port', type=int, default=7860, help='by default %(default)s'
  )
  parser.add_argument(
      '--auth', metavar='NAME:PASSWORD', help='ask for a login'
  )


def run(arguments: argparse.Namespace) -> None:
  launch(arguments)


def launch(arguments: argparse.Namespace, wait: bool = True) -> object:
  """Loads the model and serves the page.

  Args:
    arguments: those of the command.
    wait: whether to serve until interrupted; else the server runs in threads.

  Returns:
    The page, whose `close` ends the server.
  """
  if importlib.util.find_spec('gradio') is None:
    raise errors.UserError(
        "serve needs Gradio: pip install -c constraints.txt -e '.[serve]'"
    )
  from flipped_t5x.serving import page as page_lib

  login = _login(arguments.auth)
  model = rows.load_model(arguments)
  page = page_lib.build(
      model, arguments.checkpoint, _table_ranker(arguments.checkpoint, model),
      lambda path: list(reading.read(pathlib.Path(path)).columns),
  )
  try:
    page.launch(
        server_name=arguments.host, server_port=arguments.port, auth=login,
        max_file_size=page_lib.MOST_BYTES, theme=page_lib.theme(),
        share=False, prevent_thread_lock=not wait, quiet=not wait,
        ssr_mode=False, footer_links=['api'],
    )
  except OSError as e:
    raise errors.UserError(
        f'--host {arguments.host} --port {arguments.port}: {e}'
    ) from e
  return page


def _login(auth: str | None) -> tuple[str, str] | None:
  if auth is None:
    return None
  name, _, password = auth.partition(':')
  if not name or not password:
    raise errors.UserError('--auth is a name and a password: NAME:PASSWORD')
  return name, password


def _table_ranker(checkpoint: str, model: model_lib.Model):
  """What labels the rows of a table for the page; see `page.RankTable`."""

  def rank_table(
      path: str, column: str, instruction: str, labels: list[str],
      threshold: float,
  ) -> str:
    source = pathlib.Path(path)
    number = sum(1 for _ in reading.read(source))
    if number > MOST_ROWS:
      raise errors.UserError(
          f'the table has {number:,} rows; {MOST_ROWS:,} can be labelled here,'
          ' and any number with flipped-t5x rank --table'
      )
    output = pathlib.Path(tempfile.mkdtemp()) / f'labelled_{source.name}'
    parser = argparse.ArgumentParser()
    rank.add_arguments(parser)
    ranked_table.run(
        parser.parse_args([
            f'--checkpoint={checkpoint}', f'--table={path}', f'--text={column}',
            f'--instruction={instruction}', f'--threshold={threshold}',
            f'--output_file={output}', *(f'--option={x}' for x in labels),
        ]),
        model,
    )
    return str(output)

  return rank_table
