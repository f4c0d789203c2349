"""The page in a browser."""

import importlib.util
import shutil

from flipped_t5x.inference import model as model_lib
import pytest
import served

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
pytestmark = [
    pytest.mark.serve, pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason='no Chromium is installed'),
    pytest.mark.skipif(
        importlib.util.find_spec('playwright') is None,
        reason='playwright is not installed: make test installs it',
    ),
]

TEXT, ASK = 'The old dog.', 'Is it a good dog?'
WORDS = ('old', 'red', 'small', 'cat', 'good', 'bad', 'very', 'house', 'film')


@pytest.fixture(name='browser', scope='module')
def fixture_browser():
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=BROWSER, args=['--no-sandbox', '--disable-gpu']
    )
    yield browser
    browser.close()


@pytest.fixture(name='url', scope='module')
def fixture_url(tiny_run):
  with served.url(tiny_run) as url:
    yield url


@pytest.fixture(name='opened')
def fixture_opened(browser, url):
  """Opens the page in a new tab; nothing may be loaded from elsewhere."""
  tabs, elsewhere = [], []

  def watch(request):
    if not request.url.startswith((url, 'data:', 'blob:')):
      elsewhere.append(request.url)

  def opened(**options):
    tab = browser.new_page(**options)
    tab.on('request', watch)
    tab.goto(url)
    tab.wait_for_selector('#text textarea')
    tabs.append(tab)
    return tab

  yield opened
  for tab in tabs:
    tab.close()
  assert not elsewhere


def ask(tab, labels, text=TEXT, instruction=ASK):
  for name, value in (
      ('text', text), ('instruction', instruction), ('labels', labels)
  ):
    tab.fill(f'#{name} textarea', value)
  tab.click('#rank')


def best(tab, label):
  """Waits until a label is the best."""
  tab.wait_for_selector(f'#figure li:first-child span:text-is("{label}")')


def test_the_order_changes_with_a_label_s_words(opened, tiny_run):
  model = model_lib.load(tiny_run)

  def first(*options):
    return model.rank(input=TEXT, instruction=ASK, options=options)[0].option

  winner = first('yes', 'no')
  loser = 'no' if winner == 'yes' else 'yes'
  reworded = next(w for w in WORDS if first(winner, w) == w)
  tab = opened()
  ask(tab, f'{winner}\n{loser}')
  best(tab, winner)
  tab.fill('#labels textarea', f'{winner}\n{reworded}')
  tab.click('#rank')
  best(tab, reworded)
  instruction = tab.locator('#figure p[aria-label=Instruction]')
  assert instruction.inner_text().count('dog') == 1


def test_two_tabs_at_once(opened, tiny_run):
  model = model_lib.load(tiny_run)
  tabs = [opened(), opened()]
  pairs = [WORDS[:2], WORDS[2:4]]
  for tab, pair in zip(tabs, pairs, strict=True):
    ask(tab, '\n'.join(pair))
  for tab, pair in zip(tabs, pairs, strict=True):
    best(tab, model.rank(input=TEXT, instruction=ASK, options=pair)[0].option)


def test_markup_is_text_and_mistakes_are_said(opened):
  tab = opened()
  tab.on('dialog', lambda dialog: pytest.fail(dialog.message))
  markup = '<img src=x onerror=alert(1)>'
  ask(tab, f'{markup}\n**bold**', text=f'{markup} <b>dog</b>')
  tab.wait_for_selector('#figure li')
  shown = tab.locator('#figure').inner_text()
  assert markup in shown and '**bold**' in shown
  assert not tab.locator('#figure img, #figure strong').count()
  ask(tab, 'one')
  tab.wait_for_function(
      'document.querySelector("#message textarea").value.includes("at least 2")'
  )


def test_a_template_is_picked_with_the_keyboard(opened):
  tab = opened()
  tab.focus('#template input')
  tab.keyboard.type('rotten_tomatoes: Reviewer Enjoyment Yes No')
  tab.keyboard.press('Enter')
  tab.wait_for_function(
      'document.querySelector("#labels textarea").value === "No\\nYes"'
  )
  assert tab.input_value('#instruction textarea').startswith('{{input}} Did')


@pytest.mark.parametrize('width', (390, 1280))
@pytest.mark.parametrize('scheme', ('light', 'dark'))
def test_narrow_and_wide_light_and_dark(width, scheme, opened):
  tab = opened(
      viewport={'width': width, 'height': 800}, color_scheme=scheme
  )
  assert tab.evaluate('document.documentElement.scrollWidth') <= width
  background = tab.evaluate(
      'getComputedStyle(document.body).backgroundColor'
  )
  level = int(background.removeprefix('rgb(').split(',')[0])
  assert (level < 60) == (scheme == 'dark'), background
  for name in ('text', 'instruction', 'labels'):  # Each has a label.
    assert tab.locator(f'#{name} label').inner_text().strip()
