"""A page of `flipped-t5x serve` for tests."""

import argparse
import contextlib
import socket

from flipped_t5x.cli import serve


def arguments(*argv) -> argparse.Namespace:
  """The arguments of the command."""
  parser = argparse.ArgumentParser()
  serve.add_arguments(parser)
  return parser.parse_args([*map(str, argv)])


def free_port() -> int:
  """A port that nothing listens on."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


@contextlib.contextmanager
def url(run, *argv):
  """The address of a page that serves a run."""
  port = free_port()
  page = serve.launch(arguments(run, '--port', port, *argv), wait=False)
  try:
    yield f'http://127.0.0.1:{port}'
  finally:
    page.close()
