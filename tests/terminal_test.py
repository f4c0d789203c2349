"""Tests of terminal.py: columns and shortened names, by hand."""

from flipped_t5x import terminal
import pytest


@pytest.mark.parametrize('text, shown', (
    ('a\x1b[31mb', 'a\\x1b[31mb'),
    ('a\u202eb\u2066\ufeff', 'a\\u202eb\\u2066\\ufeff'),
    ('\x00\x7f\x9b\r', '\\x00\\x7f\\x9b\\r'),
    ('\ud800', '\\ud800'),
    ('ä\t中\n😀 \u200d e\u0301', 'ä\t中\n😀 \u200d e\u0301'),
))
def test_what_is_hidden_is_spelled_out(text, shown):
  assert terminal.visible(text) == shown
  assert terminal.visible({text: [text, 1]}) == {shown: [shown, 1]}


def test_columns():
  assert terminal.aligned([('option', 'x'), ('a', '10.5'), ('日本', '-1')]) == (
      'option     x\na       10.5\n日本      -1'
  )


@pytest.mark.parametrize('text, width, shown', (
    ('a  long\ntext', 20, 'a long text'),
    ('a long text', 11, 'a long text'),
    ('a long text', 7, 'a long…'),
))
def test_shortened(text, width, shown):
  assert terminal.shortened(text, width) == shown


@pytest.mark.parametrize('names, folder', (
    (['glue/mrpc', 'glue/qqp'], 'glue/'),
    (['glue/mrpc', 'super_glue/rte'], ''),
    (['imdb', 'glue/mrpc'], ''),
    (['a/b/c', 'a/b/d'], 'a/b/'),
    (['glue/mrpc'], ''),
))
def test_common_folder(names, folder):
  assert terminal.common_folder(names) == folder


def test_folded():
  assert terminal.folded('super_glue/wsc.fixed', 12) == (
      'super_glue/\n wsc.fixed'
  )
  assert terminal.folded('rte', 12) == 'rte'


def test_a_bar_that_is_not_shown(capsys):
  with terminal.progress_bar(3, 'row', shown=False) as bar:
    bar.update(3)
  assert capsys.readouterr().err == ''
