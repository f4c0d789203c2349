"""Templates that would run for ever or fill the memory end with an error."""

import time

from flipped_t5x.prompts import jinja_chunks
from flipped_t5x.prompts import render_limits
from flipped_t5x.prompts import templates
import pytest

LARGE = 'it makes a text or list of more than 4,000,000 elements'
DEEP = 'it is nested too deeply'
LATE = 'one row takes more than 0.2 seconds'
LOOPS = '{% for i in range(99999) %}{% for j in range(99999) %}'
END = '{% endfor %}{% endfor %}'
SETS = (
    '{% set a = "a" %}' + '{% set a = a ~ a %}' * 60,
    '{% set a = [1, 1] %}' + '{% set a = [a, a] %}' * 60,
    '{% set a = {1: 1} %}' + '{% set a = {1: a, 2: a} %}' * 60,
    '{% set a = "a" %}' + '{% set a = a + a %}' * 60,
)

HOSTILE = (
    *((f'{{{{ {expression} }}}}', LARGE) for expression in (
        '"a" * 10 ** 10', '10 ** 10 * "a"', '[x, x] * 10 ** 9',
        '"a"' + '| replace("a", "aaaa")' * 40,
        'x' + '.replace("X", "XXXX")' * 40,
        '"x".join(range(99999) | map("replace", "1", "2" * 99999))',
        'range(99999) | map("replace", "1", "2" * 99999) | join',
        'range(99999) | map("replace", "1", "2" * 99999) | list',
        'range(99999) | map("replace", "1", "2" * 99999) | sort | first',
        'zip(*[range(9999)] * 999) | list',
    )),
    *((f'{sets}{{{{ a }}}}', f'({LATE}|{LARGE})') for sets in SETS),
    (f'{LOOPS}word {END}', f'({LATE}|{LARGE})'),
    (f'{LOOPS}{END}', LATE),
    (f'{LOOPS[:-3]} if j > 99999 %}}{END}', LATE),
    ('{{ "a" | center(10 ** 10) }}', "No filter named 'center'"),
    ('{{ "a" | wordwrap(1, wrapstring="b" * 9) }}', "No filter named 'wordw"),
    ('{{ lipsum(n=10 ** 7) }}', "'lipsum' is undefined"),
    ('{{ "%1000000000d" | format(1) }}', 'it formats .* a large width'),
    ('{{ "%*d" | format(10 ** 9, 1) }}', 'it formats .* a large width'),
    ('{{ "%1000000000d" % 1 }}', 'a text cannot be formatted with %'),
    ('{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}', 'an integer of more than 10,000 bits'),
    ('{% set a = 3 ** 999 %}' + '{% set a = a * a %}' * 40,
     'an integer of more than 10,000 bits'),
    ('{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}',
     'Jinja Macro is not allowed'),
    ('{% for i in x recursive %}{{ loop(x) }}{% endfor %}', 'a recursive loop'),
    ('{{' + '(' * 5000 + 'x' + ')' * 5000 + '}}', DEEP),
    ('{{' + '[' * 300 + 'x' + ']' * 300 + '}}', DEEP),
    ('{{' + 'not ' * 20_000 + 'x}}', DEEP),
    ('{{' + '-' * 50_000 + '1}}', DEEP),
    ('{{x' + '+x' * 20_000 + '}}', DEEP),
    ('{% if x %}' * 3000 + '{% endif %}' * 3000, DEEP),
    ('a' * 100_001, 'it has 100,0.. characters; 100,000 are allowed'),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(render_limits, 'MAX_SECONDS', 0.2)


@pytest.mark.parametrize(
    'source, message', HOSTILE, ids=[s[:40] for s, _ in HOSTILE]
)
def test_hostile_template(source, message):
  start = time.thread_time()
  for jinja, choices in (
      (f'{source} Good? ||| no', 'no ||| yes'),
      ('Good {{x}}? ||| no', f'no ||| {{{{x}}}} ||| {source}'),
  ):
    with pytest.raises(ValueError) as error:
      template = templates.Template('my/set', 'evil', jinja, choices)
      template.render({'x': 'X'})
      template.render_prompt({'x': 'X'})
    assert str(error.value).startswith('my/set "evil": ')
    assert error.match(message)
  assert time.thread_time() - start < 10


def test_what_templates_may_do():
  jinja = (
      '{{ [3, 1] | sort | join("-") }} {{ "a b" | title }} {{ {"a": 1}.a }}'
      ' {{ x ~ 1 ~ [2] }} {{ "%.2f" | format(0.5) }} {{ 7 % 4 }} {{ 2 ** 9 }}'
      ' {{ "ab" * 2 }} {{ [1] + [2] }} {{ "a-b".replace("-", "+") }}'
      ' {{ ["a", "b"] | map("upper") | list }} {{ ",".join(["a", "b"]) }}'
      ' {% for a in [1, 2] %}{{ loop.index }}/{{ loop.length }}{% endfor %}'
      ' ||| no'
  )
  rendered = templates.Template('a', 'b', jinja, 'no ||| yes').render(
      {'x': 'X'}
  )
  assert rendered.prompt == (
      "1-3 A B 1 X1[2] 0.50 3 512 abab [1, 2] a+b ['A', 'B'] a,b 1/22/2"
  )


def test_random_is_drawn_from_the_seed():
  template = templates.Template(
      'a', 'b', '{{ "abcdefgh" | random }} ||| no', 'no ||| yes'
  )
  prompts = [template.render({}, seed).prompt for seed in range(20)]
  assert [template.render({}, seed).prompt for seed in range(20)] == prompts
  assert len({*prompts}) > 3


def test_most_frequent_takes_one_pass():
  start = time.thread_time()
  env = jinja_chunks.environment(None)
  assert len(env.filters['most_frequent'](range(90_000))) == 90_000
  assert env.filters['most_frequent']([]) == []
  assert time.thread_time() - start < 5


def test_filter_of_the_wrong_type():
  template = templates.Template(
      'a', 'b', '{{ x.strip() | title | round }} ||| no', 'no ||| yes'
  )
  with pytest.raises(ValueError, match='a "b": .*__round__'):
    template.render({'x': 'X'})


def test_a_pause_of_the_process_is_no_fault(monkeypatch):
  """Only once; a template that is slow is slow twice."""
  times = iter([0.0, 99.0])
  monkeypatch.setattr(
      render_limits.time, 'thread_time', lambda: next(times, 99.0)
  )
  template = templates.Template('d', 'n', '{{x}} is? ||| {{y}}', 'a ||| b')
  rendered = template.render({'x': 'It', 'y': 'a'})
  assert rendered.prompt == 'It is?'
  ticks = iter(range(0, 10**6, 50))
  monkeypatch.setattr(
      render_limits.time, 'thread_time', lambda: float(next(ticks))
  )
  with pytest.raises(ValueError, match=LATE):
    template.render({'x': 'It', 'y': 'a'})
