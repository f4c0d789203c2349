"""Tests of the explanation and its plot, on values made by hand."""

import json
import pathlib
import re
import warnings

from flipped_t5x import colours
from flipped_t5x import terminal
from flipped_t5x.inference import explanation as explanation_lib
from matplotlib import figure
import numpy as np
import pytest


@pytest.fixture(name='explained')
def fixture_explained():
  return explanation_lib.Explanation(
      ('<extra_id_0>', ' Good', '?', '</s>'), ('yes', 'it costs $5 or $6'),
      np.array([[-0.5, -1, -2, 0], [-0.25, -4, -2, -1]], np.float32),
  )


def test_differences_from_the_mean(explained):
  assert explained.prediction == 'yes'
  np.testing.assert_array_equal(
      explained.differences, [[-0.125, 1.5, 0, 0.5], [0.125, -1.5, 0, -0.5]]
  )


def test_table(explained):
  assert explained.table() == '\n'.join((
      'token             yes  it costs $5 or $6  1st - 2nd',
      '<extra_id_0>  -0.5000            -0.2500    -0.2500',
      '▁Good         -1.0000            -4.0000    +3.0000',
      '?             -2.0000            -2.0000    +0.0000',
      '</s>           0.0000            -1.0000    +1.0000',
      'sum           -3.5000            -7.2500    +3.7500',
  ))


def test_words_have_the_option_that_makes_them_likelier(explained):
  """By 0.125 nats, 1.5, 0 and 0.5; a tenth of a nat is needed."""
  assert explained.words == [
      ('<extra_id_0>', 'it costs $5 or $6'), (' Good', 'yes'), ('?', None),
      ('</s>', 'yes'),
  ]


def test_shows_itself(explained):
  """The table in a terminal; in a notebook bars and coloured words."""
  assert repr(explained) == explained.table()
  page = explained._repr_html_()
  # Of the scores -3.5 and -7.25: 1 / (1 + exp(-3.75)) = 0.977.
  assert re.findall(r'<span>(.*?)</span> <span>(.*?)</span>', page) == [
      ('yes', '97.7 %'), ('it costs $5 or $6', '2.3 %')
  ]
  assert re.findall(r'class="bar" style="width: (.*?)"', page) == [
      '97.7%', '2.3%'
  ]
  first, second, *_ = colours.APART
  marks = re.findall(r'<mark title="(.*?)" style="--label: (.*?)">(.*?)</mark>',
                     page)
  assert marks == [
      ('it costs $5 or $6', second, '&lt;extra_id_0&gt;'),
      ('yes', first, ' Good'), ('yes', first, '&lt;/s&gt;'),
      # The legend.
      ('yes', first, 'yes'),
      ('it costs $5 or $6', second, 'it costs $5 or $6'),
  ]


def test_markup_in_options_and_tokens_is_text():
  markup = '"><img src=x onerror=alert(1)>'
  page = explanation_lib.Explanation(
      (markup,), (markup, 'no'), np.array([[-1], [-2]], np.float32)
  )._repr_html_()
  assert '<img' not in page and page.count('&#34;&gt;&lt;img') == 5


def test_json(explained):
  found = json.loads(json.dumps(explained.to_json()))
  assert found['prediction'] == 'yes'
  assert found['tokens'] == ['<extra_id_0>', ' Good', '?', '</s>']
  assert found['options'][0] == {
      'option': 'yes', 'log_prob': -3.5, 'token_log_probs': [-0.5, -1, -2, 0]
  }
  assert [o['log_prob'] for o in found['options']] == [-3.5, -7.25]


def test_plot_into_axes(explained):
  drawn = figure.Figure()
  axes = drawn.subplots()
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert explained.plot(axes) is drawn
    drawn.canvas.draw()
  image, = axes.images
  np.testing.assert_array_equal(image.get_array(), explained.differences)
  assert image.norm.vmin == -1.5 and image.norm.vmax == 1.5  # White is 0.
  names = [[t.get_text() for t in axis.get_ticklabels()]
           for axis in (axes.xaxis, axes.yaxis)]
  assert names == [
      ['<extra_id_0>', 'Good', '?', '</s>'], ['yes', 'it costs $5 or $6']
  ]
  assert not any(t.get_parse_math() for t in axes.get_yticklabels())
  shown = [t.get_text() for t in axes.texts]
  assert shown[:4] == ['−0.1', '+1.5', '+0.0', '+0.5']


def test_plot_of_many_tokens_has_no_numbers():
  many = explanation_lib.Explanation(
      tuple(f' {i}' for i in range(100)), ('a', 'b', 'c'),
      np.zeros((3, 100), np.float32),
  )
  axes = figure.Figure().subplots()
  many.plot(axes)
  assert not axes.texts


@pytest.mark.parametrize('name, start', (
    ('heat.png', b'\x89PNG'), ('heat.svg', b'<?xml'),
))
def test_plot_to_a_file(explained, tmp_path, name, start):
  path = tmp_path / name
  explained.plot(path)
  assert path.read_bytes().startswith(start)
  explained.plot(str(path))
  assert path.stat().st_size > 5000


def test_texts_of_tokens(tiny_vocabulary):
  text = '<extra_id_0> The film was very good? <extra_id_1> xyz'
  tokens = [*tiny_vocabulary.encode(text), 1]
  texts = explanation_lib.token_texts(tiny_vocabulary, tokens)
  assert len(texts) == len(tokens)
  assert texts[0] == '<extra_id_0>' and texts[-1] == '</s>'
  assert ''.join(texts[:-1]) == tiny_vocabulary.decode(tokens[:-1])
  assert texts[1].startswith(' ') and '<extra_id_1>' in ''.join(texts)


def test_columns_of_wide_characters():
  lines = terminal.aligned([('a', 'b'), ('日本', '1.0')]).splitlines()
  assert lines == ['a       b', '日本  1.0']
  assert terminal.shortened('one\n two', 7) == 'one two'
  assert terminal.shortened('one\n two', 6) == 'one t…'


def test_plot_is_written_whole_or_not_at_all(explained, tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  path.write_bytes(b'old')

  def fail(self, where, **unused_options):
    pathlib.Path(where).write_bytes(b'half')
    raise OSError('no room')

  monkeypatch.setattr(figure.Figure, 'savefig', fail)
  with pytest.raises(OSError, match='no room'):
    explained.plot(path)
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]
