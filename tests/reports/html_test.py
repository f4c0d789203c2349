"""The HTML page: what it may contain, and that all can read it."""

import re

import evaluated_runs as runs
from flipped_t5x import colours
from flipped_t5x.reports import html
from flipped_t5x.reports import plots as plots_lib
import report_page

EVIL = '<script>alert(1)</script> "--> | $x$ </svg> {{ 7 * 7 }}'


def test_names_are_text_and_nothing_else(tmp_path):
  tasks = {
      f'{EVIL}/one': runs.task({EVIL: 30, 'B': 20}),
      f'{EVIL}/two': runs.task(
          {'other': 30, EVIL: 20}, label_words={'other': [EVIL, 'no']}
      ),
  }
  path = runs.write(tmp_path / 'x', tasks, missing={'gone': EVIL})
  runs.change(path, 'settings', EVIL, value=EVIL)
  report_page.show(path)
  text = (tmp_path / 'x' / 'report.html').read_text()
  page = report_page.Page(text)
  assert '<script' not in text and '49' not in page.texts
  assert not {t for t, _ in page.tags} & {'script', 'iframe', 'object', 'img'}
  plain = ' '.join(EVIL.split())
  assert f'{plain}/one' in page.rows('Results by task')
  assert plain in page.rows(f'Templates of {plain}/one')
  assert page.rows('Settings')[plain]['value'] == plain
  # In the plots, too.
  assert sum(plain[:20] in t for t in page.texts) >= 2
  text = (tmp_path / 'x' / 'report.md').read_text()
  assert '<' not in re.sub(r'`[^`]*`', '', text)  # But for code.


def test_the_page_needs_nothing_else(shown):
  folder, _ = shown
  page = report_page.read(folder / 'report_nlp.html')
  for tag, attributes in page.tags:
    for key, value in attributes.items():
      if key in ('src', 'href', 'xlink:href', 'srcset', 'data', 'action'):
        assert value.startswith('#'), (tag, key, value)
        assert value[1:] in page.ids
      assert not key.startswith('on')
      for url in re.findall(r'url\(([^)]*)\)', value or ''):
        assert url.startswith('#') and url[1:] in page.ids
  text = (folder / 'report_nlp.html').read_text()
  assert '@import' not in text
  assert set(re.findall(r'https?://[^"<\s]*', text)) == {
      'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'
  }
  assert len(set(page.ids)) == len(page.ids)


def test_the_page_can_be_read_by_all(shown):
  folder, _ = shown
  text = (folder / 'report_nlp.html').read_text()
  page = report_page.Page(text)
  tags = [tag for tag, _ in page.tags]
  assert tags.count('title') == tags.count('h1') == 1
  assert page.texts[0] == 'first: Unseen NLP tasks'
  pictures = [a for tag, a in page.tags if tag == 'svg']
  assert len(pictures) == 5  # Accuracy, two reliabilities, two of training.
  assert all(a['role'] == 'img' and a['aria-label'] for a in pictures)
  assert all('width' not in a and 'viewbox' in a for a in pictures)
  links = [a['href'][1:] for tag, a in page.tags if tag == 'a']
  assert len(links) == 9 and set(links) <= set(page.ids)
  # Every colour of a plot has a value for light and for dark.
  drawn = re.findall(r'<svg .*?</svg>', text, re.DOTALL)
  for one in drawn:
    assert not re.findall(r'(?:fill|stroke): #\w+', one)
    for name in re.findall(r'var\(--([\w-]+)\)', one):
      assert name in colours.COLOURS
  for light, dark in colours.COLOURS.values():
    assert f': {light};' in text and f': {dark};' in text
  assert len({c for pair in colours.COLOURS.values() for c in pair}) == (
      2 * len(colours.COLOURS)
  )


def test_ids_of_plots_differ_in_a_page():
  log = [{'step': 1, 'likelihood': 1.0}, {'step': 2, 'likelihood': 0.5}]
  first, second = (
      html.svg(plots_lib.losses(log), name, 'Losses')
      for name in ('one', 'two')
  )
  ids = [set(re.findall(r' id="([^"]*)"', text)) for text in (first, second)]
  assert ids[0] and not ids[0] & ids[1]
